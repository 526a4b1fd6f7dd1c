//! The migrations' SQL as a migration of somebody else's tool.
//!
//! Every form quotes: what the tool gives to PostgreSQL is the SQL, letter by letter. None of them has a
//! way down. `DROP SCHEMA … RESTRICT` would never succeed, and `CASCADE` would take messages with it that
//! are committed and not delivered, in the middle of somebody's rollback of something else.

use clap::ValueEnum;
use jiff::Timestamp;

use crate::config::Schema;
use crate::name::Name;

/// What the SQL is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// The SQL itself
    Sql,
    /// A migration of ActiveRecord, in Ruby
    Rails,
    /// A migration of Django, in Python
    Django,
    /// A migration of TypeORM, in TypeScript
    Typeorm,
}

/// What is wrapped.
pub(super) struct Printed<'p> {
    pub sql: &'p str,
    pub schema: &'p Schema,
    /// What the first migration names the installation.
    pub installation: &'p Name,
    /// The first migration in it: after 1 it is an upgrade.
    pub from: i32,
    /// The last one.
    pub to: i32,
    /// Rails and TypeORM order their migrations by when they were written.
    pub now: Timestamp,
}

impl Form {
    pub fn wrap(self, printed: &Printed<'_>) -> String {
        match self {
            Form::Sql => printed.about_the_name("--") + printed.sql,
            Form::Rails => rails(printed),
            Form::Django => django(printed),
            Form::Typeorm => typeorm(printed),
        }
    }
}

impl Printed<'_> {
    /// A comment: one file runs in every database, and each of them has a name of its own.
    fn about_the_name(&self, comment: &str) -> String {
        if self.from > 1 {
            return String::new();
        }
        let name = self.installation.as_str();
        format!(
            "{comment} It names the installation {name}, as the config does that it was printed with. Where another
{comment} config speaks, staging's for example, run `outboxd migrate` after it: it gives the installation that
{comment} config's name, as long as nothing was sent from it.
"
        )
    }

    /// `create_outbox`, or `upgrade_outbox_to_2`.
    fn name(&self) -> String {
        let schema = self.schema.as_str();
        match self.from {
            1 => format!("create_{schema}"),
            _ => format!("upgrade_{schema}_to_{}", self.to),
        }
    }

    /// The same as the name of a class: `CreateOutbox`.
    fn class(&self) -> String {
        let capital = |word: &str| {
            let mut letters = word.chars();
            let first = letters.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        };
        self.name().split('_').map(capital).collect()
    }
}

fn rails(printed: &Printed<'_>) -> String {
    let (schema, name, class) = (printed.schema.as_str(), printed.name(), printed.class());
    let stamp = printed.now.strftime("%Y%m%d%H%M%S");
    // Nothing inside is read but a line that is the delimiter.
    let end = unused("SQL", |end| printed.sql.lines().any(|line| line.trim() == end));
    let (sql, naming) = (printed.sql, printed.about_the_name("#"));
    format!(
        "# Save this as db/migrate/{stamp}_{name}.rb, and run: bin/rails db:migrate
{naming}#
# db/schema.rb cannot hold what this makes, and db/structure.sql leaves out its rows and its rights. So keep
# it out of there where the format is :sql, with this line in config/initializers/outbox.rb:
#
#     ActiveRecord::Tasks::DatabaseTasks.structure_dump_flags = [\"--exclude-schema={schema}\"]
#
# And run `outboxd migrate` after db:schema:load: it makes what is wanting, and nothing twice. How the databases
# of your tests get it: docs/producers.md.
class {class} < ActiveRecord::Migration[6.1]
  def up
    # Without printing it.
    suppress_messages do
      execute <<~'{end}'
{sql}      {end}
    end
  end

  def down
    # Messages that were committed and are not delivered would go with it.
    raise ActiveRecord::IrreversibleMigration, 'to lose what is not delivered: DROP SCHEMA \"{schema}\" CASCADE'
  end
end
"
    )
}

fn django(printed: &Printed<'_>) -> String {
    let (schema, sql) = (printed.schema.as_str(), python(printed.sql));
    let naming = printed.about_the_name("#");
    let (number, dependency, dependencies) = match printed.from {
        1 => (
            "0001",
            String::new(),
            "Where that has migrations already, `dependencies` names the last of them.",
        ),
        _ => (
            "NUMBER",
            format!("(\"{schema}\", \"0001_{schema}\")"),
            "`dependencies` names the last file that is in that folder now.",
        ),
    };
    let (imports, operation) = match printed.from {
        1 => ("migrations, models", django_state(schema)),
        _ => ("migrations", "migrations.RunSQL(SQL)".to_owned()),
    };
    format!(
        "# Save this as {schema}/migrations/{number}_{schema}.py and run: manage.py migrate
# Best in an app of its own: a folder {schema} with an empty __init__.py, a folder migrations in it with another,
# and \"{schema}\" in INSTALLED_APPS. {dependencies}
{naming}#
# There is no way back: messages that were committed and are not delivered would go with it.
from django.db import {imports}

SQL = \"\"\"\\
{sql}\"\"\"


class Migration(migrations.Migration):
    # All of it or nothing.
    atomic = True
    dependencies = [{dependency}]
    operations = [{operation}]
"
    )
}

