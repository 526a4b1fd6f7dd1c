#!/usr/bin/env bash
# Replays the story of README.md in days of five seconds, or of $REPLAY_DAY. Installs what is missing,
# builds, runs. Everything is private and goes with it, but for the folder with files, mails and logs.
# Exits 0 only if everything adds up. Works as root and as a normal user.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
# A reader's own would mean another server.
unset ${!PG*}

# How long is waited for anything at most, in seconds.
limit=60

say() { printf '\n* %s\n' "$*"; }

fail() {
    echo "FAILED: $*; logs are in $REPLAY_FOLDER" >&2
    exit 1
}

# until_true WHAT COMMAND…: repeats the command until it succeeds.
until_true() {
    local what=$1 end=$((SECONDS + limit))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "not within $limit s: $what"
        sleep 0.05
    done
}

# shows TEXT COMMAND…: prints the command and what it says, which must hold the text.
shows() {
    local text=$1 said
    shift
    printf '\n$ %s\n' "$*"
    # `outboxd status` exits with 1 when something needs you.
    said=$("$@" 2>&1) || true
    printf '%s\n' "$said"
    grep -q -- "$text" <<<"$said" || fail "\"$*\" does not say \"$text\""
}

outboxd() { "$program" "$@"; }

sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$owner_url" -c "$1"; }

free_port() {
    "$OUTBOXD_PYTHON" -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
}

# A PostgreSQL of our own, which ends with us whatever happens: see supervisor.sh.
start_postgres() {
    local cluster=$work/postgres as=() supervisor answer word
    supervisor=$(cat integration/harness/supervisor.sh)
    mkdir "$cluster"
    touch "$cluster/log"
    # It refuses to run as root.
    if [ "$(id -u)" = 0 ]; then
        chown -R nobody "$cluster"
        as=(setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups)
    fi
    coproc SERVER {
        cd "$cluster"
        LC_ALL=C exec "${as[@]}" sh -c "$supervisor" supervisor "$bin" "$cluster" remove 2>/dev/null
    }
    for word in init start; do
        if [ "$word" = start ]; then
            printf "%s = '%s'\n" listen_addresses '' unix_socket_directories "$cluster" fsync off \
                >>"$cluster/data/postgresql.conf"
        fi
        echo "$word" >&"${SERVER[1]}"
        read -r answer <&"${SERVER[0]}"
        [ "$answer" = ok ] || { cat "$cluster/log" >&2; fail "PostgreSQL: $word"; }
    done
    owner_url="postgresql:///shop?host=$cluster&user=postgres"
    psql -X -q -d "${owner_url/shop/postgres}" -c 'CREATE DATABASE shop'
}

# start_mail [OPTIONS]: the mail server. It keeps each mail in a file.
start_mail() {
    "$OUTBOXD_SMTP_SINK" "$@" -d "$REPLAY_FOLDER/mails/%Y%m%dT%H%M%S." "127.0.0.1:$smtp_port" 16 \
        >>"$REPLAY_FOLDER/mail.log" 2>&1 &
    mail_pid=$!
    until_true "the mail server listens" bash -c "exec 3<>/dev/tcp/127.0.0.1/$smtp_port"
}

stop_mail() {
    kill "$mail_pid"
    wait "$mail_pid" || true
}

# start_relay NAME: as the role of a relay, which may read the orders and no more.
start_relay() {
    DATABASE_URL=${owner_url/user=postgres/user=shop_relay} "$program" run 2>>"$REPLAY_FOLDER/relay-$1.log" &
    relay_pids+=($!)
}

# The process that owns the export.
owner_pid() {
    sql "SELECT r.pid FROM outbox.sink s JOIN outbox.relay r ON r.id = s.owner WHERE s.name = 'orders'"
}

owner_pid_is_known() { [ -n "$(owner_pid)" ]; }

owned_by_another_than() { owner_pid_is_known && [ "$(owner_pid)" != "$1" ]; }

