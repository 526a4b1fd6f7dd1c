//! `outboxd migrate --print --as …`: what each tool makes of it, run by that tool, is what `outboxd migrate`
//! makes, to the last right and the last letter of a function.

use std::path::Path;

use super::languages::{copy, typescript, with_modules};
use super::{Stage, example, python};
use crate::harness::postgres::Database;
use crate::harness::program::{program, run};

/// Runs the printed migration, and says with which exit code and words a second run's way back ends.
const RAILS: &str = "
require 'active_record'
ActiveRecord::Base.establish_connection(ENV.fetch('DATABASE_URL'))
ActiveRecord::Migration.verbose = false
context = ActiveRecord::MigrationContext.new('db/migrate', ActiveRecord::SchemaMigration)
context.migrate
begin
  context.rollback(1)
rescue StandardError => error
  puts error.message
end
# What `rails db:schema:dump` writes where the format is :sql.
config = ActiveRecord::Base.connection_db_config
['dumped', 'left out'].each do |name|
  eval ARGV.fetch(0) if name == 'left out'
  ActiveRecord::Tasks::DatabaseTasks.structure_dump(config, name)
end
";

/// What `rails db:schema:load` and `rails db:test:prepare` do with it.
const LOAD: &str = "
require 'active_record'
ActiveRecord::Base.establish_connection(ENV.fetch('DATABASE_URL'))
config = ActiveRecord::Base.connection_db_config
ActiveRecord::Tasks::DatabaseTasks.structure_load(config, 'left out')
";

/// A database with nothing in it, and what outboxd says with a config for it.
fn print(stage: &Stage, form: &str) -> String {
    stage.outboxd(&["migrate", "--print", "--as", form])
}

async fn assert_is_as_good_as_ours(stage: &Stage) {
    assert_eq!(stage.outboxd(&["migrate", "--check"]), "schema outbox is current\n");
    assert_eq!(stage.outboxd(&["migrate"]), "schema outbox is current: nothing to do\n");
    let ours = Stage::of(Database::migrated().await).await;
    assert_eq!(stage.dump(), ours.dump());
    let entries = "SELECT number, name, sha256, works_from FROM outbox.migration ORDER BY number;
                   SELECT name FROM outbox.installation";
    assert_eq!(stage.database.psql(entries), ours.database.psql(entries));
}

#[tokio::test(flavor = "multi_thread")]
async fn rails() {
    let stage = Stage::of(Database::fresh().await).await;
    let ruby = print(&stage, "rails");
    let folder = tempfile::tempdir().unwrap();
    let file = word(&ruby, "db/migrate/", ",");
    std::fs::create_dir_all(folder.path().join("db/migrate")).unwrap();
    std::fs::write(folder.path().join(file), &ruby).unwrap();

    let keep_out = "ActiveRecord::Tasks::DatabaseTasks.structure_dump_flags = ";
    let keep_out = ruby.lines().find_map(|line| line.split_once(keep_out).map(|_| &line[1..]));
    let ruby = program("OUTBOXD_RUBY", "ruby");
    let mut migrating = stage.owner_runs(&ruby);
    migrating.args(["-e", RAILS, keep_out.expect("it says how")]).current_dir(folder.path());
    let said = run(&mut migrating).await;
    assert!(said.contains("DROP SCHEMA \"outbox\" CASCADE"), "{said}");
    assert_is_as_good_as_ours(&stage).await;

    let dumped = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let structure = dumped("dumped");
    assert!(structure.contains("CREATE TABLE outbox.message "), "{structure}");
    assert!(!structure.contains("GRANT ") && !structure.contains("'operate'"), "{structure}");
    let structure = dumped("left out");
    assert!(structure.contains("TABLE public.schema_migrations "), "{structure}");
    assert!(!structure.contains("outbox"), "{structure}");

    let stage = Stage::of(Database::fresh().await).await;
    run(stage.owner_runs(&ruby).args(["-e", LOAD]).current_dir(folder.path())).await;
    stage.outboxd(&["migrate"]);
    assert_is_as_good_as_ours(&stage).await;
}

