// A training step of llm.c (github.com/karpathy/llm.c, train_gpt2.c, f32 with OpenMP) that a driver can take
// turns with: one step for every line on standard input, answered as torch_step.py does.
//
//   git clone https://github.com/karpathy/llm.c
//   gcc -Ofast -march=native -fopenmp -DOMP -Illm.c -o llmc_step llmc_step.c -lm
//   OMP_NUM_THREADS=2 ./llmc_step LAYERS HEADS CHANNELS VOCABULARY
//
// The model is GPT-2 (an MLP of 4C, full-width attention, a head tied to the embedding), so not ours: a block has
// 12C² parameters where ours has about 11C². The flags are those of llm.c's Makefile.
#define TESTING
#include "train_gpt2.c"

enum { SEQUENCES = 4, LENGTH = 256 };

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

// Weights that look random; llm.c reads its models from files.
static void write_checkpoint(const char *path, int layers, int heads, int channels, int vocabulary) {
    int header[256] = {20240326, 3, LENGTH, vocabulary, layers, heads, channels, vocabulary};
    GPT2Config config = {LENGTH, vocabulary, vocabulary, layers, heads, channels};
    size_t sizes[NUM_PARAMETER_TENSORS];
    fill_in_parameter_sizes(sizes, config);
    FILE *file = fopenCheck(path, "wb");
    fwrite(header, sizeof(int), 256, file);
    unsigned state = 1;
    for (int tensor = 0; tensor < NUM_PARAMETER_TENSORS; tensor++) {
        for (size_t i = 0; i < sizes[tensor]; i++) {
            state = state * 1664525u + 1013904223u;
            float value = ((state >> 8) / 8388608.0f - 1.0f) * 0.035f;
            // Weights of norms are 1.
            if (tensor == 2 || tensor == 8 || tensor == 14) value = 1.0f;
            fwrite(&value, sizeof(float), 1, file);
        }
    }
    fcloseCheck(file);
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: llmc_step LAYERS HEADS CHANNELS VOCABULARY\n");
        return 1;
    }
    int layers = atoi(arguments[1]), heads = atoi(arguments[2]), channels = atoi(arguments[3]);
    int vocabulary = atoi(arguments[4]);
    char path[] = "/tmp/llmc-step-XXXXXX";
    if (mkstemp(path) < 0) return 1;
    write_checkpoint(path, layers, heads, channels, vocabulary);
    // It prints what it read; the answers are all that may stand on standard output.
    int answers = dup(1);
    dup2(2, 1);
    GPT2 model;
    gpt2_build_from_checkpoint(&model, path);
    unlink(path);
    dprintf(answers, "{\"parameters\": %zu}\n", model.num_parameters);
    static int inputs[SEQUENCES * LENGTH], targets[SEQUENCES * LENGTH];
    int step = 0;
    for (int character; (character = getchar()) != EOF;) {
        if (character != '\n') continue;
        for (unsigned long i = 0; i < SEQUENCES * LENGTH; i++) {
            unsigned long place = i + step * 7919ul;
            inputs[i] = (place * place / 3 + place / 5) % vocabulary;
            place++;
            targets[i] = (place * place / 3 + place / 5) % vocabulary;
        }
        double wall = seconds(CLOCK_MONOTONIC), processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
        gpt2_forward(&model, inputs, targets, SEQUENCES, LENGTH);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, ++step);
        dprintf(answers, "{\"wall_ns\": %.0f, \"processor_ns\": %.0f, \"loss\": %f}\n",
                (seconds(CLOCK_MONOTONIC) - wall) * 1e9,
                (seconds(CLOCK_PROCESS_CPUTIME_ID) - processor) * 1e9, model.mean_loss);
    }
    gpt2_free(&model);
    return 0;
}
