//! `every`: when a file is cut or a schedule comes, by a span or by times on a zone's clock.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::item::Item;
use super::read::Section;
use super::words;
use crate::calendar::{Calendar, WEEKDAYS};

const DAY: Duration = Duration::from_secs(24 * 3600);
const TIMES_MAX: usize = 100;
const FORMS: &str = "write { at = \"08:00\", time_zone = \"Europe/Vienna\" } \
                     or { cron = \"0 8 * * mon-fri\", time_zone = \"Europe/Vienna\" }";

/// Reads `"15m"`, `{ at, days, time_zone }` or `{ cron, time_zone }`.
pub(super) fn read(item: &Item) -> Option<Calendar> {
    if !item.is_table() {
        return span(item).map(Calendar::Span);
    }
    let mut section = item.section()?;
    let (at, cron) = (section.get("at"), section.get("cron"));
    let days = section.get("days");
    let zone = zone(&mut section);
    let calendar = match (at, cron) {
        (Some(_), Some(cron)) => {
            cron.fault("at is there too", "keep one of the two");
            None
        }
        (Some(at), None) => {
            // All of them, so that each fault is told.
            let (times, days) = (times(at), days.map_or(Some(Vec::new()), weekdays));
            zone.and_then(|zone| at_times(item, &times?, &days?, &zone))
        }
        (None, Some(cron)) => {
            if let Some(days) = days {
                days.fault("belongs to at", "write the days into the last field of cron");
            }
            zone.and_then(|zone| pattern(&cron, &zone))
        }
        (None, None) => {
            section.missing("at", FORMS);
            None
        }
    };
    section.close();
    calendar
}

fn span(item: &Item) -> Option<Duration> {
    if !item.is_text() {
        item.fault("is neither a span nor a table", format!("write \"15m\", or {FORMS}"));
        return None;
    }
    let span = item.duration(Duration::from_secs(1)..=DAY)?;
    if !DAY.as_millis().is_multiple_of(span.as_millis()) {
        let remedy = "spans count from midnight: use e.g. \"1m\", \"15m\", \"1h\" or \"24h\"";
        item.fault(format!("{} does not divide a day", item.shown()), remedy);
        return None;
    }
    Some(span)
}

/// The zone's name as its list has it.
fn zone(section: &mut Section) -> Option<String> {
    let remedy = "write time_zone = \"Europe/Vienna\"; there is no default, \
                  for the clock of a server is rarely the one that is meant";
    let item = section.need("time_zone", remedy)?;
    let text = item.text()?;
    let Ok(zone) = TimeZone::get(&text) else {
        let names: Vec<String> = jiff::tz::db().available().map(|n| n.to_string()).collect();
        let near = words::nearest(&text, names.iter().map(String::as_str));
        let remedy = near.map_or_else(
            || "use a name such as Europe/Vienna or UTC".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        );
        item.fault(format!("there is no time zone {}", item.shown()), remedy);
        return None;
    };
    Some(zone.iana_name().map_or(text, str::to_owned))
}

fn at_times(item: &Item, times: &[Time], days: &[usize], zone: &str) -> Option<Calendar> {
    Calendar::at(times, days, zone).map_err(|problem| item.fault(problem, FORMS)).ok()
}

fn pattern(item: &Item, zone: &str) -> Option<Calendar> {
    let calendar = Calendar::cron(&item.text()?, zone);
    let remedy = "write minute, hour, day, month and day of the week, e.g. \"0 8 * * mon-fri\"";
    calendar.map_err(|problem| item.fault(format!("{}: {problem}", item.shown()), remedy)).ok()
}

fn times(item: Item) -> Option<Vec<Time>> {
    let place = item.clone();
    let items = item.one_or_many()?;
    if items.is_empty() || items.len() > TIMES_MAX {
        place.fault(format!("has {} times", items.len()), format!("1 to {TIMES_MAX}"));
        return None;
    }
    let read = |item: &Item| {
        let time = time(&item.text()?);
        if time.is_none() {
            let remedy = "write hours and minutes, \"00:00\" to \"23:59\"";
            item.fault(format!("{} is no time of day", item.shown()), remedy);
        }
        time
    };
    let times: Vec<Option<Time>> = items.iter().map(read).collect();
    times.into_iter().collect()
}

/// `HH:MM` or `HH:MM:SS`.
fn time(text: &str) -> Option<Time> {
    let two = |part: &str| -> Option<i8> {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse().ok().filter(|_| digits)
    };
    let parts: Vec<i8> = text.split(':').map(two).collect::<Option<_>>()?;
    match parts[..] {
        [hour, minute] => Time::new(hour, minute, 0, 0).ok(),
        [hour, minute, second] => Time::new(hour, minute, second, 0).ok(),
        _ => None,
    }
}

/// Days and ranges of days, from 0 for Monday, in order; none where it is all of them.
fn weekdays(item: Item) -> Option<Vec<usize>> {
    let place = item.clone();
    let items = item.one_or_many()?;
    let read = |item: &Item| {
        let text = item.text()?;
        let days: Option<Vec<Vec<usize>>> = text.split(',').map(|part| days(part.trim())).collect();
        if days.is_none() {
            let remedy = "write \"mon-fri\", \"mon,wed\" or [\"mon\", \"wed\"]";
            item.fault(format!("{} names no days", item.shown()), remedy);
        }
        days
    };
    let days: Vec<Option<Vec<Vec<usize>>>> = items.iter().map(read).collect();
    let days: Option<Vec<_>> = days.into_iter().collect();
    let mut days: Vec<usize> = days?.into_iter().flatten().flatten().collect();
    if days.is_empty() {
        place.fault("has no days", "leave it out for every day");
        return None;
    }
    days.sort_unstable();
    days.dedup();
    Some(if days.len() == WEEKDAYS.len() { Vec::new() } else { days })
}

/// `mon`, or `fri-mon`, which goes on over the end of the week.
fn days(text: &str) -> Option<Vec<usize>> {
    let day = |word: &str| WEEKDAYS.iter().position(|day| *day == word);
    match text.split_once('-') {
        None => Some(vec![day(text)?]),
        Some((first, last)) => {
            let (first, last) = (day(first.trim())?, day(last.trim())?);
            let count = (last + WEEKDAYS.len() - first) % WEEKDAYS.len();
            Some((first..=first + count).map(|day| day % WEEKDAYS.len()).collect())
        }
    }
}
