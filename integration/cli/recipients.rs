//! What an operator sees of recipients, and decides about them.

use serde_json::{Value, json};

use super::Shop;

/// The file of a period went out by mail: held, with what is known of its recipients.
const MAIL: &str = "
    INSERT INTO outbox.sink (name, kind) VALUES ('ledger', 'export');
    INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('ledger', '2026-11-20', 'r', 1);
    UPDATE outbox.mailing SET state = 'built', hash = 'h';
    UPDATE outbox.mailing SET state = 'sending', day = '2026-11-21', attempt = 1;
    UPDATE outbox.mailing SET state = 'held', reason = 'in doubt: why'";

/// What a row knows: `a accepted, b in doubt`.
fn known(states: &str) -> Value {
    let mut known = json!({});
    for one in states.split(", ").filter(|one| !one.is_empty()) {
        let (name, state) = one.split_once(' ').unwrap();
        known[format!("{name}@x.example")] = json!({ "state": state, "reply": "250 said" });
    }
    known
}

impl Shop {
    /// A message whose delivery through crm is dead or held, with what is known of its recipients.
    fn stuck(&self, state: &str, recipients: &str, more: &str) -> i64 {
        let insert =
            "INSERT INTO outbox.message (type, payload) VALUES ('order.x', '{}') RETURNING id";
        let id = self.psql(insert).lines().next().unwrap().parse().unwrap();
        let recipients = match recipients {
            "" => "NULL".to_owned(),
            recipients => format!("'{}'", known(recipients)),
        };
        let why = if state == "held" { "in doubt: why" } else { "550 why" };
        self.psql(&format!(
            "UPDATE outbox.delivery SET state = '{state}', due_at = 'infinity', attempt = 3, rev = rev + 1,
                    content_hash = '\\x01', reason = '{why}', recipients = {recipients} {more}
              WHERE message_id = {id} AND sink = 'crm'"
        ));
        id
    }

    /// The delivery through crm: its state, attempts, and what is known, as [`known`] takes it.
    fn recipients(&self, id: i64) -> String {
        self.psql(&format!(
            "SELECT concat_ws(' ', d.state, d.attempt) || ': ' || coalesce(({KNOWN}), '')
               FROM outbox.delivery d WHERE d.message_id = {id} AND d.sink = 'crm'"
        ))
    }
}

const KNOWN: &str =
    "SELECT string_agg(replace(e.key, '@x.example', '') || ' ' || (e.value ->> 'state'), ', '
                            ORDER BY e.key) FROM jsonb_each(d.recipients) e";

#[tokio::test]
async fn recipients_are_shown_and_counted() {
    let shop = Shop::open().await;
    shop.as_operator();
    let id = shop.stuck("held", "a accepted, b refused, c in doubt", "");
    let said = shop.ok(&["show", &id.to_string()]);
    let table = format!(
        "\nrecipients of {id}/crm: 1 accepted, 1 refused, 1 in doubt\n\
         RECIPIENT    STATE     REPLY\n\
         a@x.example  accepted  250 said\n\
         b@x.example  refused   250 said\n\
         c@x.example  in doubt  250 said\n"
    );
    assert!(said.contains(&table), "{said}");
    let shown = shop.json(&["show", &format!("{id}/crm"), "--json"]);
    assert_eq!(
        shown["deliveries"][0]["recipients"][1],
        json!({ "address": "b@x.example", "state": "refused", "reply": "250 said" })
    );
    let list = shop.ok(&["list", "--state", "held"]);
    assert!(
        list.contains("in doubt: why; recipients: 1 accepted, 1 refused, 1 in doubt"),
        "{list}"
    );
    let listed = shop.json(&["list", "--state", "held", "--json"]);
    assert_eq!(listed[0]["recipients"], "1 accepted, 1 refused, 1 in doubt");
    // The sink's own words say it already.
    shop.psql(
        "UPDATE outbox.delivery SET reason = '1 accepted, 1 refused, 1 in doubt: 550', rev = rev + 1
          WHERE sink = 'crm'",
    );
    let list = shop.ok(&["list", "--state", "held"]);
    assert!(list.contains("  1 accepted, 1 refused, 1 in doubt: 550\n"), "{list}");
    // Where nothing is known nothing is said.
    let plain = shop.stuck("dead", "", "");
    assert!(!shop.ok(&["show", &plain.to_string()]).contains("recipients"));
    let shown = shop.json(&["show", &format!("{plain}/crm"), "--json"]);
    assert_eq!(shown["deliveries"][0]["recipients"], json!([]));
}

