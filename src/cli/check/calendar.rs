//! What `outboxd check` says of schedules, cuts and their queries.

use jiff::{Span, Timestamp};
use tokio_postgres::types::{Kind, Type};

use crate::calendar::{Calendar, Tick};
use crate::cli::finding::{Finding, Found};
use crate::cli::outside::thing;
use crate::config::{
    Column, ColumnForm, Config, CsvConfig, Rows, ScheduleConfig, SinkConfig, ValuePath, Way,
};
use crate::store::Link;
use crate::store::query::{QueryColumn, describe};
use crate::store::schedule::faults;

/// Ticks that are told of.
const NEXT_SHOWN: usize = 3;

/// What the config alone tells: when each comes, and whether anybody takes its messages.
pub(super) fn plans(config: &Config, now: Timestamp) -> Vec<Finding> {
    let mut lines = Vec::new();
    for schedule in config.schedules.values() {
        let thing = format!("schedule {}", schedule.name);
        lines.push(Finding::new(thing.clone(), next_runs(schedule, now)));
        let kind = &schedule.message_type;
        if !config.routes.iter().any(|route| route.pattern.matches(kind)) {
            let words = format!(
                "no route takes {kind}: its messages will wait as unrouted; \
                 add one, or one with sink = [] for nowhere"
            );
            lines.push(Finding::of(thing, Found::Doubt(words)));
        }
    }
    for (sink, csv) in files(config) {
        if let Some(every) = &csv.cut.every {
            lines.push(Finding::new(thing(sink), next_file(csv, every, now)));
        }
    }
    lines
}

/// What the database says of each query; it is asked for the columns only.
pub(super) async fn queries(config: &Config, link: &Link) -> Vec<Finding> {
    let mut lines = Vec::new();
    for schedule in config.schedules.values() {
        if let Some(query) = &schedule.query {
            let found = match describe(link, &query.sql).await {
                Ok(columns) => of_messages(&columns),
                Err(error) => Found::Wrong(format!("its query: {error}")),
            };
            lines.push(Finding::of(format!("schedule {}", schedule.name), found));
        }
    }
    for (sink, csv) in files(config) {
        if let Rows::Query(query) = &csv.rows {
            let found = match describe(link, &query.sql).await {
                Ok(columns) => with_bounds(&query.sql, of_files(&csv.columns, &columns)),
                Err(error) => Found::Wrong(format!("its query: {error}")),
            };
            lines.push(Finding::of(thing(sink), found));
        }
    }
    lines
}

fn files(config: &Config) -> impl Iterator<Item = (&SinkConfig, &CsvConfig)> {
    config.sinks.values().filter_map(|sink| match &sink.way {
        Way::Csv(csv) => Some((sink, csv.as_ref())),
        Way::Webhook(_) | Way::Smtp(_) => None,
    })
}

fn next_runs(schedule: &ScheduleConfig, now: Timestamp) -> Result<String, String> {
    let begin = schedule.valid_from.and_then(|at| at.checked_sub(Span::new().nanoseconds(1)).ok());
    let mut after = begin.map_or(now, |begin| begin.max(now));
    let mut shown = Vec::new();
    while let Some(tick) = schedule.every.next(after).filter(|_| shown.len() < NEXT_SHOWN) {
        shown.push(instant(&schedule.every, &tick));
        after = tick.at;
    }
    let words = schedule.every.words();
    if shown.is_empty() {
        return Err(format!("{words}: never comes again; change every"));
    }
    Ok(format!("{words}; next {}", shown.join(", ")))
}

fn next_file(csv: &CsvConfig, every: &Calendar, now: Timestamp) -> Result<String, String> {
    let words = every.words();
    let tick = every.next(now).ok_or(format!("{words}: never comes again; change every"))?;
    let (head, tail) = (&csv.name_head, &csv.name_tail);
    let (name, at) = (every.file_period(&tick), instant(every, &tick));
    Ok(format!("{words}; next {head}{name}{tail} at {at}"))
}

