//! A field: a value is held against its column's form and written as the file's profile has it.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;

use super::line::{Field, Quoting};
use super::value::Value;
use crate::calendar::Calendar;
use crate::config::{ColumnForm, CsvConfig, Formulas, Profile};

/// How values are written.
pub(super) struct Style {
    profile: Profile,
    formulas: Formulas,
    /// The clock of the cut; UTC where it has none.
    zone: TimeZone,
}

/// A value whose kind is known.
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Number(Cow<'a, str>),
    Truth(bool),
    Instant(Timestamp),
}

/// When something was.
enum Time {
    /// Text with an offset names an instant.
    Instant(Timestamp),
    /// Text without one is the time of some clock, and stays that.
    Clock(DateTime),
}

impl Style {
    pub(super) fn of(config: &CsvConfig) -> Style {
        let zone = config.cut.every.as_ref().map_or(TimeZone::UTC, Calendar::zone);
        Style { profile: config.profile, formulas: config.formulas, zone }
    }

    /// What shapes a file beside its columns.
    pub(super) fn words(&self) -> String {
        format!("{:?} {:?} {:?}", self.profile, self.formulas, self.zone.iana_name())
    }

    pub(super) fn separator(&self) -> char {
        match self.profile {
            Profile::Machine | Profile::Excel => ',',
            Profile::ExcelDe => ';',
        }
    }

    pub(super) fn quoting(&self) -> Quoting {
        match self.profile {
            Profile::Machine => Quoting::Needed,
            Profile::Excel | Profile::ExcelDe => Quoting::Always,
        }
    }

    /// What stands before the header. Without the mark Excel reads UTF-8 as the system's old code
    /// page; a line `sep=;` would keep it from looking at the mark.
    pub(super) fn mark(&self) -> &'static str {
        match self.profile {
            Profile::Machine => "",
            Profile::Excel | Profile::ExcelDe => "\u{feff}",
        }
    }

    /// A column's header. It is the config's own text and no row to refuse: guarded there too.
    pub(super) fn heading<'a>(&self, name: &'a str) -> Field<'a> {
        Field::Text(match self.formulas {
            Formulas::Guard | Formulas::Refuse if is_formula(name) => format!("'{name}").into(),
            Formulas::Guard | Formulas::Refuse | Formulas::Keep => name.into(),
        })
    }

    /// The field of a value, or what is wrong with it; no value is NULL, and so is JSON's null but where
    /// JSON is wanted. Text that is a number, a truth or a time passes
    /// for one: headers and keys are text only, and frameworks write decimals and times as text.
    pub(super) fn field<'a>(
        &self,
        form: ColumnForm,
        value: Option<Value<'a>>,
    ) -> Result<Field<'a>, &'static str> {
        let value = value.filter(|value| form == ColumnForm::Json || !value.is_null());
        let Some(value) = value else { return Ok(Field::Null) };
        match form {
            ColumnForm::Text => self.text(scalar(value)?),
            ColumnForm::Integer => integer(scalar(value)?.text()),
            ColumnForm::Decimal => self.decimal(scalar(value)?.text()),
            ColumnForm::Boolean => match &*scalar(value)?.text() {
                "true" => Ok(self.truth(true)),
                "false" => Ok(self.truth(false)),
                _ => Err("neither true nor false"),
            },
            ColumnForm::Date => self.date(scalar(value)?),
            ColumnForm::Timestamp => self.timestamp(scalar(value)?),
            ColumnForm::Json => Ok(json(value)),
        }
    }

    /// What is no text is written as its own form would be.
    fn text<'a>(&self, scalar: Scalar<'a>) -> Result<Field<'a>, &'static str> {
        match scalar {
            Scalar::Text(text) if is_formula(&text) => match self.formulas {
                Formulas::Guard => Ok(Field::Text(format!("'{text}").into())),
                Formulas::Keep => Ok(Field::Text(text)),
                Formulas::Refuse => Err("text that a spreadsheet would take for a formula"),
            },
            Scalar::Text(text) => Ok(Field::Text(text)),
            Scalar::Number(digits) => self.decimal(digits),
            Scalar::Truth(truth) => Ok(self.truth(truth)),
            Scalar::Instant(at) => Ok(Field::Text(at.to_string().into())),
        }
    }

    /// Digits stay as they are, each of them; the point is the profile's.
    fn decimal<'a>(&self, digits: Cow<'a, str>) -> Result<Field<'a>, &'static str> {
        let (whole, part) = digits.split_once('.').unwrap_or((&digits, "0"));
        if !is_integer(whole) || part.starts_with('-') || !is_integer(part) {
            return Err("not a number in plain digits");
        }
        Ok(Field::Bare(match self.profile {
            Profile::ExcelDe if digits.contains('.') => digits.replace('.', ",").into(),
            Profile::Machine | Profile::Excel | Profile::ExcelDe => digits,
        }))
    }

    fn truth(&self, truth: bool) -> Field<'static> {
        let [no, yes] = match self.profile {
            Profile::Machine => ["false", "true"],
            Profile::Excel => ["FALSE", "TRUE"],
            Profile::ExcelDe => ["FALSCH", "WAHR"],
        };
        Field::Bare(if truth { yes } else { no }.into())
    }

    /// An instant is on the day that the cut's clock shows.
    fn date(&self, scalar: Scalar) -> Result<Field<'static>, &'static str> {
        let text = match scalar {
            Scalar::Instant(at) => return Ok(bare(at.to_zoned(self.zone.clone()).date())),
            scalar => scalar.text(),
        };
        match (date(&text), time(&text)) {
            (Some(day), _) => Ok(bare(day)),
            (None, Some(Time::Instant(at))) => Ok(bare(at.to_zoned(self.zone.clone()).date())),
            (None, Some(Time::Clock(shown))) => Ok(bare(shown.date())),
            (None, None) => Err("not a date (2026-11-20)"),
        }
    }

    /// For a machine in UTC, for people on the cut's clock and to the second, as spreadsheets read it.
    fn timestamp(&self, scalar: Scalar) -> Result<Field<'static>, &'static str> {
        let time = match scalar {
            Scalar::Instant(at) => Some(Time::Instant(at)),
            scalar => time(&scalar.text()),
        };
        let time = time.ok_or("not a timestamp (2026-11-20T10:15:30Z)")?;
        let shown = match (self.profile, time) {
            (Profile::Machine, Time::Instant(at)) => return Ok(bare(at)),
            (Profile::Machine, Time::Clock(shown)) => return Ok(bare(shown)),
            (Profile::Excel | Profile::ExcelDe, Time::Instant(at)) => {
                at.to_zoned(self.zone.clone()).datetime()
            }
            (Profile::Excel | Profile::ExcelDe, Time::Clock(shown)) => shown,
        };
        Ok(bare(shown.strftime("%Y-%m-%d %H:%M:%S")))
    }
}

