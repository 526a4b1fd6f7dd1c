//! init and migrate: from nothing to a schema, and never past what somebody else made.

use super::{SINKS, Shop, command_in, run_in, said};
use crate::harness::postgres::Database;

#[tokio::test]
async fn init_writes_a_config_that_works_and_never_overwrites() {
    let directory = tempfile::tempdir().unwrap();
    let first = run_in(directory.path(), &["init"], &[]);
    assert_eq!((first.code, first.err.as_str()), (0, ""));
    assert!(first.out.contains("DATABASE_URL") && first.out.contains("outboxd migrate"));

    let file = directory.path().join("outboxd.toml");
    std::fs::write(&file, "mine").unwrap();
    let second = run_in(directory.path(), &["init"], &[]);
    assert_eq!(second.code, 2);
    assert!(second.err.contains("outboxd.toml exists and is not overwritten"), "{second:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");

    let other = run_in(directory.path(), &["init", "--config", "other.toml"], &[]);
    assert_eq!(other.code, 0);
    let database = Database::fresh().await;
    let variables = [("DATABASE_URL", &*database.url()), ("OUTBOXD_CONFIG", "other.toml")];
    let migrated = run_in(directory.path(), &["migrate"], &variables);
    assert_eq!((migrated.code, migrated.err.as_str()), (0, ""));
}

#[tokio::test]
async fn migrate_says_what_it_did_and_has_nothing_to_do_the_second_time() {
    let shop = Shop::empty().await;
    let before = shop.run(&["migrate", "--check"]);
    assert_eq!(before.code, 1);
    assert_eq!(before.out, "schema outbox is missing in this database; run: outboxd migrate\n");

    let ran = shop.ok(&["migrate"]);
    assert!(ran.contains("ran migration 1") && ran.contains("installation shop-test"), "{ran}");
    assert_eq!(shop.ok(&["migrate"]), "schema outbox is current: nothing to do\n");
    assert_eq!(shop.ok(&["migrate", "--check"]), "schema outbox is current\n");
    assert_eq!(shop.json(&["migrate", "--check", "--json"])["state"], "current");
}

#[tokio::test]
async fn two_migrations_at_once_end_well_and_run_once() {
    let shop = Shop::empty().await;
    let start = || command_in(shop.directory.path(), &["migrate"], &[]).spawn().unwrap();
    let both = [start(), start()].map(|child| said(child.wait_with_output().unwrap()));
    assert!(both.iter().all(|said| said.code == 0), "{both:?}");
    let ran = both.iter().filter(|said| said.out.contains("ran migration 1")).count();
    assert_eq!(ran, 1, "{both:?}");
    shop.ok(&["migrate", "--check"]);
}

#[tokio::test]
async fn a_newer_or_a_changed_schema_is_left_alone() {
    let shop = Shop::open().await;
    // It needs relays that know it.
    let later = "INSERT INTO outbox.migration (number, name, sha256, works_from) VALUES (9, 'later', 'x', 9)";
    shop.psql(later);
    for arguments in [&["migrate", "--check"][..], &["migrate"]] {
        let said = shop.run(arguments);
        assert_eq!(said.code, 1);
        let words = said.out + &said.err;
        assert!(words.contains("made by a newer outboxd (migration 9); use that version"));
    }
    shop.psql("DELETE FROM outbox.migration WHERE number = 9");
    shop.psql("UPDATE outbox.migration SET sha256 = 'x'");
    let said = shop.run(&["migrate", "--check"]);
    assert!(said.code == 1 && said.out.contains("ran with another text"), "{said:?}");
    assert!(shop.fails(1, &["migrate"]).contains("ran with another text"));
}

#[tokio::test]
async fn a_printed_migration_is_as_good_as_one_that_ran() {
    let shop = Shop::empty().await;
    let sql = shop.ok(&["migrate", "--print"]);
    shop.psql(&format!("BEGIN;\n{sql}\nCOMMIT;"));
    shop.ok(&["migrate", "--check"]);
    assert_eq!(shop.ok(&["migrate"]), "schema outbox is current: nothing to do\n");
}

/// Whoever writes the migration need not have the secrets of production, nor a config.
#[test]
fn printing_needs_nothing_but_the_names() {
    let directory = tempfile::tempdir().unwrap();
    let bare = run_in(directory.path(), &["migrate", "--print"], &[]);
    assert!(bare.code == 0 && bare.out.contains("installation (name) VALUES ('default')"));
    let note =
        "note: outboxd.toml does not exist; printed for schema outbox and installation default\n";
    assert_eq!(bare.err, note);
    let config = "[database]\nurl = \"${NOWHERE}\"\nschema = \"shop\"\ninstallation = \"prod\"\n\
                  [sinks.crm]\nkind = \"webhook\"\nsecrets = [\"${NOWHERE}\"]\n";
    std::fs::write(directory.path().join("outboxd.toml"), config).unwrap();
    let said = run_in(directory.path(), &["migrate", "--print"], &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.contains("\"shop\".installation (name) VALUES ('prod')"));
    let rights = run_in(directory.path(), &["migrate", "--print", "--rights"], &[]);
    assert!(rights.code == 0 && rights.out.contains("TO shop_relay"), "{rights:?}");
    assert_eq!(run_in(directory.path(), &["migrate", "--check"], &[]).code, 2);
}

