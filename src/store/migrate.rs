//! Migrations: numbered, in one transaction, checksummed, one at a time, and polite: none waits long for a
//! lock, as whoever comes after would wait behind it.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::error::StoreError;
use super::link::Target;
use super::queries::in_schema;
use crate::config::{Database, Names, Schema, duration_in_words};
use crate::hex::hex;

/// One migration: a file of `sql/migrations/`.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Counted from 1.
    pub number: i32,
    /// What it is about.
    pub name: &'static str,
    /// Its statements.
    pub text: &'static str,
    /// The newest migration that a relay must know to work a schema with this one.
    pub works_from: i32,
}

/// All migrations, in order. Files are never changed once a version was tagged.
pub const MIGRATIONS: &[Migration] = &[
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
    // One that does not know who accepted a mail already would send it to them again.
    Migration {
        number: 3,
        name: "recipients",
        text: include_str!("../../sql/migrations/0003_recipients.sql"),
        works_from: 3,
    },
];

/// The number of the last one.
pub const NEWEST: i32 = MIGRATIONS[MIGRATIONS.len() - 1].number;

/// How long one try waits for a lock, and how long after it the next one begins.
const LOCK_LIMIT: &str = "50ms";
/// One that is frozen between two statements does not keep its locks: relays would lose their leases.
const THAWED: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s'";
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long tries are made unless told otherwise.
pub const PATIENCE: Duration = Duration::from_mins(5);
/// How long rights wait for a migration that runs.
const GRANT_PATIENCE: Duration = Duration::from_secs(10);

