#!/usr/bin/env bash
# Every check this repository has, in order, stopping at the first failure. Works on a fresh Debian
# or Ubuntu with a Rust toolchain; provision.sh installs the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

summary=()
closing=
finish() {
    local status=$?
    [ -z "$closing" ] || { grep '^test result:' "$closing" || true; rm -f "$closing"; }
    [ ${#summary[@]} = 0 ] || printf '%s\n' "${summary[@]}"
    if [ "$status" = 0 ]; then
        echo "all passed in ${SECONDS} s"
    else
        echo "FAILED at: ${step_name:-start}"
    fi
}
trap finish EXIT

step() {
    step_name=$1
    shift
    local start=$SECONDS
    echo "--- $step_name"
    "$@"
    summary+=("$(printf '%5d s  %s' $((SECONDS - start)) "$step_name")")
}

toolchain() {
    command -v cargo >/dev/null ||
        { echo "there is no cargo; install the Rust toolchain that rust-version in Cargo.toml names" >&2; return 1; }
    { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 ||
        { echo "rustfmt or clippy is missing; run: rustup component add rustfmt clippy" >&2; return 1; }
}

tests() {
    closing=$(mktemp)
    cargo test --locked 2>&1 | tee "$closing"
}

docs() {
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps
}

# Whether an advisory speaks of one of our crates is known only to a database of today, so a
# database that cannot be fetched is not a pass, and not our failure either.
advisories() {
    if cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check advisories
    else
        # The step's new name carries it into the summary.
        step_name='advisories: NOT checked, the advisory database could not be fetched'
        echo "$step_name"
    fi
}

. integration/provision.sh

step 'toolchain' toolchain
step 'provision' provision postgres postgres_versions pgbouncer cc python smtp exim aiosmtpd dkim faketime promtool namespaces systemd office producers deny
step 'cargo fmt' cargo fmt --check
step 'cargo clippy' cargo clippy --locked --all-targets -- -D warnings
step 'cargo build' cargo build --locked
step 'cargo test' tests
step 'cargo doc' docs
step 'cargo deny' cargo deny --locked check bans licenses sources
step 'advisories' advisories
