//! CSV: the rows of a file and how it is published.
//!
//! Lines are those of RFC 4180: CRLF, quotes doubled. A NULL is an empty field, an empty text is `""`,
//! as COPY has it; pandas and others read both as missing. Numbers keep the digits PostgreSQL gave.

mod file;
mod form;
mod line;
mod sidecar;
mod value;

use std::borrow::Cow;

pub use self::file::{Content, CsvFile, Finished, PublishError, path};
use self::form::Style;
use self::line::Field;
pub use self::sidecar::Sidecar;
use self::value::{Source, Value};
use crate::config::{Column, ColumnForm, CsvConfig};
use crate::message::Message;

/// How the lines of a file are made.
pub struct Layout<'a> {
    columns: Cow<'a, [Column]>,
    style: Style,
}

impl<'a> Layout<'a> {
    /// The layout of a sink whose columns are configured.
    #[must_use]
    pub fn of(config: &'a CsvConfig) -> Layout<'a> {
        Layout { columns: Cow::Borrowed(&config.columns), style: Style::of(config) }
    }

    /// The layout of an export whose columns are those of its query.
    #[must_use]
    pub fn with_columns(config: &CsvConfig, columns: Vec<Column>) -> Layout<'static> {
        Layout { columns: Cow::Owned(columns), style: Style::of(config) }
    }

