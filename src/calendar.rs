//! The calendar: at which instants something falls due, and what the spans between them are called.
//! Pure; the time comes from the database.
//!
//! A rule is a span counted from midnight UTC (`"15m"`), or times on the clock of a time zone, in words
//! or as a cron pattern. Its instants are *ticks*. Where a clock goes forward over a time, its tick is
//! the first instant after the gap; where it goes back, a fixed time comes once, the first time it is
//! shown, and what recurs within the hour goes on through both.

use std::time::Duration;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, JobType};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, Zoned};

/// A day, in microseconds.
const DAY: i64 = 24 * 3600 * 1_000_000;
/// From where a cron pattern must come within the years that the library looks at.
const ORIGIN: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// When something falls due, over and over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calendar {
    /// Spans counted from midnight UTC: a whole divisor of a day.
    Span(Duration),
    /// Times on the clock of a zone.
    Times(Times),
}

/// Times on the clock of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    patterns: Vec<Cron>,
    zone: TimeZone,
    zone_name: String,
    /// Whether there is at most one tick on a day.
    daily: bool,
    words: String,
}

/// One instant of a calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// When.
    pub at: Timestamp,
    /// The day on the calendar's clock.
    pub day: Date,
    /// What the period is called that the tick stands for: `2026-11-20` where a calendar has at most one
    /// tick a day, else `2026-11-20T1405`, with seconds where ticks can lie off the full minute. Sortable,
    /// without `:`. Of an hour that is shown twice the second has the offset behind it,
    /// `2026-10-25T0230+0100`.
    pub name: String,
}

