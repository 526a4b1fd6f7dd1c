//! From what the database says to what is amiss. Pure; a finding for each thing that is, one that all is well
//! where nothing is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::book::finding;
use crate::cli::finding::Finding;
use crate::cli::words::age;
use crate::store::doctor::catalog::{Drift, Thing};
use crate::store::doctor::{Excess, Place, Sequence, Setting, Sweep, Table};
use crate::store::listen::ECHO_LIMIT;
use crate::store::restored::Copy;

/// Objects told of one by one.
const SHOWN_MAX: usize = 20;
/// Wrong by more, and a clock is told of.
const SKEW: f64 = 2.0;
/// Receivers of webhooks grant five minutes; this leaves them most of that.
const SKEW_MAX: f64 = 60.0;
/// A relay's statements may take so long.
const STATEMENT_MS: i64 = 15_000;
/// A relay's statements may wait for a lock so long.
const LOCK_MS: i64 = 1_000;
const TRANSACTION_MS: i64 = 60_000;
/// Fewer are told of.
const CONNECTIONS_FEW: i64 = 16;
/// What one relay needs: seven, and one more for moments.
const CONNECTIONS_NONE: i64 = 8;
/// Of the queue of notifications.
const QUEUE: f64 = 0.5;

pub(super) type Settings = BTreeMap<String, Setting>;

/// All is well, in words, unless something was found.
pub(super) fn or_well(
    found: Vec<Finding>,
    thing: &str,
    words: impl FnOnce() -> String,
) -> Vec<Finding> {
    if found.is_empty() { vec![Finding::new(thing, Ok(words()))] } else { found }
}

pub(super) fn objects(drifts: &[(Thing, Drift)], objects: usize) -> Vec<Finding> {
    let mut found: Vec<Finding> = drifts
        .iter()
        .take(SHOWN_MAX)
        .map(|(thing, drift)| match drift {
            Drift::Missing(_) => finding("schema-missing", &[("object", thing)]),
            Drift::Changed(wanted, is) => {
                let difference = difference(wanted, is);
                finding("schema-changed", &[("object", thing), ("difference", &difference)])
            }
            Drift::Foreign => finding("schema-foreign", &[("object", thing)]),
        })
        .collect();
    if drifts.len() > SHOWN_MAX {
        let more = format!("and {} more like these", drifts.len() - SHOWN_MAX);
        found.push(Finding::new("objects", Err(more)));
    }
    or_well(found, "objects", || format!("{objects}, all as the migrations make them"))
}

/// How a definition differs; of a function's body there is the hash only.
fn difference(wanted: &str, is: &str) -> String {
    let head = |text: &str| text.rsplit_once(" body ").map(|(head, _)| head.to_owned());
    match (head(wanted), head(is)) {
        (Some(a), Some(b)) if a == b => "it has another body".to_owned(),
        (Some(a), Some(b)) => format!("{b}, not {a}"),
        _ if wanted.is_empty() => format!("it is {is}"),
        _ if is.is_empty() => format!("it is not {wanted}"),
        _ => format!("{is}, not {wanted}"),
    }
}

pub(super) fn ledger(days: &[String], schema: &str) -> Vec<Finding> {
    let told = days.iter().map(|day| finding("ledger-day", &[("day", day), ("schema", &schema)]));
    or_well(told.collect(), "ledger", || "has a place for today and tomorrow".to_owned())
}

pub(super) fn triggers(
    silent: &[(String, String)],
    replicas: &[String],
    schema: &str,
) -> Vec<Finding> {
    let silent = silent.iter().map(|(table, trigger)| {
        let table = format!("{schema}.{table}");
        finding("trigger-disabled", &[("table", &table), ("trigger", trigger)])
    });
    let replicas = replicas.iter().map(|who| finding("replica-mode", &[("who", who)]));
    or_well(silent.chain(replicas).collect(), "trigger", || "all fire".to_owned())
}

pub(super) fn unseen(sweep: &Sweep, limit: Duration) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(id) = sweep.first_id {
        found.push(finding("unseen", &[("count", &sweep.found), ("id", &id)]));
    }
    if let Some(id) = sweep.stopped_at {
        let limit = format!("{limit:.0?}");
        found.push(finding("unseen-partly", &[("id", &id), ("limit", &limit)]));
    }
    or_well(found, "unseen", || "each message has a delivery or a ledger row".to_owned())
}

