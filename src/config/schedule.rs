//! `[schedules.NAME]`: messages that are written by the calendar.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::item::{Item, NAME_FORM};
use super::read::Section;
use super::{LATE_AFTER, LATE_AFTER_RANGE};
use super::{calendar, duration_in_words, query};
use crate::calendar::Calendar;
use crate::name::Name;
use crate::pattern::TypePattern;

/// `[schedules.NAME]`: messages that are written by the calendar.
#[derive(Debug)]
pub struct ScheduleConfig {
    /// From the table's name.
    pub name: Name,
    /// The type of the messages.
    pub message_type: String,
    /// When.
    pub every: Calendar,
    /// The query whose rows become messages, all or none; none: one message that names the period.
    pub query: Option<ScheduleQuery>,
    /// Each period runs so much later at most, always the same for the same period. Default none, up to
    /// 1 h.
    pub jitter: Duration,
    /// What happens to periods that nobody was there for. Default latest.
    pub catch_up: CatchUp,
    /// A period is not run later than this after it was due. Default none.
    pub max_lateness: Option<Duration>,
    /// How long after it is due a period's messages may still be open before that raises an alert.
    /// Default 1 h.
    pub late_after: Duration,
    /// Nothing is due before. Default: when the schedule is first seen.
    pub valid_from: Option<jiff::Timestamp>,
}

/// `query` or `query_file` of a schedule.
#[derive(Debug, PartialEq, Eq)]
pub struct ScheduleQuery {
    /// One SELECT without a semicolon that answers `payload`, and as it likes `key`, `due_at`,
    /// `expires_at`, `dedupe_key` and `headers`; `$1` and `$2` are begin and end of the period,
    /// timestamptz.
    pub sql: String,
    /// Longest the statement may run. Default 5 min; 1 s to 1 h.
    pub timeout: Duration,
}

/// `catch_up` of a schedule: what happens to periods that nobody was there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// `skip`: nothing; they show as missed.
    Skip,
    /// `latest`: the last of them runs, once.
    #[default]
    Latest,
    /// `all`: each of them runs, the oldest first.
    All,
}

const TIMEOUT: Duration = Duration::from_secs(5 * 60);
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const LATENESS: RangeInclusive<Duration> = SECOND..=Duration::from_secs(365 * 24 * 3600);

const CATCH_UPS: [(&str, CatchUp); 3] =
    [("skip", CatchUp::Skip), ("latest", CatchUp::Latest), ("all", CatchUp::All)];

/// Reads all schedules.
pub(super) fn read(tables: &Section) -> BTreeMap<Name, ScheduleConfig> {
    let schedules = tables.entries().filter_map(|(name, item)| schedule(name, &item));
    schedules.map(|schedule| (schedule.name.clone(), schedule)).collect()
}

fn schedule(name: &str, item: &Item) -> Option<ScheduleConfig> {
    let mut section = item.section()?;
    let name = Name::parse(name).map_err(|_| section.fault("is no name", NAME_FORM)).ok();
    let message_type =
        section.need("type", "write type = \"reminder.due\"").and_then(|item| message_type(&item));
    let every = section
        .need("every", "write { at = \"08:00\", time_zone = \"Europe/Vienna\" } or \"1h\"")
        .and_then(|item| calendar::read(&item));
    let sql = query::read(&mut section);
    let timeout = timeout(&mut section);
    let jitter = section.get("jitter").and_then(|item| jitter(&item, every.as_ref()));
    let catch_up = section.get("catch_up").and_then(|item| item.choice(&CATCH_UPS));
    let max_lateness = section.get("max_lateness").and_then(|item| item.duration(LATENESS));
    let late_after = section.duration("late_after", LATE_AFTER, LATE_AFTER_RANGE);
    let valid_from = section.get("valid_from").and_then(|item| {
        // Whose clock a day is on is not known where that has a fault.
        item.instant(&every.as_ref().map_or(jiff::tz::TimeZone::UTC, Calendar::zone))
    });
    section.close();
    Some(ScheduleConfig {
        name: name?,
        message_type: message_type?,
        every: every?,
        query: sql.map(|sql| ScheduleQuery { sql, timeout }),
        jitter: jitter.unwrap_or_default(),
        catch_up: catch_up.unwrap_or_default(),
        max_lateness,
        late_after,
        valid_from,
    })
}

/// A type as a message has it.
fn message_type(item: &Item) -> Option<String> {
    let text = item.text()?;
    match TypePattern::parse(&text) {
        Ok(pattern) if pattern.is_exact() => return Some(text),
        Ok(_) => item.fault("is a pattern", "a message has one type, e.g. reminder.due"),
        Err(problem) => item.fault(problem, ""),
    }
    None
}

fn timeout(section: &mut Section) -> Duration {
    if !query::is_written(section) {
        section.refuse("timeout", "is that of a query, and there is none", "remove it");
        return TIMEOUT;
    }
    section.duration("timeout", TIMEOUT, SECOND..=HOUR)
}