/// A day of the week, as config files have it.
pub const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Calendar {
    /// Times of day on days of the week (numbers from 0 for Monday; all of them where none is given).
    ///
    /// # Errors
    /// When the zone is unknown or there is no time.
    pub fn at(times: &[Time], days: &[usize], zone: &str) -> Result<Calendar, String> {
        let days: Vec<String> = days.iter().map(|day| ((day + 1) % 7).to_string()).collect();
        let days = if days.is_empty() { "*".to_owned() } else { days.join(",") };
        let mut times: Vec<Time> = times.to_vec();
        times.sort_unstable();
        times.dedup();
        let patterns: Vec<Cron> = times
            .iter()
            .map(|t| cron(&format!("{} {} {} * * {days}", t.second(), t.minute(), t.hour())))
            .collect::<Result<_, _>>()?;
        if patterns.is_empty() {
            return Err("there is no time".to_owned());
        }
        let form = |t: &Time| if t.second() == 0 { "%H:%M" } else { "%H:%M:%S" };
        let clock: Vec<String> = times.iter().map(|t| t.strftime(form(t)).to_string()).collect();
        let words = match days.as_str() {
            "*" => format!("at {}", clock.join(", ")),
            _ => format!("at {} on {}", clock.join(", "), weekdays(&days)),
        };
        Ok(Calendar::Times(Times {
            daily: patterns.len() == 1,
            patterns,
            words,
            ..Times::in_zone(zone)?
        }))
    }

    /// A cron pattern of five fields, or six with seconds in front.
    ///
    /// # Errors
    /// When the pattern is none or never comes, or the zone is unknown.
    pub fn cron(pattern: &str, zone: &str) -> Result<Calendar, String> {
        let parsed = cron(pattern)?;
        let daily = parsed.determine_job_type() == JobType::FixedTime;
        let words = format!("cron {}", pattern.trim());
        let times = Times { daily, patterns: vec![parsed], words, ..Times::in_zone(zone)? };
        if times.next(ORIGIN).is_none() {
            return Err("it never comes".to_owned());
        }
        Ok(Calendar::Times(times))
    }

    /// The rule in words, zone included; equal for equal rules.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Calendar::Span(length) => {
                let seconds = length.as_secs();
                match (seconds % 3600, seconds % 60) {
                    (0, _) => format!("every {}h", seconds / 3600),
                    (_, 0) => format!("every {}m", seconds / 60),
                    _ => format!("every {seconds}s"),
                }
            }
            Calendar::Times(times) => format!("{} {}", times.words, times.zone_name),
        }
    }

    /// Whether there is at most one tick on a day of the calendar's clock.
    #[must_use]
    pub fn is_daily(&self) -> bool {
        match self {
            Calendar::Span(length) => micros(*length) == DAY,
            Calendar::Times(times) => times.daily,
        }
    }

    /// The clock that the calendar goes by.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        match self {
            Calendar::Span(_) => TimeZone::UTC,
            Calendar::Times(times) => times.zone.clone(),
        }
    }

    /// The day on the calendar's clock.
    #[must_use]
    pub fn day(&self, at: Timestamp) -> Date {
        at.to_zoned(self.zone()).date()
    }

    /// The first instant of the day that `at` is on, on the calendar's clock.
    #[must_use]
    pub fn start_of_day(&self, at: Timestamp) -> Timestamp {
        at.to_zoned(self.zone()).start_of_day().map_or(at, |start| start.timestamp())
    }

    /// The first tick after an instant.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Tick> {
        let at = match self {
            Calendar::Span(length) => {
                let length = micros(*length);
                let start = after.as_microsecond().div_euclid(length) * length;
                Timestamp::from_microsecond(start + length).ok()?
            }
            Calendar::Times(times) => times.next(after)?,
        };
        Some(self.tick(at))
    }

    /// The last tick up to an instant, that one included.
    #[must_use]
    pub fn latest(&self, until: Timestamp) -> Option<Tick> {
        let at = match self {
            Calendar::Span(length) => {
                let length = micros(*length);
                Timestamp::from_microsecond(until.as_microsecond().div_euclid(length) * length)
                    .ok()?
            }
            Calendar::Times(times) => times.latest(until)?,
        };
        Some(self.tick(at))
    }

    /// The tick before another.
    #[must_use]
    pub fn before(&self, tick: &Tick) -> Option<Tick> {
        self.latest(Timestamp::from_nanosecond(tick.at.as_nanosecond() - 1).ok()?)
    }

    /// The first tick after one that was settled: where there is at most one a day, on a later day of
    /// the clock, so that a rule whose time was moved does not come twice on the day it was moved on.
    #[must_use]
    pub fn next_after_settled(&self, settled: Timestamp) -> Option<Tick> {
        let next = self.next(settled)?;
        if self.is_daily() && next.day == self.day(settled) {
            return self.next(next.at).filter(|later| later.day > next.day);
        }
        Some(next)
    }

    /// The tick of a period's name; none where the name is not of this calendar.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Tick> {
        let zone = self.zone();
        let civil = name.get(..10)?.parse::<Date>().ok()?;
        // A day can begin after midnight, and a zone lies up to 26 hours from another.
        let mut at =
            civil.at(0, 0, 0, 0).to_zoned(zone).ok()?.timestamp() - Span::new().nanoseconds(1);
        loop {
            let tick = self.next(at)?;
            if tick.name == name {
                return Some(tick);
            }
            if tick.day > civil {
                return None;
            }
            at = tick.at;
        }
    }

    /// What a file is called that is cut at a tick. Where there is at most one a day, it is the day that
    /// most of the span before it lies on as people see it: cut before noon, the day before, else the
    /// tick's own. Otherwise it is the beginning of the span: the tick before, of this same calendar.
    #[must_use]
    pub fn file_period(&self, tick: &Tick) -> String {
        if !self.is_daily() {
            return self.before(tick).map_or_else(|| tick.name.clone(), |start| start.name);
        }
        let local = tick.at.to_zoned(self.zone());
        let day = if local.hour() < 12 { tick.day.yesterday() } else { Ok(tick.day) };
        day.unwrap_or(tick.day).to_string()
    }

    fn tick(&self, at: Timestamp) -> Tick {
        let local = at.to_zoned(self.zone());
        let name = if self.is_daily() {
            local.date().to_string()
        } else {
            name(&local, self.has_seconds())
        };
        Tick { at, day: local.date(), name }
    }

    /// Whether ticks can lie off the full minute.
    fn has_seconds(&self) -> bool {
        match self {
            Calendar::Span(length) => micros(*length) % 60_000_000 != 0,
            Calendar::Times(times) => times.patterns.iter().any(|pattern| {
                let fields: Vec<&str> = pattern.as_str().split_whitespace().collect();
                fields.len() == 6 && fields[0] != "0"
            }),
        }
    }
}

impl Times {
    fn in_zone(zone: &str) -> Result<Times, String> {
        let found = TimeZone::get(zone).map_err(|_| format!("there is no time zone {zone:?}"))?;
        let (patterns, words) = (Vec::new(), String::new());
        Ok(Times { patterns, zone: found, zone_name: zone.to_owned(), daily: false, words })
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.patterns.iter().filter_map(|pattern| self.search(pattern, after, true)).min()
    }

    fn latest(&self, until: Timestamp) -> Option<Timestamp> {
        self.patterns.iter().filter_map(|pattern| self.search(pattern, until, false)).max()
    }

