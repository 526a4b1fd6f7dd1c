//! The calendar in `status`: what comes next, what was last, and what needs an operator. And the same in
//! SQL, as an operator's role sees it.

use serde_json::json;

use super::{Shop, cell};

const LEDGER: &str = "
    INSERT INTO outbox.sink (name, kind) VALUES ('ledger', 'export');
    INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks, schedules)
    SELECT '0123456789abcdef', '1 h', 'web-1', 7, '0.1.0', hash, '{crm,orders,ledger}', '{reminders}'
      FROM outbox.route_set;
    INSERT INTO outbox.calendar (kind, name, rule, next_at, late_after) VALUES
      ('cut', 'orders', 'every 1h', now() + interval '90 min 30 s', '1 h'),
      ('cut', 'ledger', 'at 01:00 Europe/Vienna', now() - interval '2 min 30 s', '1 h'),
      ('schedule', 'reminders', 'at 08:00 Europe/Vienna', now() + interval '26 h 30 s', '1 h'),
      ('schedule', 'renamed', 'at 09:00 UTC', now() - interval '9 days', '1 h');
    INSERT INTO outbox.occurrence (schedule, period, state, due_at, messages, first_id, last_id, actor) VALUES
      ('reminders', '2026-11-20', 'ran', '2026-11-20 07:00Z', 12, 1, 12, 'r'),
      ('reminders', '2026-11-19', 'missed', '2026-11-19 07:00Z', 0, NULL, NULL, 'r')";

