#!/usr/bin/env python3
"""Final validation loss with Muon beside AdamW, exactly, and beside Muon in f32, in runs as long as the demo's.

    python muon.py WORK [--exact PROGRAM] > rows.json

Takes initial models and tokens that `compare.py` has made in the same WORK.
"""

import argparse
import json
import pathlib
import sys

from compare import HERE, SEEDS, VARIANTS, run

SIZE, STEPS = "0.4M", 200
RATE = 3e-3

# Rule, program, digits, learning rate.
RUNS = {
    "AdamW": ("adamw", "exact", "default", RATE),
    "Muon": ("muon", "exact", "default", RATE),
    "Muon, f32": ("muon", "torch", "default", RATE),
    "AdamW, twice the rate": ("adamw", "exact", "default", 2 * RATE),
    "Muon, twice the rate": ("muon", "exact", "default", 2 * RATE),
    "Muon, two digits": ("muon", "exact", "two", RATE),
}


def plan(work, seed, kind, digits, learning_rate):
    plan = json.loads((work / f"{SIZE}-{seed}-{'.'.join(map(str, VARIANTS['default']))}.json").read_text())
    plan["optimizer"] |= dict(
        kind=kind,
        learning_rate=learning_rate,
        warmup_steps=STEPS // 10,
        decay_start_step=STEPS - STEPS // 3,
        total_steps=STEPS,
    )
    names = ("activation", "weight", "gradient", "logit_gradient", "attention")
    plan["arithmetic"] |= {f"{name}_digits": count for name, count in zip(names, VARIANTS[digits])}
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
    for name, (kind, program, digits, learning_rate) in RUNS.items():
        for seed in SEEDS:
            done = work / f"muon-{name.replace(' ', '-').replace(',', '')}-{seed}.row"
            if not done.exists():
                path = plan(work, seed, kind, digits, learning_rate)
                folders = [work / f"{SIZE}-{seed}-initial", work / "muon-trained"]
                report = run([*programs[program], "train", path, *folders])
                row = dict(size=SIZE, steps=STEPS, run=name, seed=seed, learning_rate=learning_rate)
                row |= {key: report[key] for key in ("validation", "seconds")}
                row["training_tail"] = sum(report["training"][-50:]) / 50
                done.write_text(json.dumps(row))
            rows.append(json.loads(done.read_text()))
            print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
