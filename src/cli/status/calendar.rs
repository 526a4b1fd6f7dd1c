//! What `status` says of the calendar: files and schedules, what comes next and what was last.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::table::Table;
use crate::cli::words;
use crate::store::inspect::status::{ExportStatus, MailStatus, ScheduleStatus, SinkStatus, Status};

/// A line for each sink that makes files. What is due in a csv sink waits for its cut.
pub(super) fn files(status: &Status) -> String {
    let mut out = String::new();
    for sink in &status.sinks {
        let next = next_cut(sink, status.paused.paused);
        let waits = match sink.kind.as_deref() {
            Some("csv") => format!("{} wait for the next cut{next}", sink.due),
            Some("export") => format!("next cut{next}"),
            _ => continue,
        };
        let last = sink.export.as_ref().map_or("no export yet".to_owned(), last_export);
        let _ = writeln!(out, "{}: {waits}; {last}", sink.name);
    }
    out
}

fn next_cut(sink: &SinkStatus, all_paused: bool) -> String {
    match sink.next_cut {
        _ if sink.paused || all_paused => ", which is paused".to_owned(),
        None => String::new(),
        Some(left) if left >= 0 => format!(" in {}", words::age(left)),
        Some(past) => format!(", due {}", words::due(Some(past))),
    }
}

fn last_export(export: &ExportStatus) -> String {
    let part = if export.part > 1 { format!(" part {}", export.part) } else { String::new() };
    let mail = export.mail.as_ref().map_or(String::new(), |state| format!(", its mail {state}"));
    let (period, state, rows) = (&export.period, &export.state, export.rows);
    let plural = if rows == 1 { "" } else { "s" };
    format!("last export {period}{part}: {state}, {rows} row{plural}{mail}")
}

/// The schedules.
pub(super) fn schedule_table(status: &Status) -> String {
    let mut table = Table::new(&["SCHEDULE", "RUNS", "NEXT", "LAST", "STATE", "MESSAGES"], &[5]);
    for schedule in &status.schedules {
        let [period, state, messages] = match &schedule.last {
            None => ["-"; 3].map(str::to_owned),
            Some(last) => [last.period.clone(), last.state.clone(), last.messages.to_string()],
        };
        let next = words::due(schedule.next);
        table.row([schedule.name.clone(), schedule.rule.clone(), next, period, state, messages]);
    }
    table.text()
}

/// The schedules, for a program.
pub(super) fn schedules_json(status: &Status) -> Value {
    let one = |schedule: &ScheduleStatus| {
        json!({
            "name": schedule.name,
            "rule": schedule.rule,
            "next_seconds": schedule.next,
            "last": schedule.last.as_ref().map(|last| json!({
                "period": last.period,
                "state": last.state,
                "messages": last.messages,
                "age_seconds": last.age,
            })),
        })
    };
    status.schedules.iter().map(one).collect()
}

/// Mails that wait for an operator, for a program.
pub(super) fn mails_json(status: &Status) -> Value {
    let one = |mail: &MailStatus| {
        json!({
            "mail": mail.name(),
            "state": if mail.is_held { "held" } else { "dead" },
            "reason": mail.reason,
        })
    };
    status.mails.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::inspect::status::{Count, RunStatus};

    fn sink(kind: &str, next_cut: Option<i64>) -> SinkStatus {
        let (name, kind) = ("orders".to_owned(), Some(kind.to_owned()));
        SinkStatus { name, kind, next_cut, due: Count::new(3), ..SinkStatus::default() }
    }

    fn line(sink: SinkStatus) -> String {
        files(&Status { sinks: vec![sink], ..Status::default() })
    }

    #[test]
    fn files_show_their_next_cut_and_the_last_one() {
        assert_eq!(
            line(sink("csv", Some(3_600))),
            "orders: 3 wait for the next cut in 1h; no export yet\n"
        );
        assert_eq!(line(sink("csv", None)), "orders: 3 wait for the next cut; no export yet\n");
        assert_eq!(line(sink("webhook", None)), "");
        let export = ExportStatus {
            period: "2026-11-20".to_owned(),
            part: 2,
            state: "published".to_owned(),
            rows: 7,
            mail: Some("sent".to_owned()),
        };
        let mut ledger = SinkStatus { export: Some(export), ..sink("export", Some(-90)) };
        let last = "last export 2026-11-20 part 2: published, 7 rows, its mail sent";
        assert_eq!(line(ledger.clone()), format!("orders: next cut, due 1m30s ago; {last}\n"));
        ledger.export.as_mut().unwrap().rows = 1;
        assert!(line(ledger.clone()).contains(": published, 1 row, its mail sent"));
        ledger.export.as_mut().unwrap().rows = 7;
        ledger.paused = true;
        assert_eq!(line(ledger), format!("orders: next cut, which is paused; {last}\n"));
    }

    #[test]
    fn schedules_show_their_next_and_their_last_run() {
        let last = RunStatus {
            period: "2026-11-20".to_owned(),
            state: "ran".to_owned(),
            messages: 12,
            age: 60,
        };
        let one = |name: &str, next, last| ScheduleStatus {
            name: name.to_owned(),
            rule: "at 08:00 Europe/Vienna".to_owned(),
            next,
            last,
        };
        let schedules = vec![one("new", Some(7_200), None), one("reminders", None, Some(last))];
        assert_eq!(
            schedule_table(&Status { schedules, ..Status::default() }),
            "SCHEDULE   RUNS                    NEXT   LAST        STATE  MESSAGES\n\
             new        at 08:00 Europe/Vienna  in 2h  -           -             -\n\
             reminders  at 08:00 Europe/Vienna  -      2026-11-20  ran          12\n"
        );
    }
}
