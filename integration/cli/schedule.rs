//! schedule list and schedule run.

use super::{Shop, said};

const SCHEDULES: &str = r#"
[[routes]]
type = "*"
sink = []
[schedules.reminders]
type = "reminder.due"
every = { at = "08:00", time_zone = "Europe/Vienna" }
query = "SELECT jsonb_build_object('invoice', g) AS payload FROM generate_series(1, 3) g"
[schedules.ticks]
type = "tick"
every = "1h"
"#;

async fn shop() -> Shop {
    let shop = Shop::open().await;
    shop.configure(&shop.database.url(), "", SCHEDULES);
    shop.ok(&["route", "apply"]);
    shop
}

const RUN: [&str; 5] = ["schedule", "run", "reminders", "--period", "2026-11-20"];

#[tokio::test]
async fn a_period_runs_by_hand_once_and_once_more_only_if_told_to() {
    let shop = shop().await;
    assert_eq!(shop.ok(&RUN), "reminders: period 2026-11-20 ran, 3 messages\n");
    let refused = shop.fails(1, &RUN);
    assert!(refused.contains("period 2026-11-20 of reminders ran already at 20"), "{refused}");
    assert!(refused.contains("started by ") && refused.contains("--again"), "{refused}");
    let again = [&RUN[..], &["--again"]].concat();
    assert_eq!(shop.ok(&again), "reminders: period 2026-11-20, round 2 ran, 3 messages\n");
    assert_eq!(
        shop.psql(
            "SELECT string_agg(verb || ': ' || note || ' ' || (actor LIKE '%@%'), E'\n' ORDER BY id)
               FROM outbox.action WHERE verb = 'run'"
        ),
        "run: schedule reminders, period 2026-11-20, round 1 true\n\
         run: schedule reminders, period 2026-11-20, round 2 true"
    );
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.message"), "6");
    // What was passed over may run; the row that says so stays.
    shop.psql(
        "INSERT INTO outbox.occurrence (schedule, period, state, due_at, passed, actor)
         VALUES ('reminders', '2026-11-19', 'missed', '2026-11-19 07:00Z', 2, 'relay')",
    );
    let missed = ["schedule", "run", "reminders", "--period", "2026-11-19"];
    assert_eq!(shop.ok(&missed), "reminders: period 2026-11-19, round 2 ran, 3 messages\n");
    assert!(shop.fails(1, &missed).contains("ran already"));
}

#[tokio::test]
async fn a_period_that_is_yet_to_come_runs_early_if_that_is_meant() {
    let shop = shop().await;
    let next_year = ["schedule", "run", "reminders", "--period", "2996-11-20"];
    let refused = shop.fails(2, &next_year);
    assert!(refused.contains("before its time") && refused.contains("--yes"), "{refused}");
    let told = shop.json(&[&next_year[..], &["--yes", "--json"]].concat());
    assert_eq!((told["round"].as_i64(), told["messages"].as_i64()), (Some(1), Some(3)));
    // The last that has come, unless named.
    let default = shop.ok(&["schedule", "run", "ticks"]);
    let hour =
        shop.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24')");
    assert!(default.starts_with(&format!("ticks: period {hour}00 ran, 1 message\n")), "{default}");
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let shop = shop().await;
    let name = shop.fails(2, &["schedule", "run", "remind"]);
    assert!(name.contains("no schedule remind; it has reminders, ticks"), "{name}");
    let period = shop.fails(2, &["schedule", "run", "reminders", "--period", "2026-11-20T0800"]);
    assert!(period.contains("has no period 2026-11-20T0800; they are called like 20"), "{period}");
    shop.ok(&["pause", "--all"]);
    let paused = shop.fails(1, &RUN);
    assert!(paused.contains("outboxd resume --all"), "{paused}");
    shop.ok(&["resume", "--all"]);
    shop.as_operator();
    let url = shop
        .database
        .url()
        .replace("user=postgres", &format!("user=support_{}", shop.database.name()));
    shop.configure(&url, "", SCHEDULES);
    assert_eq!(shop.run(&["schedule", "list"]).code, 0, "an operator may look");
    let right = shop.fails(1, &RUN);
    assert!(right.contains("GRANT outbox_relay"), "{right}");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.message"), "0");
    shop.psql(&format!("DROP ROLE support_{}", shop.database.name()));
}

