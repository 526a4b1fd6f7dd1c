//! `columns` of a csv sink and of an export: which values stand in a file, and in which order.

use std::collections::BTreeSet;

use super::item::{Item, quote};
use super::read::Section;

/// One column of a CSV sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The header.
    pub name: String,
    /// Where the value stands.
    pub value: ValuePath,
    /// What the value is. Default text.
    pub form: ColumnForm,
}

/// Where a column's value stands in a message, or in a row of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePath {
    /// `id`
    Id,
    /// `type`
    Type,
    /// `key`
    Key,
    /// `created_at`
    CreatedAt,
    /// `headers.NAME`
    Header(String),
    /// `payload.a.b`: one step per dot.
    Payload(Vec<String>),
    /// Of an export: the name of a column of its query.
    Query(String),
}

/// What a column's value must be. Of a message whose value is something else no line is made, and it is
/// dead with that reason; a row of a query keeps its file from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnForm {
    /// `text`: any scalar. Text is guarded against being taken for a formula; what is no text is written as
    /// what it is.
    Text,
    /// `integer`: a whole number, digits kept.
    Integer,
    /// `decimal`: a number in plain digits, which are kept; never NaN or infinite.
    Decimal,
    /// `boolean`: true or false.
    Boolean,
    /// `date`: a day; of an instant the one that the clock of the cut shows.
    Date,
    /// `timestamp`: an instant, in ISO 8601; or a time without an offset, which stays one.
    Timestamp,
    /// `json`: whatever it is, as JSON text.
    Json,
}

const COLUMNS_MAX: usize = 1_000;

const FORMS: [(&str, ColumnForm); 7] = [
    ("text", ColumnForm::Text),
    ("integer", ColumnForm::Integer),
    ("decimal", ColumnForm::Decimal),
    ("boolean", ColumnForm::Boolean),
    ("date", ColumnForm::Date),
    ("timestamp", ColumnForm::Timestamp),
    ("json", ColumnForm::Json),
];

/// Reads columns whose values stand in messages.
pub(super) fn of_messages(item: &Item) -> Option<Vec<Column>> {
    columns(item, |section, _| {
        let item = section.need("value", "write e.g. value = \"payload.order_id\"")?;
        in_message(&item)
    })
}

/// Reads columns whose values stand in the columns of a query, by default in those of their names.
pub(super) fn of_query(item: &Item) -> Option<Vec<Column>> {
    columns(item, |section, name| {
        let value = section.get("value").map(|item| in_query(&item));
        value.unwrap_or_else(|| name.map(|name| ValuePath::Query(name.to_owned())))
    })
}

/// `value` reads where a value stands; it is given the column's name.
fn columns(
    item: &Item,
    value: impl Fn(&mut Section, Option<&str>) -> Option<ValuePath>,
) -> Option<Vec<Column>> {
    let items = item.list()?;
    if items.is_empty() || items.len() > COLUMNS_MAX {
        item.fault(format!("has {} columns", items.len()), format!("1 to {COLUMNS_MAX}"));
        return None;
    }
    let mut names = BTreeSet::new();
    let mut columns = Vec::new();
    for item in &items {
        let Some(column) = column(item, &value) else { continue };
        if !names.insert(column.name.clone()) {
            let problem = format!("the name {} is there twice", quote(&column.name));
            item.fault(problem, "names of columns differ");
        }
        columns.push(column);
    }
    (columns.len() == items.len()).then_some(columns)
}

fn column(
    item: &Item,
    value: impl Fn(&mut Section, Option<&str>) -> Option<ValuePath>,
) -> Option<Column> {
    let mut section = item.section()?;
    let name = section.need("name", "it is the header").and_then(|item| {
        let name = item.text()?;
        if name.is_empty() {
            item.fault("is empty", "it is the header");
        }
        Some(name)
    });
    let value = value(&mut section, name.as_deref());
    let form = section.get("as").and_then(|item| item.choice(&FORMS));
    section.close();
    Some(Column { name: name?, value: value?, form: form.unwrap_or(ColumnForm::Text) })
}