/// The first migration makes the unmanaged model known too: `makemigrations` would write one for it, which
/// the next printed one would then stand beside.
fn django_state(schema: &str) -> String {
    let fields = [
        ("id", "BigAutoField(primary_key=True, serialize=False)"),
        ("type", "TextField()"),
        ("payload", "JSONField()"),
        ("key", "TextField(null=True, blank=True)"),
        ("due_at", "DateTimeField(null=True, blank=True)"),
        ("expires_at", "DateTimeField(null=True, blank=True)"),
        ("dedupe_key", "TextField(null=True, blank=True)"),
        ("headers", "JSONField(null=True, blank=True)"),
    ]
    .map(|(name, field)| format!("                        (\"{name}\", models.{field}),\n"))
    .concat();
    format!(
        "
        migrations.RunSQL(
            SQL,
            # The model that writes messages, for Django to know; it makes nothing.
            state_operations=[
                migrations.CreateModel(
                    name=\"Message\",
                    fields=[
{fields}                    ],
                    options={{\"db_table\": '{schema}\".\"message', \"managed\": False}},
                )
            ],
        )
    "
    )
}

fn typeorm(printed: &Printed<'_>) -> String {
    let (schema, name, class) = (printed.schema.as_str(), printed.name(), printed.class());
    let (stamp, sql) = (printed.now.as_millisecond(), template(printed.sql));
    let (file, naming) = (name.replace('_', "-"), printed.about_the_name("//"));
    format!(
        "// Save this as migrations/{stamp}-{file}.ts, where your DataSource's `migrations` finds it, and run:
// typeorm migration:run
{naming}import {{ MigrationInterface, QueryRunner }} from 'typeorm';

export class {class}{stamp} implements MigrationInterface {{
  name = '{class}{stamp}';

  public async up(queryRunner: QueryRunner): Promise<void> {{
    await queryRunner.query(`
{sql}`);
  }}

  public async down(): Promise<void> {{
    // Messages that were committed and are not delivered would go with it.
    throw new Error('to lose what is not delivered: DROP SCHEMA \"{schema}\" CASCADE');
  }}
}}
"
    )
}

/// Inside `\"\"\"…\"\"\"`: a backslash begins an escape, and three quotes end it.
fn python(sql: &str) -> String {
    sql.replace('\\', r"\\").replace("\"\"\"", r#"\"\"\""#)
}

/// Inside backticks: a backslash begins an escape, `${` an expression.
fn template(sql: &str) -> String {
    sql.replace('\\', r"\\").replace('`', r"\`").replace("${", r"\${")
}

/// The word, or a longer one that is not in use.
fn unused(word: &str, used: impl Fn(&str) -> bool) -> String {
    let mut word = word.to_owned();
    while used(&word) {
        word.push('_');
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Schema;

    fn wrapped(form: Form, sql: &str, from: i32) -> String {
        let schema = Schema::parse("shop_outbox").unwrap();
        let installation = Name::parse("shop-prod").unwrap();
        let now = "2026-11-20T08:09:10.011Z".parse().unwrap();
        form.wrap(&Printed { sql, schema: &schema, installation: &installation, from, to: 7, now })
    }

    /// All that means something to one of the tools, though not to PostgreSQL.
    const SQL: &str = "SELECT '#{a} \\n ${b} `c` %s', $$\"\"\"\"$$;\n  SQL\nSELECT '\\\\';\n";

    #[test]
    fn ruby_reads_nothing_but_the_end() {
        let ruby = wrapped(Form::Rails, SQL, 1);
        assert!(ruby.contains(&format!("execute <<~'SQL_'\n{SQL}      SQL_\n")), "{ruby}");
        assert!(ruby.contains("class CreateShopOutbox <"), "{ruby}");
        assert!(ruby.contains("db/migrate/20261120080910_create_shop_outbox.rb"), "{ruby}");
    }

    #[test]
    fn backslashes_quotes_and_expressions_are_escaped() {
        let inside = |text: String, open: &str, close: &str| {
            let (_, rest) = text.split_once(open).unwrap();
            rest.split_once(close).unwrap().0.to_owned()
        };
        let python = inside(wrapped(Form::Django, SQL, 1), "SQL = \"\"\"\\\n", "\n\"\"\"\n");
        assert_eq!(
            python,
            "SELECT '#{a} \\\\n ${b} `c` %s', $$\\\"\\\"\\\"\"$$;\n  SQL\nSELECT '\\\\\\\\';"
        );
        let script = inside(wrapped(Form::Typeorm, SQL, 1), "query(`\n", "\n`);");
        assert_eq!(
            script,
            "SELECT '#{a} \\\\n \\${b} \\`c\\` %s', $$\"\"\"\"$$;\n  SQL\nSELECT '\\\\\\\\';"
        );
    }

    #[test]
    fn the_first_says_whose_name_it_brings_along() {
        let words = "It names the installation shop-prod, as the config does";
        for form in [Form::Sql, Form::Rails, Form::Django, Form::Typeorm] {
            assert!(wrapped(form, SQL, 1).contains(words), "{form:?}");
            assert!(!wrapped(form, SQL, 2).contains(words), "{form:?}");
        }
    }

    #[test]
    fn an_upgrade_has_a_name_of_its_own() {
        let ruby = wrapped(Form::Rails, SQL, 3);
        assert!(ruby.contains("class UpgradeShopOutboxTo7 <"), "{ruby}");
        let script = wrapped(Form::Typeorm, SQL, 3);
        assert!(script.contains("class UpgradeShopOutboxTo71795162150011 implements"), "{script}");
        let python = wrapped(Form::Django, SQL, 3);
        assert!(
            python.contains("dependencies = [(\"shop_outbox\", \"0001_shop_outbox\")]"),
            "{python}"
        );
    }
}
