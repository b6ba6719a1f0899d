#!/usr/bin/env python3
"""Final validation loss by learning-rate schedule, exactly, in runs of one small model that are as long as the demo's.

    python schedules.py WORK [--exact PROGRAM] > rows.json

Takes initial models and tokens that `compare.py` has made in the same WORK.
"""

import argparse
import json
import pathlib
import sys

from compare import HERE, SEEDS, run

SIZE, STEPS = "0.4M", 200


def schedules(steps):
    warmup, third = max(steps // 10, 1), steps - steps // 3
    return {
        "constant": dict(decay_start_step=steps, final_fraction=1.0),
        "wsd": dict(decay_start_step=third),
        "wsd-sqrt": dict(decay_start_step=third, decay="one_minus_sqrt"),
        "cosine": dict(decay_start_step=warmup, decay="cosine"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=pathlib.Path)
    default = HERE.parent.parent.parent / "target" / "release" / "examples" / "quality"
    parser.add_argument("--exact", type=pathlib.Path, default=default, help="the example `quality`, built")
    arguments = parser.parse_args()
    work, rows = arguments.work, []
    for name, changes in schedules(STEPS).items():
        for seed in SEEDS:
            plan = json.loads((work / f"{SIZE}-{seed}-1.1.1.2.1.json").read_text())
            plan["optimizer"] |= dict(warmup_steps=STEPS // 10, total_steps=STEPS, final_fraction=0.1) | changes
            path = work / "schedule.json"
            path.write_text(json.dumps(plan))
            command = [arguments.exact, "train", path, work / f"{SIZE}-{seed}-initial", work / "schedule-trained"]
            rows.append(dict(size=SIZE, steps=STEPS, schedule=name, seed=seed, validation=run(command)["validation"]))
            print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
