//! What the query of a schedule answers, made into messages.

use tokio_postgres::types::Type;

use super::fire::{DOING, Unfired};
use crate::config::Schema;
use crate::store::error::StoreError;
use crate::store::queries::in_schema;

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

/// A statement that answers one row of nothing but NULL with the columns of a query, of which no row is
/// made.
pub(super) fn describing(sql: &str) -> String {
    format!(
        "SELECT q.* FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM (\n{sql}\n) q LIMIT 0) AS q ON true"
    )
}

/// A query with all columns of a message, those it lacks as NULL; or what is wrong with its columns.
pub(super) fn answer(sql: &str, columns: &[(&str, &Type)]) -> Result<String, String> {
    let known = || COLUMNS.map(|(name, ..)| name).join(", ");
    let mut wrong = Vec::new();
    for (at, (name, kind)) in columns.iter().enumerate() {
        match COLUMNS.iter().find(|(known, ..)| known == name) {
            None => wrong.push(format!(
                "column \"{name}\" is none of a message, which has {}; take it out, or put it \
                 into the payload with jsonb_build_object",
                known()
            )),
            Some(_) if columns[..at].iter().any(|(other, _)| other == name) => {
                wrong.push(format!("column {name} comes twice; leave one out"));
            }
            Some((_, cast, kinds)) if !kinds.is_empty() && !kinds.contains(kind) => wrong
                .push(format!("column {name} is {kind} and must be {cast}; write {name}::{cast}")),
            Some(_) => {}
        }
    }
    if !columns.iter().any(|(name, _)| *name == "payload") {
        wrong.push(
            "there is no column payload; write e.g. jsonb_build_object('order_id', id) AS payload"
                .to_owned(),
        );
    }
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let column = |(name, cast, _): &(&str, &str, _)| {
        let has = columns.iter().any(|(other, _)| other == name);
        let value = if has { format!("q.{name}") } else { "NULL".to_owned() };
        format!("{value}::{cast} AS {name}")
    };
    let columns: Vec<String> = COLUMNS.iter().map(column).collect();
    // The line's end keeps a comment in the query's last line to itself.
    Ok(format!("SELECT {} FROM (\n{sql}\n) q", columns.join(", ")))
}

/// What the server says about the query or its answer. A wire that broke is no fault of the query.
pub(super) fn refused(error: tokio_postgres::Error) -> Unfired {
    let error = StoreError::postgres(DOING, error);
    let Some(code) = error.code().map(|code| code.code().to_owned()) else { return error.into() };
    // A parameter too many is a "protocol violation".
    if error.is_connection() && code != "08P01" {
        return error.into();
    }
    Unfired::Query(format!("{}; {}", error.message_without_data(), remedy(&code)))
}

/// What to do about an error of this class.
fn remedy(code: &str) -> &'static str {
    match code {
        "57014" => "it took longer than its timeout: make it faster, or raise timeout",
        "08P01" => "$1 and $2, begin and end of the period, are all the parameters there are",
        "42501" => "run as the owner: GRANT SELECT ON the table it reads TO the relay's role",
        _ if code.starts_with("42") => "correct the query; try it with psql as the relay's role",
        _ if code.starts_with("23") || code.starts_with("22") => {
            "one of its rows cannot be a message; look at its rows with psql as the relay's role"
        }
        _ => "try it with psql as the relay's role",
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

    #[test]
    fn columns_that_a_query_lacks_are_null() {
        let columns = [("key", &Type::INT8), ("payload", &Type::JSON)];
        assert_eq!(
            answer("SELECT 1 -- all", &columns).unwrap(),
            "SELECT q.payload::jsonb AS payload, q.key::text AS key, NULL::timestamptz AS due_at, \
             NULL::timestamptz AS expires_at, NULL::text AS dedupe_key, NULL::jsonb AS headers \
             FROM (\nSELECT 1 -- all\n) q"
        );
    }

    #[test]
    fn columns_that_no_message_has_are_named() {
        let columns = [
            ("payload", &Type::TEXT),
            ("e_mail", &Type::TEXT),
            ("due_at", &Type::TIMESTAMP),
            ("key", &Type::TEXT),
            ("key", &Type::TEXT),
        ];
        let wrong = answer("", &columns).unwrap_err();
        for part in [
            "payload is text and must be jsonb; write payload::jsonb",
            "column \"e_mail\" is none of a message",
            "due_at is timestamp and must be timestamptz",
            "key comes twice",
        ] {
            assert!(wrong.contains(part), "{wrong}");
        }
        assert!(answer("", &[("key", &Type::TEXT)]).unwrap_err().contains("no column payload"));
    }
}
