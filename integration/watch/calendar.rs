//! Alerts of the calendar: periods that were passed over, what is late, files that cannot be written,
//! mails that wait for an operator. Rows as relays write them.

use serde_json::Value;

use super::{MINUTE, NO_PAUSE, Plane};
use crate::harness::plane::number;
use outboxd::relay::watch::look;

/// A live relay that knows one schedule and one sink of files, and their rules.
const RULES: &str = "
    INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks, schedules)
    VALUES ('r', '1 h', 'web-1', 7, '0', 'h', '{mail,crm,orders}', '{reminders}');
    INSERT INTO outbox.sink (name, kind) VALUES ('orders', 'csv');
    INSERT INTO outbox.calendar (kind, name, rule, next_at, late_after)
    VALUES ('schedule', 'reminders', 'at 08:00 UTC', now() + interval '1 h', '1 h'),
           ('cut', 'orders', 'at 01:00 UTC', now() + interval '1 h', '1 h')";

impl Plane {
    /// Alerts go to `mail`.
    async fn with_rules() -> Plane {
        let plane = Plane::routed(&["mail"]).await;
        plane.sql(RULES).await;
        plane
    }

    /// A look that tells nothing new; what is in trouble after it.
    async fn seen(&self) -> String {
        look(&self.link, "shop", MINUTE, MINUTE).await.expect("look");
        self.troubles()
    }

    /// What an alert says.
    async fn said(&self, cause: &str) -> Value {
        let sql = format!(
            "SELECT payload::text FROM outbox.message WHERE payload ->> 'cause' = '{cause}'
              ORDER BY id DESC LIMIT 1"
        );
        let payload: String = self.client.query_one(&sql, &[]).await.unwrap().get(0);
        serde_json::from_str(&payload).unwrap()
    }

    /// A run of the schedule that wrote a message, due so many minutes ago.
    async fn run(&self, period: &str, minutes: u32) -> i64 {
        let sql = format!(
            "INSERT INTO outbox.message (type, payload, headers)
             VALUES ('work', '{{}}', '{{\"outboxd-schedule\": \"reminders\", \"outboxd-period\": \"{period}\"}}')
             RETURNING id"
        );
        let id: i64 = self.client.query_one(&sql, &[]).await.unwrap().get(0);
        self.sql(&format!(
            "INSERT INTO outbox.occurrence (schedule, period, state, due_at, messages, first_id, last_id,
                                            late_at, actor)
             VALUES ('reminders', '{period}', 'ran', now() - interval '{minutes} min', 1, {id}, {id},
                     now() - interval '{minutes} min' + interval '1 h', 'r')"
        ))
        .await;
        id
    }

    /// A mail of the sink's files in a state, on the way that relays take.
    async fn mail(&self, period: &str, states: &[&str]) -> i64 {
        let sql = format!(
            "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('orders', '{period}', 'r', 1)
             RETURNING id"
        );
        let id: i64 = self.client.query_one(&sql, &[]).await.unwrap().get(0);
        for state in states {
            let reason = "451 the connection broke";
            self.sql(&format!(
                "UPDATE outbox.mailing SET state = '{state}', hash = 'h', reason = '{reason}',
                        changed_at = clock_timestamp() WHERE id = {id}"
            ))
            .await;
        }
        id
    }
}

#[tokio::test]
async fn periods_that_were_passed_over_are_told_until_they_ran_or_are_past() {
    let plane = Plane::with_rules().await;
    // Down for three days, and the last of them ran: two were passed over before it. Then a day of which
    // nothing ran, and another two of which the last did.
    plane
        .sql(
            "INSERT INTO outbox.occurrence (schedule, period, state, due_at, ran_at, passed, actor) VALUES
             ('reminders', '2026-11-10', 'ran', '2026-11-10 08:00Z', now() - interval '9 days', 0, 'r'),
             ('reminders', '2026-11-13', 'ran', '2026-11-13 08:00Z', now() - interval '5 days', 2, 'r'),
             ('reminders', '2026-11-14', 'missed', '2026-11-14 08:00Z', now() - interval '4 days', 0, 'r'),
             ('reminders', '2026-11-16', 'ran', '2026-11-16 08:00Z', now() - interval '2 days', 1, 'r')",
        )
        .await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "missed reminders 4");
    let said = plane.said("missed").await;
    assert_eq!(said["subjects"][0]["example"], "reminders/2026-11-14");
    let text = said["text"].as_str().unwrap();
    for words in [
        "schedule reminders: 4 periods were passed over",
        "outboxd schedule run reminders --period 2026-11-14",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }

    // An operator runs one of the two, and the one of its own; what was told is no news.
    plane
        .sql(
            "INSERT INTO outbox.occurrence (schedule, period, round, state, due_at, actor) VALUES
             ('reminders', '2026-11-12', 1, 'ran', '2026-11-12 08:00Z', 'ann'),
             ('reminders', '2026-11-12', 2, 'ran', '2026-11-12 08:00Z', 'ann'),
             ('reminders', '2026-11-14', 2, 'ran', '2026-11-14 08:00Z', 'ann')",
        )
        .await;
    assert_eq!(plane.look(NO_PAUSE).await, 0);
    assert_eq!(plane.troubles(), "missed reminders 2", "one of each stretch that was passed over");
    // Another that is missed is news; so is the end of it all.
    plane
        .sql(
            "INSERT INTO outbox.occurrence (schedule, period, state, due_at, actor) VALUES
             ('reminders', '2026-11-17', 'missed', '2026-11-17 08:00Z', 'r')",
        )
        .await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "missed reminders 3");
    plane.sql("UPDATE outbox.occurrence SET ran_at = ran_at - interval '8 days'").await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "");
}