#[tokio::test]
async fn a_retry_asks_those_again_who_refused_and_nobody_who_accepted() {
    let shop = Shop::open().await;
    shop.as_operator();
    let id = shop.stuck("dead", "a accepted, b refused, c deferred", "");
    shop.ok(&["retry", &id.to_string()]);
    assert_eq!(shop.recipients(id), "pending 0: a accepted, c deferred");
    let one = shop.stuck("dead", "a refused", "");
    shop.ok(&["retry", "--sink", "crm", "--yes"]);
    assert_eq!(shop.recipients(one), "pending 0:");
}

/// A replay is for everybody again, and so is nothing that was discarded on the way.
#[tokio::test]
async fn a_replay_begins_with_nobody() {
    let shop = Shop::open().await;
    let id = shop.stuck("dead", "a accepted, b refused", "").to_string();
    shop.ok(&["discard", &format!("{id}/crm")]);
    shop.ok(&["replay", &format!("{id}/crm")]);
    assert_eq!(shop.recipients(id.parse().unwrap()), "pending 0:");
}

/// What was known, whether its relay fell silent, what the operator says, and what becomes of it.
#[tokio::test]
async fn what_is_resolved_is_so_for_those_in_doubt() {
    let shop = Shop::open().await;
    shop.as_operator();
    let cases = [
        // Marked: of the others the row says what is to be done.
        ("a in doubt", false, true, "closed"),
        ("a accepted, b in doubt", false, true, "closed"),
        (
            "a accepted, b in doubt, c deferred",
            false,
            true,
            "pending 0: a accepted, b accepted, c deferred",
        ),
        ("a in doubt, b refused", false, true, "dead 3: a accepted, b refused"),
        (
            "a in doubt, b refused, c deferred",
            false,
            true,
            "pending 0: a accepted, b refused, c deferred",
        ),
        // Not marked: a relay was killed, and it was about all that were open.
        ("", false, true, "closed"),
        ("a deferred, b accepted", false, true, "closed"),
        ("a deferred, b refused", false, true, "dead 3: a accepted, b refused"),
        // Marked before, and then a relay was killed: about all that were open.
        ("a in doubt, b deferred", true, true, "closed"),
        // Not delivered: those in doubt are asked again.
        ("a in doubt, b accepted", false, false, "pending 0: a deferred, b accepted"),
        ("a in doubt, b refused", false, false, "pending 0: a deferred, b refused"),
        ("a deferred, b accepted", true, false, "pending 0: a deferred, b accepted"),
    ];
    for (known, silent, delivered, becomes) in cases {
        let hold = if silent { ", hold_until = now() - interval '1 s'" } else { "" };
        let id = shop.stuck("held", known, hold);
        let flag = if delivered { "--delivered" } else { "--not-delivered" };
        let said = shop.ok(&["resolve", &format!("{id}/crm"), flag]);
        let label = format!("{known}, silent {silent}, {flag}: {said}");
        if becomes == "closed" {
            assert_eq!(shop.recipients(id), "", "{label}");
            let outcome = "SELECT outcome FROM outbox.ledger WHERE message_id = ";
            assert_eq!(shop.psql(&format!("{outcome}{id}")), "delivered", "{label}");
        } else {
            assert_eq!(shop.recipients(id), becomes, "{label}");
        }
        let open = match becomes.split(' ').next() {
            Some("pending") if delivered => format!("{id}/crm is tried again now, for those"),
            Some("dead") => format!("{id}/crm is dead: other recipients refused it"),
            _ => String::new(),
        };
        assert!(said.contains(&open), "{label}");
        assert_eq!(said.lines().count(), if open.is_empty() { 1 } else { 2 }, "{label}");
        // Those that are left get what the others got; what did not arrive is made anew.
        let hash = format!(
            "SELECT coalesce(bool_and(content_hash IS NOT NULL), {delivered}) FROM outbox.delivery
              WHERE message_id = {id} AND sink = 'crm'"
        );
        assert_eq!(shop.psql(&hash), if delivered { "t" } else { "f" }, "{label}");
    }
    // Held for another reason than doubt: it is about nobody, and who deferred has not got it.
    let id = shop.stuck("held", "a accepted, b deferred", "");
    shop.psql(&format!(
        "UPDATE outbox.delivery SET reason = 'an earlier attempt sent other content', rev = rev + 1
          WHERE message_id = {id} AND sink = 'crm'"
    ));
    shop.ok(&["resolve", &format!("{id}/crm"), "--delivered"]);
    assert_eq!(shop.recipients(id), "pending 0: a accepted, b deferred");
    // The words of a dead one say how it came to that.
    let dead = "SELECT reason FROM outbox.delivery WHERE sink = 'crm' AND state = 'dead' LIMIT 1";
    let reason = shop.psql(dead);
    assert!(reason.starts_with("recipients: 1 accepted, 1 refused; resolved by "), "{reason}");
    let note = "SELECT count(*) FROM outbox.action
                 WHERE note LIKE 'delivered; recipients: 1 accepted, 1 refused; it was held: in doubt: why'";
    assert_eq!(shop.psql(note), "2");
}