#[tokio::test]
async fn of_several_who_run_the_same_period_at_once_one_does() {
    let shop = shop().await;
    let children: Vec<_> = (0..4).map(|_| shop.spawn(&RUN)).collect();
    let ended: Vec<_> =
        children.into_iter().map(|child| said(child.wait_with_output().unwrap())).collect();
    assert_eq!(ended.iter().filter(|said| said.code == 0).count(), 1, "{ended:?}");
    for said in ended.iter().filter(|said| said.code != 0) {
        let told = said.err.contains("ran already") || said.err.contains("right now");
        assert!(said.code == 1 && told, "{said:?}");
    }
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.message"), "3");
}

#[tokio::test]
async fn the_list_shows_next_last_and_missed() {
    let shop = shop().await;
    let said = shop.run(&["schedule", "list"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("reminders: no relay has seen it yet"), "{said:?}");
    shop.ok(&RUN);
    shop.psql(
        "UPDATE outbox.calendar SET next_at = '2027-07-01 06:00Z';
         INSERT INTO outbox.occurrence (schedule, period, state, due_at, passed, actor)
         VALUES ('reminders', '2026-11-19', 'missed', clock_timestamp() - interval '3 days', 4, 'relay'),
                ('reminders', '2026-07-19', 'missed', clock_timestamp() - interval '31 days', 9, 'relay');
         INSERT INTO outbox.calendar (kind, name, rule) VALUES ('schedule', 'former', 'every 1h'),
                                                               ('cut', 'orders', 'every 1h');
         INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (2, 'crm', clock_timestamp());
         INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks, schedules)
         VALUES ('r', '1 h', 'h', 1, 'v', 'x', '{}', '{reminders}')",
    );
    let said = shop.run(&["schedule", "list"]);
    assert_eq!(said.code, 0, "{said:?}");
    let line = |name: &str| {
        said.out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{said:?}"))
    };
    for part in [
        "reminder.due",
        "at 08:00 Europe/Vienna",
        "Thu 2027-07-01 08:00:00 CEST",
        "2027-07-01 06:00:00Z",
        "2026-11-20",
        "3 (open)",
        "5 since ",
    ] {
        assert!(line("reminders").contains(part), "{part}: {}", said.out);
    }
    assert!(line("former").contains("every 1h") && !said.out.contains("orders"), "{}", said.out);
    assert!(said.err.contains("former: in no config any more"), "{said:?}");
    assert!(!said.err.contains("reminders:"), "{said:?}");
    // A relay that has it would have run it by now.
    shop.psql("UPDATE outbox.calendar SET next_at = clock_timestamp() - interval '61 s' WHERE name = 'reminders'");
    let said = shop.run(&["schedule", "list"]);
    let due = "reminders: due and not done; why is in the relay's log, or said by: outboxd schedule run reminders";
    assert!(said.err.contains(due), "{said:?}");
    assert_eq!(said.code, 1, "{said:?}");
    shop.psql(
        "UPDATE outbox.calendar SET reason = '2026-11-20: no such table' WHERE name = 'reminders'",
    );
    let said = shop.run(&["schedule", "list"]);
    let due = "reminders: due and not done: 2026-11-20: no such table";
    assert!(said.err.contains(due), "{said:?}");
    let listed = shop.json(&["schedule", "list", "--json"]);
    let [former, reminders, ticks] = &listed.as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!(former["in_config"], false);
    assert_eq!(reminders["last"]["messages"], 3);
    assert_eq!((&reminders["last"]["open"], &reminders["missed"]), (&true.into(), &5.into()));
    assert_eq!((&ticks["last"], &ticks["missed"]), (&serde_json::Value::Null, &0.into()));
}
