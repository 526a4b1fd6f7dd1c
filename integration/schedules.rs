//! Schedules: what falls due by the calendar is written once, by whichever relay comes first.

mod clocks;
mod days;
mod fire;
mod kills;

use tokio_postgres::Client;

/// Periods of a schedule and how many messages each has, as the messages themselves tell.
async fn written(client: &Client, schedule: &str) -> Vec<(String, i64)> {
    let sql = "SELECT m.headers ->> 'outboxd-period' AS period, count(*)
                 FROM outbox.message m WHERE m.headers ->> 'outboxd-schedule' = $1
                GROUP BY period ORDER BY period";
    let rows = client.query(sql, &[&schedule]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The occurrences of a schedule: `ran 2026-11-20 1 of 4` had one message and passed over four others.
async fn occurrences(client: &Client, schedule: &str) -> Vec<String> {
    let sql = "SELECT concat(o.state, ' ', o.period, ' ', o.messages, ' of ', o.passed)
                 FROM outbox.occurrence o WHERE o.schedule = $1 ORDER BY o.due_at, o.round";
    let rows = client.query(sql, &[&schedule]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
