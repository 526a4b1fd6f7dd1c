//! `outboxd export`: files on demand, and the list of those that were cut.

use std::fs;

use sha2::{Digest, Sha256};

use super::{SINKS, Shop, cell};

const LEDGER: &str = r#"
[exports.ledger]
path = "out/ledger-{{ period }}.csv"
query = """
SELECT id, country, total, ordered_at FROM orders
 WHERE ordered_at >= $1 AND ordered_at < $2 ORDER BY id -- all of them
"""
every = { at = "01:00", time_zone = "Europe/Vienna" }
"#;

/// Midnight in Vienna lies an hour before that in UTC, and each order on either side of it.
const ORDERS: &str = "CREATE TABLE orders (id integer, country text, total numeric, ordered_at timestamptz);
     INSERT INTO orders VALUES (1, 'AT', 1.50, '2026-11-19 22:59:59Z'), (2, 'AT', 2.50, '2026-11-19 23:00Z'),
       (3, 'DE', -3.50, '2026-11-20 12:00Z'), (4, '=1', 4.50, '2026-11-20 23:00Z')";

const DAY: [&str; 6] = ["export", "ledger", "--from", "2026-11-20", "--to", "2026-11-21"];

async fn shop() -> Shop {
    let shop = Shop::open().await;
    shop.configure(&shop.database.url(), "", &format!("{SINKS}{LEDGER}"));
    shop.psql(ORDERS);
    shop
}

