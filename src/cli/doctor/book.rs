//! Everything that doctor can find amiss, in words, each with its remedy. `docs/doctor.md` shows the same,
//! and a test compares the two.

use crate::cli::finding::{Finding, Found};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warn,
    Fail,
}

/// One thing that may be amiss. What stands in braces is filled in.
struct Entry {
    cause: &'static str,
    /// What it is about, as the line begins.
    thing: &'static str,
    level: Level,
    found: &'static str,
    remedy: &'static str,
}

macro_rules! book {
    ($($level:ident $thing:literal $cause:literal: $found:literal => $remedy:literal;)*) => {
        const BOOK: &[Entry] = &[$(Entry {
            cause: $cause, thing: $thing, level: Level::$level, found: $found, remedy: $remedy,
        },)*];
    };
}

book! {
    Fail "objects" "schema-missing": "{object} is missing"
        => "put it back as the owner: outboxd doctor --repair writes the SQL";
    Fail "objects" "schema-changed": "{object} is not as the migrations make it: {difference}"
        => "put it back as the owner: outboxd doctor --repair writes the SQL";
    Warn "objects" "schema-foreign": "{object} is made by no migration"
        => "drop it, or keep it in a schema of your own";
    Fail "ledger" "ledger-day": "there is no partition for {day}"
        => "SELECT {schema}.extend_ledger(), and look why no relay does it";
    Fail "trigger" "trigger-disabled": "{trigger} does not fire on {table}"
        => "as the owner: ALTER TABLE {table} ENABLE TRIGGER {trigger}; then: outboxd route unseen";
    Fail "trigger" "replica-mode": "no trigger fires for {who}: session_replication_role is replica"
        => "as an administrator: ALTER {who} RESET session_replication_role; then: outboxd route unseen";
    Fail "unseen" "unseen": "messages that nothing routed: {count}, the first is {id}"
        => "outboxd route unseen";
    Warn "unseen" "unseen-partly": "looked at the messages up to {id} only, in {limit}"
        => "look longer: outboxd doctor --sweep 10m";
    Warn "grants" "grants-too-many": "{grantee} may {rights} on {table}, which is for relays only"
        => "as the owner: REVOKE {rights} ON {table} FROM {grantee}";
    Warn "grants" "row-security": "row security is on for {table}: what it hides counts as absent"
        => "as the owner: ALTER TABLE {table} DISABLE ROW LEVEL SECURITY";
    Warn "pooler" "pooler": "sessions are handed to others between transactions: no bell is heard, and a relay polls, at least once a second"
        => "name a connection past the pooler in [database] listen_url; else set [database] listen = false";
    Warn "listen" "listen-deaf": "a notification did not come through within {limit}: a relay polls, at least once a second"
        => "name a connection in [database] listen_url that leads past what swallows it; else set [database] listen = false";
    Warn "listen" "notify-queue": "the queue of notifications is {percent} % full: a session listens and does not end its transaction"
        => "look for it under snapshots below, and end it";
    Warn "clock" "clock-skew": "this host is {seconds} s {direction} the database"
        => "let both follow the same time servers (timedatectl, chronyc tracking)";
    Fail "clock" "clock-wrong": "this host is {seconds} s {direction} the database: receivers refuse signatures by it"
        => "set it right: timedatectl set-ntp true, or chronyc makestep";
    Warn "snapshots" "snapshot-session": "a transaction of {role} keeps vacuum from dead rows since {age}: pid {pid}, application {application}, {state}"
        => "end it there, or: SELECT pg_terminate_backend({pid})";
    Warn "snapshots" "snapshot-slot": "replication slot {slot} ({state}) keeps vacuum from dead rows for {transactions} transactions"
        => "let its consumer catch up; if it has none: SELECT pg_drop_replication_slot('{slot}')";
    Warn "snapshots" "snapshot-standby": "standby {application} (pid {pid}) keeps vacuum from dead rows for {transactions} transactions"
        => "end the long query there, or set hot_standby_feedback = off there";
    Warn "snapshots" "prepared-transaction": "prepared transaction {gid} of {role} is open since {age}: it keeps vacuum from dead rows, and its messages wait"
        => "its transaction manager ends it; if that is gone: COMMIT PREPARED '{gid}', or ROLLBACK PREPARED '{gid}'";
    Warn "snapshots" "ages-hidden": "how old transactions of other roles are is hidden from {role}"
        => "as an administrator: GRANT pg_read_all_stats TO {role}";
    Fail "vacuum" "autovacuum-off": "{setting} is off on the server"
        => "as an administrator: ALTER SYSTEM SET {setting} = on; then: SELECT pg_reload_conf()";
    Fail "vacuum" "autovacuum-off-table": "{table} is left out by autovacuum"
        => "as the owner: ALTER TABLE {table} RESET (autovacuum_enabled)";
    Warn "vacuum" "autovacuum-late": "{table} has lost its own threshold of autovacuum: its dead rows pile up"
        => "as the owner: ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05)";
    Warn "vacuum" "dead-rows": "{table} has {dead} dead rows beside {live} live ones"
        => "look what holds vacuum back under snapshots; then, as the owner: VACUUM (ANALYZE) {table}";
    Warn "vacuum" "bloat": "{table} takes {size} for {live} rows"
        => "in a quiet minute, as the owner: VACUUM FULL {table} (it locks producers out meanwhile)";
    Fail "doorbell" "doorbell-prepared": "prepared transactions are on (max_prepared_transactions is {number}) and producers ring: PREPARE TRANSACTION fails where a sink sleeps"
        => "as the owner: UPDATE {schema}.installation SET doorbell = false; then restart the relays";
    Warn "doorbell" "doorbell-off": "producers do not ring though they may: a sink that sleeps finds a message at its next poll"
        => "as the owner: UPDATE {schema}.installation SET doorbell = true; then restart the relays";
    Fail "sequence" "sequence-cache": "{sequence} gives each session {cache} ids at a time: ids are not in the order of a key's messages"
        => "as the owner: ALTER SEQUENCE {sequence} CACHE 1";
    Fail "sequence" "sequence-behind": "{sequence} stands at {reached}, ids up to {highest} are in use: they would be given away again"
        => "ids above {highest} may have been given away too, and their messages pruned: outboxd resume --restored goes on a billion higher (it also ends a pause of everything)";
    Fail "copy" "copy": "this is not the cluster that the installation was made in: a restored dump, or a clone"
        => "if it takes the original's place: outboxd resume --restored; if not: another name in [database] installation";
    Warn "relays" "relays-differ": "live relays work by different configs: {relays}"
        => "give all the same file, and restart those that have another";
    Warn "relays" "relays-other-config": "the live relays work by another config than this file: {relays}"
        => "restart them with this file, or name theirs with --config";
    Warn "relays" "relays-versions": "live relays are of different versions: {versions}"
        => "bring the upgrade to its end";
    Fail "relays" "relays-none": "no relay lives; {relay} fell silent {age} ago"
        => "look at its log, and start it: outboxd run";
    Warn "relays" "relay-silent": "{relay} fell silent {age} ago, and others have its work"
        => "look at its log, and start it: outboxd run";
    Warn "relays" "relay-deaf": "{relay} does not hear: it polls"
        => "look at its log for what its LISTEN session met; restart it";
    Fail "certificate" "certificate-over": "that of {host} {ends}"
        => "renew it there";
    Warn "certificate" "certificate-soon": "that of {host} {ends}"
        => "renew it there";
    Warn "certificate" "certificate-unchecked": "that of {host} {ends}; the relay does not check it"
        => "renew it there, and let sslmode=verify-full in the URL check it";
    Warn "certificate" "certificate-beside": "one that {host} shows beside its own {ends}; who does not need it does not mind"
        => "show the chain there without it";
    Fail "name" "name-unknown": "{host} does not resolve: {error}"
        => "correct it in the config, or the resolver of this host";
    Warn "name" "name-slow": "{host} took {milliseconds} ms to resolve"
        => "look at the resolver of this host: each new connection waits as long";
    Fail "settings" "crash-unsafe": "{setting} is off: a crash of the machine can cost the whole database"
        => "as an administrator: ALTER SYSTEM SET {setting} = on; then: SELECT pg_reload_conf()";
    Fail "settings" "read-only": "transactions of {role} are read-only"
        => "as an administrator: {alter} SET default_transaction_read_only = off";
    Warn "settings" "commit-asynchronous": "synchronous_commit is off: a crash may forget what producers were told is committed"
        => "as an administrator: {alter} SET synchronous_commit = on";
    Warn "settings" "timeout-short": "{setting} is {value}: it ends statements or sessions that a relay needs"
        => "as an administrator: {alter} SET {setting} = 0";
    Warn "connections" "connections-few": "{left} connections are left"
        => "raise max_connections, or the limit of the role or database; a relay takes seven and one more for moments, doctor seven";
    Fail "connections" "connections-none": "{left} connections are left: a relay that reconnects may find none"
        => "raise max_connections, or the limit of the role or database; a relay takes seven and one more for moments, doctor seven";
    Fail "disk" "disk-full": "{directory} has {free} left"
        => "make room: files cannot be written";
    Warn "disk" "disk-low": "{directory} has {free} left"
        => "make room before files cannot be written";
}

