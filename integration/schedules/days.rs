//! Days and rules, by the database's clock, which is set to any time: whatever a relay meets when it
//! comes, no period runs that must not, and none twice.

use tokio_postgres::Client;

use super::{occurrences, written};
use crate::harness::plane::{LONG, number, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config};
use crate::harness::{eventually, plane::until_routed};

/// A clock of the database's that can be set, and everything that is to go by it.
const CLOCK: &str = "CREATE SCHEMA stepped;
     CREATE TABLE stepped.step AS SELECT interval '0' AS by;
     CREATE FUNCTION stepped.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
       RETURN (SELECT pg_catalog.clock_timestamp() + s.by FROM stepped.step s);
     CREATE FUNCTION stepped.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
       RETURN (SELECT pg_catalog.statement_timestamp() + s.by FROM stepped.step s);
     GRANT USAGE ON SCHEMA stepped TO public;
     GRANT SELECT ON stepped.step TO public;
     ALTER TABLE outbox.relay ALTER heartbeat_at SET DEFAULT stepped.clock_timestamp();
     CREATE TABLE public.orders AS SELECT t AS placed_at
       FROM generate_series('2026-03-01 00:00+00'::timestamptz, '2026-12-01 00:00+00', '30 minutes') t;
     GRANT SELECT ON public.orders TO public";

struct Days {
    database: Database,
    client: Client,
    role: String,
}

impl Days {
    async fn start() -> Days {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let role = format!("days_{}", database.name());
        let name = database.name();
        let setup = format!(
            "{CLOCK}; CREATE ROLE {role} LOGIN IN ROLE outbox_relay;
             ALTER ROLE {role} IN DATABASE {name} SET search_path = stepped, pg_catalog"
        );
        client.batch_execute(&setup).await.unwrap();
        Days { database, client, role }
    }

    /// A relay comes at this time, does what there is to do, and goes.
    async fn relay_at(&self, when: &str, schedules: &str) {
        let step = format!(
            "DELETE FROM outbox.relay;
             UPDATE stepped.step SET by = timestamptz '{when}' - pg_catalog.clock_timestamp();
             UPDATE outbox.calendar SET next_at = NULL"
        );
        self.client.batch_execute(&step).await.unwrap();
        let url = self.database.url().replace("user=postgres", &format!("user={}", self.role));
        let rest = format!("[[routes]]\ntype = \"*\"\nsink = []\n{schedules}");
        let schedules = config(&url, &rest).schedules.len();
        let relay = Relay::start(config(&url, &rest));
        until_routed(&self.client).await;
        // What comes next is noted once nothing is due any more.
        let at_rest =
            "SELECT count(*) FROM outbox.calendar WHERE next_at > stepped.clock_timestamp()";
        eventually("nothing is due any more", LONG, async || {
            match number(&self.client, at_rest).await {
                count if count == i64::try_from(schedules).unwrap() => Ok(()),
                count => Err(format!("{count} of {schedules} at rest")),
            }
        })
        .await;
        relay.stop().await;
    }

    async fn ran(&self) -> Vec<String> {
        occurrences(&self.client, "report").await
    }

    async fn end(self) {
        let role = &self.role;
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        self.client.batch_execute(&drop).await.unwrap();
    }
}

/// The schedule "report", at a time in Vienna.
fn report(at: &str, more: &str) -> String {
    named("report", at, more)
}

