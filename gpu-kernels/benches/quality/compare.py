#!/usr/bin/env python3
"""Final validation loss, exact arithmetic beside f32 PyTorch: the same model, tokens, order and optimiser.

    python compare.py TEXT WORK [--exact PROGRAM] [--threads N] [--only PATTERN] > rows.json

For two sizes and three seeds, a model's initial values are written by Manta as a folder in Hugging Face layout,
and trained from there by transformers with PyTorch in f32 and by Manta with various digits, all on the same rows of
tokens in the same order. Every finished run is kept in WORK, so an interrupted comparison goes on where it was.
`docs/quality.md` shows the tables, and `run.sh` does all of it.

Needs torch, transformers and tokenizers, and `cargo build --release -p manta-gpu-kernels --example quality`.
"""

import argparse
import fnmatch
import json
import pathlib
import subprocess
import sys
import time

import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
SEEDS = (1, 2, 3)
SEQUENCE_LENGTH, SEQUENCES, VALIDATION_ROWS = 128, 16, 400

# hidden, intermediate, layers, heads, key heads; tokens of the vocabulary; steps; learning rate
SIZES = {
    "0.4M": dict(shape=(96, 256, 4, 3, 3), vocabulary=256, steps=400, learning_rate=3e-3),
    "1.6M": dict(shape=(160, 432, 4, 5, 5), vocabulary=2048, steps=400, learning_rate=2e-3),
}
CLASSES = ("activation", "weight", "gradient", "logit_gradient", "attention")
# Digits of activations, weights, gradients, the gradient of the logits, attention.
VARIANTS = {
    "default": (1, 1, 1, 2, 1),
    "two for gradients": (1, 1, 2, 2, 1),
    "two": (2, 2, 2, 2, 2),
    "two for activations": (2, 1, 1, 2, 1),
    "two for weights": (1, 2, 1, 2, 1),
    "two for attention": (1, 1, 1, 2, 2),
    "one": (1, 1, 1, 1, 1),
}


