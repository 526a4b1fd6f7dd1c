//! What `outboxd check` says of schedules and exports before any of them comes.

use super::{Said, Shop};

const SINKS: &str = r#"
[sinks.orders]
kind = "csv"
path = "out/orders-{{ period }}.csv"
columns = [{ name = "id", value = "id" }]
every = "1h"
[[routes]]
type = "order.*"
sink = "orders"
"#;

/// Tables as an application has them, and a function that leaves a trace when it is run.
const TABLES: &str = "
CREATE TABLE orders (id bigint, total numeric, note text, created_at timestamptz);
CREATE SEQUENCE trace;
CREATE FUNCTION traced() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT nextval('trace') $$;
CREATE DOMAIN cents AS bigint";

fn schedule(query: &str) -> String {
    format!(
        "[schedules.reminders]\ntype = \"order.due\"\n\
         every = {{ at = \"08:00\", days = \"mon-fri\", time_zone = \"Europe/Vienna\" }}\n\
         query = \"\"\"{query}\"\"\"\n"
    )
}

fn export(query: &str, columns: &str) -> String {
    format!(
        "[exports.ledger]\npath = \"out/ledger-{{{{ period }}}}.csv\"\n{columns}\n\
         every = {{ at = \"01:00\", time_zone = \"Europe/Vienna\" }}\nquery = \"\"\"{query}\"\"\"\n"
    )
}

impl Shop {
    /// What check says with these tables in the config.
    fn checked(&self, url: &str, tables: &str) -> Said {
        self.configure(url, "", &format!("{SINKS}{tables}"));
        self.run(&["check"])
    }
}

async fn shop() -> Shop {
    let shop = Shop::open().await;
    shop.psql(TABLES);
    shop
}

#[tokio::test]
async fn check_tells_when_each_comes_and_asks_for_the_columns_only() {
    let shop = shop().await;
    let reminders = "SELECT jsonb_build_object('id', id, 'run', traced()) AS payload, id AS key,
                     created_at AS due_at FROM orders WHERE created_at >= $1; -- those that are due";
    let ledger = "SELECT id, total::cents, note, total, traced() AS run FROM orders, traced() AS t
                  WHERE created_at >= $1 AND created_at < $2 ORDER BY id";
    let columns = "columns = [{ name = \"Order\", value = \"id\", as = \"integer\" }, \
                   { name = \"total\", as = \"text\" }, { name = \"run\", as = \"integer\" }]";
    let ledger = ledger.replace("total::cents", "total::cents AS cents");
    let columns = columns.replace("[{", "[{ name = \"cents\", as = \"integer\" }, {");
    let tables = format!("{}{}", schedule(reminders), export(&ledger, &columns));
    let said = shop.checked(&shop.database.url(), &tables);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.lines().all(|line| line.starts_with("ok ")), "{}", said.out);
    for words in [
        "sinks: 1, routes: 1, exports: 1, schedules: 1",
        "schedule reminders  at 08:00 on mon, tue, wed, thu, fri Europe/Vienna; next ",
        "schedule reminders  its query answers payload, key, due_at",
        "export ledger       at 01:00 Europe/Vienna; next ledger-",
        "export ledger       its query answers id, cents, note, total, run",
        "sink orders         every 1h; next orders-",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    // In full, though the config was named and the path written relative.
    let out = shop.directory.path().join("out");
    let can = format!("export ledger       {} can be written to", out.display());
    assert!(said.out.contains(&can), "{can}: {}", said.out);
    let next = said.out.lines().find(|line| line.contains("; next 2")).unwrap();
    assert_eq!(next.matches(" 08:00+0").count(), 3, "{next}");
    assert_eq!(shop.psql("SELECT is_called FROM trace"), "f", "the queries were run");
}