/// What the database holds, compared with what this binary knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// Everything this binary knows, and nothing more.
    Current,
    /// No outbox in this database.
    Missing,
    /// Migrations are wanting: their numbers.
    Older(Vec<i32>),
    /// Made by a newer outboxd, and this one works with it: the newest number it does not know.
    Works(i32),
    /// Made by a newer outboxd, and of no use to this one: the number it would have to know.
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
    /// How it stands, where this outboxd can work with it.
    #[must_use]
    pub fn sound(&self, schema: &Schema) -> Option<String> {
        let schema = schema.as_str();
        match self {
            SchemaState::Current => Some(format!("schema {schema} is current")),
            SchemaState::Works(number) => Some(format!(
                "schema {schema} is newer than this outboxd (migration {number}), which works with it"
            )),
            _ => None,
        }
    }

    /// What to do about it, or none where all is well.
    #[must_use]
    pub fn remedy(&self, schema: &Schema) -> Option<String> {
        let schema = schema.as_str();
        Some(match self {
            SchemaState::Current | SchemaState::Works(_) => return None,
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
    compare(&client, target, MIGRATIONS)
        .await
        .map_err(|e| StoreError::postgres("read the schema's state", e))
}

async fn compare(
    client: &impl GenericClient,
    target: &Target,
    known: &[Migration],
) -> Result<SchemaState, tokio_postgres::Error> {
    let made = client.query_typed(&target.queries.applied_exists, &[]).await?;
    if !made.iter().any(|row| row.get("made")) {
        return Ok(SchemaState::Missing);
    }
    let applied: Vec<Applied> = client
        .query_typed(&target.queries.applied, &[])
        .await?
        .iter()
        .map(|row| Applied {
            number: row.get("number"),
            sha256: row.get("sha256"),
            works_from: row.get("works_from"),
        })
        .collect();
    Ok(judge(&applied, known))
}

/// A migration as the database has it on record.
struct Applied {
    number: i32,
    sha256: String,
    /// None where it ran before there was such a thing.
    works_from: Option<i32>,
}

fn judge(applied: &[Applied], known: &[Migration]) -> SchemaState {
    let newest = known.iter().map(|m| m.number).max().unwrap_or_default();
    let unknown = || applied.iter().filter(|ran| known.iter().all(|m| m.number != ran.number));
    if let Some(ran) = unknown().find(|ran| ran.works_from.is_none_or(|from| from > newest)) {
        return SchemaState::Newer(ran.number);
    }
    for migration in known {
        let ran = applied.iter().find(|ran| ran.number == migration.number);
        if ran.is_some_and(|ran| ran.sha256 != migration.sha256()) {
            return SchemaState::Changed(migration.number);
        }
    }
    let wanting: Vec<i32> = known
        .iter()
        .map(|m| m.number)
        .filter(|number| applied.iter().all(|ran| ran.number != *number))
        .collect();
    match unknown().map(|ran| ran.number).max() {
        // Migrations run in order, so somebody else made it.
        Some(number) if !wanting.is_empty() => SchemaState::Newer(number),
        Some(number) => SchemaState::Works(number),
        None if wanting.is_empty() => SchemaState::Current,
        None => SchemaState::Older(wanting),
    }
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The numbers of the migrations that ran, none if there was nothing to do.
    pub ran: Vec<i32>,
    /// The name that the installation had before, where it was given the config's.
    pub renamed: Option<String>,
}

/// Brings the schema up to date and names the installation; answers the numbers of the migrations
/// that ran, none if there was nothing to do. Two that start at once wait for each other.
///
/// # Errors
/// When the schema is newer or was made with other texts, when a lock was not to be had for five
/// minutes, or when a statement fails; nothing stays then.
pub async fn migrate(target: &Target, database: &Database) -> Result<Vec<i32>, StoreError> {
    Ok(migrate_with(target, database, MIGRATIONS, PATIENCE, |_| {}).await?.ran)
}

/// As [`migrate`], with other migrations and another patience; hands on what the migrations warn of, such
/// as roles that could not be made, and who keeps them waiting.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_with(
    target: &Target,
    database: &Database,
    known: &[Migration],
    patience: Duration,
    warn: impl Fn(&str) + Clone + Send + 'static,
) -> Result<Migrated, StoreError> {
    let begun = Instant::now();
    let mut client: Client = target.connect_warned(warn.clone()).await?;
    let mut pause = PAUSE_MIN;
    loop {
        let error = match attempt(&mut client, target, database, known).await {
            Err(error) if error.is_lock_timeout() || error.is_deadlock() => error,
            ended => return ended,
        };
        let holder = lock_holder(&client, target).await?;
        if begun.elapsed() + pause > patience {
            let patience = duration_in_words(patience);
            return Err(error.waited(format!("no lock to be had for {patience}: {holder}")));
        }
        if pause == PAUSE_MIN {
            warn(&format!("waiting for a lock, without keeping others waiting: {holder}"));
        }
        tokio::time::sleep(pause.mul_f64(1.0 + fastrand::f64() / 4.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Who is in the way, as far as it can be told.
async fn lock_holder(client: &Client, target: &Target) -> Result<String, StoreError> {
    let schema = target.schema().as_str();
    let rows = client
        .query_typed(&target.queries.lock_holders, &[(&schema, Type::TEXT)])
        .await
        .map_err(|e| StoreError::postgres("look who holds a lock", e))?;
    let Some(row) = rows.first() else {
        return Ok("another migration is running, or somebody is always in the way".to_owned());
    };
    let (pid, application): (i32, Option<&str>) = (row.get("pid"), row.get("application_name"));
    let application = application.filter(|name| !name.is_empty());
    let named = application.map_or(String::new(), |name| format!(" ({name})"));
    let age: Option<f64> = row.get("age");
    let since = age.map_or(String::new(), |age| format!(" for {age:.0} s"));
    Ok(format!(
        "process {pid}{named} has had a transaction open{since} and is perhaps in the way; let it end"
    ))
}

/// One try.
async fn attempt(
    client: &mut Client,
    target: &Target,
    database: &Database,
    known: &[Migration],
) -> Result<Migrated, StoreError> {
    const DOING: &str = "migrate";
    let fail = |e| StoreError::postgres(DOING, e);
    let transaction = client.transaction().await.map_err(fail)?;
    transaction
        .batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_LIMIT}'; {THAWED}"))
        .await
        .map_err(fail)?;
    let lock = lock_number(&database.schema);
    transaction
        .query_typed(&target.queries.lock_migration, &[(&lock, Type::INT8)])
        .await
        .map_err(fail)?;
    let state = compare(&transaction, target, known).await.map_err(fail)?;
    let wanting: Vec<&Migration> = match &state {
        SchemaState::Current | SchemaState::Works(_) => Vec::new(),
        SchemaState::Missing => known.iter().collect(),
        SchemaState::Older(numbers) => {
            known.iter().filter(|m| numbers.contains(&m.number)).collect()
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
    let renamed = name(&transaction, target, database).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)?;
    Ok(Migrated { ran: wanting.iter().map(|m| m.number).collect(), renamed })
}

/// Gives the installation the config's name, if it has none or one that is in no key yet; answers the name
/// it had, where that is another one now.
async fn name(
    transaction: &Transaction<'_>,
    target: &Target,
    database: &Database,
) -> Result<Option<String>, tokio_postgres::Error> {
    let (queries, name) = (&target.queries, database.installation.as_str());
    let param: [super::link::Param<'_>; 1] = [(&name, Type::TEXT)];
    transaction.execute_typed(&queries.enter_installation, &param).await?;
    let rows = transaction.query_typed(&queries.installation, &[]).await?;
    let before: Option<String> = rows.first().map(|row| row.get("name"));
    let Some(before) = before.filter(|before| before != name) else { return Ok(None) };
    let renamed = transaction.execute_typed(&queries.name_installation, &param).await?;
    Ok((renamed == 1).then_some(before))
}

/// The SQL of the migrations from this number on, for a team's own migration tool: to be run in one
/// transaction, after which `outboxd migrate --check` finds nothing wanting.
#[must_use]
pub fn print(names: &Names, from: i32) -> String {
    let mut out = String::new();
    let printed = || MIGRATIONS.iter().filter(|m| m.number >= from);
    for migration in printed() {
        out.push_str(&in_schema(migration.text, &names.schema));
        out.push('\n');
    }
    for migration in printed() {
        let Migration { number, name, works_from, .. } = migration;
        let sha256 = migration.sha256();
        let entry = format!(
            "INSERT INTO outbox.migration (number, name, sha256, works_from) \
             VALUES ({number}, '{name}', '{sha256}', {works_from});\n"
        );
        out.push_str(&in_schema(&entry, &names.schema));
    }
    if from > 1 {
        return out;
    }
    let entry = format!(
        "INSERT INTO outbox.installation (name) VALUES ('{}');\n",
        names.installation.as_str()
    );
    out.push_str(&in_schema(&entry, &names.schema));
    out
}

/// What begins the last part of a migration: nothing but rights, and the roles they are for.
const RIGHTS: &str = "\n-- Rights:";

/// The SQL that makes the group roles which are missing, where the role that runs it may, and grants each
/// what it needs; to be run in one transaction, as often as one likes.
#[must_use]
pub fn print_rights(schema: &Schema) -> String {
    let parts = MIGRATIONS.iter().filter_map(|m| m.text.find(RIGHTS).map(|at| &m.text[at + 1..]));
    in_schema(&parts.collect::<Vec<_>>().join("\n"), schema)
}

/// Runs [`print_rights`]; hands on which roles could not be made.
///
/// # Errors
/// When the schema is not the one that this outboxd knows, or a statement fails; nothing stays then.
pub async fn grant(
    target: &Target,
    warn: impl Fn(&str) + Send + 'static,
) -> Result<(), StoreError> {
    const DOING: &str = "grant the rights";
    let fail = |e| StoreError::postgres(DOING, e);
    let mut client = target.connect_warned(warn).await?;
    let transaction = client.transaction().await.map_err(fail)?;
    let patience = format!("SET LOCAL lock_timeout = '{}ms'; {THAWED}", GRANT_PATIENCE.as_millis());
    transaction.batch_execute(&patience).await.map_err(fail)?;
    let lock = lock_number(target.schema());
    transaction
        .query_typed(&target.queries.lock_migration, &[(&lock, Type::INT8)])
        .await
        .map_err(fail)?;
    match compare(&transaction, target, MIGRATIONS).await.map_err(fail)? {
        SchemaState::Current => {}
        // What a newer one made may be granted otherwise.
        SchemaState::Works(number) => {
            let words = SchemaState::Newer(number).remedy(target.schema()).unwrap_or_default();
            return Err(StoreError::said(DOING, words));
        }
        other => {
            let words = other.remedy(target.schema()).unwrap_or_default();
            return Err(StoreError::said(DOING, words));
        }
    }
    transaction.batch_execute(&print_rights(target.schema())).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: i32) -> Migration {
        Migration { number, name: "x", text: "SELECT 1", works_from: number }
    }

    /// Guard: what is printed as rights may be run again and again.
    #[test]
    fn the_last_part_of_a_migration_is_rights_and_nothing_else() {
        for migration in MIGRATIONS {
            let at = migration.text.find(RIGHTS).expect("each has that part");
            let (before, rights) = migration.text.split_at(at);
            assert!(!before.contains("GRANT "), "{}", migration.number);
            for line in rights.lines().filter(|line| line.starts_with(|c: char| c.is_alphabetic()))
            {
                let first = line.split([' ', ';']).next().unwrap();
                let known = ["REVOKE", "DO", "DECLARE", "BEGIN", "END"].contains(&first);
                assert!(known, "{}: {line}", migration.number);
            }
        }
        let printed = print_rights(&Schema::parse("shop").unwrap());
        assert!(printed.starts_with("-- Rights:") && printed.contains("TO shop_producer"));
        assert!(
            printed.contains("FUNCTION \"shop\".may_enter(boolean) TO shop_relay"),
            "{printed}"
        );
        assert!(!printed.contains("outbox.") && !printed.contains("outbox_"), "{printed}");
    }

    fn ran(number: i32, works_from: Option<i32>) -> Applied {
        Applied { number, sha256: known(number).sha256(), works_from }
    }

    #[test]
    fn a_newer_schema_is_worked_if_all_that_is_unknown_allows_it() {
        let two = [known(1), known(2)];
        let (one, of_two) = (ran(1, Some(1)), ran(2, Some(1)));
        let judged = |more: Vec<Applied>| {
            let base = vec![ran(1, Some(1)), ran(2, Some(1))];
            judge(&base.into_iter().chain(more).collect::<Vec<_>>(), &two)
        };
        assert_eq!(judged(vec![]), SchemaState::Current);
        assert_eq!(judged(vec![ran(3, Some(2))]), SchemaState::Works(3));
        assert_eq!(judged(vec![ran(3, Some(1)), ran(4, Some(2))]), SchemaState::Works(4));
        assert_eq!(judged(vec![ran(3, Some(3))]), SchemaState::Newer(3));
        assert_eq!(judged(vec![ran(3, Some(2)), ran(4, Some(3))]), SchemaState::Newer(4));
        assert_eq!(judged(vec![ran(3, None)]), SchemaState::Newer(3));
        assert_eq!(judge(&[one, ran(3, Some(1))], &two), SchemaState::Newer(3));
        let changed = Applied { sha256: "y".to_owned(), ..of_two };
        let all = [ran(1, Some(1)), changed, ran(3, Some(1))];
        assert_eq!(judge(&all, &two), SchemaState::Changed(2));
        assert_eq!(judge(&[ran(1, None)], &two), SchemaState::Older(vec![2]));
    }
}