def run(command):
    found = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def tokenized(text, vocabulary):
    """Token ids of the text: its bytes, or those of a byte-level BPE learnt from its first nine tenths."""
    if vocabulary == 256:
        return numpy.frombuffer(text, dtype=numpy.uint8).astype("<u4")
    text = text.decode("utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    lines = text.splitlines(keepends=True)
    tokenizer.train_from_iterator(lines[: len(lines) * 9 // 10], trainer)
    return numpy.concatenate([piece.ids for piece in tokenizer.encode_batch(lines)]).astype("<u4")


class Comparison:
    def __init__(self, arguments):
        self.text, self.work, self.threads = arguments.text.read_bytes(), arguments.work, arguments.threads
        self.only = arguments.only
        self.exact = arguments.exact
        self.work.mkdir(parents=True, exist_ok=True)
        self.tokens = {}

    def plan(self, size, seed, digits):
        """Writes a plan and its tokens: windows of the first nine tenths drawn by the seed, whole rows of the rest."""
        settings, row = SIZES[size], SEQUENCE_LENGTH + 1
        hidden, inner, layers, heads, key_heads = settings["shape"]
        steps, vocabulary = settings["steps"], settings["vocabulary"]
        training = self.work / f"{size}-{seed}-training.u32"
        validation = self.work / f"{size}-validation.u32"
        if not (training.exists() and validation.exists()):
            if vocabulary not in self.tokens:
                self.tokens[vocabulary] = tokenized(self.text, vocabulary)
            learnt, held_out = numpy.split(self.tokens[vocabulary], [len(self.tokens[vocabulary]) * 9 // 10])
            starts = numpy.random.RandomState(seed).randint(0, len(learnt) - row, steps * SEQUENCES)
            held_out[: VALIDATION_ROWS * row].tofile(validation)
            numpy.concatenate([learnt[start : start + row] for start in starts]).tofile(training)
        plan = dict(
            model=dict(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=key_heads,
                head_dim=hidden // heads,
                max_position_embeddings=SEQUENCE_LENGTH,
                rope_theta=10_000.0,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                initializer_range=0.02,
            ),
            optimizer=dict(
                learning_rate=settings["learning_rate"],
                beta1=0.9,
                beta2=0.95,
                epsilon=1e-8,
                weight_decay=0.1,
                gradient_clip_norm=1.0,
                warmup_steps=steps // 10,
                decay_start_step=steps - steps // 3,
                total_steps=steps,
                final_fraction=0.1,
            ),
            arithmetic=dict(
                {f"{name}_digits": count for name, count in zip(CLASSES, digits)},
                version=1,
                micro_batch_sequences=SEQUENCES,
                sequence_length=SEQUENCE_LENGTH,
            ),
            seed=seed,
            training=str(training),
            validation=str(validation),
            threads=self.threads,
        )
        path = self.work / f"{size}-{seed}-{'.'.join(map(str, digits))}.json"
        path.write_text(json.dumps(plan))
        return path

    def initial(self, size, seed):
        folder = self.work / f"{size}-{seed}-initial"
        if not folder.exists():
            run([self.exact, "initial", self.plan(size, seed, VARIANTS["default"]), folder])
        return folder

    def torch(self, command, plan, *folders):
        return run([sys.executable, HERE / "torch_train.py", command, plan, *folders])

    def row(self, size, seed, name):
        """Trains once, unless it is done, and lets PyTorch judge in f32 what came of it, too."""
        done = self.work / f"{size}-{seed}-{name.replace(' ', '-')}.row"
        if done.exists():
            return json.loads(done.read_text())
        if not fnmatch.fnmatch(f"{size}/{seed}/{name}", self.only):
            return None
        digits = VARIANTS.get(name, VARIANTS["default"])
        plan, trained = self.plan(size, seed, digits), done.with_suffix(".trained")
        initial = self.initial(size, seed)
        if name == "f32 nudged":
            initial = self.nudged(initial, seed)
        if name.startswith("f32"):
            report = self.torch("train", plan, initial, trained)
            report["validation_f32"] = report["validation"]
        else:
            report = run([self.exact, "train", plan, initial, trained])
            report["validation_f32"] = self.torch("judge", plan, trained)["validation"]
        row = dict(size=size, seed=seed, arithmetic=name)
        if not name.startswith("f32"):
            row["digits"] = digits
        tail = report["training"][-50:]
        row |= {key: report[key] for key in ("validation", "validation_f32", "seconds")}
        row["training_tail"] = sum(tail) / len(tail)
        done.write_text(json.dumps(row))
        print(f"{time.strftime('%H:%M:%S')} {row}", file=sys.stderr, flush=True)
        return row

    def nudged(self, initial, seed):
        """The initial model with every value moved by up to 2⁻²⁰ of itself: how far f32 is from itself."""
        from safetensors.numpy import load_file, save_file

        folder = initial.with_name(initial.name + "-nudged")
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_bytes((initial / "config.json").read_bytes())
        draw = numpy.random.RandomState(seed)
        values = load_file(initial / "model.safetensors")
        nudge = lambda x: (x * (1 + draw.uniform(-1, 1, x.shape) * 2.0**-20)).astype(numpy.float32)
        moved = {name: nudge(values[name]) for name in sorted(values)}
        save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=pathlib.Path, help="UTF-8, about 4 MB")
    parser.add_argument("work", type=pathlib.Path, help="folder for what is in between")
    default = HERE.parent.parent.parent / "target" / "release" / "examples" / "quality"
    parser.add_argument("--exact", type=pathlib.Path, default=default, help="the example `quality`, built")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="as in '0.4M/1/*': run no others")
    comparison = Comparison(parser.parse_args())
    # What matters most comes first: the default beside f32, and how far f32 is from itself.
    wanted = [(size, seed, name) for seed in SEEDS for size in SIZES for name in ("f32", "default")]
    wanted += [("1.6M", seed, name) for name in tuple(VARIANTS)[1:] for seed in SEEDS[:2]]
    wanted += [("0.4M", seed, name) for name in ("f32 nudged", "two", "one") for seed in SEEDS]
    rows = [comparison.row(*place) for place in wanted]
    print(json.dumps([row for row in rows if row], indent=1))


if __name__ == "__main__":
    main()