/// The schedule of a name; "days" is written first in `more`.
fn named(name: &str, at: &str, more: &str) -> String {
    let (days, more) = match more.strip_prefix("days = ") {
        Some(rest) => rest.split_once('\n').expect("a line of its own"),
        None => ("\"mon-sun\"", more),
    };
    let every = format!("{{ at = \"{at}\", days = {days}, time_zone = \"Europe/Vienna\" }}");
    format!("[schedules.{name}]\ntype = \"report.due\"\nevery = {every}\n{more}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_moved_on_the_day_runs_that_day_once() {
    let days = Days::start().await;
    let (ten, eleven) =
        (report("10:00", "catch_up = \"all\""), report("11:00", "catch_up = \"all\""));
    days.relay_at("2026-11-19 09:59:00+01", &ten).await;
    assert_eq!(days.ran().await, [""; 0]);
    days.relay_at("2026-11-19 10:00:01+01", &ten).await;
    assert_eq!(days.ran().await, ["ran 2026-11-19 1 of 0"]);
    // From ten to eleven, at half past ten.
    for now in ["2026-11-19 10:30:00+01", "2026-11-19 11:00:01+01", "2026-11-20 10:30:00+01"] {
        days.relay_at(now, &eleven).await;
        assert_eq!(days.ran().await.len(), 1, "{now}");
    }
    // From eleven to ten, at half past ten: today's is due, and was not before.
    days.relay_at("2026-11-20 10:30:10+01", &ten).await;
    let both = ["ran 2026-11-19 1 of 0", "ran 2026-11-20 1 of 0"];
    assert_eq!(days.ran().await, both);
    days.relay_at("2026-11-20 10:31:00+01", &eleven).await;
    days.relay_at("2026-11-20 11:01:00+01", &eleven).await;
    assert_eq!(days.ran().await, both);
    days.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weekly_schedule_that_becomes_daily_fires_no_day_of_before() {
    let days = Days::start().await;
    let weekly = report("10:00", "days = \"mon\"\ncatch_up = \"all\"");
    for now in ["2026-11-16 09:00:00+01", "2026-11-16 10:00:01+01", "2026-11-20 09:00:00+01"] {
        days.relay_at(now, &weekly).await;
    }
    let monday = "ran 2026-11-16 1 of 0";
    assert_eq!(days.ran().await, [monday]);
    let daily = report("10:00", "catch_up = \"all\"");
    days.relay_at("2026-11-20 09:30:00+01", &daily).await;
    assert_eq!(days.ran().await, [monday], "neither Tuesday nor any other day until now");
    days.relay_at("2026-11-20 10:30:00+01", &daily).await;
    assert_eq!(days.ran().await, [monday, "ran 2026-11-20 1 of 0"]);
    days.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_five_days_down_catch_up_and_lateness_decide() {
    let days = Days::start().await;
    let schedules = [
        ("skipping", "catch_up = \"skip\""),
        ("newest", "catch_up = \"latest\""),
        ("every", "catch_up = \"all\""),
        ("fresh", "catch_up = \"all\"\nmax_lateness = \"30h\""),
        ("strict", "catch_up = \"latest\"\nmax_lateness = \"1h\""),
    ]
    .map(|(name, more)| named(name, "10:00", more))
    .join("");
    days.relay_at("2026-11-15 09:00:00+01", &schedules).await;
    days.relay_at("2026-11-15 10:00:01+01", &schedules).await;
    days.relay_at("2026-11-20 12:00:00+01", &schedules).await;
    // And once more: what was passed over stays so.
    days.relay_at("2026-11-20 12:01:00+01", &schedules).await;
    let of = async |name: &str| {
        let mut all = occurrences(&days.client, name).await;
        assert_eq!(all.remove(0), "ran 2026-11-15 1 of 0", "{name}");
        all
    };
    assert_eq!(of("skipping").await, ["missed 2026-11-20 0 of 4"]);
    assert_eq!(of("newest").await, ["ran 2026-11-20 1 of 4"]);
    let ran = |day: u8| format!("ran 2026-11-{day} 1 of 0");
    assert_eq!(of("every").await, [ran(16), ran(17), ran(18), ran(19), ran(20)]);
    assert_eq!(of("fresh").await, ["missed 2026-11-18 0 of 2".to_owned(), ran(19), ran(20)]);
    assert_eq!(of("strict").await, ["missed 2026-11-20 0 of 4"]);
    days.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_due_before_a_schedule_begins() {
    let days = Days::start().await;
    let schedules = [
        named("report", "10:00", "catch_up = \"all\""),
        named("since", "10:00", "catch_up = \"all\"\nvalid_from = \"2026-11-18T10:00:00+01:00\""),
        named("coming", "10:00", "catch_up = \"all\"\nvalid_from = \"2026-11-22T10:00:01+01:00\""),
    ]
    .join("");
    days.relay_at("2026-11-20 12:00:00+01", &schedules).await;
    let runs = async |name: &str| {
        written(&days.client, name).await.into_iter().map(|(period, _)| period).collect::<Vec<_>>()
    };
    assert_eq!(runs("report").await, [""; 0]);
    assert_eq!(runs("since").await, ["2026-11-18", "2026-11-19", "2026-11-20"]);
    days.relay_at("2026-11-23 12:00:00+01", &schedules).await;
    assert_eq!(runs("report").await, ["2026-11-21", "2026-11-22", "2026-11-23"]);
    assert_eq!(runs("coming").await, ["2026-11-23"]);
    days.end().await;
}

/// An order every half hour: the days of 23 and of 25 hours have all of theirs, once.
#[tokio::test(flavor = "multi_thread")]
async fn on_both_days_of_vienna_each_order_is_in_one_period() {
    let days = Days::start().await;
    let query = "catch_up = \"all\"\nquery = \"SELECT to_jsonb(o) AS payload FROM public.orders o \
                 WHERE o.placed_at >= $1 AND o.placed_at < $2\"";
    let schedule = report("02:30", query);
    for (begin, end) in [
        ("2026-03-27 12:00:00+01", "2026-03-31 12:00:00+02"),
        ("2026-10-23 12:00:00+02", "2026-10-27 12:00:00+01"),
    ] {
        let forget = "DELETE FROM outbox.calendar; DELETE FROM outbox.occurrence";
        days.client.batch_execute(forget).await.unwrap();
        days.relay_at(begin, &schedule).await;
        days.relay_at(end, &schedule).await;
    }
    let per_period: Vec<(String, i64)> = written(&days.client, "report").await;
    let wanted = [
        ("2026-03-28", 48),
        // From half past two to three, which is the first instant after the gap.
        ("2026-03-29", 47),
        ("2026-03-30", 47),
        ("2026-03-31", 48),
        ("2026-10-24", 48),
        ("2026-10-25", 48),
        ("2026-10-26", 50),
        ("2026-10-27", 48),
    ];
    let found: Vec<(&str, i64)> = per_period.iter().map(|(p, n)| (p.as_str(), *n)).collect();
    assert_eq!(found, wanted);
    let twice = "SELECT count(*) FROM (SELECT payload FROM outbox.message
                   GROUP BY payload HAVING count(*) > 1) t";
    until_count(&days.client, "no order is in two periods", twice, 0).await;
    days.end().await;
}