fn in_message(item: &Item) -> Option<ValuePath> {
    let text = item.text()?;
    let steps = |path: &str| -> Option<Vec<String>> {
        path.split('.').map(|step| (!step.is_empty()).then(|| step.to_owned())).collect()
    };
    let value = match text.as_str() {
        "id" => Some(ValuePath::Id),
        "type" => Some(ValuePath::Type),
        "key" => Some(ValuePath::Key),
        "created_at" => Some(ValuePath::CreatedAt),
        _ => match text.split_once('.') {
            Some(("headers", name)) if !name.is_empty() => Some(ValuePath::Header(name.to_owned())),
            Some(("payload", path)) => steps(path).map(ValuePath::Payload),
            _ => None,
        },
    };
    if value.is_none() {
        let remedy = "use id, type, key, created_at, headers.NAME or payload.a.b";
        item.fault(format!("{} is no place in a message", item.shown()), remedy);
    }
    value
}

fn in_query(item: &Item) -> Option<ValuePath> {
    let text = item.text()?;
    if text.is_empty() || text.starts_with("payload.") || text.starts_with("headers.") {
        let problem = format!("{} is no column of a query", item.shown());
        item.fault(problem, "write a column's name; without value it is that of the header");
        return None;
    }
    Some(ValuePath::Query(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Way;
    use crate::config::testing::{refuses_each, sink};

    const HEAD: &str = "kind = \"csv\"\npath = \"out/f-{{ period }}.csv\"\n\
                        columns = [{ name = \"id\", value = \"id\" }]\nevery = \"1h\"\n";

    #[test]
    fn columns_say_where_the_value_stands_and_what_it_is() {
        let columns = r#"[{ name = "a", value = "payload.x.y", as = "decimal" },
            { name = "b", value = "headers.lang" }, { name = "c", value = "created_at" }]"#;
        let csv = sink(&HEAD.replace("[{ name = \"id\", value = \"id\" }]", columns));
        let Way::Csv(csv) = csv.way else { panic!("not csv") };
        let read: Vec<_> = csv.columns.into_iter().map(|c| (c.value, c.form)).collect();
        let path = ValuePath::Payload(vec!["x".to_owned(), "y".to_owned()]);
        assert_eq!(
            read,
            [
                (path, ColumnForm::Decimal),
                (ValuePath::Header("lang".to_owned()), ColumnForm::Text),
                (ValuePath::CreatedAt, ColumnForm::Text)
            ]
        );
    }

    fn check(changes: &[(&str, &str)]) {
        refuses_each("[sinks.a]\n", "sinks.a", HEAD, changes);
    }

    #[test]
    fn faults_of_the_columns() {
        let place = "use id, type, key, created_at, headers.NAME or payload.a.b";
        let column = |text: &str| format!("columns = [{{ {text} }}]");
        check(&[
            (
                "columns",
                "1: columns: is missing; \
                 write columns = [{ name = \"order_id\", value = \"payload.order_id\" }]",
            ),
            ("columns = []", "5: columns: has 0 columns; 1 to 1000"),
            ("columns = [\"id\"]", "5: columns[0]: is a string; write a table"),
            (&column("value = \"id\""), "5: columns[0].name: is missing; it is the header"),
            (
                &column("name = \"\", value = \"id\""),
                "5: columns[0].name: is empty; it is the header",
            ),
            (
                &column("name = \"a\""),
                "5: columns[0].value: is missing; write e.g. value = \"payload.order_id\"",
            ),
            (
                &column("name = \"a\", value = \"payload\""),
                &format!("5: columns[0].value: \"payload\" is no place in a message; {place}"),
            ),
            (
                &column("name = \"a\", value = \"payload.a..b\""),
                &format!("5: columns[0].value: \"payload.a..b\" is no place in a message; {place}"),
            ),
            (
                &column("name = \"a\", value = \"id\", as = \"int\""),
                "5: columns[0].as: \"int\" is unknown; \
                 use \"text\", \"integer\", \"decimal\", \"boolean\", \"date\", \
                 \"timestamp\", \"json\"",
            ),
            (
                &column("name = \"a\", value = \"id\", az = \"text\""),
                "5: columns[0].az: is unknown; did you mean as?",
            ),
            (
                &column("name = \"a\", value = \"id\" }, { name = \"a\", value = \"key\""),
                "5: columns[1]: the name \"a\" is there twice; names of columns differ",
            ),
        ]);
    }
}