#[tokio::test]
async fn many_that_are_resolved_tell_how_many_stay_open() {
    let shop = Shop::open().await;
    shop.stuck("held", "a in doubt", "");
    shop.stuck("held", "a in doubt, b deferred", "");
    let said = shop.run(&["resolve", "--sink", "crm", "--delivered", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("of these 1 stay open for other recipients"), "{said:?}");
}

/// The same of a mail that carries files: its day stays taken where somebody has it.
#[tokio::test]
async fn the_mail_of_a_period_is_resolved_and_retried_by_recipient() {
    let shop = Shop::open().await;
    shop.as_operator();
    shop.psql(MAIL);
    let day = "ledger/2026-11-20";
    let row = || {
        shop.psql(&format!(
            "SELECT concat_ws(' ', d.state, d.attempt, coalesce(d.day::text, 'free')) || ': '
                    || coalesce(({KNOWN}), '') FROM outbox.mailing d"
        ))
    };
    let know = |states: &str| {
        shop.psql(&format!("UPDATE outbox.mailing SET recipients = '{}'", known(states)));
    };
    know("a accepted, b in doubt, c refused");
    let said = shop.ok(&["show", day]);
    assert!(said.contains("\nb@x.example  in doubt  250 said\n"), "{said}");
    let said = shop.ok(&["resolve", day, "--delivered"]);
    assert!(said.contains("ledger/2026-11-20 is dead: other recipients refused it"), "{said}");
    assert_eq!(row(), "dead 1 2026-11-21: a accepted, b accepted, c refused");
    shop.ok(&["retry", day]);
    assert_eq!(row(), "planned 0 2026-11-21: a accepted, b accepted");

    let again = |states: &str| {
        shop.psql("UPDATE outbox.mailing SET state = 'built', hash = 'h2'");
        shop.psql("UPDATE outbox.mailing SET state = 'sending'");
        shop.psql("UPDATE outbox.mailing SET state = 'held', reason = 'in doubt: why'");
        know(states);
    };
    again("a accepted, b in doubt, c deferred");
    let said = shop.ok(&["resolve", day, "--delivered"]);
    assert!(said.contains("ledger/2026-11-20 is tried again now"), "{said}");
    assert_eq!(row(), "unsent 0 2026-11-21: a accepted, b accepted, c deferred");
    again("a in doubt, b deferred");
    shop.ok(&["resolve", day, "--not-delivered"]);
    assert_eq!(row(), "unsent 0 free: a deferred, b deferred", "nobody has it");
    again("a deferred, b accepted");
    let said = shop.ok(&["resolve", day, "--delivered"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(row().starts_with("sent "), "{}", row());
}
