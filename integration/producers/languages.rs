//! The examples in other languages, as they stand, with the real drivers and frameworks, each by a role that
//! is a member of `outbox_producer` and no more.

use std::ffi::OsString;
use std::path::Path;

use super::{Stage, example, python};
use crate::harness::program::{program, run};

const SPRING: [&str; 8] = [
    "postgresql",
    "spring3-aop",
    "spring3-beans",
    "spring3-core",
    "spring3-jdbc",
    "spring3-transaction",
    "aopalliance",
    "commons-logging",
];

impl Stage {
    /// What every example does: it commits carol's order with its message, and rolls dave's back.
    #[track_caller]
    fn assert_sold_once(&self, said: &str, order_id: &str) {
        assert!(said.starts_with("committed: message 1"), "{said}");
        assert!(said.ends_with("\nrolled back: the payment was declined\n"), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
        assert_eq!(self.customers(), "carol 7.50");
        assert_eq!(self.messages(), ["order.created carol unrouted"]);
        let payload = "SELECT payload FROM outbox.message";
        assert_eq!(
            self.database.psql(payload),
            format!(
                "{{\"email\": \"carol@example.com\", \"total\": \"7.50\", \"order_id\": {order_id}}}"
            )
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy() {
    let stage = Stage::build().await;
    let said =
        run(stage.seller_runs(&python()).arg(example("producers/python/with_sqlalchemy.py"))).await;
    stage.assert_sold_once(&said, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn activerecord_and_its_own_tests() {
    let stage = Stage::build().await;
    let ruby = program("OUTBOXD_RUBY", "ruby");
    let said = run(stage.seller_runs(&ruby).arg(example("producers/ruby/orders.rb"))).await;
    stage.assert_sold_once(&said, "1");
    stage.empty();
    let said = run(stage.owner_runs(&ruby).arg(example("producers/ruby/orders_test.rb"))).await;
    assert!(said.contains("2 runs, 4 assertions, 0 failures, 0 errors, 0 skips"), "{said}");
    assert_eq!(stage.messages(), [""; 0], "a test leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_pg_and_its_own_tests() {
    let stage = Stage::build().await;
    let folder = with_modules("node");
    let node = program("OUTBOXD_NODE", "node");
    let said = run(stage.seller_runs(&node).arg("orders.mjs").current_dir(folder.path())).await;
    stage.assert_sold_once(&said, "\"1\"");
    stage.empty();
    let mut tests = stage.owner_runs(&node);
    tests.args(["--test", "--test-reporter=tap", "orders.test.mjs"]).current_dir(folder.path());
    let said = run(&mut tests).await;
    assert!(said.contains("\n# pass 2\n") && said.contains("\n# fail 0\n"), "{said}");
    assert_eq!(stage.messages(), [""; 0], "a test leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn nestjs_with_typeorm_and_its_own_tests() {
    let stage = Stage::build().await;
    let folder = with_modules("nestjs");
    typescript(folder.path()).await;
    let node = program("OUTBOXD_NODE", "node");
    let said = run(stage.seller_runs(&node).arg("dist/main.js").current_dir(folder.path())).await;
    assert!(said.starts_with("committed: message 1, a string\n"), "{said}");
    stage.assert_sold_once(&said, "\"1\"");

    stage.empty();
    stage.database.psql(&format!("GRANT SELECT ON outbox.message TO {}", stage.role));
    let mut tests = stage.seller_runs(&node);
    tests.args(["--test", "--test-reporter=tap", "dist/orders.test.js"]).current_dir(folder.path());
    let said = run(&mut tests).await;
    assert!(said.contains("\n# pass 3\n") && said.contains("\n# fail 0\n"), "{said}");
    assert_eq!(stage.messages(), [""; 0], "a test leaves nothing behind");

    // As its owner it could change the table, and is asked to.
    let before = stage.dump();
    let mut synchronizing = stage.owner_runs(&node);
    synchronizing.arg("dist/main.js").env("SYNCHRONIZE", "yes").current_dir(folder.path());
    run(&mut synchronizing).await;
    assert_eq!(stage.dump(), before, "TypeORM leaves the table alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn go() {
    let stage = Stage::build().await;
    let mut go = stage.seller_runs(&program("OUTBOXD_GO", "go"));
    go.arg("run").arg(example("producers/go/orders.go"));
    // Debian's packages are sources below a GOPATH; nothing is fetched.
    go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    go.env("DATABASE_URL", format!("{}?sslmode=disable", stage.seller_url()));
    stage.assert_sold_once(&run(&mut go).await, "1");
}

async fn java(name: &str) {
    let stage = Stage::build().await;
    let jars = SPRING.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
    let classes = tempfile::tempdir().unwrap();
    let mut javac = tokio::process::Command::new(program("OUTBOXD_JAVAC", "javac"));
    javac.args(["-cp", &jars, "-d"]).arg(classes.path());
    run(javac.arg(example(&format!("producers/java/{name}.java")))).await;

    let mut java = stage.seller_runs(&program("OUTBOXD_JAVA", "java"));
    java.args(["-cp", &format!("{}:{jars}", classes.path().display()), name]);
    let address = format!("127.0.0.1:{}/{}", stage.proxy.port(), stage.database.name());
    java.env("JDBC_DATABASE_URL", format!("jdbc:postgresql://{address}?user={}", stage.role));
    stage.assert_sold_once(&run(&mut java).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn jdbc() {
    java("WithJdbc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spring() {
    java("WithSpring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_with_tokio_postgres_and_with_sqlx() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target/producers");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = tokio::process::Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target);
    build.arg("--manifest-path").arg(example("producers/rust/Cargo.toml"));
    run(&mut build).await;
    for name in ["with_tokio_postgres", "with_sqlx"] {
        let stage = Stage::build().await;
        let said = run(&mut stage.seller_runs(&target.join("debug").join(name))).await;
        stage.assert_sold_once(&said, "1");
    }
}

/// A copy of an example in JavaScript, with what it depends on beside it.
pub(super) fn with_modules(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&example("producers").join(name), folder.path());
    let modules = std::env::var_os("OUTBOXD_NODE_MODULES");
    let modules = modules.expect("OUTBOXD_NODE_MODULES is not set; run integration/run.sh");
    let _ = std::fs::remove_file(folder.path().join("node_modules"));
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
    folder
}

/// Builds it, with all of TypeScript's checks.
pub(super) async fn typescript(folder: &Path) {
    let mut tsc = tokio::process::Command::new(program("OUTBOXD_NODE", "node"));
    run(tsc.arg("node_modules/typescript/bin/tsc").current_dir(folder)).await;
}

/// Copies a folder's files, and those of its folders.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&from, &to),
            _ => drop(std::fs::copy(from, to).unwrap()),
        }
    }
}
