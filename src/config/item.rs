//! Reading one value of a TOML tree: its type, its bounds, the file it names.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sha2::Digest as _;
use toml::Spanned;
use toml::de::DeValue;

use super::fault::Wrong;
use super::read::{Section, Source};
use super::words;
use crate::name::Name;
use crate::policy::Rate;

/// What a name may be, as a remedy.
pub(super) const NAME_FORM: &str = "use a lower-case letter, then up to 39 of a-z, 0-9 and -";
/// What is wrong with a file that is not there.
pub(super) const MISSING: &str = "does not exist";
/// Largest file that is read: the config and what it names, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// What every PEM file of certificates contains.
pub(super) const PEM_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// A value being read, with its place.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub source: &'a Source<'a>,
    /// The line on which the value starts.
    pub line: usize,
    /// The key with its path.
    pub path: String,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    /// A value below the key `path`.
    pub fn new(source: &'a Source<'a>, path: String, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        let line = source.line_of(value.span().start);
        Item { source, line, path, value: value.get_ref() }
    }

    /// Notes what is wrong with the value.
    pub fn fault(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.source.fault(self.line, &self.path, Wrong::new(problem, remedy));
    }

    /// The string as the file has it, for faults: quoted, cut short, with `${VAR}` as written, so
    /// that nothing from the environment is ever printed.
    pub fn shown(&self) -> String {
        quote(self.value.as_str().unwrap_or_default())
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether it is a string.
    pub fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// A string with its variables expanded.
    pub fn text(&self) -> Option<String> {
        let Some(raw) = self.value.as_str() else {
            self.wrong_type("write a string");
            return None;
        };
        match words::expand(raw, self.source.env) {
            Ok(text) => Some(text),
            Err(wrong) => {
                self.source.fault(self.line, &self.path, wrong);
                None
            }
        }
    }

    /// A name.
    pub fn name(&self) -> Option<Name> {
        let name = Name::parse(&self.text()?);
        name.map_err(|_| self.fault(format!("{} is no name", self.shown()), NAME_FORM)).ok()
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<String> = choices.iter().map(|(word, _)| quote(word)).collect();
            self.fault(format!("{} is unknown", self.shown()), format!("use {}", words.join(", ")));
        }
        found
    }

    /// A duration within bounds.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        if !self.value.is_str() {
            self.wrong_type("write a duration, e.g. \"15s\"");
            return None;
        }
        let text = self.text()?;
        let Some(duration) = words::duration(&text) else {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let unit = "write it with a unit, e.g. \"15s\"";
            let forms = "write it like \"500ms\", \"15s\", \"1h30m\" or \"7d\"";
            let remedy = if digits { unit } else { forms };
            self.fault(format!("{} is no duration", self.shown()), remedy);
            return None;
        };
        if !range.contains(&duration) {
            let (low, high) = (words::in_words(*range.start()), words::in_words(*range.end()));
            self.fault(format!("{} is out of range", self.shown()), format!("{low} to {high}"));
            return None;
        }
        Some(duration)
    }

    /// A rate.
    pub fn rate(&self) -> Option<Rate> {
        if !self.value.is_str() {
            self.wrong_type("write a rate, e.g. \"14/s\"");
            return None;
        }
        let rate = words::rate(&self.text()?);
        if rate.is_none() {
            let remedy = format!(
                "write a number from 1 to {}, then /s, /min, /h or /d, e.g. \"14/s\"",
                words::RATE_COUNT_MAX
            );
            self.fault(format!("{} is no rate", self.shown()), remedy);
        }
        rate
    }

    /// A size within bounds, in bytes.
    pub fn size(&self, range: RangeInclusive<usize>) -> Option<usize> {
        if !self.value.is_str() {
            self.wrong_type("write a size, e.g. \"20MB\"");
            return None;
        }
        let Some(size) = words::size(&self.text()?) else {
            let remedy = "write it like \"512KB\" or \"20MB\"; 1MB is 1024 times 1024 bytes";
            self.fault(format!("{} is no size", self.shown()), remedy);
            return None;
        };
        if !range.contains(&size) {
            let (low, high) =
                (words::size_in_words(*range.start()), words::size_in_words(*range.end()));
            self.fault(format!("{} is out of range", self.shown()), format!("{low} to {high}"));
            return None;
        }
        Some(size)
    }

    /// An instant: RFC 3339 with an offset, or a day, which begins at midnight on `clock`.
    pub fn instant(&self, clock: &TimeZone) -> Option<Timestamp> {
        let text = match self.value.as_datetime() {
            Some(written) => written.to_string(),
            None if self.value.is_str() => self.text()?,
            None => {
                self.wrong_type("write a date, e.g. 2026-11-20");
                return None;
            }
        };
        let day = text.parse::<Date>().ok().filter(|_| text.len() == 10);
        let instant = match day {
            Some(day) => day.to_zoned(clock.clone()).map(|midnight| midnight.timestamp()).ok(),
            None => text.parse().ok(),
        };
        if instant.is_none() {
            let remedy = "write 2026-11-20 or 2026-11-20T08:00:00+01:00";
            self.fault(format!("{} is neither a day nor an instant", quote(&text)), remedy);
        }
        instant
    }

    /// True or false.
    pub fn boolean(&self) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type("write true or false");
        }
        boolean
    }

    /// A whole number within bounds.
    pub fn count(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type("write a whole number");
            return None;
        };
        let number = usize::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let bounds = format!("{} to {}", range.start(), range.end());
            self.fault(format!("{integer} is out of range"), bounds);
        }
        number
    }

    /// A number within bounds, with or without a fraction.
    pub fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let text = match self.value {
            DeValue::Integer(integer) => integer.to_string(),
            DeValue::Float(float) => float.to_string(),
            _ => {
                self.wrong_type("write a number");
                return None;
            }
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let bounds = format!("{} to {}", range.start(), range.end());
            self.fault(format!("{text} is out of range"), bounds);
        }
        number
    }

    /// A list.
    pub fn list(&self) -> Option<Vec<Item<'a>>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("write a list: [ … ]");
            return None;
        };
        let item =
            |(index, value)| Item::new(self.source, format!("{}[{index}]", self.path), value);
        Some(array.iter().enumerate().map(item).collect())
    }

    /// A list, or a string in place of a list of one.
    pub fn one_or_many(self) -> Option<Vec<Item<'a>>> {
        match self.value {
            DeValue::String(_) => Some(vec![self]),
            DeValue::Array(_) => self.list(),
            _ => {
                self.wrong_type("write a string or a list of strings");
                None
            }
        }
    }

    /// A table.
    pub fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("write a table");
            return None;
        };
        Some(Section::of(self, table))
    }

    /// A path; a relative one starts beside the config file.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            self.fault("is empty", "write a path");
            return None;
        }
        Some(self.source.directory.join(text))
    }

    /// The text of the file this value names; part of the config's hash.
    pub fn file(&self) -> Option<String> {
        let text = self.secret_file()?;
        self.source.hash.borrow_mut().update(text.as_bytes());
        Some(text)
    }

    /// The text of the file this value names, which is a secret and leaves no trace.
    pub fn secret_file(&self) -> Option<String> {
        match read_file(&self.path()?) {
            Ok(text) => Some(text),
            Err(problem) => {
                let remedy = "paths start at the config file's directory";
                self.fault(format!("{} {problem}", self.shown()), remedy);
                None
            }
        }
    }

    /// The path of a file with certificates, which is looked at here so that a wrong one is a
    /// fault of the config and not of some later connection.
    pub fn certificates(&self) -> Option<PathBuf> {
        let text = self.file()?;
        if !text.contains(PEM_CERTIFICATE) {
            self.fault(format!("{} holds no certificate", self.shown()), "name a PEM file");
        }
        self.path()
    }

    fn wrong_type(&self, remedy: &str) {
        let kind = self.value.type_str();
        let article = if matches!(kind, "integer" | "array") { "an" } else { "a" };
        self.fault(format!("is {article} {kind}"), remedy);
    }
}

/// A text file of at most [`FILE_MAX`] bytes, or what is wrong with it, to follow its name.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let words = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => MISSING.to_owned(),
        ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    let mut text = String::new();
    let file = File::open(path).map_err(words)?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(words)?;
    if text.len() as u64 > FILE_MAX {
        return Err("is larger than 1 MB".to_owned());
    }
    Ok(text)
}

/// A short, quoted form for faults.
pub(super) fn quote(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", short.escape_debug())
}
