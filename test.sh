#!/usr/bin/env bash
# Installs what the tests need, then runs all of them.
#
#   ./test.sh            everything (what CI runs)
#   ./test.sh lint       formatting, clippy, licences
#   ./test.sh test       unit, property and end-to-end tests
#   ./test.sh arm        the engine's for 64-bit Arm, emulated (not part of everything: its own build takes minutes)
#
# Nothing is built twice: one profile (release), one feature set. With CI set,
# build products lie in the user's cache, so that the next run finds them.
set -euo pipefail
cd "$(dirname "$0")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/manta"
if [ -n "${CI:-}" ]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
fi
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
deny_version=0.20.2

# Whether the environment asks aloud to leave something out.
skips() { case ",${MANTA_TEST_SKIP:-}," in *",$1,"*) true ;; *) false ;; esac }

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

# Installs Debian and Ubuntu packages.
install() {
    if [ $# -eq 0 ]; then return; fi
    if ! command -v apt-get >/dev/null; then
        echo "please install the equivalents of: $*" >&2
        exit 1
    fi
    echo "installing: $*"
    local sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# What tests use: a software Vulkan adapter, network namespaces for two peers that
# share no loopback, and PyTorch for what transformers and we must agree on.
install_packages() {
    local missing=()
    skips transformers || /usr/bin/python3 -c 'import torch, venv, ensurepip' 2>/dev/null ||
        missing+=(python3-torch python3-venv)
    command -v ip >/dev/null || missing+=(iproute2)
    ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1 || missing+=(mesa-vulkan-drivers libvulkan1)
    install "${missing[@]}"
}

# transformers beside the system's PyTorch, once for each version (a minute).
install_transformers() {
    local requirements=peer/tests/transformers/requirements.txt venv="$cache/transformers"
    if skips transformers || cmp -s "$requirements" "$venv/installed.txt"; then return; fi
    echo "installing transformers (once)"
    rm -rf "$venv"
    /usr/bin/python3 -m venv --system-site-packages "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/installed.txt"
}

# cargo-deny is built once for each version and kept in the cache.
install_deny() {
    deny="$cache/cargo-deny-$deny_version/bin/cargo-deny"
    if [ ! -x "$deny" ]; then
        echo "building cargo-deny $deny_version (once)"
        # A quick build: it runs for a second, and shares no artifacts with Manta.
        CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked cargo-deny --version "$deny_version" \
            --root "$cache/cargo-deny-$deny_version" --target-dir "$cache/cargo-deny-build"
        rm -rf "$cache/cargo-deny-build"
    fi
}

lint() {
    step "formatting"
    rustup component list --installed 2>/dev/null | grep -q rustfmt || rustup component add rustfmt clippy
    cargo fmt --all --check
    step "clippy"
    cargo clippy --release --locked --workspace --all-targets --quiet -- --deny warnings
    step "licences, bans and sources"
    install_deny
    "$deny" --locked check licenses bans sources
}

tests() {
    step "transformers"
    install_transformers
    step "building"
    cargo build --release --locked --workspace --all-targets
    step "tests"
    cargo test --release --locked --workspace
}

# The golden hashes and all unit tests of the engine, with Arm's dot products. There is no graphics device
# under emulation, so tests that need one are left out.
arm() {
    local missing=() target=aarch64-unknown-linux-gnu
    command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
    install "${missing[@]}"
    rustup target add "$target"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    export MANTA_TEST_SKIP="${MANTA_TEST_SKIP:+$MANTA_TEST_SKIP,}gpu"
    local engine=(cargo test --release --locked --target "$target" --package manta-gpu-kernels)
    step "unit tests for Arm"
    "${engine[@]}" --lib
    step "golden hashes and engines for Arm"
    "${engine[@]}" --test kernels -- golden:: engine:: outer:: against_reference::
}

# Namespaces need root. What is left out is said, never silent.
if [ "$(id -u)" -ne 0 ]; then
    export MANTA_TEST_SKIP="${MANTA_TEST_SKIP:+$MANTA_TEST_SKIP,}netns"
    echo "not root: the tests with network namespaces are left out; run as root to include them"
fi

case "${1:-all}" in
    lint) lint ;;
    test) install_packages; tests ;;
    arm) arm ;;
    all) install_packages; tests; lint ;;
    *) echo "usage: ./test.sh [lint|test|arm]" >&2; exit 2 ;;
esac
step "all passed"
