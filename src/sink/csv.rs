//! CSV: the rows of a file and how it is published.
//!
//! Lines are those of RFC 4180: CRLF, quotes doubled. A NULL is an empty field, an empty text is `""`,
//! as COPY has it; pandas and others read both as missing. Numbers keep the digits PostgreSQL gave.

mod file;
mod form;
mod line;
mod value;

use std::borrow::Cow;

pub use self::file::{Content, CsvFile, Finished, PublishError, path};
use self::form::Style;
use self::line::Field;
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
        let fields = self.columns.iter().map(|c| self.field(c, source.find(&c.value)));
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
            self.field(column, value)
        });
        Ok(self.join(fields.collect::<Result<Vec<_>, _>>()?.into_iter()))
    }

    fn field<'v>(&self, column: &Column, value: Option<Value<'v>>) -> Result<Field<'v>, String> {
        let field = self.style.field(column.form, value);
        field.map_err(|what| format!("column {}: {what}", column.name))
    }

    fn join<'v>(&self, fields: impl Iterator<Item = Field<'v>>) -> Vec<u8> {
        line::line(fields, self.style.separator(), self.style.quoting())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::{Cut, ValuePath};

    fn column(name: &str, value: ValuePath, form: ColumnForm) -> Column {
        Column { name: name.to_owned(), value, form }
    }

    fn layout(columns: &[Column]) -> Layout<'static> {
        let cut = Cut { every: None, max_rows: None };
        let config = CsvConfig::new("out".into(), ("", ".csv"), Vec::new(), cut);
        Layout::with_columns(&config, columns.to_vec())
    }

    fn payload(path: &str, form: ColumnForm) -> Column {
        column(path, ValuePath::Payload(path.split('.').map(str::to_owned).collect()), form)
    }

    fn row(columns: &[Column], payload: &str) -> Result<String, String> {
        let message = Message {
            id: 42,
            message_type: "order.created".to_owned(),
            payload: payload.to_owned(),
            key: Some("+key".to_owned()),
            headers: [("lang".to_owned(), "de".to_owned())].into(),
            created_at: "2026-11-20T10:15:30Z".parse().unwrap(),
        };
        layout(columns).line(&message).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn one(form: ColumnForm, value: &str) -> Result<String, String> {
        let columns = [payload("v", form), column("id", ValuePath::Id, ColumnForm::Integer)];
        let line = row(&columns, &format!(r#"{{"v": {value}}}"#))?;
        Ok(line.strip_suffix(",42\r\n").unwrap().to_owned())
    }

    #[test]
    fn every_place_of_a_message_can_be_a_column() {
        let text = ColumnForm::Text;
        let columns = [
            column("id", ValuePath::Id, ColumnForm::Integer),
            column("type", ValuePath::Type, text),
            column("key", ValuePath::Key, text),
            column("at", ValuePath::CreatedAt, text),
            column("lang", ValuePath::Header("lang".to_owned()), text),
            column("none", ValuePath::Header("none".to_owned()), text),
            payload("a.b", text),
            payload("a.c.d", text),
        ];
        let line = row(&columns, r#"{"a": {"b": "x", "c": 1}}"#).unwrap();
        assert_eq!(line, "42,order.created,'+key,2026-11-20T10:15:30Z,de,,x,\r\n");
        let header = String::from_utf8(layout(&columns).header()).unwrap();
        assert_eq!(header, "id,type,key,at,lang,none,a.b,a.c.d\r\n");
    }

    #[test]
    fn numbers_keep_their_digits_and_are_not_guarded() {
        let digits = "-12345678901234567890123456789.0000000010";
        assert_eq!(one(ColumnForm::Decimal, digits).unwrap(), digits);
        assert_eq!(one(ColumnForm::Text, "-5").unwrap(), "-5");
        assert_eq!(one(ColumnForm::Integer, "9223372036854775808").unwrap(), "9223372036854775808");
        // As frameworks write decimals into JSON.
        assert_eq!(one(ColumnForm::Decimal, r#""19.90""#).unwrap(), "19.90");
        assert_eq!(one(ColumnForm::Text, r#""00123""#).unwrap(), "00123");
        assert_eq!(one(ColumnForm::Boolean, "true").unwrap(), "true");
    }

    #[test]
    fn text_is_quoted_where_a_reader_could_go_wrong() {
        let text = |value: &str| one(ColumnForm::Text, &Value::from(value).to_string()).unwrap();
        for (value, field) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\rb", "\"a\rb\""),
            ("a\nb", "\"a\nb\""),
            (" a", "\" a\""),
            ("a ", "\"a \""),
            ("\u{a0}a", "\"\u{a0}a\""),
            ("", "\"\""),
            ("\\.", "\"\\.\""),
        ] {
            assert_eq!(text(value), field);
        }
        assert_eq!(one(ColumnForm::Text, "null").unwrap(), "");
    }

    #[test]
    fn text_that_looks_like_a_formula_is_guarded() {
        for start in ["=", "+", "-", "@", "\t", "\r", "\n", "\u{ff1d}", "\u{ff20}"] {
            let value = Value::from(format!("{start}1")).to_string();
            let field = one(ColumnForm::Text, &value).unwrap();
            assert!(field.trim_start_matches('"').starts_with('\''), "{field}");
        }
    }

    #[test]
    fn a_single_null_is_not_a_blank_line() {
        assert_eq!(row(&[payload("v", ColumnForm::Text)], "{}").unwrap(), "\"\"\r\n");
        assert_eq!(row(&[payload("v", ColumnForm::Integer)], "{}").unwrap(), "\"\"\r\n");
    }

    #[test]
    fn what_does_not_fit_names_the_column_and_not_the_value() {
        for (form, value) in [
            (ColumnForm::Text, r#"["secret"]"#),
            (ColumnForm::Text, r#"{"secret": 1}"#),
            (ColumnForm::Integer, r#""secret""#),
            (ColumnForm::Integer, "1.5"),
            (ColumnForm::Integer, r#""""#),
            (ColumnForm::Integer, "true"),
            (ColumnForm::Decimal, r#""1e5""#),
            (ColumnForm::Decimal, r#"" 1""#),
            (ColumnForm::Decimal, r#""1.""#),
            (ColumnForm::Boolean, "1"),
            (ColumnForm::Boolean, r#""yes""#),
        ] {
            let error = one(form, value).unwrap_err();
            assert!(error.starts_with("column v: ") && !error.contains("secret"), "{error}");
        }
    }
}
