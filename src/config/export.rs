//! `[exports.NAME]`: a csv sink's files, with rows from a query.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::Section;
use super::sink::Kinds;
use super::{CsvConfig, Cut, calendar, column, csv, query};

/// What the rows of a file are.
#[derive(Debug, PartialEq, Eq)]
pub enum Rows {
    /// The messages that are routed to the sink.
    Messages,
    /// The answer of a query.
    Query(ExportQuery),
}

impl Rows {
    /// How long after the cut the file is made: rows that settle late are waited for.
    #[must_use]
    pub fn settle_after(&self) -> Duration {
        match self {
            Rows::Messages => Duration::ZERO,
            Rows::Query(query) => query.settle_after,
        }
    }
}

/// `query` or `query_file` of an export.
#[derive(Debug, PartialEq, Eq)]
pub struct ExportQuery {
    /// One SELECT without a semicolon; `$1` and `$2` are the bounds of the period, closed and open,
    /// timestamptz.
    pub sql: String,
    /// Longest the statement may run. Default 10 min; 1 s to 6 h.
    pub timeout: Duration,
    /// How long after the cut the query is run: what commits meanwhile is still in the file. Default
    /// none, up to 24 h.
    pub settle_after: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(10 * 60);
const TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(6 * 3600);
const SETTLE_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

/// Reads an export.
pub(super) fn read(section: &mut Section, name: &str, kinds: &Kinds) -> Option<CsvConfig> {
    let sql = query::read(section);
    if !query::is_written(section) {
        section.missing("query", "write query_file = \"sql/NAME.sql\" or query = \"SELECT …\"");
    }
    let timeout = section.duration("timeout", TIMEOUT, TIMEOUT_RANGE);
    let settle_after = section.duration("settle_after", Duration::ZERO, SETTLE_RANGE);
    let every = section
        .need("every", "write { at = \"01:00\", time_zone = \"Europe/Vienna\" } or \"1h\"")
        .and_then(|item| calendar::read(&item));
    let columns = match section.get("columns") {
        Some(item) => column::of_query(&item),
        None => Some(Vec::new()),
    };
    let cut = every.map(|every| Cut { every: Some(every), max_rows: None });
    let files = csv::files(section, name, kinds, columns, cut);
    let query = ExportQuery { sql: sql?, timeout, settle_after };
    Some(CsvConfig { rows: Rows::Query(query), ..files? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses, refuses_each};
    use crate::config::{ColumnForm, Empty, MailCatchUp, ValuePath, Way};

    const MAIL: &str = "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtps://m.example\"\n\
                        from = \"a@b.example\"\n";
    const EXPORT: &str = "path = \"out/l-{{ period }}.csv\"\nquery = \"SELECT 1 AS id;\"\n\
                          every = { at = \"01:00\", time_zone = \"Europe/Vienna\" }\n";

    fn one(text: &str) -> CsvConfig {
        let config = parse(&format!("{MAIL}[exports.ledger]\n{EXPORT}{text}")).unwrap();
        let sink = config.sinks.into_values().find(|sink| sink.name.as_str() == "ledger");
        let Way::Csv(csv) = sink.unwrap().way else { panic!("not csv") };
        *csv
    }

    #[test]
    fn an_export_is_a_csv_sink_whose_rows_come_from_a_query() {
        let plain = one("");
        let query = ExportQuery {
            sql: "SELECT 1 AS id".to_owned(),
            timeout: TIMEOUT,
            settle_after: Duration::ZERO,
        };
        assert_eq!((&plain.rows, plain.kind()), (&Rows::Query(query), "export"));
        assert_eq!((plain.columns.len(), plain.empty), (0, Empty::Header));
        assert_eq!(plain.cut.every.unwrap().words(), "at 01:00 Europe/Vienna");
        let other = one("timeout = \"1h\"\nsettle_after = \"10m\"\n\
             columns = [{ name = \"id\", as = \"json\" }, { name = \"b\", value = \"Sum of b\" }]\n\
             [exports.ledger.mail]\nsink = \"mail\"\nto = [\"a@b.example\"]\n\
             subject = \"Ledger of {{ period }}\"\ntext = \"{{ files[0].sha256 }}\"\n\
             catch_up = \"each\"\nmax_size = \"5MB\"\n");
        let Rows::Query(query) = other.rows else { panic!("no query") };
        assert_eq!((query.timeout.as_secs(), query.settle_after.as_secs()), (3600, 600));
        let columns: Vec<_> = other.columns.into_iter().map(|c| (c.value, c.form)).collect();
        let value = |name: &str| ValuePath::Query(name.to_owned());
        assert_eq!(
            columns,
            [(value("id"), ColumnForm::Json), (value("Sum of b"), ColumnForm::Text)]
        );
        let mail = other.mail.unwrap();
        assert_eq!((mail.sink.as_str(), mail.to.len(), mail.text.is_some()), ("mail", 1, true));
        assert_eq!((mail.catch_up, mail.max_bytes), (MailCatchUp::Each, 5 * 1024 * 1024));
    }
    #[test]
    fn faults_of_exports() {
        let span =
            "path = \"out/l-{{ period }}.csv\"\nquery = \"SELECT 1 AS id\"\nevery = \"1h\"\n";
        refuses_each(
            "[exports.ledger]\n",
            "exports.ledger",
            span,
            &[
                (
                    "query",
                    "1: query: is missing; \
                     write query_file = \"sql/NAME.sql\" or query = \"SELECT …\"",
                ),
                ("path", "1: path: is missing; write path = \"exports/orders-{{ period }}.csv\""),
                (
                    "every",
                    "1: every: is missing; \
                     write { at = \"01:00\", time_zone = \"Europe/Vienna\" } or \"1h\"",
                ),
                ("kind = \"csv\"", "5: kind: does nothing for an export; remove it"),
                (
                    "max_rows = 5",
                    "5: max_rows: does nothing for an export: its files are cut by the calendar; \
                     remove it",
                ),
                ("concurrency = 1", "5: concurrency: does nothing for an export; remove it"),
                ("timeout = \"7h\"", "5: timeout: \"7h\" is out of range; 1s to 6h"),
                ("settle_after = \"25h\"", "5: settle_after: \"25h\" is out of range; 0s to 1d"),
                ("columns = []", "5: columns: has 0 columns; 1 to 1000"),
                (
                    "columns = [{ name = \"a\", value = \"payload.a\" }]",
                    "5: columns[0].value: \"payload.a\" is no column of a query; \
                     write a column's name; without value it is that of the header",
                ),
                (
                    "profile = \"tsv\"",
                    "5: profile: \"tsv\" is unknown; \
                  use \"machine\", \"excel\", \"excel-de\"",
                ),
                ("formulas = true", "5: formulas: is a boolean; write a string"),
                ("empty = \"file\"", "5: empty: \"file\" is unknown; use \"header\", \"skip\""),
                ("sidecar = \"yes\"", "5: sidecar: is a string; write true or false"),
                ("late_after = \"0s\"", "5: late_after: \"0s\" is out of range; 1s to 30d"),
            ],
        );
    }

    #[test]
    fn exports_and_sinks_share_names_and_files() {
        let csv = "[sinks.ledger]\nkind = \"csv\"\npath = \"./out/l-{{period}}.csv\"\n\
                   columns = [{ name = \"id\", value = \"id\" }]\nevery = \"1h\"\n";
        refuses(
            &format!("{csv}[exports.ledger]\n{EXPORT}"),
            &[
                "outboxd.toml:6: exports.ledger: sinks.ledger has that name; \
                 give one of the two another",
                "outboxd.toml:7: exports.ledger.path: sinks.ledger writes the same files; \
                 give each csv sink and export a path of its own",
            ],
        );
        refuses(
            &format!("[exports.ledger]\n{EXPORT}[exports.other]\n{EXPORT}"),
            &["outboxd.toml:6: exports.other.path: exports.ledger writes the same files; \
               give each csv sink and export a path of its own"],
        );
        refuses(
            &format!("[exports.ledger]\n{EXPORT}[[routes]]\ntype = \"a\"\nsink = \"ledger\"\n"),
            &["outboxd.toml:7: routes[0].sink: \"ledger\" is an export, whose rows come from its \
               query; name a sink; of kind \"csv\" for files of messages"],
        );
        for name in ["help", "list", "run"] {
            let told = format!(
                "outboxd.toml:1: exports.{name}: is a word of the command outboxd export; \
                 give it another name"
            );
            refuses(&format!("[exports.{name}]\n{EXPORT}"), &[&told]);
            let (told, csv) = (told.replace("exports.", "sinks."), csv.replace("ledger", name));
            refuses(&csv, &[&told]);
        }
        refuses("[exports]\na = 3\n", &["outboxd.toml:2: exports.a: is an integer; write a table"]);
    }
}