/// What was found, its places filled in.
pub(super) fn finding(cause: &'static str, places: &[(&str, &dyn ToString)]) -> Finding {
    let entry = BOOK.iter().find(|entry| entry.cause == cause);
    let entry = entry.unwrap_or_else(|| panic!("{cause} stands in the book"));
    let found = fill(entry.found, places);
    let found = match entry.level {
        Level::Warn => Found::Doubt(found),
        Level::Fail => Found::Wrong(found),
    };
    let remedy = Some(fill(entry.remedy, places));
    Finding { thing: entry.thing.to_owned(), found, cause: Some(entry.cause), remedy, detail: None }
}

/// In one pass: what is filled in may itself hold braces.
fn fill(text: &str, places: &[(&str, &dyn ToString)]) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else { break };
        let place = places.iter().find(|(place, _)| *place == name);
        let (_, value) = place.unwrap_or_else(|| panic!("{{{name}}} is filled in: {text}"));
        out.push_str(before);
        out.push_str(&value.to_string());
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    /// Causes and the sources that tell of them.
    const JUDGES: &[&str] = &[
        include_str!("judge.rs"),
        include_str!("vacuum.rs"),
        include_str!("network.rs"),
        include_str!("relays.rs"),
    ];

    /// The table as it stands in the documentation.
    fn table() -> String {
        let mut out = String::from("| | | found | remedy |\n|---|---|---|---|\n");
        for Entry { cause, thing, level, found, remedy } in BOOK {
            let level = if *level == Level::Fail { "FAIL" } else { "warn" };
            let _ = writeln!(out, "| {level} {thing} | `{cause}` | {found} | {remedy} |");
        }
        out
    }

    #[test]
    fn the_documentation_shows_the_book() {
        let page = include_str!("../../../docs/doctor.md");
        let begin = page.find("| | |").expect("docs/doctor.md has the table");
        let shown = page[begin..].lines().take_while(|line| line.starts_with('|'));
        let shown = shown.collect::<Vec<_>>().join("\n") + "\n";
        assert!(shown == table(), "the table of docs/doctor.md should be:\n{}", table());
    }

    #[test]
    fn every_entry_is_used_and_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = BOOK.iter().map(|entry| entry.cause).collect();
        assert_eq!(names.len(), BOOK.len());
        for name in names {
            let told = JUDGES.iter().any(|text| text.contains(&format!("\"{name}\"")));
            assert!(told, "nothing finds {name}");
        }
    }

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        assert_eq!(fill("{a} and {b}", &[("a", &"{b}"), ("b", &1)]), "{b} and 1");
    }
}
