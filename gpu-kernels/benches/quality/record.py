#!/usr/bin/env python3
"""Turns rows of `compare.py`, `outliers.py`, `schedules.py` and `muon.py` into tables and the rows of `docs/benchmarks`.

    python record.py COMPARISON OUTLIERS SCHEDULES MUON DATE > docs/benchmarks/DATE-quality.json

Tables for `docs/quality.md` go to the standard error stream.
"""

import json
import platform
import statistics
import sys

import torch
import transformers

UNIT = "nats a token"


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), file=sys.stderr)
    for row in rows:
        print("| " + " | ".join(row) + " |", file=sys.stderr)
    print(file=sys.stderr)


def processor():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, 1 thread of {len(names)} processors, other work beside"


def record(name, peer, ours, theirs, more):
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    ratio = statistics.median(ours) / statistics.median(theirs) if theirs else None
    row = dict(name=name, peer=peer, unit=UNIT, better="lower", ours=ours, theirs=theirs, ratio=ratio)
    row |= dict(command="gpu-kernels/benches/quality/run.sh", versions=versions, hardware=processor(), date=sys.argv[-1])
    return row | more


def compared(rows):
    """Gap to f32 of every size and arithmetic: by seed, mean, and standard deviation of the seeds."""
    of = lambda size, arithmetic: {
        row["seed"]: row for row in rows if (row["size"], row["arithmetic"]) == (size, arithmetic)
    }
    kinds = list(dict.fromkeys((row["size"], row["arithmetic"]) for row in rows if row["arithmetic"] != "f32"))
    lines, records = [], []
    for size, arithmetic in sorted(kinds, key=lambda kind: kind[0]):
        ours, theirs = of(size, arithmetic), of(size, "f32")
        seeds = sorted(ours)
        gap = lambda key: [100 * (ours[seed][key] / theirs[seed][key] - 1) for seed in seeds]
        gaps, learnt = gap("validation"), gap("training_tail")
        spread = f"{statistics.stdev(gaps):.2f}" if len(gaps) > 1 else ""
        digits = ", ".join(map(str, ours[seeds[0]].get("digits", ["f32"])))
        losses = "; ".join(f"{ours[seed]['validation']:.4f} : {theirs[seed]['validation']:.4f}" for seed in seeds)
        by_seed = ", ".join(f"{gap:+.2f}" for gap in gaps)
        mean, tail = statistics.mean(gaps), statistics.mean(learnt)
        lines.append([size, arithmetic, digits, losses, by_seed, f"{mean:+.2f}", spread, f"{tail:+.2f}"])
        more = dict(seeds=seeds, digits=ours[seeds[0]].get("digits"), gaps_percent=gaps, training_gaps_percent=learnt)
        losses = lambda of: [of[seed]["validation"] for seed in seeds]
        name = f"final validation loss, {size} parameters, {arithmetic}"
        records.append(record(name, "PyTorch, f32", losses(ours), losses(theirs), more))
    head = ["size", "arithmetic", "digits", "loss : f32, by seed", "gap %, by seed", "mean", "spread", "training"]
    table(head, lines)
    return records


def outliers(rows):
    kinds = list(dict.fromkeys((row["model"], row["factor"]) for row in rows))
    names = list(dict.fromkeys(row["digits"] for row in rows))
    records = []
    for key, what in (("as_it_is", "loss as it is"), ("trained_on", "loss after more steps")):
        of = {(row["model"], row["factor"], row["digits"]): row[key] for row in rows}
        lines = []
        for kind in kinds:
            exact = [f"{of[(*kind, name)] - of[(*kind, 'f32')]:+.4f}" for name in names[1:]]
            lines.append([f"{kind[0]} × {kind[1]}", f"{of[(*kind, 'f32')]:.4f}", *exact])
            for name in names[1:]:
                more = dict(model=kind[0], factor=kind[1], two_digits_for=name)
                title = f"{what}, outlier features in {kind[0]}, factor {kind[1]}, two digits for {name}"
                records.append(record(title, "PyTorch, f32", [of[(*kind, name)]], [of[(*kind, "f32")]], more))
        table([what, *names], lines)
    return records


def schedules(rows):
    records, lines = [], []
    for steps, name in dict.fromkeys((row["steps"], row["schedule"]) for row in rows):
        losses = [row["validation"] for row in rows if (row["steps"], row["schedule"]) == (steps, name)]
        lines.append([str(steps), name, ", ".join(f"{loss:.4f}" for loss in losses), f"{statistics.mean(losses):.4f}"])
        records.append(record(f"final validation loss, {steps} steps, schedule {name}", "", losses, [], {}))
    table(["steps", "schedule", "loss, by seed", "mean"], lines)
    return records


def muon(rows):
    """Losses of every run, and how much larger they are than AdamW's with the same seeds."""
    of = lambda size, name, key: [row[key] for row in rows if (row["size"], row["run"]) == (size, name)]
    records, lines = [], []
    for size, name in dict.fromkeys((row["size"], row["run"]) for row in rows):
        losses, tails = of(size, name, "validation"), of(size, name, "training_tail")
        ours, theirs = statistics.mean(losses), statistics.mean(of(size, "AdamW", "validation"))
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        lines.append([size, name, shown, f"{ours:.4f}", f"{ours - theirs:+.4f}", f"{statistics.mean(tails):.4f}"])
        title = f"final validation loss, {size} parameters, 200 steps, {name}"
        rates = of(size, name, "learning_rate")
        records.append(record(title, "", losses, [], dict(learning_rate=rates[0], training_tails=tails)))
    table(["size", "optimiser", "loss, by seed", "mean", "beside AdamW", "training"], lines)
    return records


def main():
    comparison, strange, falling, orthogonal = (json.load(open(path)) for path in sys.argv[1:5])
    print(json.dumps(compared(comparison) + outliers(strange) + schedules(falling) + muon(orthogonal), indent=1))


if __name__ == "__main__":
    main()
