//! A field: a value is held against its column's form and written as the file's profile has it.

use std::borrow::Cow;

use jiff::tz::TimeZone;

use super::line::{Field, Quoting};
use super::value::{self, Scalar, Time, Value};
use crate::calendar::Calendar;
use crate::config::{ColumnForm, CsvConfig, Formulas, Profile};

/// How values are written.
pub(super) struct Style {
    profile: Profile,
    formulas: Formulas,
    /// The clock of the cut; UTC where it has none.
    zone: TimeZone,
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
    ///
    /// Excel takes a file that begins with `ID` for SYLK and refuses it (Microsoft's article 323626).
    /// With a mark before them these are not its first bytes, which some found to help
    /// (synthea#443) and others not (silverstripe-framework#8884); so the header is quoted too, as
    /// all text of these profiles is, which helps by all reports (sheetjs#651, #1973).
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
            ColumnForm::Text => self.text(Scalar::of(value)?),
            ColumnForm::Integer => integer(Scalar::of(value)?.text()),
            ColumnForm::Decimal => self.decimal(Scalar::of(value)?.text()),
            ColumnForm::Boolean => match &*Scalar::of(value)?.text() {
                "true" => Ok(self.truth(true)),
                "false" => Ok(self.truth(false)),
                _ => Err("neither true nor false"),
            },
            ColumnForm::Date => self.date(Scalar::of(value)?),
            ColumnForm::Timestamp => self.timestamp(Scalar::of(value)?),
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
        match (value::date(&text), value::time(&text)) {
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
            scalar => value::time(&scalar.text()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cut;

    const PROFILES: [Profile; 3] = [Profile::Machine, Profile::Excel, Profile::ExcelDe];

    /// A style whose cut goes by the clock of Vienna.
    fn style(profile: Profile, formulas: Formulas) -> Style {
        let one = ["01:00:00".parse().unwrap()];
        let every = Some(Calendar::at(&one, &[], "Europe/Vienna").unwrap());
        let cut = Cut { every, max_rows: None };
        let mut config = CsvConfig::new("out".into(), ("", ".csv"), Vec::new(), cut);
        (config.profile, config.formulas) = (profile, formulas);
        Style::of(&config)
    }

    /// The field as text; text stands in brackets, NULL is `NULL`.
    fn shown(field: &Field) -> String {
        match field {
            Field::Null => "NULL".to_owned(),
            Field::Bare(value) => value.to_string(),
            Field::Text(text) => format!("[{text}]"),
        }
    }

    fn json(text: &str) -> Value<'_> {
        Value::Json(text.into())
    }

    fn written(form: ColumnForm, value: impl Fn() -> Value<'static>) -> [String; 3] {
        PROFILES.map(|profile| {
            let field = style(profile, Formulas::Guard).field(form, Some(value()));
            shown(&field.unwrap())
        })
    }

    #[test]
    fn each_form_is_written_as_the_profile_has_it() {
        use ColumnForm::{Boolean, Date, Decimal, Integer, Json, Text, Timestamp};
        let digits = "-12345678901234567890123456789.0000000010";
        let comma = "-12345678901234567890123456789,0000000010";
        for (form, value, [machine, excel, german]) in [
            (Text, r#""Grüße""#, ["[Grüße]"; 3]),
            (Text, r#""00123""#, ["[00123]"; 3]),
            (Text, r#""19.90""#, ["[19.90]"; 3]),
            // What is no text is written as what it is: 22.5 would be a day in May.
            (Text, "22.5", ["22.5", "22.5", "22,5"]),
            (Text, "-5", ["-5"; 3]),
            (Text, "true", ["true", "TRUE", "WAHR"]),
            (Text, "null", ["NULL"; 3]),
            (Integer, "9223372036854775808", ["9223372036854775808"; 3]),
            (Integer, r#""-7""#, ["-7"; 3]),
            (Decimal, digits, [digits, digits, comma]),
            (Decimal, r#""19.90""#, ["19.90", "19.90", "19,90"]),
            (Decimal, "100", ["100"; 3]),
            (Boolean, "true", ["true", "TRUE", "WAHR"]),
            (Boolean, r#""false""#, ["false", "FALSE", "FALSCH"]),
            (Date, r#""2024-02-29""#, ["2024-02-29"; 3]),
            (Date, r#""2026-11-20T22:59:59Z""#, ["2026-11-20"; 3]),
            (Date, r#""2026-11-20T23:30:00Z""#, ["2026-11-21"; 3]),
            (Date, r#""2026-11-20T23:30:00""#, ["2026-11-20"; 3]),
            (
                Timestamp,
                r#""2026-11-20T09:15:30.123456Z""#,
                ["2026-11-20T09:15:30.123456Z", "2026-11-20 10:15:30", "2026-11-20 10:15:30"],
            ),
            (
                Timestamp,
                r#""2026-07-01T12:00:00+05:30""#,
                ["2026-07-01T06:30:00Z", "2026-07-01 08:30:00", "2026-07-01 08:30:00"],
            ),
            // As casting to text has it.
            (
                Timestamp,
                r#""2026-11-20 10:15:30+01""#,
                ["2026-11-20T09:15:30Z", "2026-11-20 10:15:30", "2026-11-20 10:15:30"],
            ),
            // Without an offset it is the time of some clock, which nobody may guess.
            (
                Timestamp,
                r#""2026-11-20T10:15:30""#,
                ["2026-11-20T10:15:30", "2026-11-20 10:15:30", "2026-11-20 10:15:30"],
            ),
            // Keys in PostgreSQL's order, digits as they are.
            (Json, r#"{"b": 1.10, "aa": [2]}"#, [r#"[{"b": 1.10, "aa": [2]}]"#; 3]),
            (Json, r#""=1+1""#, [r#"["=1+1"]"#; 3]),
            (Json, "null", ["[null]"; 3]),
        ] {
            assert_eq!(written(form, || json(value)), [machine, excel, german], "{form:?} {value}");
        }
    }

    #[test]
    fn an_instant_of_the_database_has_every_form_that_time_has() {
        let at = || Value::Instant("2026-11-20T23:30:00.5Z".parse().unwrap());
        let whole = "2026-11-20T23:30:00.5Z";
        assert_eq!(written(ColumnForm::Text, at), [format!("[{whole}]").as_str(); 3]);
        let local = "2026-11-21 00:30:00";
        assert_eq!(written(ColumnForm::Timestamp, at), [whole, local, local]);
        assert_eq!(written(ColumnForm::Date, at), ["2026-11-21"; 3]);
        assert_eq!(written(ColumnForm::Json, at), [format!("[\"{whole}\"]").as_str(); 3]);
    }

    #[test]
    fn without_a_zone_the_clock_is_that_of_utc() {
        let cut = Cut { every: None, max_rows: None };
        let mut config = CsvConfig::new("out".into(), ("", ".csv"), Vec::new(), cut);
        config.profile = Profile::Excel;
        let value = json("\"2026-11-20T23:30:00+01:00\"");
        let field = Style::of(&config).field(ColumnForm::Timestamp, Some(value)).unwrap();
        assert_eq!(shown(&field), "2026-11-20 22:30:00");
    }

    #[test]
    fn what_a_form_is_not_is_refused_in_every_profile() {
        use ColumnForm::{Boolean, Date, Decimal, Integer, Text, Timestamp};
        for (form, values) in [
            (Text, &["[1]", "{\"a\": 1}"][..]),
            (Integer, &["1.5", "\"\"", "\"-\"", "true", "\"+1\"", "\" 1\"", "[1]", "\"٣\""]),
            (Decimal, &["\"1e5\"", "\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "\"1.\"", "\".5\""]),
            (Decimal, &["\"1,5\"", "\"1.-5\"", "\"1.5.5\"", "\"\"", "false", "\"1 000\""]),
            (Boolean, &["1", "0", "\"yes\"", "\"t\"", "\"TRUE\"", "\"\""]),
            (Date, &["\"\"", "20261120", "\"20261120\"", "\"infinity\"", "\"2026-02-29\""]),
            (
                Date,
                &["\"0044-03-15 BC\"", "\"-000044-03-15\"", "\"10000-01-01\"", "\"20.11.2026\""],
            ),
            (Timestamp, &["\"\"", "\"infinity\"", "\"-infinity\"", "\"2026-11-20\"", "true", "1"]),
            (Timestamp, &["\"0044-03-15T00:00:00 BC\"", "\"-000043-03-15T00:00:00Z\""]),
            (Timestamp, &["\"2026-02-29T00:00:00Z\"", "\"2026-11-20T25:00:00Z\"", "\"now\""]),
        ] {
            for (value, profile) in values.iter().flat_map(|v| PROFILES.map(|p| (v, p))) {
                let style = style(profile, Formulas::Guard);
                assert!(style.field(form, Some(json(value))).is_err(), "{form:?} {value}");
            }
        }
    }

    #[test]
    fn formulas_are_guarded_kept_or_refused_and_numbers_never_touched() {
        let starts = ["=", "+", "-", "@", "\t", "\r", "\n", "\u{ff1d}", "\u{ff0b}", "\u{ff0d}"];
        for start in starts.into_iter().chain(["\u{ff20}"]) {
            let text = format!("{start}1+1");
            let field = |formulas, form| {
                style(Profile::ExcelDe, formulas).field(form, Some(Value::Text((&*text).into())))
            };
            let guarded = field(Formulas::Guard, ColumnForm::Text).unwrap();
            assert_eq!(shown(&guarded), format!("['{text}]"));
            let kept = field(Formulas::Keep, ColumnForm::Text).unwrap();
            assert_eq!(shown(&kept), format!("[{text}]"));
            assert!(field(Formulas::Refuse, ColumnForm::Text).is_err());
            let style = style(Profile::Machine, Formulas::Refuse);
            assert_eq!(shown(&style.heading(&text)), format!("['{text}]"));
        }
        for formulas in [Formulas::Guard, Formulas::Keep, Formulas::Refuse] {
            for form in [ColumnForm::Text, ColumnForm::Integer, ColumnForm::Decimal] {
                let field = style(Profile::Machine, formulas).field(form, Some(json("-5")));
                assert_eq!(shown(&field.unwrap()), "-5");
            }
            let style = style(Profile::Machine, formulas);
            assert_eq!(shown(&style.heading("a=b")), "[a=b]");
        }
    }
}
