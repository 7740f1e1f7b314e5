#!/usr/bin/env bash
# Runs every fuzz target, or the named ones, for so many seconds each:
#
#   tests/fuzz/run.sh SECONDS [TARGET...]
#   tests/fuzz/run.sh lint
#
# The second runs clippy on them, where they are built: what C libraries they need is compiled once.
#
# Needs the workspace's own stable toolchain and a C++ compiler, no cargo-fuzz: libFuzzer's coverage
# is LLVM's, and stable rustc takes LLVM's arguments. No sanitizer: the core has no unsafe code.
# Corpora grow under target/fuzz/corpus; their seeds are made by the targets themselves, so that no
# binary lies in the repository. What fails is kept under target/fuzz/artifacts; run it again with
# `target/fuzz/x86_64-unknown-linux-gnu/release/TARGET FILE`.
set -euo pipefail
seconds=${1:?how many seconds for each target, or lint}
shift
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/fuzz
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    targets=(frames requests sequences receipts decoders evidence)
fi

host=$(rustc -vV | sed -n 's/^host: //p')
# With --target these reach the code under test, not build scripts and macros.
flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=1
    --cfg fuzzing
)
# The versions the workspace is locked to, and libfuzzer-sys.
cp "$root/Cargo.lock" "$here/Cargo.lock"
cd "$here"
export RUSTFLAGS="${flags[*]}"
built=(--release --target "$host" --target-dir "$work")
if [ "$seconds" = lint ]; then
    exec cargo clippy "${built[@]}" -- --deny warnings
fi
cargo build --quiet "${built[@]}"

for target in "${targets[@]}"; do
    corpus=$work/corpus/$target
    artifacts=$work/artifacts/$target/
    mkdir -p "$corpus" "$artifacts"
    echo "fuzz $target for $seconds s"
    log=$work/$target.log
    if ! KEYFOLD_FUZZ_SEEDS=$corpus "$work/$host/release/$target" >"$log" 2>&1; then
        cat "$log"
        echo "fuzz target $target cannot make its seeds" >&2
        exit 1
    fi
    if ! "$work/$host/release/$target" "$corpus" -artifact_prefix="$artifacts" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
        >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz target $target failed; the input is in $artifacts" >&2
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: */  executions: /p; s/^#.*DONE */  /p' "$log"
done
