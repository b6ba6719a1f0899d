"""Makes small random Llama models with transformers, each with what it computes.

    python make_models.py OUT [--seed N]

Every folder below OUT is a model as transformers saves it, with a tokenizer and
with `expected.safetensors`: `tokens` [2, 40], `loss` (mean, nats a token) and
the `logits` of the last four positions of each sequence, computed in float64
from the weights as they were saved; and with `expected.json`: texts and their
token ids. `peer/tests/transformers/models` was made by this script with seed 0.
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 280
LENGTH = 40
TEXTS = ["The cat sat on the mat.", "  Zwei Bären\n\tund 🦀!", "x", "the the the <s> end</s>"]

CASES = {
    # Grouped queries with heads wider than the stream's share, a tied head, f32.
    "grouped_tied_f32": dict(
        dtype=torch.float32,
        config=dict(num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, rope_theta=500.0),
    ),
    # Llama 3 style: rope scaling, an untied head, bf16, several files.
    "llama3_untied_bf16_sharded": dict(
        dtype=torch.bfloat16,
        shards="8KB",
        config=dict(
            num_key_value_heads=1,
            tie_word_embeddings=False,
            rope_theta=100.0,
            head_dim=8,
            rope_scaling=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=0.1,
                high_freq_factor=1.0,
                original_max_position_embeddings=16,
            ),
        ),
    ),
    # Linear rope scaling, plain attention, f16.
    "linear_plain_f16": dict(
        dtype=torch.float16,
        config=dict(tie_word_embeddings=False, rope_scaling=dict(rope_type="linear", factor=4.0)),
    ),
}


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 4,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The cat sat on the mat and the hat was on the cat.\n"] * 8, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def make_model(case, seed, tokenizer):
    torch.manual_seed(seed)
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **shape,
        **case["config"],
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(case["dtype"])


def expected(folder, seed):
    """What the saved model computes in float64 on tokens that depend on the seed alone."""
    # Loaded as f32: a conversion to bf16 in place would round the rotary frequencies, too.
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).double().eval()
    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randint(0, VOCABULARY, (2, LENGTH), generator=generator)
    with torch.no_grad():
        result = model(input_ids=tokens, labels=tokens)
    return {
        "tokens": tokens.to(torch.int32),
        "loss": result.loss.reshape(1).to(torch.float32),
        "logits": result.logits[:, -4:].contiguous().to(torch.float32),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = make_tokenizer()
    for number, (name, case) in enumerate(CASES.items()):
        folder = arguments.out / name
        shutil.rmtree(folder, ignore_errors=True)
        seed = 1000 * arguments.seed + number
        model = make_model(case, seed, tokenizer)
        model.save_pretrained(folder, max_shard_size=case.get("shards", "1GB"))
        tokenizer.save_pretrained(folder)
        save_file(expected(folder, seed), folder / "expected.safetensors")
        texts = [dict(text=text, ids=tokenizer(text)["input_ids"]) for text in TEXTS]
        (folder / "expected.json").write_text(json.dumps(dict(texts=texts), indent=1) + "\n")


if __name__ == "__main__":
    main()