# How many mails of orders arrived.
arrived() { { grep -l '^Message-ID: <export_' "$REPLAY_FOLDER"/mails/* 2>/dev/null || true; } | wc -l; }

more_than() { [ "$(arrived)" -gt "$1" ]; }

mail_is() { [ "$(sql "SELECT state FROM outbox.mailing ORDER BY id DESC LIMIT 1")" = "$1" ]; }

newest_mail() { grep -l '^Message-ID: <export_' "$REPLAY_FOLDER"/mails/* | xargs ls -t | head -1; }

told() { grep -q '^To: operators@' "$REPLAY_FOLDER"/mails/*; }

# Whether so many periods since the last file have ended, and settled.
days_have_passed() {
    [ "$(sql "SELECT max(due_before) + $1 * interval '$REPLAY_DAY' + interval '600 ms' < clock_timestamp()
                FROM outbox.export")" = t ]
}

# Whether a file of the last order is published, and no file waits for its mail.
all_is_mailed() {
    [ "$(sql "SELECT (SELECT max(due_before) FROM outbox.export) > (SELECT max(created_at) FROM shop.orders)
                 AND NOT EXISTS (SELECT FROM outbox.export e LEFT JOIN outbox.mailing m ON m.id = e.mailing
                                  WHERE e.state <> 'published' OR m.state IS DISTINCT FROM 'sent')")" = t ]
}

# Waits for the next mail, and for its record.
next_mail() {
    until_true "one more mail" more_than "$(arrived)"
    until_true "the mail is recorded as $1" mail_is "$1"
}

tidy() {
    local status=$?
    trap - EXIT
    local pid
    for pid in "${relay_pids[@]}" $producer_pid $mail_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # The end of its input is what PostgreSQL's supervisor ends at.
    [ -z "${SERVER_PID:-}" ] || { exec {SERVER[1]}>&-; wait "$SERVER_PID" 2>/dev/null || true; }
    rm -rf "$work"
    exit "$status"
}

command -v cargo >/dev/null || [ -n "${REPLAY_PROGRAM:-}" ] ||
    { echo "there is no cargo; install the Rust toolchain that rust-version in Cargo.toml names" >&2; exit 1; }
. integration/provision.sh
provision postgres cc python smtp
if [ -z "${REPLAY_PROGRAM:-}" ]; then
    echo "building; the first time takes a few minutes"
    cargo build --locked --quiet --bin outboxd
fi
program=${REPLAY_PROGRAM:-$PWD/target/debug/outboxd}
initdb=$(command -v initdb || printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)
bin=${OUTBOXD_PG_BIN:-$(dirname "$(readlink -f "$initdb")")}

export REPLAY_DAY=${REPLAY_DAY:-5s} REPLAY_FOLDER
REPLAY_FOLDER=$(mktemp -d -t outboxd-daily-orders-XXXXXX)
work=$(mktemp -d -t outboxd-replay-XXXXXX)
relay_pids=() mail_pid='' producer_pid=''
trap tidy EXIT
trap 'exit 130' INT TERM
mkdir "$REPLAY_FOLDER/mails" "$REPLAY_FOLDER/exports"
# smtp-sink and PostgreSQL do not stay root.
chmod 755 "$REPLAY_FOLDER" "$work"
chmod 777 "$REPLAY_FOLDER/mails"
export OUTBOXD_CONFIG=$here/replay.toml

say "a private PostgreSQL, a mail server, the outbox and the shop's table"
start_postgres
export DATABASE_URL=$owner_url
smtp_port=$(free_port)
export REPLAY_SMTP_URL=smtp://127.0.0.1:$smtp_port
start_mail
shows 'is current' outboxd migrate
psql -X -q -v ON_ERROR_STOP=1 -d "$owner_url" -f "$here/shop.sql"

say "two relays, and orders all the time"
start_relay a
start_relay b
until_true "a relay owns the export" owner_pid_is_known
psql -X -q -d "$owner_url" -f "$here/producer.sql" >/dev/null 2>&1 &
producer_pid=$!
next_mail sent
shows 'sent' outboxd export list orders

say "the relay that owns orders is killed with SIGKILL; the other one goes on"
killed=$(owner_pid)
shows 'orders' outboxd status
kill -9 "$killed"
mapfile -t relay_pids < <(printf '%s\n' "${relay_pids[@]}" | grep -vx "$killed")
until_true "the other relay owns the export" owned_by_another_than "$killed"
next_mail sent
shows 'orders' outboxd status
start_relay c

say "the mail server takes a mail in full and hangs up without an answer"
stop_mail
# `-q .`: "disconnect (without replying) after receiving" the final dot. The mail is in its folder.
start_mail -q .
next_mail held
stop_mail
start_mail
held=$(sql "SELECT period FROM outbox.mailing WHERE state = 'held'")
shows "mail orders/$held is held" outboxd show "orders/$held"
next_mail sent
shows "outboxd resolve orders/$held" outboxd status
until_true "the operators are told" told
shows 'orders: a mail of its files is held or dead' grep -h '^Subject: shop-replay' -r "$REPLAY_FOLDER/mails"
copies=$(grep -l "^Message-ID: <export_shop-replay_orders_$held@" "$REPLAY_FOLDER"/mails/* | wc -l)
[ "$copies" = 1 ] || fail "the mail of $held arrived $copies times"

say "the operator asks the department, which has it, and says so"
shows 'was held' outboxd resolve "orders/$held" --delivered
shows 'sent' outboxd show "orders/$held"

say "both relays are stopped for five days; the shop sells on"
next_mail sent
kill "${relay_pids[@]}"
wait "${relay_pids[@]}"
relay_pids=()
until_true "five days have passed" days_have_passed 5
start_relay d
start_relay e
next_mail sent
shows 'sent' outboxd export list orders
shows 'orders-' grep -h filename= "$(newest_mail)"
[ "$(grep -c filename= "$(newest_mail)")" -ge 5 ] || fail "the mail lacks files"

say "the last orders; then files and mails are held against the table"
kill "$producer_pid"
wait "$producer_pid" 2>/dev/null || true
producer_pid=
until_true "all is mailed" all_is_mailed
sql 'COPY (SELECT id FROM shop.orders) TO STDOUT' | "$OUTBOXD_PYTHON" "$here/reconcile.py" "$REPLAY_FOLDER"

say "files, mails and logs are in $REPLAY_FOLDER; took $SECONDS s"
