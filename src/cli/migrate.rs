//! `outboxd migrate`: makes the schema, or brings it up to date.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::finding::Found;
use super::migrate_as::{Form, Printed};
use super::outside::{explained, groups, to_migrate};
use super::{
    Answer, Failure, Verdict, connect, other_installation, say, say_aside, say_json, words,
};
use crate::config::{Config, Names};
use crate::store::inspect::server;
use crate::store::migrate::{
    MIGRATIONS, Migrated, NEWEST, PATIENCE, SchemaState, grant, migrate_with, print, print_rights,
    state,
};
use crate::store::{StoreError, Target};

const EXAMPLES: &str = "\
Examples:
  outboxd migrate              make the schema or bring it up to date, in one transaction
  outboxd migrate --check      change nothing; exit code 1 if something is wanting
  outboxd migrate --rights     the roles that were missing, and what each is granted; with --print its SQL
  outboxd migrate --print      the SQL, for your own migration tool or: … | psql --single-transaction
  outboxd migrate --print --as rails      the same as a migration of Rails (or django, typeorm)
  outboxd migrate --print --from 2        what this outboxd adds to a schema that has migration 1";

/// Before what `--print --rights` writes.
const ABOUT_RIGHTS: &str = "\
-- Makes the group roles that are missing, and grants each what it needs; as often as one likes. To be run in
-- one transaction (psql --single-transaction), by a superuser; or by the schema's owner, who may grant, once
-- an administrator has made the roles.

";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Migrate {
    /// Write the SQL to stdout; needs no database, and of a config only [database] schema and installation
    #[arg(long, conflicts_with_all = ["check", "json"])]
    print: bool,
    /// What to write it as: a migration of your own tool
    #[arg(long = "as", value_name = "FORM", requires = "print", value_enum, default_value_t = Form::Sql)]
    form: Form,
    /// The first migration to write, where those before it have run
    #[arg(long, value_name = "NUMBER", requires = "print", default_value_t = 1,
          value_parser = clap::value_parser!(i32).range(1..=i64::from(NEWEST)))]
    from: i32,
    /// Make the group roles that are missing, where the role may, and grant each what it needs; nothing else
    #[arg(long, conflicts_with_all = ["check", "form", "from", "json", "wait"])]
    rights: bool,
    /// Only look whether the schema is what this outboxd needs
    #[arg(long)]
    check: bool,
    /// How long to try for a lock that somebody else holds, such as 30s; default 5m
    #[arg(long, value_name = "SPAN", value_parser = words::span, conflicts_with_all = ["check", "print"])]
    wait: Option<Duration>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Migrate {
    /// Whether SQL is all that is wanted, which needs next to nothing of a config.
    pub fn prints(&self) -> bool {
        self.print
    }

    pub fn print(&self, file: &Path) -> Answer {
        let (names, found) = Config::names(file)?;
        let Names { schema, installation } = &names;
        if !found {
            say_aside(&format!(
                "note: {} does not exist; printed for schema {schema} and installation {installation}",
                file.display(),
                schema = schema.as_str()
            ));
        }
        if self.rights {
            say(&format!("{ABOUT_RIGHTS}{}", print_rights(schema)));
            return Ok(Verdict::Ok);
        }
        let sql = print(&names, self.from);
        let (from, to, now) = (self.from, NEWEST, Timestamp::now());
        say(&self.form.wrap(&Printed { sql: &sql, schema, installation, from, to, now }));
        Ok(Verdict::Ok)
    }

    pub async fn run(&self, config: &Config) -> Answer {
        let target = Target::new(&config.database);
        let answer = if self.check {
            self.check(config, &target).await
        } else if self.rights {
            grant_rights(config, &target).await
        } else {
            self.migrate(config, &target).await
        };
        match answer {
            Ok(answer) => answer,
            Err(error) => Err(explained(error, &connect(config), to_migrate).await),
        }
    }

    async fn migrate(&self, config: &Config, target: &Target) -> Result<Answer, StoreError> {
        let schema = config.database.schema.as_str();
        let warn = |words: &str| say_aside(&format!("warning: {words}"));
        let wait = self.wait.unwrap_or(PATIENCE);
        let Migrated { ran, renamed } =
            migrate_with(target, &config.database, MIGRATIONS, wait, warn).await?;
        let other = other_installation(&connect(config), config).await?;
        let (installation, words) = match &other {
            None => (config.database.installation.as_str(), None),
            Some((found, words)) => (found.as_str(), Some(words)),
        };
        if self.json {
            say_json(&json!({
                "schema": schema, "ran": ran, "installation": installation, "renamed_from": renamed
            }));
        } else if ran.is_empty() {
            let found = state(target).await?.sound(&config.database.schema).unwrap_or_default();
            say(&format!("{found}: nothing to do"));
        } else {
            let numbers = ran.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            say(&format!(
                "schema {schema} is current: ran migration {numbers}; installation {installation}"
            ));
        }
        if let (Some(before), false) = (renamed, self.json) {
            say(&format!(
                "installation {before} is named {installation} now: nothing was sent from it yet"
            ));
        }
        if let Some(words) = words {
            say_aside(&format!("outboxd: {words}"));
        }
        Ok(Ok(Verdict::wrong_if(words.is_some())))
    }

    async fn check(&self, config: &Config, target: &Target) -> Result<Answer, StoreError> {
        let found = state(target).await?;
        let mut remedy = found.remedy(&config.database.schema);
        if remedy.is_none() {
            let link = connect(config);
            let owner = server(&link).await?.owner;
            match groups(&link, &owner).await {
                Found::Good(_) => {}
                // Who does without them may.
                Found::Doubt(words) => say_aside(&format!("warning: {words}")),
                Found::Wrong(words) => remedy = Some(words),
            }
        }
        let word = match &found {
            SchemaState::Current => "current",
            SchemaState::Works(_) => "newer, works",
            SchemaState::Missing => "missing",
            SchemaState::Older(_) => "older",
            SchemaState::Newer(_) => "newer",
            SchemaState::Changed(_) => "changed",
        };
        let schema = config.database.schema.as_str();
        if self.json {
            say_json(&json!({ "schema": schema, "state": word, "remedy": remedy }));
        } else {
            let sound = found.sound(&config.database.schema).unwrap_or_default();
            say(remedy.as_deref().unwrap_or(&sound));
        }
        Ok(Ok(Verdict::wrong_if(remedy.is_some())))
    }
}

async fn grant_rights(config: &Config, target: &Target) -> Result<Answer, StoreError> {
    // Told below, with what to do.
    grant(target, |_| {}).await?;
    let link = connect(config);
    let owner = server(&link).await?.owner;
    match groups(&link, &owner).await {
        Found::Good(words) => {
            say(&words);
            Ok(Ok(Verdict::Ok))
        }
        Found::Doubt(words) | Found::Wrong(words) => Ok(Err(Failure::Fault(words))),
    }
}
