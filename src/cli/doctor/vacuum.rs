//! Whether dead rows go, and who keeps them. Pure.

use std::time::Duration;

use super::book::finding;
use super::judge::{Settings, or_well, span};
use crate::cli::finding::Finding;
use crate::store::doctor::{Holder, Place, Table};

/// Slots and standbys whose snapshot is older are told of, in transactions.
const TRANSACTIONS: i64 = 1_000_000;
/// Tables that every delivery passes through.
const BUSY: &[&str] = &["delivery"];
/// Fewer dead rows are never told of.
const DEAD: i64 = 50_000;
/// Smaller tables are never told of.
const BYTES: i64 = 256 << 20;
/// A live row with its index entries takes less.
const BYTES_A_ROW: i64 = 4_096;

/// What keeps vacuum from dead rows for longer than `held_over`.
pub(super) fn snapshots(holders: &[Holder], place: &Place, held_over: Duration) -> Vec<Finding> {
    let is_old = |holder: &&Holder| match holder.seconds {
        Some(seconds) => seconds > held_over.as_secs_f64(),
        None => holder.transactions.is_some_and(|count| count > TRANSACTIONS),
    };
    let mut found: Vec<Finding> = holders.iter().filter(is_old).map(holder).collect();
    if !place.sees_stats {
        found.push(finding("ages-hidden", &[("role", &place.role)]));
    }
    or_well(found, "snapshots", || {
        let oldest = holders.iter().filter_map(|holder| holder.seconds).fold(0.0, f64::max);
        format!("none is old; the oldest since {}", span(oldest))
    })
}

fn holder(holder: &Holder) -> Finding {
    let unknown = || "unknown".to_owned();
    let age = holder.seconds.map_or_else(unknown, span);
    let transactions = holder.transactions.unwrap_or(0);
    let pid = holder.pid.map_or_else(unknown, |pid| pid.to_string());
    let role = holder.role.clone().unwrap_or_else(unknown);
    let name = &holder.name.replace('\'', "''");
    let application = if holder.application.is_empty() { "unnamed" } else { &holder.application };
    let state = if holder.state.is_empty() { "state unknown" } else { &holder.state };
    let places: [(&str, &dyn ToString); 8] = [
        ("age", &age),
        ("transactions", &transactions),
        ("pid", &pid),
        ("role", &role),
        ("gid", name),
        ("slot", name),
        ("application", &application),
        ("state", &state),
    ];
    let cause = match holder.kind.as_str() {
        "slot" => "snapshot-slot",
        "prepared" => "prepared-transaction",
        "standby" => "snapshot-standby",
        _ => "snapshot-session",
    };
    finding(cause, &places)
}

pub(super) fn vacuum(tables: &[Table], settings: &Settings, schema: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for setting in ["autovacuum", "track_counts"] {
        if settings.get(setting).is_some_and(|setting| setting.value == "off") {
            found.push(finding("autovacuum-off", &[("setting", &setting)]));
        }
    }
    for table in tables {
        let name = format!("{schema}.{}", table.name);
        let (dead, live) = (table.dead, table.live);
        if table.vacuum_off {
            found.push(finding("autovacuum-off-table", &[("table", &name)]));
        }
        // 0.1 is half of the server's default, which lets a fifth of a large backlog be dead.
        let late = table.scale_factor.is_none_or(|factor| factor > 0.1);
        if late && BUSY.contains(&table.name.as_str()) {
            found.push(finding("autovacuum-late", &[("table", &name)]));
        }
        if dead > DEAD && dead > live {
            let places: [(&str, &dyn ToString); 3] =
                [("table", &name), ("dead", &dead), ("live", &live)];
            found.push(finding("dead-rows", &places));
        } else if table.bytes > BYTES
            && table.bytes / live.max(1) > BYTES_A_ROW
            && BUSY.contains(&table.name.as_str())
        {
            let size = bytes(table.bytes.unsigned_abs());
            let places: [(&str, &dyn ToString); 3] =
                [("table", &name), ("size", &size), ("live", &live)];
            found.push(finding("bloat", &places));
        }
    }
    or_well(found, "vacuum", || {
        let dead: i64 = tables.iter().map(|table| table.dead).sum();
        let size = bytes(tables.iter().map(|table| table.bytes.unsigned_abs()).sum());
        format!("dead rows: {dead}, all tables {size}")
    })
}

