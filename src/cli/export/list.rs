//! `outboxd export list`: each sink that makes files, its next cut and its last files.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::filter::no_such_sink;
use crate::cli::table::Table;
use crate::cli::{Answer, Verdict, connect, say, say_json, words};
use crate::config::{Config, Way};
use crate::store::inspect::files::{FileRow, FileSink, files};

/// Files shown of each sink: a week of daily ones.
const SHOWN: i64 = 7;

#[derive(Args)]
pub(super) struct List {
    /// Only this csv sink or export
    name: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        let sinks = files(&link, self.name.as_deref(), SHOWN).await?;
        let unseen = self.unseen(config, &sinks);
        if let Some(name) = self.name.as_ref().filter(|_| sinks.is_empty() && unseen.is_empty()) {
            let known = files(&link, None, 0).await?;
            let known: Vec<String> = known.into_iter().map(|sink| sink.name).collect();
            return Err(no_such_sink(name, &known));
        }
        if self.json {
            say_json(&Value::Array(sinks.iter().map(in_json).collect()));
        } else if sinks.is_empty() && unseen.is_empty() {
            say("there is no csv sink and no export");
        } else {
            let seen = sinks.iter().map(in_text);
            let unseen = unseen.iter().map(|name| format!("{name}: no relay has seen it yet\n"));
            say(&seen.chain(unseen).collect::<Vec<_>>().join("\n"));
        }
        let needs_you = |sink: &FileSink| sink.overdue || sink.files.iter().any(is_wrong);
        Ok(Verdict::wrong_if(sinks.iter().any(needs_you)))
    }

    /// What was asked for and only the config knows.
    fn unseen<'a>(&self, config: &'a Config, seen: &[FileSink]) -> Vec<&'a str> {
        let files = config.sinks.values().filter(|sink| matches!(sink.way, Way::Csv(_)));
        let names = files.map(|sink| sink.name.as_str());
        names
            .filter(|name| self.name.as_ref().is_none_or(|asked| asked == name))
            .filter(|name| seen.iter().all(|sink| sink.name != *name))
            .collect()
    }
}

/// Whether somebody should look at it.
fn is_wrong(file: &FileRow) -> bool {
    file.reason.is_some() || file.late || matches!(file.mail.as_deref(), Some("held" | "dead"))
}

fn in_text(sink: &FileSink) -> String {
    let mut text = format!("{}: {}", words::plain(&sink.name), next(sink));
    if sink.paused {
        text.push_str(", paused");
    }
    text.push('\n');
    if sink.files.is_empty() {
        text.push_str("no file yet\n");
        return text;
    }
    let heading = ["PERIOD", "STATE", "ROWS", "LATE ROWS", "BYTES", "MAIL", "FILE", "REASON"];
    let mut table = Table::new(&heading, &[2, 3, 4]);
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    for file in &sink.files {
        let late = if file.late { " (late)" } else { "" };
        table.row([
            name(file),
            format!("{}{late}", file.state),
            file.row_count.to_string(),
            number(file.late_rows),
            number(file.bytes),
            file.mail.clone().unwrap_or_else(|| "-".to_owned()),
            file.file.clone().unwrap_or_else(|| "-".to_owned()),
            file.reason.clone().or_else(|| file.mail_reason.clone()).unwrap_or_default(),
        ]);
    }
    let _ = write!(text, "{}", table.text());
    text
}

fn name(file: &FileRow) -> String {
    match file.part {
        1 => file.period.clone(),
        part => format!("{}-{part}", file.period),
    }
}

fn next(sink: &FileSink) -> String {
    let rule = sink.rule.as_deref().map_or(String::new(), |rule| format!(" ({rule})"));
    match sink.next_at {
        Some(at) => {
            let left = at.duration_since(sink.now).as_secs();
            let overdue = if sink.overdue { ", overdue" } else { "" };
            let due = words::due(Some(left));
            format!("next cut {} {due}{overdue}{rule}", words::moment(at))
        }
        None if sink.is_export => format!("no cut known: no relay has worked it yet{rule}"),
        None => format!("next cut when enough rows wait{rule}"),
    }
}

fn in_json(sink: &FileSink) -> Value {
    let text = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string());
    let files: Vec<Value> = sink
        .files
        .iter()
        .map(|file| {
            json!({
                "id": file.id,
                "period": file.period,
                "part": file.part,
                "state": file.state,
                "late": file.late,
                "due_from": text(file.due_from),
                "due_before": file.due_before.to_string(),
                "rows": file.row_count,
                "late_rows": file.late_rows,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "file": file.file,
                "published_at": text(file.published_at),
                "mail": file.mail,
                "mail_reason": file.mail_reason,
                "reason": file.reason,
            })
        })
        .collect();
    json!({
        "sink": sink.name,
        "kind": if sink.is_export { "export" } else { "csv" },
        "paused": sink.paused,
        "rule": sink.rule,
        "next_at": text(sink.next_at),
        "overdue": sink.overdue,
        "files": files,
    })
}
