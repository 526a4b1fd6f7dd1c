//! The mail of an exported period: what became of it, and what an operator decides.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use super::actor::actor;
use super::bulk::{Deed, left_open};
use super::show::{recipient_table, recipients_json};
use super::table::Table;
use super::words::{self, FileName, plain};
use super::{Answer, Failure, Verdict, say, say_json};
use crate::alert::mail_remedy;
use crate::store::inspect::act::Act;
use crate::store::inspect::mail::{self, ExportRow, MailRow, StepRow};
use crate::store::{Link, StoreError};

/// Does to a mail what is done to a delivery of that state.
pub(super) async fn act(link: &Link, name: &FileName, deed: &Deed, json: bool) -> Answer {
    let who = actor();
    let done = match deed.act {
        Act::Retry => mail::retry(link, &name.sink, &name.period, &who).await,
        Act::Discard => mail::discard(link, &name.sink, &name.period, &who).await,
        Act::Resolve { delivered } => {
            mail::resolve(link, &name.sink, &name.period, delivered, &who).await
        }
    };
    let was = match done {
        Ok(was) => was,
        Err(error) => return Err(refused(link, name, deed.act, error).await?),
    };
    let became = mail::find(link, &name.sink, &name.period).await?.map(|mail| mail.state);
    if json {
        let name = name.to_string();
        say_json(&json!({ deed.done: 1, "mail": name, "was": was, "became": became }));
    } else {
        say(&format!("{}: the mail {name}, which was {was}", deed.became));
        let name = name.to_string();
        let left = became.filter(|became| became != "sent");
        if let Some(became) = left.filter(|_| deed.act == (Act::Resolve { delivered: true })) {
            say(&format!("{name} is {}", left_open(&became, &name)));
        }
    }
    Ok(Verdict::Ok)
}

/// Why nothing was done, and what can be done instead, where the database does not say that itself.
async fn refused(
    link: &Link,
    name: &FileName,
    act: Act,
    error: StoreError,
) -> Result<Failure, Failure> {
    let expected = [SqlState::UNDEFINED_OBJECT, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
    if !error.code().is_some_and(|code| expected.contains(code)) {
        return Ok(error.into());
    }
    let Some(mail) = mail::find(link, &name.sink, &name.period).await? else {
        let list = format!("see what there is: outboxd export list {}", name.sink);
        return Ok(Failure::Fault(format!("{error}; {list}")));
    };
    let remedy = match (mail.state.as_str(), act) {
        // Not now, for a reason that says what to wait for.
        ("held", Act::Resolve { .. }) | ("dead", Act::Retry) => return Ok(error.into()),
        ("held", _) => mail_remedy(true, &name.to_string()),
        ("dead", _) => mail_remedy(false, &name.to_string()),
        _ => format!("look: outboxd show {name}"),
    };
    Ok(Failure::Fault(format!("{error}; {remedy}")))
}

/// The files of a period, its mail, and each step of that.
pub(super) async fn show(link: &Link, name: &FileName, json: bool) -> Answer {
    let found = mail::find(link, &name.sink, &name.period).await?;
    let files = mail::files(link, &name.sink, &name.period, found.as_ref().map(|m| m.id)).await?;
    if found.is_none() && files.is_empty() {
        return Err(Failure::Fault(format!(
            "there is no file {name}; see what there is: outboxd export list {}",
            name.sink
        )));
    }
    let steps = match &found {
        Some(mail) => mail::steps(link, mail.id).await?,
        None => Vec::new(),
    };
    if json {
        say_json(&as_json(name, &files, found.as_ref(), &steps));
    } else {
        say(&as_text(&files, found.as_ref(), &steps));
    }
    Ok(Verdict::Ok)
}

fn as_text(files: &[ExportRow], found: Option<&MailRow>, steps: &[StepRow]) -> String {
    let mut out = String::new();
    for file in files {
        let _ = writeln!(out, "file {}/{}", file.sink, file.period);
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = writeln!(out, "  {name:<8} {}", plain(&value));
            }
        };
        line("state", Some(file.state.clone()));
        line("from", file.due_from.map(|at| at.to_string()));
        line("to", Some(file.due_before.to_string()));
        line("rows", Some(file.row_count.to_string()));
        line(
            "late",
            file.late_rows.filter(|late| *late > 0).map(|late| {
                format!("{late} rows committed after the file was made and are in no file")
            }),
        );
        line("file", file.file.clone());
        line("bytes", file.bytes.map(|bytes| bytes.to_string()));
        line("sha256", file.sha256.clone());
        line("reason", file.reason.clone());
        out.push('\n');
    }
    let Some(mail) = found else {
        return out + "no mail carries it\n";
    };
    let _ = writeln!(out, "mail {}/{} is {}", mail.sink, mail.period, mail.state);
    if let Some(reason) = &mail.reason {
        let _ = writeln!(out, "  {}", plain(reason));
    }
    if let Some(until) = mail.hold_until.filter(|_| mail.state == "held") {
        let _ = writeln!(out, "  not to be sent again before {}", words::moment(until));
    }
    out.push('\n');
    let mut table = Table::new(&["STEP", "STATE", "WHEN", "WHO", "HASH", "NOTE"], &[0]);
    for step in steps {
        table.row([
            step.step.to_string(),
            step.state.clone(),
            step.at.to_string(),
            step.actor.clone(),
            step.hash.as_ref().map_or("-".to_owned(), |hash| hash.chars().take(12).collect()),
            step.note.clone().unwrap_or_default(),
        ]);
    }
    out += &table.text();
    if !mail.recipients.is_empty() {
        out += "\n";
        out += &recipient_table(&mail.recipients);
    }
    if let Some(transcript) = mail.transcript.as_ref().filter(|text| !text.is_empty()) {
        out += "\nthe last dialogue, without addresses\n";
        for line in transcript.lines() {
            let _ = writeln!(out, "  {}", plain(line));
        }
    }
    out
}

fn as_json(
    name: &FileName,
    files: &[ExportRow],
    found: Option<&MailRow>,
    steps: &[StepRow],
) -> Value {
    let step = |step: &StepRow| {
        json!({
            "step": step.step, "state": step.state, "at": step.at.to_string(),
            "actor": step.actor, "hash": step.hash, "note": step.note,
        })
    };
    let file = |file: &ExportRow| {
        json!({
            "period": file.period, "state": file.state,
            "from": file.due_from.map(|at| at.to_string()), "to": file.due_before.to_string(),
            "rows": file.row_count, "late_rows": file.late_rows, "file": file.file,
            "bytes": file.bytes, "sha256": file.sha256, "reason": file.reason,
        })
    };
    json!({
        "name": name.to_string(),
        "files": files.iter().map(file).collect::<Vec<_>>(),
        "mail": found.map(|mail| json!({
            "period": mail.period, "state": mail.state, "attempts": mail.attempt,
            "reason": mail.reason, "hash": mail.hash, "transcript": mail.transcript,
            "held_until": mail.hold_until.map(|at| at.to_string()),
            "recipients": recipients_json(&mail.recipients),
            "steps": steps.iter().map(step).collect::<Vec<_>>(),
        })),
    })
}
