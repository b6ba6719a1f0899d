// Training steps of llm.c's train_gpt2.c, one for every line of the input.
//
//     llmc_step LAYERS HEADS CHANNELS VOCABULARY
//
// Compiled against a checkout of llm.c, whose code is no part of this: its file is
// included whole. Same micro-batch as torch_step.py (4 sequences of 256 tokens), and
// the same answers.

#define TESTING
#include "train_gpt2.c"

enum { SEQUENCES = 4, LENGTH = 256 };

static double now_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

// As gpt2_build_from_checkpoint, with values of our own.
static void build(GPT2 *model, char **numbers) {
    memset(model, 0, sizeof *model);
    model->config.max_seq_len = LENGTH;
    model->config.num_layers = atoi(numbers[0]);
    model->config.num_heads = atoi(numbers[1]);
    model->config.channels = atoi(numbers[2]);
    model->config.vocab_size = model->config.padded_vocab_size = atoi(numbers[3]);
    fill_in_parameter_sizes(model->param_sizes, model->config);
    for (size_t tensor = 0; tensor < NUM_PARAMETER_TENSORS; tensor++) {
        model->num_parameters += model->param_sizes[tensor];
    }
    model->params_memory = malloc_and_point_parameters(&model->params, model->param_sizes);
    uint32_t state = 1;
    for (size_t place = 0; place < model->num_parameters; place++) {
        state = state * 1664525u + 1013904223u;
        model->params_memory[place] = ((state >> 8) / 16777216.0f - 0.5f) * 0.07f;
    }
    size_t layers = model->config.num_layers, channels = model->config.channels;
    for (size_t place = 0; place < layers * channels; place++) {
        model->params.ln1w[place] = model->params.ln2w[place] = 1.0f;
    }
    for (size_t place = 0; place < channels; place++) {
        model->params.lnfw[place] = 1.0f;
    }
}

int main(int count, char **words) {
    if (count != 5) {
        fprintf(stderr, "usage: %s LAYERS HEADS CHANNELS VOCABULARY\n", words[0]);
        return 2;
    }
    // llm.c talks on the standard output, where only answers are wanted.
    FILE *answers = fdopen(dup(STDOUT_FILENO), "w");
    if (answers == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        perror("standard output");
        return 1;
    }
    GPT2 model;
    build(&model, words + 1);
    long vocabulary = model.config.vocab_size;
    fprintf(answers, "{\"parameters\": %zu}\n", model.num_parameters);
    fflush(answers);
    static int inputs[SEQUENCES * LENGTH], targets[SEQUENCES * LENGTH];
    char line[16];
    for (int step = 0; fgets(line, sizeof line, stdin); step++) {
        for (long sequence = 0; sequence < SEQUENCES; sequence++) {
            for (long place = 0; place <= LENGTH; place++) {
                long at = sequence * (LENGTH + 1) + place + step * 7919L;
                int token = (at * at / 3 + at / 5) % vocabulary;
                if (place < LENGTH) inputs[sequence * LENGTH + place] = token;
                if (place > 0) targets[sequence * LENGTH + place - 1] = token;
            }
        }
        double wall = now_ns(CLOCK_MONOTONIC), processor = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        gpt2_forward(&model, inputs, targets, SEQUENCES, LENGTH);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step + 1);
        wall = now_ns(CLOCK_MONOTONIC) - wall;
        processor = now_ns(CLOCK_PROCESS_CPUTIME_ID) - processor;
        const char *answer = "{\"wall_ns\": %.0f, \"processor_ns\": %.0f, \"loss\": %f}\n";
        fprintf(answers, answer, wall, processor, model.mean_loss);
        fflush(answers);
    }
    return 0;
}
