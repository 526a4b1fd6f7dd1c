//! `kind = "csv"`: where the files go, what stands in them and when they are cut.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::item::{Item, quote};
use super::read::Section;
use super::{Column, ColumnForm, CsvConfig, Cut, ValuePath};
use crate::calendar::Calendar;

const DAY: Duration = Duration::from_secs(24 * 3600);
const ROWS_MAX: usize = 10_000_000;
const COLUMNS_MAX: usize = 1_000;
const PERIOD: &str = "{{ period }}";

const FORMS: [(&str, ColumnForm); 4] = [
    ("text", ColumnForm::Text),
    ("integer", ColumnForm::Integer),
    ("decimal", ColumnForm::Decimal),
    ("boolean", ColumnForm::Boolean),
];

impl CsvConfig {
    /// Directory and file name with the period left open: equal for sinks that would write the
    /// same files.
    pub(super) fn path(&self) -> PathBuf {
        let path = self.directory.join(format!("{}{PERIOD}{}", self.name_head, self.name_tail));
        path.components().filter(|step| *step != Component::CurDir).collect()
    }
}

/// Reads the csv part of a sink.
pub(super) fn read(section: &mut Section) -> Option<CsvConfig> {
    let path = section
        .need("path", "write path = \"exports/orders-{{ period }}.csv\"")
        .and_then(|item| path(&item));
    let columns = section
        .need("columns", "write columns = [{ name = \"order_id\", value = \"payload.order_id\" }]")
        .and_then(|item| columns(&item));
    let cut = cut(section);
    let (directory, name_head, name_tail) = path?;
    Some(CsvConfig::new(directory, (&name_head, &name_tail), columns?, cut?))
}

/// Directory, and the file's name before and after the period.
fn path(item: &Item) -> Option<(PathBuf, String, String)> {
    let text = item.text()?;
    let form = "write it like exports/orders-{{ period }}.csv";
    // `{{period}}` with more or fewer blanks is the same.
    let mut spaced = String::new();
    for (index, part) in text.split("{{").enumerate() {
        match part.split_once("}}") {
            Some((inner, after)) if index > 0 && inner.trim() == "period" => {
                spaced.push_str(PERIOD);
                spaced.push_str(after);
            }
            _ if index == 0 => spaced.push_str(part),
            _ => {
                item.fault("knows no placeholder but {{ period }}", form);
                return None;
            }
        }
    }
    let whole = Path::new(&spaced);
    let (directory, name) = match (whole.parent(), whole.file_name()) {
        (Some(directory), Some(name)) if !spaced.ends_with('/') => (directory, name),
        _ => {
            item.fault("names no file", form);
            return None;
        }
    };
    let name = name.to_string_lossy();
    let parts: Vec<&str> = name.split(PERIOD).collect();
    let [head, tail] = parts[..] else {
        let count = parts.len() - 1;
        item.fault(format!("has {{{{ period }}}} {count} times in its file name"), "once is right");
        return None;
    };
    if directory.to_string_lossy().contains(PERIOD) {
        item.fault("has {{ period }} in its directory", "it stands in the file name only");
        return None;
    }
    Some((item.source.directory.join(directory), head.to_owned(), tail.to_owned()))
}

fn columns(item: &Item) -> Option<Vec<Column>> {
    let items = item.list()?;
    if items.is_empty() || items.len() > COLUMNS_MAX {
        item.fault(format!("has {} columns", items.len()), format!("1 to {COLUMNS_MAX}"));
        return None;
    }
    let mut names = BTreeSet::new();
    let mut columns = Vec::new();
    for item in &items {
        let Some(column) = column(item) else { continue };
        if !names.insert(column.name.clone()) {
            let problem = format!("the name {} is there twice", quote(&column.name));
            item.fault(problem, "names of columns differ");
        }
        columns.push(column);
    }
    (columns.len() == items.len()).then_some(columns)
}

fn column(item: &Item) -> Option<Column> {
    let mut section = item.section()?;
    let name = section.need("name", "it is the header").and_then(|item| {
        let name = item.text()?;
        if name.is_empty() {
            item.fault("is empty", "it is the header");
        }
        Some(name)
    });
    let value = section
        .need("value", "write e.g. value = \"payload.order_id\"")
        .and_then(|item| value(&item));
    let form = section.get("as").and_then(|item| item.choice(&FORMS));
    section.close();
    Some(Column { name: name?, value: value?, form: form.unwrap_or(ColumnForm::Text) })
}

