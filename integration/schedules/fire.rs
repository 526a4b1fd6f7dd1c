//! One period: all of it in one transaction, for one of those who try, or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use outboxd::config::ScheduleQuery;
use outboxd::store::schedule::{Fired, Occasion, Period, enter, fire, standing};
use outboxd::store::{Link, StoreError, Target};
use tokio_postgres::Client;

use super::{occurrences, written};
use crate::harness::http::HttpPeer;
use crate::harness::plane::{message_ids, number, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

/// A schedule that is entered, and its period of 20 November.
struct Stage {
    database: Database,
    client: Client,
    target: Arc<Target>,
    settled_until: Timestamp,
}

impl Stage {
    async fn set() -> Stage {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let target = Target::new(&config(&database.url(), "").database);
        let link = Link::new(Arc::clone(&target));
        let begin = "2026-11-19T09:00:00Z".parse().ok();
        enter(&link, "reminders", "at 10:00 Europe/Vienna", Duration::from_secs(60), begin)
            .await
            .unwrap();
        let settled_until =
            standing(&link, &["reminders"]).await.unwrap().schedules[0].settled_until;
        Stage { database, client, target, settled_until }
    }

    async fn fire(&self, sql: Option<&str>) -> Result<Fired, StoreError> {
        self.fire_for(self.due(), sql, Duration::from_secs(10)).await
    }

    fn due(&self) -> Occasion {
        Occasion::Due { settled_until: self.settled_until, passed: 2, next_at: None }
    }

    async fn fire_for(
        &self,
        occasion: Occasion,
        sql: Option<&str>,
        timeout: Duration,
    ) -> Result<Fired, StoreError> {
        let period = Period {
            schedule: "reminders",
            name: "2026-11-20",
            message_type: "reminder.due",
            from: "2026-11-19T09:00:00Z".parse().unwrap(),
            due_at: "2026-11-20T09:00:00Z".parse().unwrap(),
            late_at: "2026-11-20T10:00:00Z".parse().unwrap(),
            actor: "somebody",
        };
        let query = sql.map(|sql| ScheduleQuery { sql: sql.to_owned(), timeout });
        fire(&self.target, &period, occasion, query.as_ref()).await
    }

    async fn settled_until(&self) -> Timestamp {
        let sql = "SELECT settled_until FROM outbox.calendar";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Nothing of a period stands.
    async fn untouched(&self) {
        assert_eq!(written(&self.client, "reminders").await, []);
        assert_eq!(occurrences(&self.client, "reminders").await, [""; 0]);
        assert_eq!(self.settled_until().await, self.settled_until);
    }

    async fn refused(&self, sql: &str) -> String {
        match self.fire(Some(sql)).await {
            Err(error) => {
                self.untouched().await;
                error.to_string()
            }
            Ok(fired) => panic!("{sql}: {fired:?}"),
        }
    }
}

fn ran(messages: i64) -> Fired {
    Fired::Ran { round: 1, messages }
}

#[tokio::test]
async fn a_period_without_a_query_is_one_message_that_names_it() {
    let stage = Stage::set().await;
    assert_eq!(stage.fire(None).await.unwrap(), ran(1));
    let row = stage
        .client
        .query_one(
            "SELECT m.type, m.payload::text, m.headers::text, o.late_at::text, o.actor,
                    o.first_id = m.id AND o.last_id = m.id, o.passed
               FROM outbox.message m, outbox.occurrence o",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "reminder.due");
    assert_eq!(
        row.get::<_, &str>(1),
        "{\"to\": \"2026-11-20T09:00:00Z\", \"from\": \"2026-11-19T09:00:00Z\", \
         \"due_at\": \"2026-11-20T09:00:00Z\", \"period\": \"2026-11-20\", \"schedule\": \"reminders\"}"
    );
    assert_eq!(
        row.get::<_, &str>(2),
        "{\"outboxd-period\": \"2026-11-20\", \"outboxd-schedule\": \"reminders\"}"
    );
    assert!(row.get::<_, &str>(3).starts_with("2026-11-20 10:00:00"), "{row:?}");
    assert_eq!((row.get::<_, &str>(4), row.get::<_, bool>(5)), ("somebody", true));
    assert_eq!(row.get::<_, i64>(6), 2);
    assert_eq!(stage.settled_until().await.to_string(), "2026-11-20T09:00:00Z");
}

/// What was decided on an old view is not done; and a mark that is lost brings nothing back.
#[tokio::test]
async fn a_period_runs_once_whatever_the_mark_says() {
    let stage = Stage::set().await;
    assert_eq!(stage.fire(None).await.unwrap(), ran(1));
    assert_eq!(stage.fire(None).await.unwrap(), Fired::Moved);
    let lost = format!("UPDATE outbox.calendar SET settled_until = '{}'", stage.settled_until);
    stage.client.batch_execute(&lost).await.unwrap();
    assert_eq!(stage.fire(None).await.unwrap(), Fired::Already);
    assert_eq!(stage.settled_until().await.to_string(), "2026-11-20T09:00:00Z", "and settled");
    stage.client.batch_execute(&lost).await.unwrap();
    let by_hand = Occasion::ByHand { again: false };
    let limit = Duration::from_secs(10);
    assert_eq!(stage.fire_for(by_hand, None, limit).await.unwrap(), Fired::Already);
    let again = Occasion::ByHand { again: true };
    let second = Fired::Ran { round: 2, messages: 1 };
    assert_eq!(stage.fire_for(again, None, limit).await.unwrap(), second);
    assert_eq!(written(&stage.client, "reminders").await, [("2026-11-20".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_try_at_once_one_does_it_and_nobody_waits() {
    let stage = Stage::set().await;
    let slow = "SELECT '{}'::jsonb AS payload FROM pg_sleep(2)";
    let begun = Instant::now();
    let tries = (0..8).map(|_| async {
        let fired = stage.fire(Some(slow)).await.unwrap();
        (fired, begun.elapsed())
    });
    let ended = futures_util::future::join_all(tries).await;
    let ran_it = ended.iter().filter(|(fired, _)| *fired == ran(1)).count();
    assert_eq!(ran_it, 1, "{ended:?}");
    for (fired, after) in ended.iter().filter(|(fired, _)| *fired != ran(1)) {
        assert_eq!(*fired, Fired::Elsewhere);
        assert!(*after < Duration::from_millis(1900), "{after:?}");
    }
    assert_eq!(written(&stage.client, "reminders").await, [("2026-11-20".to_owned(), 1)]);
}

#[tokio::test]
async fn a_query_that_cannot_be_fires_nothing_and_says_what_to_do() {
    let stage = Stage::set().await;
    for (sql, says) in [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "relation \"nowhere\" does not exist"),
        ("SELECT 1 AS n", "answers n, which no message has"),
        ("SELECT 'x' AS payload", "payload is text; write payload::jsonb"),
        ("SELECT '{}'::jsonb AS payload, $3::text AS key", "$1 and $2"),
        (
            "SELECT '{}'::jsonb AS payload, 'soon'::text::timestamptz AS due_at",
            "a value that it cannot work with",
        ),
        ("SELECT NULL::jsonb AS payload FROM generate_series(1, 3)", "23502"),
        ("SELECT '{}'::jsonb AS payload, repeat('k', 2000) AS key", "key must be 1 to 1000 bytes"),
        ("SELECT '{}'::jsonb AS payload, '[1]'::jsonb AS headers", "headers must be a JSON object"),
        ("SELECT '{}'::jsonb AS payload, timestamptz 'infinity' AS due_at", "due_at must be"),
        (
            "WITH d AS (DELETE FROM outbox.message RETURNING payload) SELECT payload FROM d",
            "top level",
        ),
        (
            "SELECT jsonb_build_object('n', 1 / (g - 3)) AS payload FROM generate_series(1, 5) g",
            "zero",
        ),
    ] {
        let words = stage.refused(sql).await;
        assert!(words.contains(says), "{sql}: {words}");
    }
    let words = stage.refused("SELECT ('{}' || 'secret@example.com')::jsonb AS payload").await;
    assert!(!words.contains("secret"), "no data in errors: {words}");
    let words =
        stage.refused("SELECT 'secret@example.com'::text::int::text::jsonb AS payload").await;
    assert!(!words.contains("secret"), "no data in errors: {words}");
    let slow = "SELECT '{}'::jsonb AS payload FROM pg_sleep(60)";
    let out = stage.fire_for(stage.due(), Some(slow), Duration::from_millis(300)).await;
    let words = out.unwrap_err().to_string();
    assert!(words.contains("raise its timeout"), "{words}");
    stage.untouched().await;
    // A query that begins and ends with comments is one.
    let good = "-- all\nSELECT '{}'::json AS payload -- no more";
    assert_eq!(stage.fire(Some(good)).await.unwrap(), ran(1));
}

#[tokio::test]
async fn a_query_reads_what_the_relay_may_read() {
    let stage = Stage::set().await;
    let role = format!("sched_{}", stage.database.name());
    stage
        .client
        .batch_execute(&format!(
            "CREATE TABLE public.invoices AS SELECT 7 AS id; CREATE ROLE {role} LOGIN IN ROLE outbox_relay"
        ))
        .await
        .unwrap();
    let url = stage.database.url().replace("user=postgres", &format!("user={role}"));
    let target = Target::new(&config(&url, "").database);
    let narrow = Stage { target, client: stage.database.connect().await, ..stage };
    let sql = "SELECT to_jsonb(i) AS payload FROM public.invoices i";
    let words = narrow.refused(sql).await;
    assert!(words.contains("permission denied") && words.contains("GRANT SELECT"), "{words}");
    let grant = format!("GRANT SELECT ON public.invoices TO {role}");
    narrow.client.batch_execute(&grant).await.unwrap();
    assert_eq!(
        narrow.fire(Some(sql)).await.unwrap(),
        ran(1),
        "with a relay's rights, and that one"
    );
    narrow.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn nothing_runs_while_paused_and_nothing_in_a_copy() {
    let stage = Stage::set().await;
    for (stop, go_on) in [
        ("SELECT outbox.pause_all(true)", "SELECT outbox.pause_all(false)"),
        (
            "UPDATE outbox.installation SET system_identifier = 1",
            "UPDATE outbox.installation SET system_identifier = outbox.cluster()",
        ),
    ] {
        stage.client.batch_execute(stop).await.unwrap();
        assert_eq!(stage.fire(None).await.unwrap(), Fired::Paused, "{stop}");
        stage.untouched().await;
        stage.client.batch_execute(go_on).await.unwrap();
    }
    assert_eq!(stage.fire(None).await.unwrap(), ran(1));
}

/// They are messages like others: routed, ordered, told apart, delayed.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_schedule_obey_what_all_messages_do() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let query = "SELECT jsonb_build_object('n', g, 'from', $1, 'to', $2) AS payload, 'k' || g % 2 AS key, \
                 'd' || g / 2 AS dedupe_key, '{\\\"traceparent\\\": \\\"00-x\\\"}'::jsonb AS headers, \
                 CASE g WHEN 1 THEN now() + interval '1 hour' END AS due_at FROM generate_series(1, 5) g";
    let schedule = format!(
        "[schedules.reminders]\ntype = \"reminder.due\"\nevery = \"24h\"\nquery = \"{query}\"\n"
    );
    let rest = crm(&peer.url("/"), "") + &schedule;
    let relay = Relay::start(config(&database.url(), &rest));
    let entered =
        "SELECT count(*) FROM outbox.calendar WHERE kind = 'schedule' AND next_at IS NOT NULL";
    until_count(&client, "the schedule is entered", entered, 1).await;
    relay.stop().await;
    let due = "UPDATE outbox.calendar SET settled_until = clock_timestamp() - interval '1 day'";
    client.batch_execute(due).await.unwrap();
    let relay = Relay::start(config(&database.url(), &rest));
    until_count(&client, "it runs", "SELECT count(*) FROM outbox.occurrence WHERE messages = 5", 1)
        .await;
    let delayed = "SELECT count(*) FROM outbox.delivery WHERE due_at > clock_timestamp() + interval '50 minutes'";
    until_count(&client, "the delayed one waits", delayed, 1).await;
    let open = "SELECT count(*) FROM outbox.delivery";
    until_count(&client, "the others are closed", open, 1).await;
    relay.stop().await;
    // 2 and 3 share a dedupe_key, 4 and 5 as well.
    let outcomes = "SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM
                    (SELECT outcome, count(*) AS n FROM outbox.ledger GROUP BY outcome) t";
    let outcomes: String = client.query_one(outcomes, &[]).await.unwrap().get(0);
    assert_eq!(outcomes, "delivered 2, duplicate 2");
    assert_eq!(message_ids(&peer.received()).len(), 2);
    let own = "SELECT count(*) FROM outbox.message WHERE headers @> '{\"traceparent\": \"00-x\"}'
                AND headers ? 'outboxd-period' AND headers ? 'outboxd-schedule'";
    assert_eq!(number(&client, own).await, 5, "their own headers are kept");
}

/// A failing query is tried again; once it works, the period that stayed due runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_period_whose_query_fails_stays_due() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let rest = "[[routes]]\ntype = \"*\"\nsink = []\n\
                [schedules.reminders]\ntype = \"reminder.due\"\nevery = \"24h\"\n\
                query = \"SELECT to_jsonb(i) AS payload FROM public.invoices i\"\n\
                [schedules.other]\ntype = \"tick\"\nevery = \"1s\"\n";
    let relay = Relay::start(config(&database.url(), rest));
    let entered = "SELECT count(*) FROM outbox.calendar WHERE next_at IS NOT NULL";
    until_count(&client, "both are entered", entered, 2).await;
    relay.stop().await;
    let due = "UPDATE outbox.calendar SET settled_until = clock_timestamp() - interval '1 day'
                WHERE name = 'reminders'";
    client.batch_execute(due).await.unwrap();
    let relay = Relay::start(config(&database.url(), rest));
    let others = number(&client, "SELECT count(*) FROM outbox.occurrence").await;
    let more = format!("SELECT (count(*) > {others} + 3)::int::bigint FROM outbox.occurrence");
    until_count(&client, "the other goes on meanwhile", &more, 1).await;
    assert_eq!(occurrences(&client, "reminders").await, [""; 0]);
    let told = "SELECT count(*) FROM outbox.calendar WHERE name = 'reminders' AND reason LIKE '%invoices%'";
    until_count(&client, "the reason is on record", told, 1).await;
    client.batch_execute("CREATE TABLE public.invoices AS SELECT 7 AS id").await.unwrap();
    let ran =
        "SELECT count(*) FROM outbox.occurrence WHERE schedule = 'reminders' AND state = 'ran'";
    until_count(&client, "it runs", ran, 1).await;
    assert_eq!(number(&client, told).await, 0, "and goes with the run");
    relay.stop().await;
}
