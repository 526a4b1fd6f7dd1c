//! Reading a TOML tree and gathering what is wrong with it.
//!
//! A reader never stops at a fault: it notes the fault and goes on, so that all of them are
//! reported at once. The keys a table knows are the keys its reader asked for; [`Section::close`]
//! reports the others.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use sha2::Sha256;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Wrong};
use super::item::{Item, quote};
use super::template::Root;
use super::words;

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
    /// Of the text and of every file it names that holds no secret.
    pub hash: RefCell<Sha256>,
    /// Where the files of templates are.
    pub templates: RefCell<Root>,
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

impl<'a> Section<'a> {
    /// The whole file, or a table that is not written at all.
    pub fn new(source: &'a Source<'a>, path: &str, table: &'a DeTable<'a>) -> Section<'a> {
        let (known, refused) = (Vec::new(), Vec::new());
        Section { source, line: 1, path: path.to_owned(), table, known, refused }
    }

    /// A table that is written as the value of `item`.
    pub fn of(item: &Item<'a>, table: &'a DeTable<'a>) -> Section<'a> {
        Section { line: item.line, ..Section::new(item.source, &item.path, table) }
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
            (None, Some(file)) => file.secret_file().map(|text| {
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

    /// Whether a key is there; asking for it this way does not make it known.
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