fn value(item: &Item) -> Option<ValuePath> {
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

fn cut(section: &mut Section) -> Option<Cut> {
    let every = section.get("every");
    let max_rows = section.get("max_rows");
    if every.is_none() && max_rows.is_none() {
        section.missing("every", "write every = \"1h\" or max_rows = 10000, or both");
        return None;
    }
    let span = every.as_ref().map(span);
    let rows = max_rows.map(|item| item.count(1..=ROWS_MAX));
    let max_rows = match rows {
        Some(rows) => Some(NonZeroUsize::new(rows?)?),
        None => None,
    };
    let every = match span {
        Some(span) => Some(Calendar::Span(span?)),
        None => None,
    };
    Some(Cut { every, max_rows })
}

fn span(item: &Item) -> Option<Duration> {
    if item.is_table() {
        item.fault("with a time of day is not there yet", "write a span, e.g. every = \"24h\"");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sink::PACE_KEYS;
    use crate::config::testing::{parse_in, refuses, refuses_each};
    use crate::config::{Way, policy};

    const HEAD: &str = "kind = \"csv\"\npath = \"out/f-{{ period }}.csv\"\n\
                        columns = [{ name = \"id\", value = \"id\" }]\nevery = \"1h\"\n";

    fn one(text: &str) -> CsvConfig {
        let text = format!("[sinks.a]\n{text}");
        let config = parse_in(Path::new("/etc/outboxd"), &text).unwrap();
        let Way::Csv(csv) = config.sinks.into_values().next().unwrap().way else {
            panic!("not csv")
        };
        *csv
    }

    #[test]
    fn the_path_is_split_at_the_period() {
        for (path, directory, head, tail) in [
            ("out/f-{{ period }}.csv", "/etc/outboxd/out", "f-", ".csv"),
            ("{{period}}", "/etc/outboxd/", "", ""),
            ("/srv/x/{{  period }}.csv", "/srv/x", "", ".csv"),
        ] {
            let csv = one(&HEAD.replace("out/f-{{ period }}.csv", path));
            assert_eq!(csv.directory, Path::new(directory), "{path}");
            assert_eq!((&*csv.name_head, &*csv.name_tail), (head, tail), "{path}");
        }
    }

    #[test]
    fn columns_say_where_the_value_stands_and_what_it_is() {
        let columns = r#"[{ name = "a", value = "payload.x.y", as = "decimal" },
            { name = "b", value = "headers.lang" }, { name = "c", value = "created_at" }]"#;
        let csv = one(&HEAD.replace("[{ name = \"id\", value = \"id\" }]", columns));
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

    #[test]
    fn a_file_is_cut_by_time_by_rows_or_by_both() {
        let hour = Some(Calendar::Span(Duration::from_secs(3600)));
        let rows = NonZeroUsize::new(500);
        assert_eq!(one(HEAD).cut, Cut { every: hour.clone(), max_rows: None });
        let both = format!("{HEAD}max_rows = 500\n");
        assert_eq!(one(&both).cut, Cut { every: hour, max_rows: rows });
        let only = both.replace("every = \"1h\"\n", "");
        assert_eq!(one(&only).cut, Cut { every: None, max_rows: rows });
    }

    #[test]
    fn two_sinks_never_write_the_same_files() {
        let other = HEAD.replace("out/f-{{ period }}", "./out/f-{{period}}");
        refuses(
            &format!("[sinks.b]\n{HEAD}[sinks.a]\n{other}"),
            &["outboxd.toml:8: sinks.a.path: sinks.b writes the same files; \
               give each csv sink a path of its own"],
        );
    }

    fn check(changes: &[(&str, &str)]) {
        refuses_each("[sinks.a]\n", "sinks.a", HEAD, changes);
    }

    #[test]
    fn faults_of_the_path_and_of_the_cut() {
        let form = "write it like exports/orders-{{ period }}.csv";
        let divide = "use e.g. \"1m\", \"15m\", \"1h\" or \"24h\"";
        check(&[
            ("path", "1: path: is missing; write path = \"exports/orders-{{ period }}.csv\""),
            (
                "path = \"a.csv\"",
                "5: path: has {{ period }} 0 times in its file name; once is right",
            ),
            (
                "path = \"{{ period }}-{{ period }}\"",
                "5: path: has {{ period }} 2 times in its file name; once is right",
            ),
            (
                "path = \"{{ period }}/{{ period }}\"",
                "5: path: has {{ period }} in its directory; it stands in the file name only",
            ),
            (
                "path = \"{{ day }}.csv\"",
                &format!("5: path: knows no placeholder but {{{{ period }}}}; {form}"),
            ),
            ("path = \"a/{{ period }}/\"", &format!("5: path: names no file; {form}")),
            ("every", "1: every: is missing; write every = \"1h\" or max_rows = 10000, or both"),
            (
                "every = { at = \"01:00\" }",
                "5: every: with a time of day is not there yet; \
                 write a span, e.g. every = \"24h\"",
            ),
            (
                "every = \"7m\"",
                &format!(
                    "5: every: \"7m\" does not divide a day; spans count from midnight: {divide}"
                ),
            ),
            ("every = \"2d\"", "5: every: \"2d\" is out of range; 1s to 1d"),
            ("max_rows = 0", "6: max_rows: 0 is out of range; 1 to 10000000"),
            ("concurrency = 1", "6: concurrency: does nothing for a csv sink; remove it"),
            ("timeout = \"1s\"", "6: timeout: does nothing for a csv sink; remove it"),
            ("mail = { }", "6: mail: is not there yet; remove it"),
        ]);
        for key in policy::KEYS.into_iter().chain(PACE_KEYS) {
            let line = format!("{key} = 1");
            check(&[(&line, &format!("6: {key}: does nothing for a csv sink; remove it"))]);
        }
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
                 use \"text\", \"integer\", \"decimal\", \"boolean\"",
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