/// A size in its largest unit.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    match UNITS.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{} {unit}", count / size),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::doctor::Setting;

    fn causes(found: &[Finding]) -> Vec<&'static str> {
        found.iter().filter_map(|one| one.cause).collect()
    }

    #[test]
    fn whoever_holds_back_vacuum_is_named() {
        let session = Holder {
            kind: "session".to_owned(),
            name: "17".to_owned(),
            pid: Some(17),
            application: "report".to_owned(),
            role: Some("ann".to_owned()),
            state: "idle in transaction".to_owned(),
            seconds: Some(7_260.0),
            transactions: Some(3),
        };
        let of = |kind: &str, seconds, transactions| Holder {
            kind: kind.to_owned(),
            name: "o'x".to_owned(),
            seconds,
            transactions,
            ..Holder::default()
        };
        let place = Place { sees_stats: true, ..Place::default() };
        let over = Duration::from_secs(300);
        let told = snapshots(std::slice::from_ref(&session), &place, over);
        assert_eq!(
            told[0].found.words().1,
            "a transaction of ann keeps vacuum from dead rows since 2h1m: pid 17, application \
             report, idle in transaction"
        );
        let remedy = told[0].remedy.as_deref();
        assert_eq!(remedy, Some("end it there, or: SELECT pg_terminate_backend(17)"));
        assert_eq!(causes(&snapshots(&[session], &place, Duration::from_secs(8_000))), [""; 0]);
        let others = [
            of("prepared", Some(301.0), None),
            of("slot", None, Some(TRANSACTIONS + 1)),
            of("standby", None, Some(TRANSACTIONS + 1)),
            of("slot", None, Some(TRANSACTIONS)),
            of("session", Some(299.0), Some(9)),
        ];
        let told = snapshots(&others, &place, over);
        assert_eq!(causes(&told), ["prepared-transaction", "snapshot-slot", "snapshot-standby"]);
        let remedy = told[0].remedy.as_deref().unwrap();
        assert!(remedy.ends_with("ROLLBACK PREPARED 'o''x'"), "{remedy}");
        assert_eq!(causes(&snapshots(&[], &Place::default(), over)), ["ages-hidden"]);
    }

    #[test]
    fn dead_rows_are_told_where_vacuum_does_not_keep_up() {
        let table = |name: &str, live, dead, bytes| Table {
            name: name.to_owned(),
            scale_factor: Some(0.02),
            live,
            dead,
            bytes,
            ..Table::default()
        };
        let told = |table: Table| causes(&vacuum(&[table], &Settings::new(), "outbox"));
        assert_eq!(told(table("delivery", 10, DEAD, 0)), [""; 0]);
        assert_eq!(told(table("delivery", 10, DEAD + 1, 0)), ["dead-rows"]);
        assert_eq!(told(table("delivery", DEAD + 1, DEAD + 1, 0)), [""; 0]);
        assert_eq!(told(table("delivery", 10, 0, BYTES + 1)), ["bloat"]);
        assert_eq!(told(table("delivery", 1_000_000, 0, BYTES + 1)), [""; 0]);
        let off = Table { vacuum_off: true, scale_factor: None, ..table("delivery", 0, 0, 0) };
        assert_eq!(told(off), ["autovacuum-off-table", "autovacuum-late"]);
        let off = Setting { value: "off".to_owned(), source: String::new() };
        let settings = [("autovacuum".to_owned(), off)].into();
        assert_eq!(causes(&vacuum(&[], &settings, "outbox")), ["autovacuum-off"]);
    }

    #[test]
    fn sizes_are_told_in_their_largest_unit() {
        assert_eq!(
            (bytes(17), bytes(2_048), bytes(3 << 30)),
            ("17 bytes".to_owned(), "2 kB".to_owned(), "3 GB".to_owned())
        );
    }
}