pub(super) fn grants(excess: &[Excess], tables: &[Table], schema: &str) -> Vec<Finding> {
    let grants = excess.iter().map(|one| {
        let table = format!("{schema}.{}", one.table);
        let places: [(&str, &dyn ToString); 3] =
            [("grantee", &one.grantee), ("rights", &one.rights), ("table", &table)];
        finding("grants-too-many", &places)
    });
    let secured = tables.iter().filter(|table| table.row_security).map(|table| {
        let table = format!("{schema}.{}", table.name);
        finding("row-security", &[("table", &table)])
    });
    or_well(grants.chain(secured).collect(), "grants", || {
        "nobody may do more than the migrations grant".to_owned()
    })
}

/// What is heard past a pooler is no trouble.
pub(super) fn pooler(pooled: bool, heard: Option<bool>) -> Vec<Finding> {
    let cut_off = pooled && heard == Some(false);
    let told = cut_off.then(|| finding("pooler", &[])).into_iter().collect();
    or_well(told, "pooler", || {
        let none = "none: each session keeps its server process";
        let words = match (pooled, heard) {
            (false, _) => none,
            (true, None) => "there is one, and a relay polls, as [database] listen says",
            (true, Some(_)) => "there is one, and bells are heard past it",
        };
        words.to_owned()
    })
}

/// `heard` is none where the config wants no relay to listen. Through a pooler nothing is heard, and that is
/// told as what it is.
pub(super) fn listen(heard: Option<bool>, pooled: bool, place: Option<&Place>) -> Vec<Finding> {
    let mut found = Vec::new();
    if heard == Some(false) && !pooled {
        let limit = format!("{} s", ECHO_LIMIT.as_secs());
        found.push(finding("listen-deaf", &[("limit", &limit)]));
    }
    if let Some(place) = place.filter(|place| place.queue > QUEUE) {
        let percent = format!("{:.0}", place.queue * 100.0);
        found.push(finding("notify-queue", &[("percent", &percent)]));
    }
    or_well(found, "listen", || {
        let words = match heard {
            Some(true) => "a relay is woken",
            Some(false) => "nothing is heard through the pooler",
            None => "a relay polls, as [database] listen says",
        };
        words.to_owned()
    })
}

pub(super) fn clock((ahead, wrong_by): (f64, f64)) -> Vec<Finding> {
    // What the way to the database may account for is nobody's fault.
    let off = ahead.abs() - wrong_by;
    let seconds = format!("{:.1}", ahead.abs());
    let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
    let places: [(&str, &dyn ToString); 2] = [("seconds", &seconds), ("direction", &direction)];
    let cause = match off {
        off if off > SKEW_MAX => Some("clock-wrong"),
        off if off > SKEW => Some("clock-skew"),
        _ => None,
    };
    let told = cause.map(|cause| finding(cause, &places)).into_iter().collect();
    or_well(told, "clock", || format!("within {seconds} s of the database"))
}

pub(super) fn doorbell(rings: bool, settings: &Settings, schema: &str) -> Vec<Finding> {
    let number = number(settings, "max_prepared_transactions");
    let cause = match (rings, number > 0) {
        (true, true) => Some("doorbell-prepared"),
        (false, false) => Some("doorbell-off"),
        _ => None,
    };
    let places: [(&str, &dyn ToString); 2] = [("number", &number), ("schema", &schema)];
    let told = cause.map(|cause| finding(cause, &places)).into_iter().collect();
    or_well(told, "doorbell", || {
        if rings {
            "producers ring".to_owned()
        } else {
            "producers do not ring, for the sake of prepared transactions; relays poll".to_owned()
        }
    })
}

pub(super) fn sequence(sequence: &Sequence) -> Vec<Finding> {
    let Sequence { name, cache, highest, reached } = sequence;
    let mut found = Vec::new();
    if *cache > 1 {
        found.push(finding("sequence-cache", &[("sequence", name), ("cache", cache)]));
    }
    if let Some(reached) = reached.filter(|reached| reached < highest) {
        let places: [(&str, &dyn ToString); 3] =
            [("sequence", name), ("reached", &reached), ("highest", highest)];
        found.push(finding("sequence-behind", &places));
    }
    or_well(found, "sequence", || match reached {
        Some(reached) => format!("stands at {reached}, and no id above is in use"),
        None => format!("one id at a time; where it stands is hidden: GRANT SELECT ON {name}"),
    })
}

pub(super) fn copy(copy: Copy) -> Vec<Finding> {
    let told = (copy == Copy::Restored).then(|| finding("copy", &[])).into_iter().collect();
    or_well(told, "copy", || match copy {
        Copy::Unknown => "the server does not tell which cluster it is".to_owned(),
        Copy::Original | Copy::Restored => "the cluster it was made in".to_owned(),
    })
}