/// The periods of a span keep apart.
fn jitter(item: &Item, every: Option<&Calendar>) -> Option<Duration> {
    let jitter = item.duration(Duration::ZERO..=HOUR)?;
    if let Some(Calendar::Span(span)) = every
        && jitter >= *span
    {
        let remedy = format!("below {}", duration_in_words(*span));
        item.fault(format!("{} reaches into the next period", item.shown()), remedy);
        return None;
    }
    Some(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses, refuses_each};

    const HEAD: &str = "type = \"reminder.due\"\n\
                        every = { at = \"08:00\", days = \"mon-fri\", time_zone = \"Europe/Vienna\" }\n";

    fn one(text: &str) -> ScheduleConfig {
        let config = parse(&format!("[schedules.a]\n{text}")).unwrap();
        config.schedules.into_values().next().unwrap()
    }

    #[test]
    fn a_schedule_is_read_and_has_defaults() {
        let plain = one(HEAD);
        assert_eq!((plain.name.as_str(), &*plain.message_type), ("a", "reminder.due"));
        assert_eq!(plain.every.words(), "at 08:00 on mon, tue, wed, thu, fri Europe/Vienna");
        assert_eq!((plain.query, plain.jitter), (None, Duration::ZERO));
        assert_eq!((plain.catch_up, plain.max_lateness), (CatchUp::Latest, None));
        assert_eq!((plain.late_after, plain.valid_from), (LATE_AFTER, None));
        let other = one(&format!(
            "{HEAD}query = \"SELECT 1\"\ntimeout = \"1m\"\njitter = \"5m\"\ncatch_up = \"all\"\n\
             max_lateness = \"6h\"\nlate_after = \"2h\"\nvalid_from = 2026-11-20\n"
        ));
        let query = ScheduleQuery { sql: "SELECT 1".to_owned(), timeout: Duration::from_secs(60) };
        assert_eq!((other.query, other.jitter.as_secs()), (Some(query), 300));
        assert_eq!((other.catch_up, other.max_lateness), (CatchUp::All, Some(6 * HOUR)));
        let midnight = "2026-11-19T23:00:00Z".parse().unwrap();
        assert_eq!((other.late_after, other.valid_from), (2 * HOUR, Some(midnight)));
    }
    #[test]
    fn a_day_to_begin_on_is_one_of_the_schedules_clock() {
        let midnight = "2026-11-19T23:00:00Z";
        for (written, instant) in [
            ("2026-11-20", midnight),
            ("\"2026-11-20\"", midnight),
            ("2026-11-20T08:00:00+01:00", "2026-11-20T07:00:00Z"),
            ("\"2026-11-20 08:00Z\"", "2026-11-20T08:00:00Z"),
        ] {
            let read = one(&format!("{HEAD}valid_from = {written}\n")).valid_from;
            assert_eq!(read, Some(instant.parse().unwrap()), "{written}");
        }
    }

    #[test]
    fn faults_of_schedules() {
        let when = "write 2026-11-20 or 2026-11-20T08:00:00+01:00";
        refuses_each(
            "[schedules.a]\n",
            "schedules.a",
            "type = \"reminder.due\"\nevery = \"1h\"\n",
            &[
                ("type", "1: type: is missing; write type = \"reminder.due\""),
                (
                    "type = \"reminder.*\"",
                    "3: type: is a pattern; a message has one type, e.g. reminder.due",
                ),
                (
                    "type = \"a b\"",
                    "3: type: a type holds no white space and no control characters",
                ),
                (
                    "every",
                    "1: every: is missing; \
                     write { at = \"08:00\", time_zone = \"Europe/Vienna\" } or \"1h\"",
                ),
                (
                    "timeout = \"1m\"",
                    "4: timeout: is that of a query, and there is none; remove it",
                ),
                (
                    "query = \"SELECT 1\"\ntimeout = \"2h\"",
                    "5: timeout: \"2h\" is out of range; 1s to 1h",
                ),
                ("jitter = \"2h\"", "4: jitter: \"2h\" is out of range; 0s to 1h"),
                ("jitter = \"1h\"", "4: jitter: \"1h\" reaches into the next period; below 1h"),
                (
                    "catch_up = \"each\"",
                    "4: catch_up: \"each\" is unknown; use \"skip\", \"latest\", \"all\"",
                ),
                ("max_lateness = \"0s\"", "4: max_lateness: \"0s\" is out of range; 1s to 365d"),
                ("late_after = \"31d\"", "4: late_after: \"31d\" is out of range; 1s to 30d"),
                ("valid_from = 3", "4: valid_from: is an integer; write a date, e.g. 2026-11-20"),
                (
                    "valid_from = 2026-11-20T08:00:00",
                    &format!(
                        "4: valid_from: \"2026-11-20T08:00:00\" is neither a day nor an instant; {when}"
                    ),
                ),
                (
                    "valid_from = \"soon\"",
                    &format!("4: valid_from: \"soon\" is neither a day nor an instant; {when}"),
                ),
                ("evry = \"1h\"", "4: evry: is unknown; did you mean every?"),
            ],
        );
        refuses(
            "[schedules]\na = 3\n",
            &["outboxd.toml:2: schedules.a: is an integer; write a table"],
        );
        refuses(
            "[schedules.A]\ntype = \"a\"\nevery = \"1h\"\n",
            &["outboxd.toml:1: schedules.A: is no name; \
               use a lower-case letter, then up to 39 of a-z, 0-9 and -"],
        );
    }
}
