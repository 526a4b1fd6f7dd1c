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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses_each};

    const GOOD: &str = "type = \"a\"\nevery = \"1h\"\n";

    fn every(text: &str) -> Calendar {
        let config = parse(&format!("[schedules.a]\ntype = \"a\"\nevery = {text}\n"));
        config.unwrap().schedules.into_values().next().unwrap().every
    }

    #[test]
    fn spans_times_and_patterns_become_calendars() {
        for (text, words) in [
            ("\"15m\"", "every 15m"),
            ("{ at = \"01:00\", time_zone = \"UTC\" }", "at 01:00 UTC"),
            (
                "{ at = [\"12:00\", \"08:00:30\"], time_zone = \"Europe/Vienna\" }",
                "at 08:00:30, 12:00 Europe/Vienna",
            ),
            (
                "{ cron = \"0 8 * * mon-fri\", time_zone = \"europe/vienna\" }",
                "cron 0 8 * * mon-fri Europe/Vienna",
            ),
        ] {
            assert_eq!(every(text).words(), words, "{text}");
        }
    }

    #[test]
    fn days_are_words_and_ranges_of_them() {
        for (days, words) in [
            ("\"mon-fri\"", " on mon, tue, wed, thu, fri"),
            ("\"wed,mon\"", " on mon, wed"),
            ("[\"mon\", \"wed\", \"mon - tue\"]", " on mon, tue, wed"),
            ("\"sat-mon\"", " on sat, sun, mon"),
            ("\"mon-mon\"", " on mon"),
            ("\"mon-sun\"", ""),
            ("\"wed-tue\"", ""),
        ] {
            let text = format!("{{ at = \"08:00\", days = {days}, time_zone = \"UTC\" }}");
            let mut words: Vec<&str> = words.trim_start_matches(" on ").split(", ").collect();
            words.sort_by_key(|day| WEEKDAYS.iter().position(|known| known == day));
            let on =
                if words == [""] { String::new() } else { format!(" on {}", words.join(", ")) };
            assert_eq!(every(&text).words(), format!("at 08:00{on} UTC"), "{days}");
        }
    }

    #[test]
    fn faults_of_when() {
        let divide = "use e.g. \"1m\", \"15m\", \"1h\" or \"24h\"";
        let changes = [
            ("7", format!(": is neither a span nor a table; write \"15m\", or {FORMS}")),
            (
                "\"7m\"",
                format!(": \"7m\" does not divide a day; spans count from midnight: {divide}"),
            ),
            ("\"2d\"", ": \"2d\" is out of range; 1s to 1d".to_owned()),
            ("{ time_zone = \"UTC\" }", format!(".at: is missing; {FORMS}")),
            (
                "{ at = \"08:00\" }",
                ".time_zone: is missing; write time_zone = \"Europe/Vienna\"; there is no default, \
                 for the clock of a server is rarely the one that is meant"
                    .to_owned(),
            ),
            (
                "{ at = \"08:00\", cron = \"0 8 * * *\", time_zone = \"UTC\" }",
                ".cron: at is there too; keep one of the two".to_owned(),
            ),
            (
                "{ at = \"08:00\", zone = \"UTC\", time_zone = \"UTC\" }",
                ".zone: is unknown; known here: at, cron, days, time_zone".to_owned(),
            ),
        ];
        check(&changes);
    }

    #[test]
    fn faults_of_times_days_and_zones() {
        let time = "is no time of day; write hours and minutes, \"00:00\" to \"23:59\"";
        let days = "names no days; write \"mon-fri\", \"mon,wed\" or [\"mon\", \"wed\"]";
        let pattern =
            "write minute, hour, day, month and day of the week, e.g. \"0 8 * * mon-fri\"";
        let mut changes = vec![
            (at("[]", ""), ".at: has 0 times; 1 to 100".to_owned()),
            (at("8", ""), ".at: is an integer; write a string or a list of strings".to_owned()),
            (at("[\"08:00\", \"x\"]", ""), format!(".at[1]: \"x\" {time}")),
            (
                at("\"08:00\"", "days = []"),
                ".days: has no days; leave it out for every day".to_owned(),
            ),
            (at("\"08:00\"", "days = [\"mon\", \"\"]"), format!(".days[1]: \"\" {days}")),
            (
                zone("at = \"08:00\"", "Europe/Viena"),
                ".time_zone: there is no time zone \"Europe/Viena\"; did you mean \"Europe/Vienna\"?"
                    .to_owned(),
            ),
            (
                zone("at = \"08:00\"", "Mars"),
                ".time_zone: there is no time zone \"Mars\"; use a name such as Europe/Vienna or UTC"
                    .to_owned(),
            ),
            (
                zone("cron = \"0 0 30 2 *\"", "UTC"),
                format!(".cron: \"0 0 30 2 *\": it never comes; {pattern}"),
            ),
            (
                zone("cron = \"0 25 * * *\"", "UTC"),
                format!(".cron: \"0 25 * * *\": Number out of bounds; {pattern}"),
            ),
            (
                zone("cron = \"0 8 * * *\", days = \"mon\"", "UTC"),
                ".days: belongs to at; write the days into the last field of cron".to_owned(),
            ),
        ];
        for text in ["8:00", "24:00", "08:60", "08", "08:00:00:00", "+8:00", "08:00 ", ""] {
            changes.push((at(&format!("\"{text}\""), ""), format!(".at: \"{text}\" {time}")));
        }
        for text in ["Mon", "monday", "mon-", "mon;tue", "1-5"] {
            let written = at("\"08:00\"", &format!("days = \"{text}\""));
            changes.push((written, format!(".days: \"{text}\" {days}")));
        }
        let changes: Vec<(&str, String)> =
            changes.iter().map(|(text, fault)| (text.as_str(), fault.clone())).collect();
        check(&changes);
        let error = parse(&format!(
            "[schedules.a]\ntype = \"a\"\nevery = {}",
            zone("cron = \"0 25 * * *\"", "UTC")
        ));
        let said = error.unwrap_err().to_string();
        assert!(said.starts_with("outboxd.toml:3: schedules.a.every.cron: \"0 25 * * *\": "));
        assert!(said.ends_with(pattern), "{said}");
    }

    fn at(times: &str, more: &str) -> String {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        zone(&format!("at = {times}{more}"), "UTC")
    }

    fn zone(rest: &str, zone: &str) -> String {
        format!("{{ {rest}, time_zone = \"{zone}\" }}")
    }

    /// The faults begin behind the key `every`.
    fn check(changes: &[(&str, String)]) {
        for (text, fault) in changes {
            let (written, told) = (format!("every = {text}"), format!("3: every{fault}"));
            refuses_each("[schedules.a]\n", "schedules.a", GOOD, &[(&written, &told)]);
        }
    }
}
