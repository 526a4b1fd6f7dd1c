//! What the query of a schedule answers, made into messages.

use tokio_postgres::types::{Kind, Type};

use crate::config::Schema;
use crate::store::queries::in_schema;
use crate::store::query::QueryColumn;

/// In its place in `write_answer` stands a schedule's query.
const STAND_IN: &str = "SELECT m.payload, m.key, m.due_at, m.expires_at, m.dedupe_key, m.headers \
                        FROM outbox.message m WHERE m.created_at BETWEEN $1 AND $2";
/// The columns a query may answer, as they are written, and those that must come in this very type.
const COLUMNS: [(&str, &str, &[Type]); 6] = [
    ("payload", "jsonb", &[Type::JSONB, Type::JSON]),
    ("key", "text", &[]),
    ("due_at", "timestamptz", &[Type::TIMESTAMPTZ]),
    ("expires_at", "timestamptz", &[Type::TIMESTAMPTZ]),
    ("dedupe_key", "text", &[]),
    ("headers", "jsonb", &[Type::JSONB, Type::JSON]),
];

/// The line of `write_answer` that a query takes the place of.
pub(super) fn stand_in(schema: &Schema) -> String {
    in_schema(STAND_IN, schema)
}

/// A query with all columns of a message, those it lacks as NULL; or what is wrong with its columns.
pub(super) fn answer(sql: &str, columns: &[QueryColumn]) -> Result<String, String> {
    let wrong = faults(columns);
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let column = |(name, cast, _): &(&str, &str, _)| {
        let has = columns.iter().any(|column| column.name == *name);
        let value = if has { format!("q.{name}") } else { "NULL".to_owned() };
        format!("{value}::{cast} AS {name}")
    };
    let columns: Vec<String> = COLUMNS.iter().map(column).collect();
    // The line's end keeps a comment in the query's last line to itself.
    Ok(format!("SELECT {} FROM (\n{sql}\n) q", columns.join(", ")))
}

/// Why no message can be made of such columns, each with its remedy.
#[must_use]
pub fn faults(columns: &[QueryColumn]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, QueryColumn { name, kind }) in columns.iter().enumerate() {
        let twice = columns[..at].iter().any(|earlier| earlier.name == *name);
        match COLUMNS.iter().find(|(known, ..)| known == name) {
            None => wrong.push(format!(
                "its query answers {name}, which no message has; leave it out, or put it into the \
                 payload"
            )),
            Some(_) if twice => {
                wrong
                    .push(format!("its query answers {name} twice; give one another name with AS"));
            }
            Some((_, cast, kinds)) if !kinds.is_empty() && !kinds.contains(base(kind)) => {
                wrong.push(format!("its query's {name} is {kind}; write {name}::{cast}"));
            }
            Some(_) => {}
        }
    }
    if !columns.iter().any(|column| column.name == "payload") {
        wrong.push(
            "its query answers no payload; write e.g. jsonb_build_object('id', id) AS payload"
                .to_owned(),
        );
    }
    wrong
}

/// What stands below a domain.
fn base(kind: &Type) -> &Type {
    match kind.kind() {
        Kind::Domain(inner) => base(inner),
        _ => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_takes_the_place_of_its_stand_in() {
        let sql = include_str!("../../../sql/queries/write_answer.sql");
        assert_eq!(sql.matches(STAND_IN).count(), 1);
    }

    fn columns(columns: &[(&str, Type)]) -> Vec<QueryColumn> {
        let column = |(name, kind): &(&str, Type)| QueryColumn {
            name: (*name).to_owned(),
            kind: kind.clone(),
        };
        columns.iter().map(column).collect()
    }

    #[test]
    fn columns_that_a_query_lacks_are_null() {
        let columns = columns(&[("key", Type::INT8), ("payload", Type::JSON)]);
        assert_eq!(
            answer("SELECT 1 -- all", &columns).unwrap(),
            "SELECT q.payload::jsonb AS payload, q.key::text AS key, NULL::timestamptz AS due_at, \
             NULL::timestamptz AS expires_at, NULL::text AS dedupe_key, NULL::jsonb AS headers \
             FROM (\nSELECT 1 -- all\n) q"
        );
    }

    #[test]
    fn columns_that_no_message_has_are_named() {
        let found = columns(&[
            ("payload", Type::TEXT),
            ("e_mail", Type::TEXT),
            ("due_at", Type::TIMESTAMP),
            ("key", Type::TEXT),
            ("key", Type::TEXT),
        ]);
        let wrong = faults(&found);
        for (wrong, part) in wrong.iter().zip([
            "payload is text; write payload::jsonb",
            "answers e_mail, which no message has",
            "due_at is timestamp; write due_at::timestamptz",
            "answers key twice",
        ]) {
            assert!(wrong.contains(part), "{wrong}");
        }
        assert_eq!(wrong.len(), 4);
        assert!(faults(&columns(&[("key", Type::TEXT)]))[0].contains("no payload"));
    }
}
