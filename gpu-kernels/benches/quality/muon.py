#!/usr/bin/env python3
"""Final validation loss with Muon beside AdamW, exactly, and beside Muon in f32, in runs as long as the demo's.

    python muon.py WORK [--exact PROGRAM] > rows.json

Takes initial models and tokens that `compare.py` has made in the same WORK.
"""

import argparse
import json
import pathlib
import sys

from compare import CLASSES, HERE, SEEDS, SIZES, VARIANTS, run

STEPS = 200

# Rule, program, digits, and times the learning rate of `compare.py`.
RUNS = {
    "AdamW": ("adamw", "exact", "default", 1),
    "Muon": ("muon", "exact", "default", 1),
    "Muon, f32": ("muon", "torch", "default", 1),
    "AdamW, twice the rate": ("adamw", "exact", "default", 2),
    "Muon, twice the rate": ("muon", "exact", "default", 2),
    "Muon, four times the rate": ("muon", "exact", "default", 4),
    "Muon, f32, four times the rate": ("muon", "torch", "default", 4),
    "Muon, two digits, four times the rate": ("muon", "exact", "two", 4),
}
LARGER = ("AdamW", "Muon", "AdamW, twice the rate", "Muon, four times the rate")
PLACES = [("0.4M", name, seed) for name in RUNS for seed in SEEDS]
PLACES += [("1.6M", name, seed) for seed in SEEDS[:2] for name in LARGER]


def plan(work, size, seed, kind, digits, learning_rate):
    plan = json.loads((work / f"{size}-{seed}-{'.'.join(map(str, VARIANTS['default']))}.json").read_text())
    plan["optimizer"] |= dict(
        kind=kind,
        learning_rate=learning_rate,
        warmup_steps=STEPS // 10,
        decay_start_step=STEPS - STEPS // 3,
        total_steps=STEPS,
    )
    plan["arithmetic"] |= {f"{name}_digits": count for name, count in zip(CLASSES, VARIANTS[digits])}
    path = work / "muon-plan.json"
    path.write_text(json.dumps(plan))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=pathlib.Path)
    default = HERE.parent.parent.parent / "target" / "release" / "examples" / "quality"
    parser.add_argument("--exact", type=pathlib.Path, default=default, help="the example `quality`, built")
    arguments = parser.parse_args()
    work, rows = arguments.work, []
    programs = dict(exact=[arguments.exact], torch=[sys.executable, HERE / "torch_train.py"])
    for size, name, seed in PLACES:
        kind, program, digits, times = RUNS[name]
        learning_rate = times * SIZES[size]["learning_rate"]
        done = work / f"muon-{size}-{name.replace(' ', '-').replace(',', '')}-{seed}.row"
        if not done.exists():
            path = plan(work, size, seed, kind, digits, learning_rate)
            folders = [work / f"{size}-{seed}-initial", work / "muon-trained"]
            report = run([*programs[program], "train", path, *folders])
            row = dict(size=size, steps=STEPS, run=name, seed=seed, learning_rate=learning_rate)
            row |= {key: report[key] for key in ("validation", "seconds")}
            row["training_tail"] = sum(report["training"][-50:]) / 50
            done.write_text(json.dumps(row))
        rows.append(json.loads(done.read_text()))
        print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
