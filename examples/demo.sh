#!/usr/bin/env bash
# The demonstration: orders committed in PostgreSQL arrive as mails, signed webhooks and lines of a
# CSV file, and orders that were rolled back arrive nowhere. Installs what is missing, builds, runs.
# Exits 0 only if everything adds up. Works as root and as a normal user.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v cargo >/dev/null ||
    { echo "there is no cargo; install the Rust toolchain that rust-version in Cargo.toml names" >&2; exit 1; }
. integration/provision.sh
provision postgres cc

echo "building; the first time takes a few minutes"
cargo build --locked --quiet --bin outboxd --example demo
echo "built in $SECONDS s"
exec cargo run --locked --quiet --example demo
