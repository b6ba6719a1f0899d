#!/usr/bin/env python3
"""Models with outlier features: the loss of the exact arithmetic beside f32, by digits of 8 bits.

    python outliers.py WORK [--exact PROGRAM] [--size SIZE] > rows.json

Takes a model that `compare.py` has trained in f32 in the same WORK, and scales a few channels between two layers up
and what reads them down: in f32 the function stays, but a row's one scale must now span both. Each is judged as it is,
and after some steps of further training, by PyTorch in f32 and exactly.
"""

import argparse
import json
import pathlib
import sys

import numpy
from compare import CLASSES, HERE, SEQUENCE_LENGTH, run
from safetensors.numpy import load_file, save_file

ROWS, STEPS, LEARNING_RATE = 100, 40, 3e-4
CHANNELS = 3
DIGITS = {
    "default": (1, 1, 1, 2, 1),
    "activations": (2, 1, 1, 2, 1),
    "weights": (1, 2, 1, 2, 1),
    "activations and weights": (2, 2, 1, 2, 1),
    "activations, weights and attention": (2, 2, 1, 2, 2),
    "all": (2, 2, 2, 2, 2),
}
# Where channels are scaled: what writes them, by rows or elements, and what reads them, by columns.
PLACES = {
    "norms": [
        (["input_layernorm"], ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        (["post_attention_layernorm"], ["mlp.gate_proj", "mlp.up_proj"]),
    ],
    "feed-forward": [(["mlp.up_proj"], ["mlp.down_proj"])],
}


def scaled(values, layers, place, factor, draw):
    values = {name: array.copy() for name, array in values.items()}
    for layer in range(layers):
        at = lambda part: f"model.layers.{layer}.{part}.weight"
        for writers, readers in PLACES[place]:
            width = values[at(writers[0])].shape[0]
            channels = draw.choice(width, CHANNELS, replace=False)
            for name in writers:
                values[at(name)][channels] *= factor
            for name in readers:
                values[at(name)][:, channels] /= factor
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=pathlib.Path)
    default = HERE.parent.parent.parent / "target" / "release" / "examples" / "quality"
    parser.add_argument("--exact", type=pathlib.Path, default=default, help="the example `quality`, built")
    parser.add_argument("--size", default="0.4M")
    arguments = parser.parse_args()
    work, size = arguments.work, arguments.size
    base = work / f"{size}-1-f32.trained"
    plan = json.loads((work / f"{size}-1-1.1.1.2.1.json").read_text())
    judged = work / "outliers-validation.u32"
    numpy.fromfile(plan["validation"], dtype="<u4")[: ROWS * (SEQUENCE_LENGTH + 1)].tofile(judged)
    plan["validation"] = str(judged)
    plan["optimizer"] |= dict(learning_rate=LEARNING_RATE, warmup_steps=STEPS // 10, total_steps=STEPS)
    plan["optimizer"] |= dict(decay_start_step=STEPS)
    values = load_file(base / "model.safetensors")

    def path_of(digits):
        plan["arithmetic"] |= {f"{name}_digits": count for name, count in zip(CLASSES, digits)}
        path = work / f"outliers-{'.'.join(map(str, digits))}.json"
        path.write_text(json.dumps(plan))
        return path

    def both(name, folder, programs):
        losses = {}
        for command, *more in (("judge",), ("train", work / "outliers-trained")):
            losses[command] = run([*programs[0], command, programs[1], folder, *more])["validation"]
        row = dict(size=size, model=name[0], factor=name[1], digits=name[2], as_it_is=losses["judge"])
        row |= dict(trained_on=losses["train"], steps=STEPS)
        print(row, file=sys.stderr, flush=True)
        return row

    rows = []
    for place, factor in [("none", 1), *((place, factor) for place in PLACES for factor in (16, 64))]:
        folder = work / f"outliers-{place}-{factor}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_bytes((base / "config.json").read_bytes())
        draw = numpy.random.RandomState(factor)
        layers = plan["model"]["num_hidden_layers"]
        made = scaled(values, layers, place, factor, draw) if factor > 1 else values
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
        f32 = [sys.executable, HERE / "torch_train.py"]
        rows.append(both((place, factor, "f32"), folder, (f32, path_of(DIGITS["default"]))))
        for name, digits in DIGITS.items():
            rows.append(both((place, factor, name), folder, ([arguments.exact], path_of(digits))))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
