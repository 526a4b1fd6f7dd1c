//! Whether a cut is due, and which. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::calendar::{Calendar, Tick};
use crate::config::{CsvConfig, Empty, Rows};
use crate::store::export::Waiting;

/// A cut that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// What the file is called after.
    pub period: String,
    /// Begin of the span, where the cut is by time.
    pub from: Option<Timestamp>,
    /// Its end: what falls due before belongs into the file.
    pub before: Timestamp,
    /// Most rows, where the cut is by count.
    pub rows_max: Option<i64>,
    /// From then on the file is late.
    pub late_at: Timestamp,
}

/// Whether a cut is due, and which.
///
/// By time, each tick of the calendar since the last cut gives a file. Where a period without rows
/// gives none, the file is that of the oldest row's period, but never of one that lies before the last
/// cut: what committed late goes into the next file. By count, the file is cut now and named after the
/// day it is cut on.
pub(super) fn due(csv: &CsvConfig, waiting: &Waiting) -> Option<Due> {
    if let Some((calendar, tick)) = csv.cut.every.as_ref().zip(next_tick(csv, waiting)) {
        let ready_at = after(tick.at, csv.rows.settle_after());
        if ready_at <= waiting.now
            && (waiting.oldest.is_some() || csv.empty == Empty::Header || is_query(csv))
        {
            let from = waiting.cut_before.or_else(|| Some(calendar.before(&tick)?.at));
            return Some(Due {
                period: calendar.file_period(&tick),
                from,
                before: tick.at,
                rows_max: None,
                late_at: after(tick.at, late_after(csv)),
            });
        }
    }
    let max = i64::try_from(csv.cut.max_rows?.get()).unwrap_or(i64::MAX);
    (waiting.count >= max).then(|| Due {
        period: day_name(csv.cut.every.as_ref(), waiting.now),
        from: None,
        before: waiting.now,
        rows_max: Some(max),
        late_at: after(waiting.now, csv.late_after),
    })
}

/// The tick at which the next file is cut, due or yet to come.
pub(super) fn next_tick(csv: &CsvConfig, waiting: &Waiting) -> Option<Tick> {
    let calendar = csv.cut.every.as_ref()?;
    let next = match waiting.ticked_before {
        Some(ticked_before) => calendar.next_after_settled(ticked_before)?,
        None => calendar.next(waiting.since)?,
    };
    if is_query(csv) || csv.empty == Empty::Header {
        return Some(next);
    }
    let of_oldest = calendar.next(waiting.oldest.unwrap_or(waiting.now))?;
    Some(if of_oldest.at > next.at { of_oldest } else { next })
}

/// Up to when all files have been made, where none is due: not up to a cut that settles.
pub(super) fn made_until(csv: &CsvConfig, waiting: &Waiting) -> Timestamp {
    let settling = next_tick(csv, waiting).filter(|tick| tick.at <= waiting.now);
    let before =
        settling.and_then(|tick| Timestamp::from_nanosecond(tick.at.as_nanosecond() - 1).ok());
    before.unwrap_or(waiting.now)
}

fn is_query(csv: &CsvConfig) -> bool {
    matches!(csv.rows, Rows::Query(_))
}

/// How long after its tick a file is late: rows that settle late are waited for first.
pub(super) fn late_after(csv: &CsvConfig) -> Duration {
    csv.rows.settle_after().saturating_add(csv.late_after)
}

fn day_name(calendar: Option<&Calendar>, now: Timestamp) -> String {
    let utc = Calendar::Span(Duration::from_secs(24 * 3600));
    let calendar = calendar.unwrap_or(&utc);
    if calendar.is_daily() {
        return calendar.day(now).to_string();
    }
    calendar.latest(now).map(|tick| tick.name).unwrap_or_default()
}

fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::config::{Cut, ExportQuery};

    fn at(text: &str) -> Timestamp {
        let text = if text.contains('T') { text.to_owned() } else { format!("2026-11-20T{text}Z") };
        text.parse().unwrap()
    }

    fn cut(every: impl Into<Option<Calendar>>, max_rows: usize, empty: Empty) -> CsvConfig {
        let cut = Cut { every: every.into(), max_rows: NonZeroUsize::new(max_rows) };
        CsvConfig { empty, ..CsvConfig::new("out".into(), ("orders-", ".csv"), Vec::new(), cut) }
    }

    fn minutes() -> Calendar {
        Calendar::Span(Duration::from_secs(60))
    }

    fn vienna(time: &str) -> Calendar {
        let time = format!("{time}:00").parse().unwrap();
        Calendar::at(&[time], &[], "Europe/Vienna").unwrap()
    }

    fn waiting(now: &str, oldest: Option<&str>, count: i64, cut_before: Option<&str>) -> Waiting {
        Waiting {
            now: at(now),
            paused: false,
            oldest: oldest.map(at),
            count,
            cut_before: cut_before.map(at),
            ticked_before: cut_before.map(at),
            since: at("00:00:00"),
        }
    }

    fn due_at(csv: &CsvConfig, waiting: &Waiting) -> Option<(String, Timestamp)> {
        due(csv, waiting).map(|due| (due.period, due.before))
    }

    #[test]
    fn a_period_is_cut_once_it_is_over_and_late_rows_go_to_the_next() {
        let csv = cut(minutes(), 0, Empty::Skip);
        let due_at = |now, oldest, before| due_at(&csv, &waiting(now, Some(oldest), 1, before));
        let label = |name: &str, before: &str| Some((format!("2026-11-20T{name}"), at(before)));
        assert_eq!(due_at("10:00:59", "10:00:30", None), None);
        assert_eq!(due_at("10:01:00", "10:00:30", None), label("1000", "10:01:00"));
        assert_eq!(
            due_at("10:09:30", "10:00:30", None),
            label("1000", "10:01:00"),
            "after an outage the oldest period comes first"
        );
        assert_eq!(due_at("10:01:30", "10:00:30", Some("10:01:00")), None);
        assert_eq!(
            due_at("10:02:00", "10:00:30", Some("10:01:00")),
            label("1001", "10:02:00"),
            "a row that committed late goes into the next file"
        );
        assert_eq!(super::due(&csv, &waiting("10:02:00", None, 0, Some("10:00:00"))), None);
    }

    #[test]
    fn a_cut_by_count_is_named_after_now() {
        let both = cut(minutes(), 3, Empty::Skip);
        let now = |count| waiting("10:00:40", Some("10:00:30"), count, None);
        assert_eq!(due_at(&both, &now(2)), None);
        let expected = Some(("2026-11-20T1000".to_owned(), at("10:00:40")));
        assert_eq!(due_at(&both, &now(3)), expected);
        let expected = Some(("2026-11-20".to_owned(), at("10:00:40")));
        assert_eq!(due_at(&cut(None, 3, Empty::Skip), &now(3)), expected);
    }

    #[test]
    fn every_missed_day_gives_a_file_of_its_own_also_an_empty_one() {
        let csv = cut(vienna("01:00"), 0, Empty::Header);
        let mut last = "2026-11-15T00:00:00Z".to_owned();
        let mut days = Vec::new();
        while let Some(due) = due(&csv, &waiting("09:00:00", None, 0, Some(&last))) {
            assert_eq!(due.from, Some(at(&last)));
            last = due.before.to_string();
            days.push(due.period);
        }
        assert_eq!(days, ["2026-11-15", "2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19"]);
    }

    #[test]
    fn nothing_is_cut_before_the_sink_was_there_and_the_first_file_has_a_whole_period() {
        let csv = cut(vienna("01:00"), 0, Empty::Header);
        assert_eq!(
            due(&csv, &waiting("09:00:00", Some("08:00:00"), 1, None)).map(|d| d.period),
            None
        );
        let due = due(&csv, &waiting("2026-11-21T00:00:00Z", None, 0, None)).unwrap();
        assert_eq!((due.period.as_str(), due.from), ("2026-11-20", Some(at("00:00:00"))));
    }

    #[test]
    fn days_of_23_and_25_hours_are_whole() {
        let csv = cut(vienna("02:30"), 0, Empty::Header);
        for (last, hours) in [("2026-03-28T01:30:00Z", 23.5), ("2026-10-25T00:30:00Z", 25.0)] {
            let due = due(&csv, &waiting("2026-12-01T00:00:00Z", None, 0, Some(last))).unwrap();
            let length = due.before.duration_since(due.from.unwrap());
            assert!((length.as_secs_f64() / 3600.0 - hours).abs() < 1e-9, "{length}");
        }
    }

    #[test]
    fn a_query_waits_for_what_settles_late() {
        let query = ExportQuery {
            sql: String::new(),
            timeout: Duration::ZERO,
            settle_after: Duration::from_secs(600),
        };
        let csv = CsvConfig { rows: Rows::Query(query), ..cut(vienna("10:00"), 0, Empty::Skip) };
        let last = Some("2026-11-19T09:00:00Z");
        let settling = waiting("09:09:59", None, 0, last);
        assert_eq!(due(&csv, &settling), None);
        assert!(made_until(&csv, &settling) < at("09:00:00"));
        let due = due(&csv, &waiting("09:10:00", None, 0, last)).unwrap();
        assert_eq!((due.before, due.late_at), (at("09:00:00"), at("10:10:00")));
        // Of one that is not cut at all the calendar knows the same.
        assert_eq!(after(due.before, late_after(&csv)), due.late_at);
    }
}
