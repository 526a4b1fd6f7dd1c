#!/usr/bin/env bash
# Fuzzes the reader of mail servers' replies for so many seconds (60), with libFuzzer and a nightly toolchain.
# What it finds is kept in corpus/ and artifacts/, which are nobody else's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
# What cargo-fuzz says to the compiler, but for the address sanitizer: there is no unsafe code to watch.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo +nightly build --release --target "$host"
mkdir -p corpus artifacts
exec "target/$host/release/replies" corpus -dict=dictionary.txt -artifact_prefix=artifacts/ \
    -max_len=16384 -len_control=20 -print_final_stats=1 -max_total_time="${1:-60}"