#[tokio::test]
async fn check_tells_what_a_query_will_fail_at() {
    let shop = shop().await;
    let url = shop.database.url();
    for (query, words) in [
        ("SELECT 1 AS key", "its query answers no payload; write e.g. jsonb_build_object("),
        ("SELECT '{}' AS payload", "its query's payload is text; write payload::jsonb"),
        (
            "SELECT '{}'::json AS payload, 1 AS customer",
            "its query answers customer, which no message has; leave it out, or put it into",
        ),
        (
            "SELECT '{}'::json AS payload, 1 AS key, 2 AS key",
            "its query answers key twice; give one another name with AS",
        ),
        ("SELECT\n1 +\nFROM", "syntax error at or near \"FROM\" (line 3 of the query)"),
        ("SELECT 1\nWHERE", "at or near \")\" (line 2 of the query)"),
        (
            "SELECT 1\nFROM order_lines",
            "relation \"order_lines\" does not exist (line 2 of the query); \
             write the schema before the name, or look at the search_path of the relay's role",
        ),
        ("DELETE FROM orders RETURNING '{}'::json AS payload", "syntax error at or near \"FROM\""),
        (
            "WITH gone AS (DELETE FROM orders RETURNING id) SELECT '{}'::json AS payload FROM gone",
            "WITH clause containing a data-modifying statement must be at the top level",
        ),
    ] {
        let said = shop.checked(&url, &schedule(query));
        let found: Vec<&str> = said.out.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(
            said.code == 1 && found.len() == 1 && found[0].contains(words),
            "{words}: {said:?}"
        );
    }
    let columns = "columns = [{ name = \"id\" }, { name = \"sum\" }]";
    let said = shop.checked(&url, &export("SELECT id, total FROM orders", columns));
    assert!(said.code == 1, "{said:?}");
    assert!(said.out.contains("its query answers no sum; it answers id, total"), "{said:?}");
}

#[tokio::test]
async fn check_says_what_a_query_without_bounds_means() {
    let shop = shop().await;
    let url = shop.database.url();
    for (bounds, words) in [
        ("", "; it uses neither $1 nor $2: each file has all of its rows\n"),
        ("WHERE created_at >= $1", "; it does not use $2, the end: a file has rows from after"),
        ("WHERE created_at < $2", "; it does not use $1, the begin: a file has rows from before"),
    ] {
        let said = shop.checked(&url, &export(&format!("SELECT id FROM orders {bounds}"), ""));
        let whole = format!("its query answers id{words}");
        assert!(said.code == 0 && said.out.contains(&whole), "{said:?}");
    }
}

#[tokio::test]
async fn check_warns_of_what_may_fail() {
    let shop = shop().await;
    let url = shop.database.url();
    let columns = "columns = [{ name = \"note\", as = \"integer\" }]";
    let said = shop.checked(&url, &export("SELECT note FROM orders", columns));
    let warned = "column note is text in the query: a row whose value is no integer fails the file";
    assert!(said.code == 0 && said.out.contains(warned), "{said:?}");
    let nobody = schedule("SELECT '{}'::json AS payload").replace("order.due", "reminder.due");
    let said = shop.checked(&url, &nobody);
    let warned = "warn  schedule reminders  no route takes reminder.due: its messages will wait";
    assert!(said.code == 0 && said.out.contains(warned), "{said:?}");
    let lines = shop.json(&["check", "--json"]);
    let warnings = lines.as_array().unwrap().iter().filter(|line| line["warning"] == true);
    assert_eq!(warnings.map(|line| line["ok"] == true).collect::<Vec<_>>(), [true]);
}

#[tokio::test]
async fn check_names_the_grant_that_a_query_lacks() {
    let shop = shop().await;
    let role = format!("app_{}", shop.database.name());
    shop.psql(&format!(
        "CREATE SCHEMA app; CREATE TABLE app.lines (id bigint); CREATE VIEW app.seen AS TABLE orders;
         REVOKE EXECUTE ON FUNCTION traced() FROM PUBLIC;
         CREATE ROLE {role} LOGIN; GRANT outbox_relay TO {role}"
    ));
    let url = shop.database.url().replace("user=postgres", &format!("user={role}"));
    for (query, grant) in [
        ("SELECT id FROM orders", "GRANT SELECT ON orders"),
        ("SELECT id FROM app.lines", "GRANT USAGE ON SCHEMA app"),
        ("SELECT id FROM app.lines", "GRANT SELECT ON lines"),
        ("SELECT id FROM app.seen", "GRANT SELECT ON seen"),
        ("SELECT traced() AS id", "GRANT EXECUTE ON FUNCTION traced"),
    ] {
        let said = shop.checked(&url, &export(query, ""));
        let words = format!("; run as its owner: {grant} TO {role}");
        assert!(said.code == 1 && said.out.contains(&words), "{query}: {said:?}");
        let granted = grant.replace("ON lines", "ON app.lines").replace("ON seen", "ON app.seen");
        shop.psql(&format!("{granted} TO {role}"));
        if !grant.contains("SCHEMA") {
            let said = shop.checked(&url, &export(query, ""));
            assert!(said.code == 0 && said.out.contains("its query answers id"), "{said:?}");
        }
    }
    shop.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