#[tokio::test]
async fn what_came_due_and_nobody_took_up_is_overdue() {
    let plane = Plane::with_rules().await;
    plane.sql("UPDATE outbox.calendar SET next_at = now() - interval '59 min'").await;
    assert_eq!(plane.seen().await, "");
    plane.sql("UPDATE outbox.calendar SET next_at = now() - interval '61 min'").await;
    assert_eq!(plane.seen().await, "overdue orders 1, overdue reminders 1");
    // A relay that just came back takes it up: told is what lasts.
    assert_eq!(look(&plane.link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 0);
    plane.sql("UPDATE outbox.alert SET since = since - interval '61 s'").await;
    assert_eq!(look(&plane.link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 1);
    let said = plane.said("overdue").await;
    let reason = said["subjects"][1]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("what was due at 2") && reason.ends_with("Z is not done"),
        "{reason}"
    );

    // Of what nobody's config knows any more nothing is expected.
    plane.sql("UPDATE outbox.relay SET schedules = '{}'").await;
    assert_eq!(plane.seen().await, "overdue orders 1");
    plane.sql("UPDATE outbox.relay SET sinks = '{mail,crm}'").await;
    assert_eq!(plane.seen().await, "");
}

#[tokio::test]
async fn a_run_whose_messages_are_still_open_is_overdue() {
    let plane = Plane::with_rules().await;
    let id = plane.run("2026-11-20", 61).await;
    plane.run("2026-11-21", 59).await;
    assert_eq!(plane.seen().await, "overdue reminders 1");
    let row = "SELECT example || ': ' || reason FROM outbox.alert";
    assert_eq!(
        plane.database.psql(row),
        "reminders/2026-11-20: messages of 2026-11-20 are still open"
    );
    // One that was given up is as open as one that waits; one that is routed nowhere too.
    plane.give_up_pending().await;
    assert_eq!(plane.seen().await, "dead crm 2, overdue reminders 1");
    plane
        .sql(&format!(
            "DELETE FROM outbox.delivery WHERE message_id <> {id};
             UPDATE outbox.delivery SET sink = '', state = 'unrouted', reason = NULL, rev = rev + 1"
        ))
        .await;
    assert_eq!(plane.seen().await, "overdue reminders 1, unrouted work 1");
    plane.sql("DELETE FROM outbox.delivery").await;
    assert_eq!(plane.seen().await, "");

    // Others wrote within its span of ids, and theirs are open.
    let sql = format!(
        "INSERT INTO outbox.message (type, payload, headers)
         VALUES ('work', '{{}}', '{{\"outboxd-schedule\": \"others\"}}'), ('work', '{{}}', NULL);
         UPDATE outbox.occurrence SET last_id = 9 WHERE first_id = {id}"
    );
    plane.sql(&sql).await;
    assert_eq!(plane.seen().await, "");
}

#[tokio::test]
async fn a_file_or_its_mail_that_is_late_is_overdue() {
    let plane = Plane::with_rules().await;
    // Cut too late and at work: told once, as the file and not as the cut.
    plane
        .sql(
            "UPDATE outbox.calendar SET next_at = now() - interval '9 h' WHERE kind = 'cut';
             INSERT INTO outbox.export (sink, period, due_before, late_at)
             VALUES ('orders', '2026-11-20', now(), now() + interval '1 min')",
        )
        .await;
    assert_eq!(plane.seen().await, "");
    for state in ["open", "closed", "built"] {
        plane
            .sql(&format!(
                "UPDATE outbox.export SET state = '{state}', late_at = now() - interval '1 s',
                        closed_at = CASE WHEN '{state}' <> 'open' THEN now() END,
                        file = CASE WHEN '{state}' = 'built' THEN 'f' END,
                        bytes = CASE WHEN '{state}' = 'built' THEN 1 END,
                        sha256 = CASE WHEN '{state}' = 'built' THEN 'x' END"
            ))
            .await;
        assert_eq!(plane.seen().await, "overdue orders 1", "{state}");
        let reason = format!("orders/2026-11-20: the file of 2026-11-20 is {state}");
        let said = plane.database.psql("SELECT example || ': ' || reason FROM outbox.alert");
        assert_eq!(said, reason);
    }
    plane
        .sql(
            "UPDATE outbox.calendar SET next_at = now() + interval '9 h';
             UPDATE outbox.export SET state = 'published', published_at = now()",
        )
        .await;
    assert_eq!(plane.seen().await, "");

    plane.sql("UPDATE outbox.export SET to_mail = true").await;
    assert_eq!(
        plane.seen().await,
        "overdue orders 1",
        "it was to be mailed, and nobody planned it"
    );
    plane.sql("UPDATE outbox.export SET to_mail = false").await;

    let mailing = plane.mail("2026-11-20", &[]).await;
    assert_eq!(plane.seen().await, "", "it carries nothing that is late");
    plane.sql(&format!("UPDATE outbox.export SET mailing = {mailing}")).await;
    assert_eq!(plane.seen().await, "overdue orders 1");
    let state = async |state: &str| {
        let sql = format!("UPDATE outbox.mailing SET state = '{state}', hash = 'h'");
        plane.sql(&sql).await;
        plane.seen().await
    };
    assert_eq!(state("built").await, "overdue orders 1");
    assert_eq!(state("sending").await, "overdue orders 1");
    assert_eq!(state("held").await, "mail orders 1, overdue orders 1");
    assert_eq!(state("sent").await, "");
}

/// What an operator paused shows as paused, and nags in no other way.
#[tokio::test]
async fn nothing_that_is_paused_is_overdue() {
    let plane = Plane::with_rules().await;
    plane.run("2026-11-20", 61).await;
    plane
        .sql(
            "UPDATE outbox.calendar SET next_at = now() - interval '61 min';
             INSERT INTO outbox.sink (name, kind) VALUES ('ledger', 'export');
             INSERT INTO outbox.export (sink, period, due_before, late_at)
             VALUES ('ledger', '2026-11-20', now(), now() - interval '1 s');
             UPDATE outbox.relay SET sinks = sinks || '{ledger}'",
        )
        .await;
    let all = "overdue ledger 1, overdue orders 1, overdue reminders 2";
    assert_eq!(plane.seen().await, all);
    plane.sql("SELECT outbox.pause_sink('orders')").await;
    assert_eq!(plane.seen().await, "overdue ledger 1, overdue reminders 2");
    plane.sql("SELECT outbox.pause_sink('ledger')").await;
    assert_eq!(plane.seen().await, "overdue reminders 2");
    // The run is late on account of the paused sink alone; the schedule itself is not taken up.
    plane.sql("SELECT outbox.pause_sink('crm')").await;
    assert_eq!(plane.seen().await, "overdue reminders 1");
    plane.sql("SELECT outbox.pause_sink('crm', false)").await;
    plane.sql("UPDATE outbox.delivery SET reason = 'route paused by ann', rev = rev + 1").await;
    assert_eq!(plane.seen().await, "overdue reminders 1");
    plane.sql("SELECT outbox.pause_all()").await;
    assert_eq!(plane.seen().await, "paused 1");
    plane
        .sql(
            "SELECT outbox.pause_all(false), outbox.pause_sink('orders', false),
                    outbox.pause_sink('ledger', false);
             UPDATE outbox.delivery SET reason = NULL, rev = rev + 1",
        )
        .await;
    assert_eq!(plane.seen().await, all);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_with_the_reason() {
    let plane = Plane::with_rules().await;
    plane
        .sql(
            "INSERT INTO outbox.export (sink, period, state, due_before, closed_at, opened_at, reason)
             VALUES ('orders', '2026-11-20', 'closed', now(), now(), '2026-11-21 00:00Z',
                     'No space left on device')",
        )
        .await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "file orders 1");
    let said = plane.said("file").await;
    assert_eq!(said["subjects"][0]["example"], "orders/2026-11-20");
    let text = said["text"].as_str().unwrap();
    for words in [
        "since 2026-11-21 00:00:00Z",
        "reason: No space left on device",
        "look: outboxd export list orders",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    plane
        .sql(
            "UPDATE outbox.export SET state = 'published', published_at = now(), file = 'f', sha256 = 'x',
                    bytes = 1",
        )
        .await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "", "a reason that is left behind is none");
}

#[tokio::test]
async fn mails_that_are_held_or_dead_are_told_and_each_further_one() {
    let plane = Plane::with_rules().await;
    let text = async || plane.said("mail").await["text"].as_str().unwrap().to_owned();
    plane.mail("2026-11-19", &["built", "sending", "sent"]).await;
    assert_eq!(plane.look(NO_PAUSE).await, 0);
    plane.mail("2026-11-20", &["built", "sending", "held"]).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "mail orders 1");
    for words in [
        "sink orders: 1 mail of files waits for somebody",
        "for example orders/2026-11-20",
        "reason: held: 451 the connection broke",
        "outboxd resolve orders/2026-11-20 --delivered, or --not-delivered",
    ] {
        assert!(text().await.contains(words), "{words}: {}", text().await);
    }
    plane.mail("2026-11-21", &["dead"]).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "mail orders 2");
    assert!(text().await.contains("outboxd retry orders/2026-11-21"), "{}", text().await);
    // They go out through `mail`, the sink of which the alert does not speak.
    let skipped = "SELECT count(*) FROM outbox.ledger";
    assert_eq!(number(&plane.client, skipped).await, 0);

    plane.sql("SELECT outbox.resolve_mailing('orders', '2026-11-20', true, 'ann')").await;
    assert_eq!(plane.look(NO_PAUSE).await, 0);
    plane.sql("SELECT outbox.discard_mailing('orders', '2026-11-21', 'ann')").await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.said("mail").await["recovered"], true);
}

