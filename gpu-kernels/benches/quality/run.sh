#!/bin/sh
# Measures training quality beside f32 PyTorch (docs/quality.md), on one thread, in about two hours of an idle core.
#
#   gpu-kernels/benches/quality/run.sh WORK [TEXT]
#
# WORK keeps what is in between, so that an interrupted measurement goes on; its rows are put into docs/benchmarks.
# TEXT is a UTF-8 text of about 4 MB [default: Debian's bible-kjv]. PYTHON names a Python with torch, transformers and
# tokenizers (./test.sh installs them for the tests of model folders).
set -eu
work=${1:?"usage: run.sh WORK [TEXT]"}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
mkdir -p "$work"
text=${2:-$work/bible.txt}
[ -e "$text" ] || bible -l 4000 gen1:1-rev22:21 > "$text"
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --release --manifest-path "$root/Cargo.toml" -p manta-gpu-kernels --example quality
exact=$target/release/examples/quality
"$python" "$here/compare.py" "$text" "$work" --exact "$exact" > "$work/comparison.json"
"$python" "$here/outliers.py" "$work" --exact "$exact" > "$work/outliers.json"
"$python" "$here/schedules.py" "$work" --exact "$exact" > "$work/schedules.json"
"$python" "$here/muon.py" "$work" --exact "$exact" > "$work/muon.json"
date=$(date -u +%F)
"$python" "$here/record.py" "$work/comparison.json" "$work/outliers.json" "$work/schedules.json" "$work/muon.json" "$date" \
    > "$root/docs/benchmarks/$date-quality.json"
