//! Reading a TOML tree and gathering what is wrong with it.
//!
//! A reader never stops at a fault: it notes the fault and goes on, so that all of them are
//! reported at once. The keys a table knows are the keys its reader asked for; [`Section::close`]
//! reports the others.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Wrong};
use super::words;

/// Largest file that is read: the config and what it names, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// The text being read, what it leans on, and the faults found so far.
pub(super) struct Source<'a> {
    /// The config's text.
    pub text: &'a str,
    /// Where relative paths start.
    pub directory: &'a Path,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the text has faults of syntax: then a key may be missing because of them.
    pub broken: bool,
    /// In the order of discovery.
    pub faults: RefCell<Vec<Fault>>,
}

impl Source<'_> {
    /// Notes a fault.
    pub fn fault(&self, line: usize, key: &str, wrong: Wrong) {
        let Wrong { problem, remedy } = wrong;
        let fault = Fault { line, key: key.to_owned(), problem, remedy };
        let mut faults = self.faults.borrow_mut();
        // A route to two mail servers is read for each of them.
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    /// The line of a byte, counted from 1.
    pub fn line_of(&self, byte: usize) -> usize {
        let head = &self.text.as_bytes()[..byte.min(self.text.len())];
        head.iter().fold(1, |line, b| line + usize::from(*b == b'\n'))
    }
}

/// A table being read.
pub(super) struct Section<'a> {
    pub source: &'a Source<'a>,
    /// The line of its header.
    pub line: usize,
    path: String,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
    refused: Vec<&'static str>,
}

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

impl<'a> Section<'a> {
    /// The whole file, or a table that is not written at all.
    pub fn new(source: &'a Source<'a>, path: &str, table: &'a DeTable<'a>) -> Section<'a> {
        let (known, refused) = (Vec::new(), Vec::new());
        Section { source, line: 1, path: path.to_owned(), table, known, refused }
    }

    /// The value of a key, if it is there.
    pub fn get(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.knows(&[key]);
        self.table.get(key).map(|value| self.item(key, value))
    }

    /// Makes keys known that are not read, for another fault is the reason.
    pub fn knows(&mut self, keys: &[&'static str]) {
        let new = keys.iter().filter(|key| !self.known.contains(key));
        self.known.extend(new.copied().collect::<Vec<_>>());
    }

    /// The value of a key that must be there.
    pub fn need(&mut self, key: &'static str, remedy: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.missing(key, remedy);
        }
        item
    }

    /// A table, or an empty one in its place.
    pub fn section(&mut self, key: &'static str, empty: &'a DeTable<'a>) -> Section<'a> {
        let section = self.get(key).and_then(|item| item.section());
        section.unwrap_or_else(|| Section::new(self.source, &self.path_of(key), empty))
    }

    /// A duration, or what stands for it.
    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.get(key).and_then(|item| item.duration(range)).unwrap_or(default)
    }

    /// A secret from `key`, or from the file that `file_key` names, with the place it came from.
    pub fn secret(
        &mut self,
        key: &'static str,
        file_key: &'static str,
    ) -> Option<(Item<'a>, String)> {
        let (plain, file) = (self.get(key), self.get(file_key));
        match (plain, file) {
            (Some(_), Some(file)) => {
                file.fault(format!("{key} is there too"), "keep one of the two");
                None
            }
            (Some(plain), None) => plain.text().map(|text| (plain, text)),
            (None, Some(file)) => file.file().map(|text| {
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                (file, text)
            }),
            (None, None) => None,
        }
    }

    /// Every key and value of a table whose keys are names.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> {
        self.table.iter().map(|(key, value)| {
            let key: &str = key.get_ref();
            (key, self.item(key, value))
        })
    }

    /// Whether one of the keys is there; asking for it this way does not make it known.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Notes that a key is absent that must be there, unless faults of syntax may have hidden it.
    pub fn missing(&self, key: &str, remedy: &str) {
        if !self.source.broken {
            let wrong = Wrong::new("is missing", remedy);
            self.source.fault(self.line, &self.path_of(key), wrong);
        }
    }

    /// Notes what is wrong with the table as a whole.
    pub fn fault(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.source.fault(self.line, &self.path, Wrong::new(problem, remedy));
    }

    /// Refuses a key that is known but not fit here.
    pub fn refuse(&mut self, key: &'static str, problem: &str, remedy: &str) {
        if let Some(item) = self.table.get(key).map(|value| self.item(key, value)) {
            item.fault(problem, remedy);
        }
        self.refused.push(key);
    }

    /// Refuses keys that are planned and do nothing yet.
    pub fn not_yet(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.refuse(key, "is not there yet", "remove it");
        }
    }

    /// The tables below a key that is planned and does nothing yet.
    pub fn planned(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.refused.push(key);
        self.table.get(key).and_then(|value| self.item(key, value).section())
    }

    /// Ends the reading: whatever was not asked for is unknown.
    pub fn close(self) {
        for (key, item) in self.entries() {
            if self.known.contains(&key) || self.refused.contains(&key) {
                continue;
            }
            let remedy = words::nearest(key, self.known.iter().copied()).map_or_else(
                || format!("known here: {}", self.known.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            item.fault("is unknown", remedy);
        }
    }

    fn item(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        Item::new(self.source, self.path_of(key), value)
    }

    fn path_of(&self, key: &str) -> String {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let key =
            if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { quote(key) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

impl<'a> Item<'a> {
    fn new(source: &'a Source<'a>, path: String, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
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
        let (known, refused) = (Vec::new(), Vec::new());
        let path = self.path.clone();
        Some(Section { source: self.source, line: self.line, path, table, known, refused })
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

    /// The text of the file this value names.
    pub fn file(&self) -> Option<String> {
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

/// What every PEM file of certificates contains.
pub(super) const PEM_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// A text file of at most [`FILE_MAX`] bytes, or what is wrong with it, to follow its name.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let words = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
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