    /// What the file begins with: the byte order mark where the profile has one, and the header line.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let names = self.columns.iter().map(|column| self.style.heading(&column.name));
        [self.style.mark().as_bytes(), &self.join(names)].concat()
    }

    /// A hash of the columns and of how they are written: two files with the same one look the same.
    #[must_use]
    pub fn hash(&self) -> String {
        let columns = self.columns.iter().map(|column| format!("{column:?}"));
        let parts: Vec<String> = columns.chain([self.style.words()]).collect();
        crate::hex::hex(&super::hash_parts(parts.iter().map(String::as_bytes)))
    }

    /// One line for one message.
    ///
    /// # Errors
    /// The first column whose value is not what its form asks for, by name; never the value.
    pub fn line(&self, message: &Message) -> Result<Vec<u8>, String> {
        let mut source = Source::of(message);
        let fields =
            self.columns.iter().map(|column| self.field(column, source.find(&column.value)));
        Ok(self.join(fields.collect::<Result<Vec<_>, _>>()?.into_iter()))
    }

    /// One line for one row of a query: PostgreSQL's own text of each value, in the order of the
    /// columns. Booleans are `true` or `false`, times ISO 8601, what stands in a json column JSON.
    ///
    /// # Errors
    /// The first column whose value is not what its form asks for, by name; never the value. A row that
    /// has more or fewer values than there are columns.
    pub fn row(&self, values: &[Option<&str>]) -> Result<Vec<u8>, String> {
        if values.len() != self.columns.len() {
            let (values, columns) = (values.len(), self.columns.len());
            return Err(format!("the row has {values} values for {columns} columns"));
        }
        let fields = self.columns.iter().zip(values).map(|(column, text)| {
            let value = text.map(|text| match column.form {
                // A json (not jsonb) keeps the blanks around it, which mean nothing.
                ColumnForm::Json => Value::Json(text.trim().into()),
                _ => Value::Text(text.into()),
            });
            self.field(column, Ok(value))
        });
        Ok(self.join(fields.collect::<Result<Vec<_>, _>>()?.into_iter()))
    }

    fn field<'v>(
        &self,
        column: &Column,
        value: Result<Option<Value<'v>>, &'static str>,
    ) -> Result<Field<'v>, String> {
        let field = value.and_then(|value| self.style.field(column.form, value));
        field.map_err(|what| format!("column {}: {what}", column.name))
    }

    fn join<'v>(&self, fields: impl Iterator<Item = Field<'v>>) -> Vec<u8> {
        line::line(fields, self.style.separator(), self.style.quoting())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cut, Formulas, Profile, ValuePath};

    const PROFILES: [Profile; 3] = [Profile::Machine, Profile::Excel, Profile::ExcelDe];

    fn config(profile: Profile, formulas: Formulas) -> CsvConfig {
        let cut = Cut { every: None, max_rows: None };
        let mut config = CsvConfig::new("out".into(), ("", ".csv"), Vec::new(), cut);
        (config.profile, config.formulas) = (profile, formulas);
        config
    }

    fn layout(profile: Profile, columns: &[Column]) -> Layout<'static> {
        Layout::with_columns(&config(profile, Formulas::Guard), columns.to_vec())
    }

    fn column(name: &str, value: ValuePath, form: ColumnForm) -> Column {
        Column { name: name.to_owned(), value, form }
    }

    fn payload(path: &str, form: ColumnForm) -> Column {
        column(path, ValuePath::Payload(path.split('.').map(str::to_owned).collect()), form)
    }

    fn query(name: &str, form: ColumnForm) -> Column {
        column(name, ValuePath::Query(name.to_owned()), form)
    }

    fn message(payload: &str) -> Message {
        Message {
            id: 42,
            message_type: "order.created".to_owned(),
            payload: payload.to_owned(),
            key: Some("+key".to_owned()),
            headers: [("lang".to_owned(), "de".to_owned())].into(),
            created_at: "2026-11-20T10:15:30Z".parse().unwrap(),
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    /// A line of text alone.
    fn texts(profile: Profile, values: &[&str]) -> String {
        let columns: Vec<_> = values.iter().map(|name| query(name, ColumnForm::Text)).collect();
        let values: Vec<_> = values.iter().copied().map(Some).collect();
        text(layout(profile, &columns).row(&values).unwrap())
    }

    #[test]
    fn every_place_of_a_message_can_be_a_column() {
        let form = ColumnForm::Text;
        let columns = [
            column("id", ValuePath::Id, ColumnForm::Integer),
            column("type", ValuePath::Type, form),
            column("key", ValuePath::Key, form),
            column("at", ValuePath::CreatedAt, form),
            column("lang", ValuePath::Header("lang".to_owned()), form),
            column("none", ValuePath::Header("none".to_owned()), form),
            payload("a.b", form),
            payload("a.c.d", form),
            payload("a", ColumnForm::Json),
            payload("e.f", form),
        ];
        let layout = layout(Profile::Machine, &columns);
        let line = layout.line(&message(r#"{"a": {"b": "x", "c": 1.0}, "e": null}"#)).unwrap();
        let json = r#""{""b"": ""x"", ""c"": 1.0}""#;
        let expected = format!("42,order.created,'+key,2026-11-20T10:15:30Z,de,,x,,{json},\r\n");
        assert_eq!(text(line), expected);
        assert_eq!(text(layout.header()), "id,type,key,at,lang,none,a.b,a.c.d,a,e.f\r\n");
    }

    #[test]
    fn a_row_of_a_query_has_every_form() {
        let columns = [
            query("text", ColumnForm::Text),
            query("integer", ColumnForm::Integer),
            query("decimal", ColumnForm::Decimal),
            query("boolean", ColumnForm::Boolean),
            query("date", ColumnForm::Date),
            query("timestamp", ColumnForm::Timestamp),
            query("json", ColumnForm::Json),
        ];
        let at = "2026-11-20T11:15:30.5+01:00";
        let json = " {\"b\": [1.50]}\n";
        let values = ["-5", "7", "1.50", "true", "2026-11-20", at, json].map(Some);
        let written = PROFILES.map(|profile| {
            let layout = layout(profile, &columns);
            assert_eq!(
                layout.row(&[None; 7]).unwrap().len(),
                8,
                "six separators and an end of line"
            );
            text(layout.row(&values).unwrap())
        });
        let json = r#""{""b"": [1.50]}""#;
        assert_eq!(
            written,
            [
                format!("'-5,7,1.50,true,2026-11-20,2026-11-20T10:15:30.5Z,{json}\r\n"),
                format!("\"'-5\",7,1.50,TRUE,2026-11-20,2026-11-20 10:15:30,{json}\r\n"),
                format!("\"'-5\";7;1,50;WAHR;2026-11-20;2026-11-20 10:15:30;{json}\r\n"),
            ]
        );
        let layout = layout(Profile::Machine, &columns);
        assert_eq!(layout.row(&[None; 6]).unwrap_err(), "the row has 6 values for 7 columns");
        let error = layout.row(&["", "7.5", "", "", "", "", ""].map(Some)).unwrap_err();
        assert_eq!(error, "column integer: not a whole number");
    }

    #[test]
    fn text_is_quoted_where_a_reader_could_go_wrong() {
        for (value, machine, german) in [
            ("plain", "plain", "\"plain\""),
            ("a,b", "\"a,b\"", "\"a,b\""),
            ("a;b", "a;b", "\"a;b\""),
            ("a\"b", "\"a\"\"b\"", "\"a\"\"b\""),
            ("a\rb", "\"a\rb\"", "\"a\rb\""),
            ("a\nb", "\"a\nb\"", "\"a\nb\""),
            (" a", "\" a\"", "\" a\""),
            ("a ", "\"a \"", "\"a \""),
            ("\u{a0}a", "\"\u{a0}a\"", "\"\u{a0}a\""),
            ("\u{feff}a", "\"\u{feff}a\"", "\"\u{feff}a\""),
            ("", "\"\"", "\"\""),
            ("\\.", "\"\\.\"", "\"\\.\""),
        ] {
            assert_eq!(texts(Profile::Machine, &[value, "x"]), format!("{machine},x\r\n"));
            assert_eq!(texts(Profile::ExcelDe, &[value, "x"]), format!("{german};\"x\"\r\n"));
        }
    }

    #[test]
    fn a_single_null_is_not_a_blank_line() {
        for (form, profile) in [ColumnForm::Text, ColumnForm::Integer, ColumnForm::Json]
            .into_iter()
            .flat_map(|form| PROFILES.map(|profile| (form, profile)))
        {
            let layout = layout(profile, &[payload("v", form)]);
            assert_eq!(text(layout.line(&message("{}")).unwrap()), "\"\"\r\n");
        }
    }

    #[test]
    fn a_spreadsheet_is_told_the_encoding_and_never_sees_the_mark_of_sylk() {
        let columns = [query("ID", ColumnForm::Text), query("Größe", ColumnForm::Decimal)];
        let header = |profile| layout(profile, &columns).header();
        assert_eq!(header(Profile::Machine), "ID,Größe\r\n".as_bytes());
        assert_eq!(header(Profile::Excel), "\u{feff}\"ID\",\"Größe\"\r\n".as_bytes());
        assert_eq!(header(Profile::ExcelDe), b"\xef\xbb\xbf\"ID\";\"Gr\xc3\xb6\xc3\x9fe\"\r\n");
    }

    #[test]
    fn files_that_look_different_have_different_layouts() {
        let columns = [query("a", ColumnForm::Text), query("b", ColumnForm::Text)];
        let hash = |config: &CsvConfig, columns: &[Column]| {
            Layout::with_columns(config, columns.to_vec()).hash()
        };
        let plain = config(Profile::Machine, Formulas::Guard);
        let [first, second] = columns.clone();
        let mut all = vec![
            hash(&plain, &columns),
            hash(&plain, &columns[..1]),
            hash(&plain, &[second, first]),
            hash(&plain, &[query("a", ColumnForm::Json), query("b", ColumnForm::Text)]),
            hash(&config(Profile::Excel, Formulas::Guard), &columns),
            hash(&config(Profile::Machine, Formulas::Keep), &columns),
        ];
        assert_eq!(all[0], hash(&plain, &columns));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn what_does_not_fit_names_the_column_and_not_the_value() {
        for (form, value) in [
            (ColumnForm::Text, r#"["secret"]"#),
            (ColumnForm::Text, r#"{"secret": 1}"#),
            (ColumnForm::Integer, r#""secret""#),
            (ColumnForm::Decimal, r#""secret""#),
            (ColumnForm::Boolean, r#""secret""#),
            (ColumnForm::Date, r#""secret""#),
            (ColumnForm::Timestamp, r#""secret""#),
        ] {
            let layout = layout(Profile::Machine, &[payload("v", form)]);
            let error = layout.line(&message(&format!(r#"{{"v": {value}}}"#))).unwrap_err();
            assert!(error.starts_with("column v: ") && !error.contains("secret"), "{error}");
        }
        let broken = layout(Profile::Machine, &[payload("v.w", ColumnForm::Text)]);
        let error = broken.line(&message(r#"{"v": {"w": "secret}"#)).unwrap_err();
        assert_eq!(error, "column v.w: the payload is not JSON");
        let columns = vec![payload("v", ColumnForm::Text)];
        let layout = Layout::with_columns(&config(Profile::Machine, Formulas::Refuse), columns);
        let error = layout.line(&message(r#"{"v": "=secret"}"#)).unwrap_err();
        assert_eq!(error, "column v: text that a spreadsheet would take for a formula");
    }

    #[test]
    fn any_text_comes_back_whole_from_every_profile() {
        const PIECES: [&str; 24] = [
            "a", "ß", "€", "😀", "\"", "\"\"", ",", ";", "\t", "\r", "\n", "\r\n", " ", "\u{a0}",
            "\u{feff}", "\\", ".", "'", "=", "-", "1", "0", "\u{85}", "\u{1f}",
        ];
        let mut dice = fastrand::Rng::with_seed(20_261_120);
        for _ in 0..2000 {
            let cells: Vec<String> = (0..dice.usize(1..6))
                .map(|_| (0..dice.usize(0..8)).map(|_| PIECES[dice.usize(..24)]).collect())
                .collect();
            let columns: Vec<_> = cells.iter().map(|name| query(name, ColumnForm::Text)).collect();
            for profile in PROFILES {
                let layout =
                    Layout::with_columns(&config(profile, Formulas::Keep), columns.clone());
                let values: Vec<_> = cells.iter().map(|cell| Some(cell.as_str())).collect();
                let file = [layout.header(), layout.row(&values).unwrap()].concat();
                let separator = if profile == Profile::ExcelDe { b';' } else { b',' };
                let mut reader = csv::ReaderBuilder::new();
                let reader = reader.has_headers(false).delimiter(separator);
                let rows = reader.from_reader(&*file).into_records();
                let rows: Vec<Vec<String>> =
                    rows.map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
                assert_eq!(rows, [cells.clone(), cells.clone()], "{profile:?}");
            }
        }
    }
}
