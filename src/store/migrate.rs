//! Migrations: numbered, in one transaction, checksummed, one at a time.

use sha2::{Digest, Sha256};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use super::error::StoreError;
use super::link::Target;
use super::queries::in_schema;
use crate::config::{Database, Schema};
use crate::hex::hex;

/// One migration: a file of `sql/migrations/`.
struct Migration {
    number: i32,
    name: &'static str,
    text: &'static str,
    /// The newest migration that a relay must know to work a schema with this one.
    works_from: i32,
}

/// All migrations, in order. Files are never changed once a version was tagged.
const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "outbox",
        text: include_str!("../../sql/migrations/0001_outbox.sql"),
        works_from: 1,
    },
    Migration {
        number: 2,
        name: "operate",
        text: include_str!("../../sql/migrations/0002_operate.sql"),
        works_from: 1,
    },
];

/// Longest wait for another migration that is running.
const LOCK_LIMIT: &str = "30s";

/// What the database holds, compared with what this binary knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// Everything this binary knows, and nothing more.
    Current,
    /// No outbox in this database.
    Missing,
    /// Migrations are wanting: their numbers.
    Older(Vec<i32>),
    /// Made by a newer outboxd: the number this binary does not know.
    Newer(i32),
    /// A migration ran with another text: its number.
    Changed(i32),
}

impl Migration {
    /// Over the text as it stands in the file, whatever the schema is called.
    fn sha256(&self) -> String {
        hex(&Sha256::digest(self.text))
    }
}

impl SchemaState {
    /// What to do about it, or none where all is well.
    #[must_use]
    pub fn remedy(&self, schema: &Schema) -> Option<String> {
        let schema = schema.as_str();
        Some(match self {
            SchemaState::Current => return None,
            SchemaState::Missing => {
                format!("schema {schema} is missing in this database; run: outboxd migrate")
            }
            SchemaState::Older(numbers) => format!(
                "schema {schema} is older than this outboxd (wanting: {numbers:?}); run: outboxd migrate"
            ),
            SchemaState::Newer(number) => format!(
                "schema {schema} was made by a newer outboxd (migration {number}); use that version"
            ),
            SchemaState::Changed(number) => format!(
                "migration {number} of schema {schema} ran with another text than this outboxd's; \
                 use the version that made it"
            ),
        })
    }
}

/// Compares the database with this binary; changes nothing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn state(target: &Target) -> Result<SchemaState, StoreError> {
    let client = target.connect().await?;
    compare(&client, target).await.map_err(|e| StoreError::postgres("read the schema's state", e))
}

async fn compare(
    client: &impl GenericClient,
    target: &Target,
) -> Result<SchemaState, tokio_postgres::Error> {
    let made = client.query_typed(&target.queries.applied_exists, &[]).await?;
    if !made.iter().any(|row| row.get("made")) {
        return Ok(SchemaState::Missing);
    }
    let applied: Vec<(i32, String)> = client
        .query_typed(&target.queries.applied, &[])
        .await?
        .iter()
        .map(|row| (row.get("number"), row.get("sha256")))
        .collect();
    if let Some((number, _)) =
        applied.iter().find(|(number, _)| MIGRATIONS.iter().all(|m| m.number != *number))
    {
        return Ok(SchemaState::Newer(*number));
    }
    for migration in MIGRATIONS {
        let ran = applied.iter().find(|(number, _)| *number == migration.number);
        if ran.is_some_and(|(_, sha256)| *sha256 != migration.sha256()) {
            return Ok(SchemaState::Changed(migration.number));
        }
    }
    let wanting: Vec<i32> = MIGRATIONS
        .iter()
        .map(|m| m.number)
        .filter(|number| applied.iter().all(|(ran, _)| ran != number))
        .collect();
    Ok(if wanting.is_empty() { SchemaState::Current } else { SchemaState::Older(wanting) })
}

