//! The SQL that puts back what the migrations made. Written to be read before it is run: a column comes back
//! empty, and what stands there on purpose goes.

use super::catalog::{Drift, Thing};
use crate::config::Schema;
use crate::store::migrate;
use crate::store::queries::in_schema;

/// What others lean on comes first.
const ORDER: &[&str] =
    &["table", "type", "column", "constraint", "index", "function", "view", "trigger"];

/// What the statements are run in: between DROP and CREATE of a trigger nothing may be committed, as nothing
/// would route it. And nobody waits long behind what waits for a lock.
const BEGIN: &str = "BEGIN;\nSET LOCAL lock_timeout = '2s';";

/// One statement for each object, or a comment where a person has to decide; in one transaction.
#[must_use]
pub fn statements(drifts: &[(Thing, Drift)], schema: &Schema) -> Vec<String> {
    let rank = |thing: &Thing| ORDER.iter().position(|kind| *kind == thing.kind);
    let mut drifts: Vec<&(Thing, Drift)> = drifts.iter().collect();
    drifts.sort_by_key(|(thing, _)| rank(thing));
    let statements: Vec<String> =
        drifts.iter().map(|(thing, drift)| in_schema(&statement(thing, drift), schema)).collect();
    if statements.iter().all(|statement| statement.starts_with("--")) {
        return statements;
    }
    let first = std::iter::once(BEGIN.to_owned());
    first.chain(statements).chain(std::iter::once("COMMIT;".to_owned())).collect()
}

fn statement(thing: &Thing, drift: &Drift) -> String {
    let (table, name) = thing.split();
    let by_hand = |why: &str| format!("-- {thing}: {why}");
    let (wanted, is_there) = match drift {
        Drift::Missing(wanted) => (wanted, false),
        Drift::Changed(wanted, _) => (wanted, true),
        Drift::Foreign => {
            return by_hand("made by no migration; drop it by hand if nobody needs it");
        }
    };
    let drop = |text: String| if is_there { format!("{text}\n") } else { String::new() };
    match thing.kind.as_str() {
        "column" if is_there => by_hand(&format!("alter it by hand, back to: {wanted}")),
        "column" => format!("ALTER TABLE outbox.{table} ADD COLUMN {name} {wanted};"),
        "constraint" => {
            drop(format!("ALTER TABLE outbox.{table} DROP CONSTRAINT {name};"))
                + &format!("ALTER TABLE outbox.{table} ADD CONSTRAINT {name} {wanted};")
        }
        "index" => {
            let (unique, using) = match wanted.strip_prefix("UNIQUE ") {
                Some(using) => ("UNIQUE ", using),
                None => ("", wanted.as_str()),
            };
            drop(format!("DROP INDEX outbox.{name};"))
                + "-- Whoever writes to the table waits until it is built.\n"
                + &format!("CREATE {unique}INDEX {name} ON outbox.{table} {using};")
        }
        "trigger" => {
            drop(format!("DROP TRIGGER {name} ON outbox.{table};")) + &format!("{wanted};")
        }
        "table" if is_there => format!("ALTER TABLE outbox.{table} SET LOGGED;"),
        "function" => {
            let name = thing.name.split('(').next().unwrap_or_default();
            match made("FUNCTION", name, "(", &["$$;"]) {
                Some(text) if is_there => text,
                // What is made anew may be run by everybody; the rights show in the next look.
                Some(text) => {
                    format!("{text}\nREVOKE ALL ON FUNCTION outbox.{} FROM PUBLIC;", thing.name)
                }
                None => by_hand("take it from: outboxd migrate --print"),
            }
        }
        // Its indexes, and columns that later migrations added, show in the next look.
        "table" => made("TABLE", table, " (", &["\n)", ";"])
            .unwrap_or_else(|| by_hand("take it from: outboxd migrate --print")),
        "view" => made("VIEW", table, " AS", &[";"])
            .unwrap_or_else(|| by_hand("take it from: outboxd migrate --print")),
        _ => by_hand("take it from: outboxd migrate --print, or its rows from a backup"),
    }
}

/// The last text in the migrations that makes an object, from CREATE to the last of its ends.
fn made(kind: &str, name: &str, behind: &str, ends: &[&str]) -> Option<String> {
    let find = |text: &'static str| {
        let heads = ["CREATE", "CREATE OR REPLACE"]
            .map(|create| format!("{create} {kind} outbox.{name}{behind}"));
        let at = heads.iter().filter_map(|head| text.rfind(head.as_str())).max()?;
        let made = &text[at..];
        let length = ends
            .iter()
            .try_fold(0, |from, end| made[from..].find(end).map(|at| from + at + end.len()))?;
        Some(made[..length].to_owned())
    };
    let texts: Vec<&'static str> = migrate::texts().collect();
    let text = texts.into_iter().rev().find_map(find)?;
    let again = matches!(kind, "FUNCTION" | "VIEW");
    let replace = format!("CREATE OR REPLACE {kind}");
    Some(if again { text.replacen(&format!("CREATE {kind}"), &replace, 1) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::doctor::catalog::{EXPECTED, read};

    #[test]
    fn every_function_and_view_is_found_in_the_migrations() {
        let mut seen = 0;
        for (thing, wanted) in read(EXPECTED) {
            if matches!(thing.kind.as_str(), "function" | "view") {
                let text = statement(&thing, &Drift::Changed(wanted, String::new()));
                assert!(text.starts_with("CREATE OR REPLACE "), "{thing}: {text}");
                assert!(text.ends_with(';'), "{thing}: {text}");
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn what_others_lean_on_comes_first() {
        let drift = |kind: &str, name: &str, wanted: &str| {
            let thing = Thing { kind: kind.to_owned(), name: name.to_owned() };
            (thing, Drift::Missing(wanted.to_owned()))
        };
        let drifts = [
            drift("index", "delivery.by_key", "UNIQUE USING btree (key) WHERE (key IS NOT NULL)"),
            drift("column", "delivery.key", "text"),
        ];
        assert_eq!(
            statements(&drifts, &Schema::parse("order").unwrap()),
            [
                "BEGIN;\nSET LOCAL lock_timeout = '2s';",
                "ALTER TABLE \"order\".delivery ADD COLUMN key text;",
                "-- Whoever writes to the table waits until it is built.\n\
                 CREATE UNIQUE INDEX by_key ON \"order\".delivery USING btree (key) WHERE (key IS NOT NULL);",
                "COMMIT;",
            ]
        );
        let foreign = Thing { kind: "table".to_owned(), name: "own".to_owned() };
        let alone = statements(&[(foreign, Drift::Foreign)], &Schema::parse("order").unwrap());
        assert!(alone.len() == 1 && alone[0].starts_with("-- "), "{alone:?}");
    }
}