fn hash(bytes: &[u8]) -> String {
    let hex = |hex: String, byte: &u8| hex + &format!("{byte:02x}");
    Sha256::digest(bytes).iter().fold(String::new(), hex)
}

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_on_demand_has_the_span_and_the_condition_that_were_asked_for() {
    let shop = shop().await;
    let said = shop.run(&with(&DAY, &["-o", "-"]));
    let all = "id,country,total,ordered_at\r\n2,AT,2.50,2026-11-19T23:00:00Z\r\n\
               3,DE,-3.50,2026-11-20T12:00:00Z\r\n";
    assert_eq!((said.code, said.out.as_str()), (0, all), "{said:?}");
    let told = format!("2 rows, {} bytes, sha256 {}\n", all.len(), hash(all.as_bytes()));
    assert_eq!(said.err, told);
    let instants =
        ["export", "ledger", "--from", "2026-11-20T00:00:00Z", "--to", "2026-11-21T00:00:00Z"];
    let said = shop.run(&with(&instants, &["--where", "country <> 'DE'", "--output", "-"]));
    assert!(said.out.ends_with("4,'=1,4.50,2026-11-20T23:00:00Z\r\n"), "{said:?}");
    assert!(said.err.starts_with("1 row, "), "{said:?}");
    let said = shop.run(&with(&DAY, &["--profile", "excel-de", "-o", "-"]));
    assert!(said.out.starts_with('\u{feff}') && said.out.contains("-3,50"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_on_demand_changes_nothing_and_overwrites_nothing() {
    let shop = shop().await;
    let path = shop.directory.path().join("day.csv");
    let said = shop.run(&with(&DAY, &["-o", "day.csv"]));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(said.err, format!("2 rows, {} bytes, sha256 {}\n", bytes.len(), hash(&bytes)));
    fs::write(&path, "mine").unwrap();
    let said = shop.fails(1, &with(&DAY, &["-o", "day.csv"]));
    assert!(said.contains("day.csv exists and is not overwritten"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let said = shop.fails(1, &with(&DAY, &["-o", "none/day.csv"]));
    assert!(said.contains("cannot write none/day.csv"), "{said}");
    // A query that writes is refused, and no half of a file stays.
    shop.psql("CREATE SEQUENCE numbers");
    let writes = LEDGER.replace("SELECT id,", "SELECT nextval('numbers') AS id,");
    shop.configure(&shop.database.url(), "", &format!("{SINKS}{writes}"));
    let said = shop.fails(1, &with(&DAY, &["-o", "other.csv"]));
    assert!(said.contains("read-only"), "{said}");
    let names: Vec<_> = fs::read_dir(shop.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("other") || name.starts_with('.'))
        .collect();
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.export"), "0");
    assert_eq!(shop.psql("SELECT is_called FROM numbers"), "f");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_csv_sink_it_has_messages_open_and_closed() {
    let shop = shop().await;
    shop.psql(
        "INSERT INTO outbox.message (type, payload, key, headers) VALUES
           ('order.created', '{\"country\": \"AT\"}', 'a', '{\"lang\": \"de\"}'),
           ('order.created', '{\"country\": \"DE\"}', NULL, NULL),
           ('order.created', '{\"country\": \"AT\"}', NULL, NULL), ('debug.x', '{}', NULL, NULL);
         UPDATE outbox.message SET created_at = '2026-11-20 12:00Z' WHERE id <> 3;
         UPDATE outbox.message SET created_at = '2026-11-21 00:00Z' WHERE id = 3;
         SELECT outbox.discard(2, 'orders')",
    );
    let day = ["export", "orders", "--from", "2026-11-20", "--to", "2026-11-21", "-o", "-"];
    assert_eq!(shop.run(&day).out, "id\r\n1\r\n2\r\n");
    let at = with(&day, &["--where", "payload->>'country' = 'AT' AND headers->>'lang' = 'de'"]);
    let said = shop.run(&at);
    assert_eq!((said.code, said.out.as_str()), (0, "id\r\n1\r\n"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exported_is_said() {
    let shop = shop().await;
    for (code, words, told) in [
        (
            1,
            vec!["export", "crm", "--from", "2026-11-20", "--to", "2026-11-21", "-o", "-"],
            "it has ledger, orders",
        ),
        (
            2,
            vec!["export", "ledger", "--from", "2026-11-21", "--to", "2026-11-20", "-o", "-"],
            "--to must lie after --from",
        ),
        (
            1,
            with(&DAY, &["-o", "-", "--where", "nix = 1"]),
            "the condition: column \"nix\" does not exist",
        ),
        (1, with(&DAY, &["-o", "-", "--where", "true); SELECT (1"]), "multiple commands"),
        (1, vec!["export", "list", "nix"], "there is no sink nix; known: orders"),
    ] {
        let said = shop.fails(code, &words);
        assert!(said.contains(told), "{told} is not in: {said}");
    }
    let said = shop.run(&["export", "ledger", "--from", "yesterday"]);
    assert!(said.code == 2 && said.err.contains("with its offset"), "{said:?}");
    let said = shop.run(&["export"]);
    assert!(said.code == 2, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_shows_next_cut_and_last_files_and_tells_of_trouble() {
    let shop = shop().await;
    let text = shop.ok(&["export", "list"]);
    assert!(text.starts_with("orders: next cut when enough rows wait\nno file yet"), "{text}");
    assert!(text.ends_with("\nledger: no relay has seen it yet\n"), "{text}");
    assert_eq!(shop.ok(&["export", "list", "ledger"]), "ledger: no relay has seen it yet\n");
    shop.psql(
        "INSERT INTO outbox.sink (name, kind) VALUES ('ledger', 'export');
         INSERT INTO outbox.calendar (kind, name, rule, next_at, late_after)
         VALUES ('cut', 'ledger', 'at 01:00 Europe/Vienna', now() + interval '2 hours 30 seconds', '1 hour');
         INSERT INTO outbox.export (sink, period, state, due_from, due_before, row_count, late_rows, file, bytes,
                sha256, closed_at, published_at)
         SELECT 'ledger', to_char(d, 'YYYY-MM-DD'), 'published', d, d + interval '1 day', 10, 0,
                'out/ledger.csv', 100, 'ab', now(), now()
           FROM generate_series('2026-11-01'::timestamptz, '2026-11-18', '1 day') d;
         UPDATE outbox.export SET late_rows = 3 WHERE period = '2026-11-18'",
    );
    let text = shop.ok(&["export", "list", "ledger"]);
    assert!(text.contains("in 2h (at 01:00 Europe/Vienna)"), "{text}");
    assert_eq!(cell(&text, "2026-11-18", 3), "3", "late rows: {text}");
    assert!(text.contains("2026-11-12") && !text.contains("2026-11-11"), "a week: {text}");
    shop.psql(
        "INSERT INTO outbox.export (sink, period, state, due_from, due_before, closed_at, reason)
         VALUES ('ledger', '2026-11-19', 'closed', '2026-11-19', '2026-11-20', now(), 'row 3: column total: none')",
    );
    let said = shop.run(&["export", "list"]);
    assert!(said.code == 1 && said.out.contains("row 3: column total: none"), "{said:?}");
    let json = shop.json(&["export", "list", "ledger", "--json"]);
    let file = &json[0]["files"][0];
    assert_eq!(
        (file["period"].as_str(), file["late"].as_bool()),
        (Some("2026-11-19"), Some(false))
    );
    shop.psql("UPDATE outbox.export SET reason = NULL, late_at = now() - interval '1 s' WHERE state = 'closed'");
    let said = shop.run(&["export", "list"]);
    assert!(said.code == 1 && said.out.contains("closed (late)"), "{said:?}");
    shop.psql(
        "DELETE FROM outbox.export WHERE state = 'closed';
         UPDATE outbox.calendar SET next_at = now() - interval '61 min'",
    );
    let said = shop.run(&["export", "list"]);
    assert!(said.code == 1 && said.out.contains("overdue"), "{said:?}");
    // Long ago, and its mail waits for an operator: still in sight.
    shop.psql(
        "UPDATE outbox.calendar SET next_at = now();
         INSERT INTO outbox.mailing (sink, period, state, actor, epoch, reason)
         VALUES ('ledger', '2026-11-02', 'planned', 'test', 1, '552 too large');
         UPDATE outbox.mailing SET state = 'dead';
         UPDATE outbox.export SET mailing = 1 WHERE period = '2026-11-02'",
    );
    let said = shop.run(&["export", "list"]);
    assert!(said.code == 1 && said.out.contains("552 too large"), "{said:?}");
    // One that is tried again by hand and cannot go is not wrong yet, and in sight too.
    shop.psql("UPDATE outbox.mailing SET state = 'planned', reason = 'cannot read it'");
    let said = shop.ok(&["export", "list"]);
    assert!(said.contains("cannot read it"), "{said}");
    shop.psql("UPDATE outbox.mailing SET state = 'discarded'");
    let said = shop.ok(&["export", "list"]);
    assert!(!said.contains("2026-11-02"), "{said}");
}
