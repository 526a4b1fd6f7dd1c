//! The small languages inside a config's strings: durations, rates, `${VAR}`, and words that nearly
//! fit.

use std::num::NonZeroU32;
use std::time::Duration;

use super::fault::Wrong;
use crate::policy::Rate;

/// Units from the longest to the shortest, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What a rate counts in, in seconds.
const PERIODS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400)];
/// The highest count of a rate.
pub(super) const RATE_COUNT_MAX: u32 = 1_000_000;

/// Reads `15s`, `1h30m`, `500ms`: whole numbers with units, longest unit first, each at most once.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, size) = units.find(|(unit, _)| *unit == &rest[..end])?;
        rest = &rest[end..];
        total = total.checked_add(count.checked_mul(*size)?)?;
    }
    Some(Duration::from_millis(total))
}

/// Writes a duration as [`duration`] reads it.
#[must_use]
pub fn in_words(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, size) in UNITS {
        if rest >= size {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}

/// Reads `20MB` or `512KB`, in bytes: a megabyte is 1024 times 1024 of them, as mail servers count.
pub(super) fn size(text: &str) -> Option<usize> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit {
        "KB" => 1024,
        "MB" => 1024 * 1024,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// Writes a whole number of kilobytes as [`size`] reads it.
pub(super) fn size_in_words(bytes: usize) -> String {
    let kilobytes = bytes / 1024;
    if kilobytes.is_multiple_of(1024) {
        format!("{}MB", kilobytes / 1024)
    } else {
        format!("{kilobytes}KB")
    }
}

/// Reads `14/s`, `600/min`, `500/h` or `10000/d`: a whole number from 1 to [`RATE_COUNT_MAX`] and
/// what it counts in.
pub(super) fn rate(text: &str) -> Option<Rate> {
    let (count, period) = text.split_once('/')?;
    // A number's own reading takes a sign.
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = count.parse().ok().filter(|count: &NonZeroU32| count.get() <= RATE_COUNT_MAX)?;
    let (_, seconds) = PERIODS.into_iter().find(|(word, _)| *word == period)?;
    Some(Rate { count, period: Duration::from_secs(seconds) })
}

/// Puts the environment's values in place of `${VAR}` and a dollar in place of `$$`. A dollar
/// before anything else stays a dollar, so that a price in a subject needs no care.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let dollar = "write ${NAME}, or $$ for a dollar";
            let end = after.find('}').ok_or_else(|| Wrong::new("${ has no }", dollar))?;
            let name = &after[..end];
            if !is_variable(name) {
                return Err(Wrong::new("${…} holds no name of a variable", dollar));
            }
            let value = env(name).ok_or_else(|| {
                Wrong::new(format!("the environment variable {name} is not set"), "set it")
            })?;
            out.push_str(&value);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_variable(name: &str) -> bool {
    let head = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    head && name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The candidate that was probably meant, if one is near enough to say so.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, changed or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_falling_units() {
        for (text, millis) in [
            ("15s", 15_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("500ms", 500),
            ("1m1ms", 60_001),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        let too_long = format!("{}d", u64::MAX);
        for text in
            ["", "15", "s", "15 s", "1.5h", "-1s", "1s1s", "1s1m", "1w", "15S", "1h30", &too_long]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["15s", "1h30m", "1d", "500ms", "0s"] {
            assert_eq!(in_words(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_whole_numbers_of_kilobytes_or_megabytes() {
        for (text, bytes) in [("512KB", 512 * 1024), ("20MB", 20 * 1024 * 1024), ("0MB", 0)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bytes in [64 * 1024, 1024 * 1024, 1025 * 1024] {
            assert_eq!(size(&size_in_words(bytes)), Some(bytes));
        }
        let too_large = format!("{}MB", usize::MAX);
        for text in ["", "20", "MB", "20 MB", "20mb", "1.5MB", "-1MB", "1GB", "1MBs", &too_large] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn rates_are_whole_numbers_in_a_span() {
        for (text, count, seconds) in [
            ("14/s", 14, 1),
            ("600/min", 600, 60),
            ("500/h", 500, 3_600),
            ("1000000/d", 1_000_000, 86_400),
        ] {
            let found = rate(text).map(|rate| (rate.count.get(), rate.period.as_secs()));
            assert_eq!(found, Some((count, seconds)), "{text}");
        }
        for text in
            ["", "14", "/s", "0/s", "+1/s", "-1/s", "1.5/s", "14/m", "14/S", "14 / s", "1000001/d"]
        {
            assert_eq!(rate(text), None, "{text}");
        }
    }

    #[test]
    fn variables_expand_once_and_dollars_stay() {
        let env = |name: &str| match name {
            "HOST" => Some("db".to_owned()),
            "SLY" => Some("${HOST}".to_owned()),
            _ => None,
        };
        for (text, expanded) in [
            ("a ${HOST}:${HOST}", "a db:db"),
            ("$$ $5 $", "$ $5 $"),
            ("$${HOST}", "${HOST}"),
            ("${SLY}", "${HOST}"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), expanded);
        }
        for (text, problem) in [
            ("${NOT_THERE}", "the environment variable NOT_THERE is not set"),
            ("${HOST", "${ has no }"),
            ("${}", "${…} holds no name of a variable"),
            ("${a b}", "${…} holds no name of a variable"),
        ] {
            assert_eq!(expand(text, &env).unwrap_err().problem, problem);
        }
    }

    #[test]
    fn the_nearest_word_is_found_only_when_it_is_near() {
        let known = ["url", "timeout", "concurrency", "retry"];
        assert_eq!(nearest("timout", known), Some("timeout"));
        assert_eq!(nearest("ulr", known), Some("url"));
        assert_eq!(nearest("concurency", known), Some("concurrency"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