    /// The first match after an instant, or the last up to one.
    fn search(&self, pattern: &Cron, from: Timestamp, forward: bool) -> Option<Timestamp> {
        let mut from = from.to_zoned(self.zone.clone());
        loop {
            let found = if forward {
                pattern.find_next_occurrence(&from, false)
            } else {
                pattern.find_previous_occurrence(&from, true)
            };
            let found = found.ok()?;
            if recurs_within_hours(pattern) || !is_shown_again(&found) {
                return Some(found.timestamp());
            }
            // Looking ahead leaves out where it begins, looking back does not.
            let step = if forward { Span::new() } else { Span::new().nanoseconds(-1) };
            from = found.checked_add(step).ok()?;
        }
    }
}

/// Whether the pattern's hours are all or every so many, rather than named.
fn recurs_within_hours(pattern: &Cron) -> bool {
    let text = pattern.as_str();
    if text.starts_with('@') {
        return text.eq_ignore_ascii_case("@hourly");
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    fields[..fields.len().saturating_sub(3)].last().is_none_or(|hours| hours.contains(['*', '/']))
}

fn cron(pattern: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(pattern).map_err(|error| {
        let words = match error {
            CronError::InvalidPattern(words)
            | CronError::IllegalCharacters(words)
            | CronError::ComponentError(words) => words,
            other => other.to_string(),
        };
        // More follows it.
        words.trim_end_matches('.').to_owned()
    })
}

fn weekdays(days: &str) -> String {
    let name = |day: &str| WEEKDAYS[(day.parse::<usize>().unwrap_or(0) + 6) % 7];
    days.split(',').map(name).collect::<Vec<_>>().join(", ")
}

/// Whether the clock shows this time for the second time.
fn is_shown_again(at: &Zoned) -> bool {
    let local: DateTime = at.datetime();
    match at.time_zone().to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Fold { after, .. } => at.offset() == after,
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => false,
    }
}

fn name(at: &Zoned, seconds: bool) -> String {
    let mut name =
        at.strftime(if seconds { "%Y-%m-%dT%H%M%S" } else { "%Y-%m-%dT%H%M" }).to_string();
    if is_shown_again(at) {
        name += &at.strftime("%z").to_string();
    }
    name
}

