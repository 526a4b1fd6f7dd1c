//! The schema as it is, against what the migrations make.
//!
//! What they make stands in `sql/catalog.txt`, a line an object, and a test holds that file to a database
//! that was just migrated. A scratch schema would need the right to make one, which a relay's role does not
//! have, and locks on the catalogs; a fingerprint could not name what differs.

use std::collections::BTreeMap;
use std::fmt;

use tokio_postgres::types::Type;

use crate::store::error::StoreError;
use crate::store::link::Link;

/// What the migrations make.
pub const EXPECTED: &str = include_str!("../../../sql/catalog.txt");

/// One object: a table, a column, an index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    /// table, view, type, column, constraint, index, trigger or function.
    pub kind: String,
    /// Without the schema, with the table: `delivery.due_at`.
    pub name: String,
}

/// The objects, each with its definition.
pub type Catalog = BTreeMap<Thing, String>;

/// How an object differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Made by a migration, and not there: its definition.
    Missing(String),
    /// There with another definition: as it was made, and as it is.
    Changed(String, String),
    /// There, and made by no migration.
    Foreign,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Thing {
    /// The table it belongs to, and its own name there.
    #[must_use]
    pub fn split(&self) -> (&str, &str) {
        self.name.split_once('.').unwrap_or((&self.name, ""))
    }
}

/// Reads the live schema.
///
/// # Errors
/// When the database cannot be asked.
pub async fn live(link: &Link) -> Result<Catalog, StoreError> {
    let schema = link.target().schema().as_str();
    let params = [(&schema as _, Type::TEXT)];
    let rows = link.rows("look at the schema", &link.queries().doctor_catalog, &params).await?;
    let object = |row: &tokio_postgres::Row| {
        (Thing { kind: row.get("kind"), name: row.get("name") }, row.get("definition"))
    };
    Ok(rows.iter().map(object).collect())
}

/// Reads a text that [`write()`] wrote.
#[must_use]
pub fn read(text: &str) -> Catalog {
    let object = |line: &str| {
        let mut parts = line.splitn(3, " | ");
        let kind = parts.next()?.to_owned();
        let name = parts.next()?.trim_end_matches(" |").to_owned();
        Some((Thing { kind, name }, parts.next().unwrap_or_default().to_owned()))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(object).collect()
}

/// A line an object.
#[must_use]
pub fn write(catalog: &Catalog) -> String {
    let line = |(thing, definition): (&Thing, &String)| {
        format!("{} | {} | {definition}", thing.kind, thing.name).trim_end().to_owned() + "\n"
    };
    catalog.iter().map(line).collect()
}

/// What differs; the parts of a table that is missing or foreign as a whole are not told one by one.
#[must_use]
pub fn compare(expected: &Catalog, live: &Catalog) -> Vec<(Thing, Drift)> {
    let mut drifts = Vec::new();
    for (thing, wanted) in expected {
        match live.get(thing) {
            None => drifts.push((thing.clone(), Drift::Missing(wanted.clone()))),
            Some(is) if is != wanted => {
                drifts.push((thing.clone(), Drift::Changed(wanted.clone(), is.clone())));
            }
            Some(_) => {}
        }
    }
    let foreign = live.keys().filter(|thing| !expected.contains_key(thing));
    drifts.extend(foreign.map(|thing| (thing.clone(), Drift::Foreign)));
    let whole: Vec<String> = drifts
        .iter()
        .filter(|(thing, _)| matches!(thing.kind.as_str(), "table" | "view" | "type"))
        .filter(|(_, drift)| !matches!(drift, Drift::Changed(..)))
        .map(|(thing, _)| thing.name.clone())
        .collect();
    drifts.retain(|(thing, _)| {
        let (table, part) = thing.split();
        thing.kind == "function" || part.is_empty() || !whole.iter().any(|name| name == table)
    });
    drifts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_a_missing_table_is_told_once() {
        let expected = read(
            "# made by a test\ntable | late |\ncolumn | late.sink | text NOT NULL\ntable | sink |\n\
             column | sink.name | text\nindex | sink.by_name | USING btree (name)\n",
        );
        assert_eq!(read(&write(&expected)), expected);
        assert_eq!(compare(&expected, &expected), []);
        let live = read("table | sink |\ncolumn | sink.name | citext\ncolumn | sink.more | text\n");
        let told: Vec<String> = compare(&expected, &live)
            .iter()
            .map(|(thing, drift)| format!("{thing}: {drift:?}"))
            .collect();
        assert_eq!(
            told,
            [
                r#"column sink.name: Changed("text", "citext")"#,
                r#"index sink.by_name: Missing("USING btree (name)")"#,
                r#"table late: Missing("")"#,
                "column sink.more: Foreign",
            ]
        );
    }
}