/// On the calendar's clock, with its offset.
fn instant(calendar: &Calendar, tick: &Tick) -> String {
    let local = tick.at.to_zoned(calendar.zone());
    let form = if local.second() == 0 { "%Y-%m-%d %H:%M%:z" } else { "%Y-%m-%d %H:%M:%S%:z" };
    local.strftime(form).to_string()
}

/// Whether messages can be made of a query's rows.
fn of_messages(columns: &[QueryColumn]) -> Found {
    let wrong = faults(columns);
    if wrong.is_empty() { answers(columns) } else { Found::Wrong(wrong.join("; ")) }
}

/// Whether the columns of a file can be filled from a query's.
fn of_files(wanted: &[Column], columns: &[QueryColumn]) -> Found {
    let (mut wrong, mut doubt) = (twice(columns), Vec::new());
    for column in wanted {
        let ValuePath::Query(source) = &column.value else { continue };
        match columns.iter().find(|found| found.name == *source) {
            None => {
                let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                let names = names.join(", ");
                wrong.push(format!("its query answers no {source}; it answers {names}"));
            }
            Some(found) if !fits(column.form, base(&found.kind)) => doubt.push(format!(
                "column {} is {} in the query: a row whose value is no {} fails the file; cast it \
                 there",
                column.name,
                found.kind,
                word(column.form)
            )),
            Some(_) => {}
        }
    }
    match (wrong.is_empty(), doubt.is_empty()) {
        (false, _) => Found::Wrong(wrong.join("; ")),
        (true, false) => Found::Doubt(doubt.join("; ")),
        (true, true) => answers(columns),
    }
}

/// What a query without the bounds of its period means, which may be meant.
fn with_bounds(sql: &str, found: Found) -> Found {
    let Found::Good(words) = found else { return found };
    let what = match (sql.contains("$1"), sql.contains("$2")) {
        (true, true) => return Found::Good(words),
        (false, false) => "uses neither $1 nor $2: each file has all of its rows",
        (true, false) => "does not use $2, the end: a file has rows from after its period too",
        (false, true) => "does not use $1, the begin: a file has rows from before its period too",
    };
    Found::Good(format!("{words}; it {what}"))
}

fn answers(columns: &[QueryColumn]) -> Found {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    Found::Good(format!("its query answers {}", names.join(", ")))
}

fn twice(columns: &[QueryColumn]) -> Vec<String> {
    let earlier = |at: usize| columns[..at].iter().any(|c| c.name == columns[at].name);
    let found = (0..columns.len()).filter(|at| earlier(*at));
    found
        .map(|at| {
            let name = &columns[at].name;
            format!("its query answers {name} twice; give one another name with AS")
        })
        .collect()
}

/// What stands below a domain.
fn base(kind: &Type) -> &Type {
    match kind.kind() {
        Kind::Domain(inner) => base(inner),
        _ => kind,
    }
}

/// Whether each value of a type is fit for a form.
fn fits(form: ColumnForm, kind: &Type) -> bool {
    let whole = [Type::INT2, Type::INT4, Type::INT8].contains(kind);
    match form {
        ColumnForm::Text | ColumnForm::Json => true,
        ColumnForm::Integer => whole,
        ColumnForm::Decimal => whole || [Type::NUMERIC, Type::FLOAT4, Type::FLOAT8].contains(kind),
        ColumnForm::Boolean => *kind == Type::BOOL,
        ColumnForm::Date => *kind == Type::DATE,
        ColumnForm::Timestamp => [Type::TIMESTAMPTZ, Type::TIMESTAMP].contains(kind),
    }
}

/// As the config writes it.
fn word(form: ColumnForm) -> &'static str {
    match form {
        ColumnForm::Text => "text",
        ColumnForm::Integer => "integer",
        ColumnForm::Decimal => "decimal",
        ColumnForm::Boolean => "boolean",
        ColumnForm::Date => "date",
        ColumnForm::Timestamp => "timestamp",
        ColumnForm::Json => "json",
    }
}