#[tokio::test]
async fn printed_for_another_schema_it_touches_that_schema_only() {
    // A keyword, one that reads like a role of ours, and one that begins like our own.
    for schema in ["order", "outbox_relay", "outboxes"] {
        let shop = Shop::empty().await;
        shop.configure(&shop.database.url(), &format!("schema = \"{schema}\""), SINKS);
        let sql = shop.ok(&["migrate", "--print"]);
        shop.psql(&format!("BEGIN;\n{sql}\nCOMMIT;"));
        shop.ok(&["migrate", "--check"]);
        shop.ok(&["route", "apply"]);
        let id = shop.ok(&["send", "order.created", "{}"]);
        assert!(shop.ok(&["show", id.trim()]).contains("order.created"));
        let others = "SELECT string_agg(nspname, ' ') FROM pg_namespace
                       WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'public')";
        assert_eq!(shop.psql(others), schema);
    }
}

#[tokio::test]
async fn roles_that_may_not_be_made_are_told_and_do_not_stop_it() {
    let shop = Shop::empty().await;
    // A schema of its own, so that the roles cannot be there already.
    let name = shop.database.name();
    shop.psql(&format!(
        "CREATE ROLE owner_{name} LOGIN NOCREATEROLE; GRANT CREATE ON DATABASE {name} TO owner_{name}"
    ));
    let url = shop.database.url().replace("user=postgres", &format!("user=owner_{name}"));
    shop.configure(&url, &format!("schema = \"s_{name}\""), SINKS);
    let said = shop.run(&["migrate"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains(&format!("warning: role s_{name}_producer is left out")), "{said:?}");

    // Whoever migrates with a framework has not heard that warning.
    let (owner, group) = (format!("owner_{name}"), format!("s_{name}"));
    let remedy = format!("then, as the owner, {owner}: outboxd migrate --rights");
    let checked = shop.run(&["migrate", "--check"]);
    assert_eq!((checked.code, &*checked.out), (0, &*format!("schema s_{name} is current\n")));
    assert!(checked.err.contains(&format!("CREATE ROLE {group}_relay NOLOGIN; ")), "{checked:?}");
    assert!(checked.err.contains(&remedy), "{checked:?}");
    let checked = shop.run(&["check"]).out;
    assert!(checked.contains("warn  roles") && checked.contains(&remedy), "{checked}");
    assert!(shop.fails(1, &["migrate", "--rights"]).contains(&remedy));

    shop.psql(&format!("CREATE ROLE {group}_producer NOLOGIN; CREATE ROLE {group}_relay NOLOGIN"));
    let checked = shop.run(&["migrate", "--check"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    for wanting in [
        format!("{group}_producer lacks USAGE on schema {group}, EXECUTE on function send; "),
        format!("{group}_relay lacks USAGE on schema {group}, SELECT on message, "),
        format!("run as the owner, {owner}: outboxd migrate --rights"),
    ] {
        assert!(checked.out.contains(&wanting), "{wanting}: {checked:?}");
    }
    shop.psql(&format!("CREATE ROLE {group}_operator NOLOGIN"));
    for _ in 0..2 {
        assert_eq!(shop.ok(&["migrate", "--rights"]), "each group role has its rights\n");
    }
    shop.ok(&["migrate", "--check"]);
    assert!(!shop.run(&["check"]).out.contains("roles"));
    assert_remedies_know_whose_role_it_is(&shop, &owner, &group);
    shop.psql(&format!(
        "DROP SCHEMA {group} CASCADE; DROP OWNED BY {owner}; DROP ROLE {owner};
         DROP ROLE {group}_producer; DROP ROLE {group}_relay; DROP ROLE {group}_operator"
    ));
}

#[track_caller]
fn assert_remedies_know_whose_role_it_is(shop: &Shop, owner: &str, group: &str) {
    let [app, relay, nobody] = ["app", "relay", "nobody"].map(|what| format!("{what}_{group}"));
    shop.psql(&format!(
        "CREATE ROLE {app} LOGIN IN ROLE {group}_producer; CREATE ROLE {nobody} LOGIN;
         CREATE ROLE {relay} LOGIN IN ROLE {group}_relay"
    ));
    let as_role = |role: &str| {
        let url = shop.database.url().replace("user=postgres", &format!("user={role}"));
        shop.configure(&url, &format!("schema = \"{group}\""), SINKS);
    };
    let checks = |words: &str| {
        let checked = shop.run(&["check"]).out;
        assert!(checked.contains(words), "{words}: {checked}");
    };
    as_role(&relay);
    checks(&format!("{relay} may do what a relay does"));
    shop.psql(&format!("REVOKE EXECUTE ON FUNCTION {group}.may_enter(boolean) FROM {group}_relay"));
    checks(&format!(
        "{relay} lacks EXECUTE on function may_enter; {group}_relay lacks them too; \
         run as the owner, {owner}: outboxd migrate --rights"
    ));
    // The second migration's rights are printed too, for an administrator.
    let sql = shop.ok(&["migrate", "--print", "--rights"]);
    shop.psql(&format!("BEGIN;\n{sql}\nCOMMIT;"));
    checks(&format!("{relay} may do what a relay does"));
    let denied = shop.fails(1, &["migrate"]);
    let words = format!(
        "{relay} is the relay's role; for migrate name the owner's in [database] url, {owner}"
    );
    assert!(denied.contains(&words), "{denied}");

    // This owner may not let anybody into a group.
    as_role(&nobody);
    checks(&format!("; run as an administrator: GRANT {group}_relay TO {nobody}"));

    as_role(&app);
    let words = format!("{app} is the application's role; name the relay's in [database] url");
    checks(&format!("{words} (or, for migrate, the owner's, {owner})"));
    assert!(shop.fails(1, &["run"]).contains(&words));
    let denied = shop.fails(1, &["migrate"]);
    let words = format!(
        "{app} is the application's role; for migrate name the owner's in [database] url, {owner}"
    );
    assert!(denied.contains(&words), "{denied}");
    as_role(owner);
    shop.psql(&format!("DROP ROLE {app}; DROP ROLE {relay}; DROP ROLE {nobody}"));
}