pub(super) fn settings(settings: &Settings, place: &Place) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_off = |name: &str| settings.get(name).is_some_and(|setting| setting.value == "off");
    for setting in ["fsync", "full_page_writes"] {
        if is_off(setting) {
            found.push(finding("crash-unsafe", &[("setting", &setting)]));
        }
    }
    if let Some(setting) = settings.get("default_transaction_read_only").filter(|s| s.value == "on")
    {
        let alter = alter(setting, place);
        found.push(finding("read-only", &[("role", &place.role), ("alter", &alter)]));
    }
    if let Some(setting) = settings.get("synchronous_commit").filter(|s| s.value == "off") {
        found.push(finding("commit-asynchronous", &[("alter", &alter(setting, place))]));
    }
    let limits = [
        ("statement_timeout", STATEMENT_MS),
        ("lock_timeout", LOCK_MS),
        ("transaction_timeout", TRANSACTION_MS),
        ("idle_session_timeout", i64::MAX),
    ];
    for (name, least) in limits {
        let millis = number(settings, name);
        if let Some(setting) = settings.get(name).filter(|_| millis > 0 && millis < least) {
            let value = format!("{:?}", Duration::from_millis(millis.unsigned_abs()));
            let places: [(&str, &dyn ToString); 3] =
                [("setting", &name), ("value", &value), ("alter", &alter(setting, place))];
            found.push(finding("timeout-short", &places));
        }
    }
    or_well(found, "settings", || "none that hurts".to_owned())
}

/// Who has to alter a setting, by where it comes from.
fn alter(setting: &Setting, place: &Place) -> String {
    let (role, database) = (quoted(&place.role), quoted(&place.database));
    match setting.source.as_str() {
        "database" => format!("ALTER DATABASE {database}"),
        "database user" => format!("ALTER ROLE {role} IN DATABASE {database}"),
        // What is set for the role wins over the server's own.
        _ => format!("ALTER ROLE {role}"),
    }
}

fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let bare = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    if bare { name.to_owned() } else { postgres_protocol::escape::escape_identifier(name) }
}

pub(super) fn number(settings: &Settings, name: &str) -> i64 {
    settings.get(name).and_then(|setting| setting.value.parse().ok()).unwrap_or(0)
}

pub(super) fn connections(place: &Place) -> Vec<Finding> {
    let left = place.connections_left;
    let cause = match left {
        left if left < CONNECTIONS_NONE => Some("connections-none"),
        left if left < CONNECTIONS_FEW => Some("connections-few"),
        _ => None,
    };
    let told = cause.map(|cause| finding(cause, &[("left", &left)])).into_iter().collect();
    or_well(told, "connections", || format!("{left} are left for {}", place.role))
}