/// Work that nobody's config knows is orphaned, also where it is a file or its mail.
#[tokio::test]
async fn a_file_of_a_sink_that_nobody_knows_is_orphaned() {
    let plane = Plane::with_rules().await;
    plane.sql("UPDATE outbox.relay SET sinks = '{mail,crm}'").await;
    assert_eq!(plane.seen().await, "");
    plane
        .sql("INSERT INTO outbox.export (sink, period, due_before) VALUES ('orders', 'p', now())")
        .await;
    assert_eq!(plane.seen().await, "orphaned orders 1");
    plane.sql("UPDATE outbox.export SET state = 'empty', closed_at = now()").await;
    assert_eq!(plane.seen().await, "");
    plane.mail("p", &["unsent"]).await;
    assert_eq!(plane.seen().await, "orphaned orders 1");
}

/// A look costs what is in trouble, and not what the calendar ever did.
#[tokio::test]
async fn a_look_reads_no_history() {
    let plane = Plane::with_rules().await;
    plane
        .sql(
            "INSERT INTO outbox.occurrence (schedule, period, state, due_at, ran_at, passed, messages, first_id,
                                            last_id, late_at, actor)
             SELECT 'reminders', 'p' || n, CASE WHEN n % 50 = 0 THEN 'missed' ELSE 'ran' END,
                    now() - n * interval '1 min', now() - n * interval '1 min', 0, 1, n, n,
                    now() - n * interval '1 min', 'r'
               FROM generate_series(1, 50000) n;
             INSERT INTO outbox.mailing (sink, period, actor, epoch)
             VALUES ('orders', 'p', 'r', 1);
             UPDATE outbox.mailing SET state = 'discarded';
             INSERT INTO outbox.export (sink, period, state, due_before, closed_at, late_at, mailing)
             SELECT 'orders', 'p' || n, 'empty', now() - n * interval '1 min', now(), now(), 1
               FROM generate_series(1, 50000) n",
        )
        .await;
    plane.look(NO_PAUSE).await;
    // Seven days of minutes, every fiftieth.
    assert_eq!(plane.troubles(), "missed reminders 201");
    let begun = std::time::Instant::now();
    plane.look(NO_PAUSE).await;
    eprintln!("a look past 100000 rows took {:?}", begun.elapsed());
    let read =
        "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables
                 WHERE schemaname = 'outbox' AND relname IN ('occurrence', 'export', 'mailing')";
    let Plane { link, client, .. } = plane;
    // A session's statistics are written when it ends.
    drop(link);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    crate::harness::plane::until_count(&client, "the session ended", sessions, 1).await;
    let written = 100_002;
    let read = number(&client, read).await;
    eprintln!("{read} rows read, {written} written");
    assert!(read < 10_000, "{read}");
}