impl<'a> Scalar<'a> {
    fn text(self) -> Cow<'a, str> {
        match self {
            Scalar::Text(text) | Scalar::Number(text) => text,
            Scalar::Truth(truth) => if truth { "true" } else { "false" }.into(),
            Scalar::Instant(at) => at.to_string().into(),
        }
    }
}

/// Tells what kind a value is of.
fn scalar(value: Value<'_>) -> Result<Scalar<'_>, &'static str> {
    let json = match value {
        Value::Text(text) => return Ok(Scalar::Text(text)),
        Value::Instant(at) => return Ok(Scalar::Instant(at)),
        Value::Json(json) => json,
    };
    match json.as_bytes().first() {
        Some(b'{' | b'[') => Err("a nested value cannot stand in a field"),
        Some(b't') => Ok(Scalar::Truth(true)),
        Some(b'f') => Ok(Scalar::Truth(false)),
        Some(b'"') => match serde_json::from_str(&json) {
            Ok(text) => Ok(Scalar::Text(Cow::Owned(text))),
            Err(_) => Err("not JSON"),
        },
        _ => Ok(Scalar::Number(json)),
    }
}

/// JSON stays as PostgreSQL wrote it; no more than a number can begin it like a formula.
fn json(value: Value<'_>) -> Field<'_> {
    let quoted = |text: &str| Field::Text(serde_json::Value::from(text).to_string().into());
    match value {
        Value::Text(text) => quoted(&text),
        Value::Instant(at) => quoted(&at.to_string()),
        Value::Json(json) => Field::Text(json),
    }
}

fn bare(value: impl std::fmt::Display) -> Field<'static> {
    Field::Bare(value.to_string().into())
}

/// What spreadsheets take for the beginning of a formula: `=`, `+`, `-`, `@`, their full-width forms,
/// TAB, CR and LF (OWASP, "CSV Injection").
fn is_formula(text: &str) -> bool {
    const STARTS: [char; 11] =
        ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];
    text.starts_with(STARTS)
}

fn integer(digits: Cow<'_, str>) -> Result<Field<'_>, &'static str> {
    if is_integer(&digits) { Ok(Field::Bare(digits)) } else { Err("not a whole number") }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// A day as ISO 8601 and PostgreSQL write it; never one before Christ or at infinity.
fn date(text: &str) -> Option<Date> {
    text.parse().ok().filter(|day: &Date| day.year() > 0 && day.to_string() == text)
}

/// A time of day with its date, as ISO 8601 and PostgreSQL write it; never one before Christ or at
/// infinity.
fn time(text: &str) -> Option<Time> {
    let pieces = Pieces::parse(text).ok().filter(|pieces| pieces.date().year() > 0)?;
    let shown = DateTime::from_parts(pieces.date(), pieces.time()?);
    Some(match pieces.to_numeric_offset() {
        Some(offset) => Time::Instant(offset.to_timestamp(shown).ok()?),
        None => Time::Clock(shown),
    })
}