/// How long ago or to come, in whole seconds.
pub(super) fn span(seconds: f64) -> String {
    // Ages of any server fit.
    #[expect(clippy::cast_possible_truncation, reason = "seconds of an age")]
    age(seconds.max(0.0) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Found;

    fn causes(found: &[Finding]) -> Vec<&'static str> {
        found.iter().filter_map(|one| one.cause).collect()
    }

    #[test]
    fn a_clock_is_wrong_only_by_what_the_way_does_not_account_for() {
        for (ahead, wrong_by, cause) in [
            (0.4, 0.01, None),
            (-3.0, 0.01, Some("clock-skew")),
            (3.0, 1.5, None),
            (600.0, 0.1, Some("clock-wrong")),
            (-61.0, 0.1, Some("clock-wrong")),
        ] {
            let found = clock((ahead, wrong_by));
            assert_eq!(causes(&found).first().copied(), cause, "{found:?}");
        }
        let words = format!("{:?}", clock((-61.0, 0.1)));
        assert!(words.contains("61.0 s behind the database"), "{words}");
    }

    #[test]
    fn a_setting_is_altered_where_it_was_set() {
        let place = Place {
            role: "shop-relay".to_owned(),
            database: "shop".to_owned(),
            ..Place::default()
        };
        let one = |value: &str, source: &str| Setting {
            value: value.to_owned(),
            source: source.to_owned(),
        };
        for (source, remedy) in [
            ("database", "ALTER DATABASE shop SET statement_timeout = 0"),
            ("user", "ALTER ROLE \"shop-relay\" SET statement_timeout = 0"),
            (
                "database user",
                "ALTER ROLE \"shop-relay\" IN DATABASE shop SET statement_timeout = 0",
            ),
            ("configuration file", "ALTER ROLE \"shop-relay\" SET statement_timeout = 0"),
        ] {
            let found =
                settings(&[("statement_timeout".to_owned(), one("2000", source))].into(), &place);
            assert!(found[0].remedy.as_ref().unwrap().ends_with(remedy), "{found:?}");
            assert_eq!(
                found[0].found,
                Found::Doubt(
                    "statement_timeout is 2s: it ends statements or sessions that a relay needs"
                        .to_owned()
                )
            );
        }
        let long = [("statement_timeout".to_owned(), one("15000", "user"))].into();
        assert_eq!(causes(&settings(&long, &place)), [""; 0]);
        let hurting: Settings = [
            ("fsync", "off"),
            ("synchronous_commit", "off"),
            ("default_transaction_read_only", "on"),
            ("idle_session_timeout", "86400000"),
            ("lock_timeout", "999"),
        ]
        .map(|(name, value)| (name.to_owned(), one(value, "user")))
        .into();
        let told =
            ["crash-unsafe", "read-only", "commit-asynchronous", "timeout-short", "timeout-short"];
        assert_eq!(causes(&settings(&hurting, &place)), told);
    }

    #[test]
    fn producers_ring_unless_transactions_are_prepared() {
        let with = |number: &str| -> Settings {
            let setting = Setting { value: number.to_owned(), source: String::new() };
            [("max_prepared_transactions".to_owned(), setting)].into()
        };
        assert_eq!(causes(&doorbell(true, &with("0"), "outbox")), [""; 0]);
        assert_eq!(causes(&doorbell(true, &with("5"), "outbox")), ["doorbell-prepared"]);
        assert_eq!(causes(&doorbell(false, &with("0"), "outbox")), ["doorbell-off"]);
        assert_eq!(causes(&doorbell(false, &with("5"), "outbox")), [""; 0]);
    }

    #[test]
    fn what_is_deaf_behind_a_pooler_is_told_as_the_pooler() {
        let (hears, deaf) = (Some(true), Some(false));
        assert_eq!(causes(&listen(deaf, true, None)), [""; 0]);
        assert_eq!(causes(&pooler(true, deaf)), ["pooler"]);
        assert_eq!(causes(&listen(deaf, false, None)), ["listen-deaf"]);
        assert_eq!(causes(&pooler(true, hears)), [""; 0]);
        assert_eq!(causes(&pooler(true, None)), [""; 0]);
        assert_eq!(causes(&listen(None, false, None)), [""; 0]);
        let full = Place { queue: 0.6, ..Place::default() };
        let told = listen(hears, false, Some(&full));
        assert_eq!(causes(&told), ["notify-queue"]);
    }

    #[test]
    fn ids_that_would_come_again_are_told() {
        let of = |cache, reached, highest| {
            let name = "outbox.message_id_seq".to_owned();
            causes(&sequence(&Sequence { name, cache, reached, highest }))
        };
        assert_eq!(of(1, Some(7), 7), [""; 0]);
        assert_eq!(of(20, Some(6), 7), ["sequence-cache", "sequence-behind"]);
        assert_eq!(of(1, None, 7), [""; 0]);
    }

    #[test]
    fn connections_run_out_in_two_steps() {
        let with =
            |left| causes(&connections(&Place { connections_left: left, ..Place::default() }));
        assert_eq!(
            (with(16), with(15), with(7)),
            (vec![], vec!["connections-few"], vec!["connections-none"])
        );
    }

    #[test]
    fn a_replaced_function_and_a_lost_index_are_told_apart() {
        let thing = |kind: &str, name: &str| Thing { kind: kind.to_owned(), name: name.to_owned() };
        let body = |hash: &str| format!("sql stable returns text body {hash}");
        let drifts = [
            (thing("function", "f(text)"), Drift::Changed(body("a"), body("b"))),
            (thing("index", "delivery.delivery_fetch"), Drift::Missing(String::new())),
            (thing("table", "message"), Drift::Changed(String::new(), "unlogged".to_owned())),
            (thing("column", "message.more"), Drift::Foreign),
        ];
        let told = objects(&drifts, 4);
        let words: Vec<(&str, &str)> = told.iter().map(|one| one.found.words()).collect();
        assert_eq!(
            words,
            [
                ("FAIL", "function f(text) is not as the migrations make it: it has another body"),
                ("FAIL", "index delivery.delivery_fetch is missing"),
                ("FAIL", "table message is not as the migrations make it: it is unlogged"),
                ("warn", "column message.more is made by no migration"),
            ]
        );
    }
}