/// Brings the schema up to date and names the installation; answers the numbers of the migrations
/// that ran, none if there was nothing to do. Two that start at once wait for each other.
///
/// # Errors
/// When the schema is newer or was made with other texts, when another migration holds the lock
/// for more than 30 s, or when a statement fails; nothing stays then.
pub async fn migrate(target: &Target, database: &Database) -> Result<Vec<i32>, StoreError> {
    migrate_warned(target, database, |_| {}).await
}

/// As [`migrate`]; hands on what the migrations warn of, such as roles that could not be made.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_warned(
    target: &Target,
    database: &Database,
    warn: impl Fn(&str) + Send + 'static,
) -> Result<Vec<i32>, StoreError> {
    const DOING: &str = "migrate";
    let mut client: Client = target.connect_warned(warn).await?;
    let fail = |e| StoreError::postgres(DOING, e);
    let transaction = client.transaction().await.map_err(fail)?;
    transaction
        .batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_LIMIT}'"))
        .await
        .map_err(fail)?;
    let lock = lock_number(&database.schema);
    transaction
        .query_typed(&target.queries.lock_migration, &[(&lock, Type::INT8)])
        .await
        .map_err(fail)?;
    let state = compare(&transaction, target).await.map_err(fail)?;
    let wanting: Vec<&Migration> = match &state {
        SchemaState::Current => Vec::new(),
        SchemaState::Missing => MIGRATIONS.iter().collect(),
        SchemaState::Older(numbers) => {
            MIGRATIONS.iter().filter(|m| numbers.contains(&m.number)).collect()
        }
        SchemaState::Newer(_) | SchemaState::Changed(_) => {
            let words = state.remedy(&database.schema).unwrap_or_default();
            return Err(StoreError::said(DOING, words));
        }
    };
    for migration in &wanting {
        let text = in_schema(migration.text, &database.schema);
        transaction.batch_execute(&text).await.map_err(fail)?;
    }
    // After all of them: what an entry has, a later migration may have added.
    for migration in &wanting {
        let entry: [super::link::Param<'_>; 4] = [
            (&migration.number, Type::INT4),
            (&migration.name, Type::TEXT),
            (&migration.sha256(), Type::TEXT),
            (&migration.works_from, Type::INT4),
        ];
        transaction.execute_typed(&target.queries.enter_migration, &entry).await.map_err(fail)?;
    }
    let name = database.installation.as_str();
    transaction
        .execute_typed(&target.queries.enter_installation, &[(&name, Type::TEXT)])
        .await
        .map_err(fail)?;
    transaction.commit().await.map_err(fail)?;
    Ok(wanting.iter().map(|m| m.number).collect())
}

/// The SQL of all migrations, for a team's own migration tool: to be run in one transaction, after
/// which `outboxd migrate --check` finds nothing wanting.
#[must_use]
pub fn print(database: &Database) -> String {
    let mut out = String::new();
    for migration in MIGRATIONS {
        out.push_str(&in_schema(migration.text, &database.schema));
        out.push('\n');
    }
    for migration in MIGRATIONS {
        let Migration { number, name, works_from, .. } = migration;
        let sha256 = migration.sha256();
        let entry = format!(
            "INSERT INTO outbox.migration (number, name, sha256, works_from) \
             VALUES ({number}, '{name}', '{sha256}', {works_from});\n"
        );
        out.push_str(&in_schema(&entry, &database.schema));
    }
    let name = format!(
        "INSERT INTO outbox.installation (name) VALUES ('{}');\n",
        database.installation.as_str()
    );
    out.push_str(&in_schema(&name, &database.schema));
    out
}

/// The text of each migration, in order.
pub(super) fn texts() -> impl Iterator<Item = &'static str> {
    MIGRATIONS.iter().map(|migration| migration.text)
}

/// A number for the advisory lock: before the schema exists there is no table to take it from.
fn lock_number(schema: &Schema) -> i64 {
    let digest = Sha256::digest(format!("outboxd migrate {}", schema.as_str()));
    i64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}