/// Its tests have a database of their own, and two workers one each; Rails makes them anew when its file of the
/// schema changes.
#[tokio::test(flavor = "multi_thread")]
async fn rails_and_the_shop_that_is_written_with_it() {
    let stage = Stage::of(Database::fresh().await).await;
    let tests = Stage::of(Database::fresh().await).await;
    let folder = tempfile::tempdir().unwrap();
    copy(&example("producers/rails"), folder.path());
    let migration = print(&stage, "rails");
    std::fs::write(folder.path().join(word(&migration, "db/migrate/", ",")), &migration).unwrap();
    let ruby = program("OUTBOXD_RUBY", "ruby");
    let rails = async |mut command: tokio::process::Command, format: &str, words: &[&str]| {
        let environment = if words == ["test"] { "test" } else { "development" };
        command.env("RAILS_ENV", environment).env("SCHEMA_FORMAT", format);
        run(command.arg("bin/rails").args(words).current_dir(folder.path())).await
    };
    let another = "class AddEmail < ActiveRecord::Migration[6.1]
                     def change
                       add_column :orders, :email, :text
                     end
                   end";
    for (format, file) in [("ruby", "db/schema.rb"), ("sql", "db/structure.sql")] {
        if format == "sql" {
            let file = folder.path().join("db/migrate/20991231235959_add_email.rb");
            std::fs::write(file, another).unwrap();
        }
        let said = rails(stage.owner_runs(&ruby), format, &["db:migrate"]).await;
        assert!(!said.contains("CREATE TABLE"), "{said}");
        let schema = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(schema.contains("orders") && !schema.contains("outbox"), "{schema}");
        let said = rails(tests.owner_runs(&ruby), format, &["test"]).await;
        assert!(said.contains("2 runs, 4 assertions, 0 failures, 0 errors, 0 skips"), "{said}");
        assert_eq!(said.matches("CreateOutbox: migrated").count(), 3, "{said}");
    }
    assert_is_as_good_as_ours(&tests).await;
    assert_eq!(tests.messages(), [""; 0], "a test leaves nothing behind");

    let role = stage.role.as_str();
    stage.database.psql(&format!(
        "GRANT SELECT, INSERT ON orders TO {role}; GRANT USAGE ON SEQUENCE orders_id_seq TO {role}"
    ));
    let create = "Order.create!(customer: 'carol', total: '7.50')";
    rails(stage.seller_runs(&ruby), "sql", &["runner", create]).await;
    assert_eq!(stage.messages(), ["order.created carol unrouted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn django_and_the_shop_that_is_written_with_it() {
    let stage = Stage::of(Database::fresh().await).await;
    let folder = tempfile::tempdir().unwrap();
    copy(&example("producers/django"), folder.path());
    let migration = print(&stage, "django");
    std::fs::write(folder.path().join(word(&migration, "outbox/", " ")), &migration).unwrap();
    let manage = async |mut command: tokio::process::Command, words: &[&str]| {
        run(command.arg("manage.py").args(words).current_dir(folder.path())).await
    };

    manage(stage.owner_runs(&python()), &["migrate"]).await;
    assert_is_as_good_as_ours(&stage).await;
    let role = stage.role.as_str();
    stage.database.psql(&format!(
        "GRANT SELECT, INSERT ON shop_order TO {role};
             GRANT USAGE ON SEQUENCE shop_order_id_seq TO {role}"
    ));
    let said = manage(stage.seller_runs(&python()), &["place_orders"]).await;
    assert_eq!(said, "committed: message 1\nrolled back: the payment was declined\n");
    let orders = "SELECT customer, total FROM shop_order";
    assert_eq!(stage.database.psql(orders), "carol|7.50");
    assert_eq!(stage.messages(), ["order.created carol unrouted"]);

    let mut tests = stage.owner_runs(&python());
    let tests = tests.args(["manage.py", "test", "--verbosity=2"]).current_dir(folder.path());
    let output = tests.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Ran 4 tests"), "{said}");
    // The model is known, so an upgrade is the next migration, and stands beside no other.
    let unwritten = ["makemigrations", "--check", "--dry-run"];
    let written = manage(stage.owner_runs(&python()), &unwritten).await;
    assert_eq!(written, "No changes detected\n");
    let upgrade = stage.outboxd(&["migrate", "--print", "--as", "django", "--from", "2"]);
    let path = word(&upgrade, "outbox/", " ").to_str().unwrap().replace("NUMBER", "0002");
    assert!(upgrade.contains("names the last file that is in that folder now"), "{upgrade}");
    std::fs::write(folder.path().join(path), &upgrade).unwrap();
    assert_eq!(manage(stage.owner_runs(&python()), &unwritten).await, "No changes detected\n");
    let plan = manage(stage.owner_runs(&python()), &["migrate", "--plan"]).await;
    assert!(plan.contains("outbox.0002_outbox"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn typeorm() {
    let stage = Stage::of(Database::fresh().await).await;
    let folder = with_modules("nestjs");
    let migration = print(&stage, "typeorm");
    let file = folder.path().join("src").join(word(&migration, "migrations/", ","));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, &migration).unwrap();
    typescript(folder.path()).await;
    let mut migrating = stage.owner_runs(&program("OUTBOXD_NODE", "node"));
    let said = run(migrating.arg("dist/migrate.js").current_dir(folder.path())).await;
    assert!(said.starts_with("ran CreateOutbox"), "{said}");
    assert_is_as_good_as_ours(&stage).await;
}

/// A schema that an older outboxd made is brought up by what `--from` prints.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_printed_by_itself() {
    let stage = Stage::of(Database::fresh().await).await;
    let (all, second) = (
        stage.outboxd(&["migrate", "--print"]),
        stage.outboxd(&["migrate", "--print", "--from", "2"]),
    );
    let (text, entries) = second.split_at(second.find("\nINSERT INTO outbox.migration").unwrap());
    let first = all.replace(text, "").replace(entries.trim(), "");
    assert!(first.len() < all.len() - text.len(), "both were there");
    let first = first.replace(", works_from)", ")").replace(", 1);", ");");
    stage.database.psql(&format!("BEGIN;\n{first}\nCOMMIT;"));
    let older = stage.says(&["migrate", "--check"]);
    assert!(older.0 == 1 && older.1.contains("wanting: [2, 3]"), "{older:?}");
    stage.database.psql(&format!("BEGIN;\n{second}\nCOMMIT;"));
    assert_is_as_good_as_ours(&stage).await;
    assert_eq!(stage.says(&["migrate", "--print", "--from", "4"]).0, 2, "there is no fourth");
}

/// The path in a printed migration's first line.
fn word<'t>(text: &'t str, begins: &str, end: &str) -> &'t Path {
    let at = text.find(begins).unwrap_or_else(|| panic!("no {begins} in {text}"));
    Path::new(text[at..].split(end).next().unwrap())
}