#[tokio::test]
async fn status_shows_what_comes_next_and_what_was_last() {
    let shop = Shop::open().await;
    shop.psql(LEDGER);
    shop.psql(
        "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('ledger', '2026-11-20', 'r', 1);
         INSERT INTO outbox.export (sink, period, state, due_before, row_count, file, bytes, sha256, closed_at,
                                    published_at, mailing)
         VALUES ('ledger', '2026-11-20', 'published', now(), 7, 'f', 1, 'x', now(), now(), 1)",
    );
    let status = shop.ok(&["status"]);
    for line in [
        "orders: 0 wait for the next cut in 1h30m; no export yet\n",
        "ledger: next cut, due 2m30s ago; last export 2026-11-20: published, 7 rows, its mail planned\n",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(cell(&status, "reminders", 4), "in", "{status}");
    assert!(status.contains("in 1d2h  2026-11-20  ran"), "{status}");
    assert!(!status.contains("renamed"), "no live relay knows it: {status}");
    let status = shop.json(&["status", "--json"]);
    let ledger = &status["sinks"][1];
    assert_eq!(
        (&ledger["name"], &ledger["last_export"]["mail"]),
        (&json!("ledger"), &json!("planned"))
    );
    assert!(ledger["next_cut_seconds"].as_i64().unwrap() < 0);
    assert_eq!(status["schedules"].as_array().unwrap().len(), 1);
    assert_eq!(status["schedules"][0]["last"]["messages"], 12);

    // Nobody lives who could know: all of them, and what came due needs a relay.
    shop.psql("DELETE FROM outbox.relay");
    let status = shop.run(&["status"]);
    assert_eq!(status.code, 1);
    assert!(status.out.contains("renamed"), "{}", status.out);
    assert!(status.out.contains("no relay runs, and there is work"), "{}", status.out);
}

#[tokio::test]
async fn files_and_mails_that_need_somebody_make_status_wrong() {
    let shop = Shop::open().await;
    shop.psql(LEDGER);
    shop.ok(&["status"]);
    shop.psql(
        "INSERT INTO outbox.export (sink, period, state, due_before, closed_at, reason) VALUES
         ('ledger', '2026-11-20', 'closed', now(), now(), 'No space left on device (os error 28)')",
    );
    let status = shop.run(&["status"]);
    assert_eq!(status.code, 1);
    let line = "! ledger: the file of 2026-11-20 cannot be written: No space left on device (os error 28); \
                its rows are safe; look: outboxd export list ledger\n";
    assert!(status.out.contains(line), "{}", status.out);
    let stuck = &shop.json(&["status", "--json"])["sinks"][1]["file_cannot_be_written"];
    assert_eq!(stuck["period"], "2026-11-20");
    shop.psql("UPDATE outbox.export SET state = 'empty'");
    shop.ok(&["status"]);

    shop.psql(
        "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('ledger', '2026-11-20', 'r', 1);
         UPDATE outbox.mailing SET state = 'built', hash = 'h';
         UPDATE outbox.mailing SET state = 'sending', day = '2026-11-21';
         UPDATE outbox.mailing SET state = 'held', reason = 'the connection broke'",
    );
    let status = shop.run(&["status"]);
    assert_eq!(status.code, 1);
    let line = "! ledger: the mail of 2026-11-20 is held, in doubt whether it arrived: the connection broke; \
                ask who gets it whether it arrived, then: outboxd resolve ledger/2026-11-20 --delivered, \
                or --not-delivered\n";
    assert!(status.out.contains(line), "{}", status.out);
    let mails = &shop.json(&["status", "--json"])["mails"];
    assert_eq!(
        mails,
        &json!([{ "mail": "ledger/2026-11-20", "state": "held", "reason": "the connection broke" }])
    );
    shop.psql("SELECT outbox.resolve_mailing('ledger', '2026-11-20', true, 'ann')");
    shop.ok(&["status"]);
}

/// Refused with what can be done, and without the database's codes.
#[tokio::test]
async fn what_cannot_be_done_to_a_mail_is_said_with_what_can() {
    let shop = Shop::open().await;
    shop.psql(LEDGER);
    let day = "ledger/2026-11-20";
    let said = shop.fails(1, &["resolve", day, "--delivered"]);
    let none = "outboxd: there is no mail of ledger for 2026-11-20; \
                see what there is: outboxd export list ledger\n";
    assert_eq!(said, none);
    shop.psql(
        "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('ledger', '2026-11-20', 'r', 1);
         UPDATE outbox.mailing SET state = 'built', hash = 'h';
         UPDATE outbox.mailing SET state = 'sending', day = '2026-11-21';
         UPDATE outbox.mailing SET state = 'held', reason = 'why'",
    );
    let said = shop.fails(1, &["retry", day]);
    let held = "outboxd: the mail of ledger for 2026-11-20 is held, not dead; ask who gets it whether it arrived, \
                then: outboxd resolve ledger/2026-11-20 --delivered, or --not-delivered\n";
    assert_eq!(said, held);
    // The database names what to wait for.
    shop.psql("UPDATE outbox.mailing SET hold_until = '2990-01-01 00:00Z'");
    let said = shop.fails(1, &["resolve", day, "--not-delivered"]);
    assert!(
        said.starts_with("outboxd: not before 2990-01-01 00:00:00+00: until then the relay"),
        "{said}"
    );
    assert!(said.ends_with(" may yet be sending it\n"), "{said}");
    shop.psql("UPDATE outbox.mailing SET hold_until = NULL");
    shop.ok(&["resolve", day, "--delivered"]);
    let said = shop.fails(1, &["discard", day]);
    assert!(said.ends_with("; look: outboxd show ledger/2026-11-20\n"), "{said}");
}

/// What is late and what was passed over the relays noted; a paused sink is not late.
#[tokio::test]
async fn what_is_overdue_makes_status_wrong_and_what_was_missed_is_worth_a_look() {
    let shop = Shop::open().await;
    shop.psql(LEDGER);
    shop.psql(
        "INSERT INTO outbox.alert (cause, subject, since, count, example) VALUES
         ('missed', 'reminders', now(), 1, 'reminders/2026-11-19')",
    );
    let status = shop.ok(&["status"]);
    assert!(status.contains("outboxd schedule run reminders --period 2026-11-19"), "{status}");
    shop.psql(
        "INSERT INTO outbox.alert (cause, subject, since, count, reason) VALUES
         ('overdue', 'ledger', now(), 1, 'what was due at 2026-11-20 01:00:00Z is not done')",
    );
    let status = shop.run(&["status"]);
    assert_eq!(status.code, 1);
    let line = "! ledger: 1 thing is overdue by the calendar: what was due at";
    assert!(status.out.contains(line), "{}", status.out);

    // The relays' next look finds it paused.
    shop.ok(&["pause", "--sink", "ledger"]);
    shop.psql("UPDATE outbox.alert SET gone = true WHERE cause = 'overdue'");
    let status = shop.ok(&["status"]);
    for line in [
        "ledger: next cut, which is paused; no export yet\n",
        "! ledger: paused; to go on: outboxd resume --sink ledger\n",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    shop.ok(&["resume", "--sink", "ledger"]);
    shop.ok(&["pause", "--all"]);
    let status = shop.ok(&["status"]);
    assert!(status.contains("orders: 0 wait for the next cut, which is paused;"), "{status}");
    assert!(status.contains("! everything is paused"), "{status}");
}

/// The operators' role is enough for all that `status` shows, and the files stand in a view.
#[tokio::test]
async fn an_operator_sees_it_all() {
    let shop = Shop::open().await;
    shop.psql(LEDGER);
    shop.psql(
        "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('ledger', '2026-11-20', 'r', 1);
         UPDATE outbox.mailing SET state = 'dead', reason = '552 too large';
         INSERT INTO outbox.export (sink, period, state, due_before, row_count, file, bytes, sha256, closed_at,
                                    published_at, mailing)
         VALUES ('ledger', '2026-11-20', 'published', now(), 7, 'f', 1, 'x', now(), now(), 1)",
    );
    let role = format!("looks_{}", shop.database.name());
    shop.psql(&format!("CREATE ROLE {role} LOGIN IN ROLE outbox_operator"));
    let url = shop.database.url().replace("user=postgres", &format!("user={role}"));
    shop.configure(&url, "", super::SINKS);
    let status = shop.run(&["status"]);
    assert_eq!(status.err, "");
    assert!(status.out.contains("outboxd retry ledger/2026-11-20"), "{}", status.out);
    let row = shop.psql(&format!(
        "SET ROLE {role};
         SELECT concat_ws(' ', sink, period, state, row_count, mail, mail_state, mail_reason) FROM outbox.files"
    ));
    assert_eq!(row, "ledger 2026-11-20 published 7 2026-11-20 dead 552 too large");
    shop.psql(&format!("DROP ROLE {role}"));
}