/// A length of zero or more than a day counts as a day.
fn micros(length: Duration) -> i64 {
    let length = i64::try_from(length.as_micros()).unwrap_or(DAY);
    if length == 0 { DAY } else { length.min(DAY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIENNA: &str = "Europe/Vienna";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn daily(time: &str, zone: &str) -> Calendar {
        Calendar::at(&[format!("{time}:00").parse().unwrap()], &[], zone).unwrap()
    }

    fn all(calendar: &Calendar, from: &str, to: &str) -> Vec<Tick> {
        let mut ticks = Vec::new();
        let mut after = at(from);
        while let Some(tick) = calendar.next(after).filter(|tick| tick.at <= at(to)) {
            after = tick.at;
            ticks.push(tick);
        }
        ticks
    }

    fn instants(ticks: &[Tick]) -> Vec<String> {
        ticks.iter().map(|tick| tick.at.to_string()).collect()
    }

    #[test]
    fn a_time_in_a_gap_comes_right_after_it_and_one_in_a_fold_once() {
        let calendar = daily("02:30", VIENNA);
        let spring = all(&calendar, "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(
            instants(&spring),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        let autumn = all(&calendar, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(instants(&autumn), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        assert_eq!(autumn[0].name, "2026-10-25");
        // Several hours named in one pattern are as fixed as a single one.
        let cron = Calendar::cron("30 2,14 * * *", VIENNA).unwrap();
        let autumn = all(&cron, "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z");
        assert_eq!(instants(&autumn), ["2026-10-25T00:30:00Z", "2026-10-25T13:30:00Z"]);
        // Where midnight itself falls into the gap.
        let beirut = daily("00:00", "Asia/Beirut");
        let spring = all(&beirut, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        assert_eq!(instants(&spring), ["2026-03-28T22:00:00Z"]);
        assert_eq!(spring[0].name, "2026-03-29");
    }

    #[test]
    fn what_recurs_within_the_hour_goes_on_through_both() {
        let calendar = Calendar::cron("*/30 * * * *", VIENNA).unwrap();
        let autumn = all(&calendar, "2026-10-24T23:59:00Z", "2026-10-25T02:00:00Z");
        let names: Vec<&str> = autumn.iter().map(|tick| tick.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "2026-10-25T0200",
                "2026-10-25T0230",
                "2026-10-25T0200+0100",
                "2026-10-25T0230+0100",
                "2026-10-25T0300"
            ]
        );
    }

    #[test]
    fn looking_back_finds_what_looking_ahead_found() {
        let zone = VIENNA;
        for calendar in [
            daily("02:30", zone),
            daily("00:00", "Asia/Beirut"),
            daily("01:00", zone),
            Calendar::Span(Duration::from_secs(900)),
            Calendar::cron("*/20 1-4 * * *", zone).unwrap(),
            Calendar::cron("0 */2 * * mon-fri", zone).unwrap(),
            Calendar::cron("30 2,3 * * *", zone).unwrap(),
            Calendar::cron("15 30 2 L * *", zone).unwrap(),
            Calendar::at(&["02:15:00".parse().unwrap(), "02:45:00".parse().unwrap()], &[4], zone)
                .unwrap(),
        ] {
            for (from, to) in [
                ("2026-03-27T00:00:00Z", "2026-04-01T00:00:00Z"),
                ("2026-10-23T00:00:00Z", "2026-11-01T00:00:00Z"),
            ] {
                let ahead = all(&calendar, from, to);
                let mut back = Vec::new();
                let mut until = at(to);
                while let Some(tick) = calendar.latest(until).filter(|tick| tick.at > at(from)) {
                    until = tick.at - Span::new().nanoseconds(1);
                    back.push(tick);
                }
                back.reverse();
                assert_eq!(instants(&ahead), instants(&back), "{}", calendar.words());
                let mut names: Vec<&String> = ahead.iter().map(|tick| &tick.name).collect();
                names.dedup();
                assert_eq!(names.len(), ahead.len(), "names differ: {}", calendar.words());
                for tick in &ahead {
                    assert_eq!(
                        calendar.named(&tick.name).as_ref(),
                        Some(tick),
                        "{}",
                        calendar.words()
                    );
                    assert_eq!(calendar.latest(tick.at).as_ref(), Some(tick));
                }
            }
        }
    }

    #[test]
    fn days_of_the_week_are_those_of_the_zone() {
        let time = ["00:30:00".parse().unwrap()];
        let calendar = Calendar::at(&time, &[0, 4], "Asia/Tokyo").unwrap();
        let ticks = all(&calendar, "2026-11-20T00:00:00Z", "2026-11-28T00:00:00Z");
        let names: Vec<&str> = ticks.iter().map(|tick| tick.name.as_str()).collect();
        assert_eq!(names, ["2026-11-23", "2026-11-27"]);
        assert_eq!(calendar.words(), "at 00:30 on mon, fri Asia/Tokyo");
    }

    #[test]
    fn a_moved_time_does_not_come_twice_on_the_day_it_was_moved_on() {
        let ten = at("2026-11-20T09:00:00Z");
        let moved = daily("11:00", VIENNA).next_after_settled(ten).unwrap();
        assert_eq!(moved.name, "2026-11-21");
        let hourly = Calendar::cron("0 * * * *", VIENNA).unwrap();
        assert_eq!(hourly.next_after_settled(ten).unwrap().name, "2026-11-20T1100");
    }

    #[test]
    fn files_are_called_after_the_day_that_most_of_them_lies_on() {
        let name = |time: &str, cut: &str| {
            let calendar = daily(time, VIENNA);
            calendar.file_period(&calendar.named(cut).unwrap())
        };
        assert_eq!(name("01:00", "2026-11-21"), "2026-11-20");
        assert_eq!(name("00:00", "2026-11-21"), "2026-11-20");
        assert_eq!(name("17:00", "2026-11-20"), "2026-11-20");
        assert_eq!(name("12:00", "2026-11-20"), "2026-11-20");
        let span = |seconds, at: &str| {
            let calendar = Calendar::Span(Duration::from_secs(seconds));
            calendar.file_period(&calendar.latest(self::at(at)).unwrap())
        };
        assert_eq!(span(86_400, "2026-11-21T00:00:00Z"), "2026-11-20");
        assert_eq!(span(60, "2026-11-20T14:06:59.9Z"), "2026-11-20T1405");
        assert_eq!(span(3_600, "2026-11-20T15:05:59.9Z"), "2026-11-20T1400");
        assert_eq!(span(10, "2026-11-20T14:05:59.9Z"), "2026-11-20T140540");
        assert_eq!(span(10, "2026-11-20T14:06:10Z"), "2026-11-20T140600");
        let twice =
            Calendar::at(&["08:00:00".parse().unwrap(), "12:00:00".parse().unwrap()], &[], VIENNA);
        let twice = twice.unwrap();
        let noon = twice.named("2026-11-20T1200").unwrap();
        assert_eq!(twice.file_period(&noon), "2026-11-20T0800");
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        assert!(Calendar::cron("61 * * * *", VIENNA).is_err());
        assert!(Calendar::cron("0 0 30 2 *", VIENNA).unwrap_err().contains("never comes"));
        assert!(Calendar::cron("0 0 * * *", "Europe/Wien").unwrap_err().contains("no time zone"));
        assert!(Calendar::at(&[], &[], VIENNA).is_err());
    }
}
