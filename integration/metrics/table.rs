//! What is written about the metrics is held against the registry: the table, the alert rules, the
//! dashboard.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use outboxd::metrics::{Metrics, Names};

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

/// The rows of the table as the registry has them: name, type, labels, meaning.
fn rows() -> BTreeSet<String> {
    let row = |metric: &outboxd::metrics::Described| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {}.", metric.name, metric.kind, labels.join(", "), metric.help)
    };
    Metrics::new().described().iter().map(row).collect()
}

#[test]
fn the_table_of_the_metrics_is_the_registrys() {
    let text = read("docs/metrics.md");
    // The last column, when it moves, is told by nothing but the tests that move it.
    let told: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("| `outboxd_") || line.starts_with("| `process_"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_end_matches(" |").splitn(6, " | ").collect();
            assert_eq!(cells.len(), 5, "five columns: {line}");
            assert!(!cells[4].trim().is_empty(), "when does it move: {line}");
            cells[..4].join(" | ")
        })
        .collect();
    let rows = rows();
    let mut faults = String::new();
    for missing in rows.difference(&told) {
        writeln!(faults, "missing: {missing}").unwrap();
    }
    for wrong in told.difference(&rows) {
        writeln!(faults, "wrong:   {wrong}").unwrap();
    }
    assert!(faults.is_empty(), "docs/metrics.md\n{faults}");
}

/// What Prometheus is told of a metric is what the table says.
#[test]
fn what_is_scraped_is_what_the_table_says() {
    let metrics = Metrics::new();
    let names = |name: &str| vec![name.to_owned()];
    metrics.stand_for(Names {
        sinks: names("crm"),
        files: names("orders"),
        schedules: names("ticks"),
    });
    let text = metrics.text();
    for metric in metrics.described() {
        let bare = metric.name.trim_end_matches("_total");
        assert!(text.contains(&format!("# TYPE {bare} {}\n", metric.kind)), "{metric:?}\n{text}");
        assert!(text.contains(&format!("# HELP {bare} {}.\n", metric.help)), "{metric:?}");
        let series =
            if metric.kind == "histogram" { format!("{bare}_count") } else { metric.name.clone() };
        let found: Vec<&str> = text
            .lines()
            .filter(|line| {
                line.strip_prefix(&series).is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .collect();
        assert!(!found.is_empty(), "no series of {series} from the start");
        for line in found {
            let (_, labels) = line.split_once('{').unwrap_or((line, ""));
            let labels = labels.split('}').next().unwrap_or_default();
            let labels = if line.contains('{') { labels } else { "" };
            let told: Vec<&str> = labels
                .split(',')
                .filter(|label| !label.is_empty())
                .filter_map(|label| label.split('=').next())
                .collect();
            assert_eq!(told, metric.labels, "{line}");
        }
    }
}

/// The values of a key in a YAML or JSON file of ours, which writes each on a line of its own.
fn values(text: &str, key: &str) -> Vec<String> {
    let value = |line: &str| {
        let value = line.trim().trim_start_matches("- ").strip_prefix(key)?.trim();
        let bare = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        Some(bare.map_or_else(|| value.to_owned(), |bare| bare.replace("''", "'")))
    };
    text.lines().filter_map(value).collect()
}

fn dashboard() -> Vec<String> {
    let board: serde_json::Value = serde_json::from_str(&read("deploy/grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut found: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    for variable in board["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].as_str().unwrap().strip_prefix("label_values(");
        found.extend(query.and_then(|query| query.split(',').next()).map(ToOwned::to_owned));
    }
    found
}

/// The words of an expression: what a metric, a label or a function is called.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The labels in an expression: in braces before `=`, in brackets behind `by` and `on`.
fn labels(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    for matchers in expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        let names = matchers.split("\",").filter_map(|matcher| matcher.split(['=', '!']).next());
        found.extend(names.map(|name| name.trim().to_owned()));
    }
    for word in ["by (", "on ("] {
        for list in expression.split(word).skip(1).filter_map(|rest| rest.split(')').next()) {
            found.extend(list.split(',').map(|name| name.trim().to_owned()));
        }
    }
    found
}

#[test]
fn rules_and_dashboard_ask_only_for_what_there_is() {
    let metrics = Metrics::new();
    let mut names = BTreeSet::new();
    let mut known: BTreeSet<&str> = BTreeSet::from(["le", "instance"]);
    for metric in metrics.described() {
        known.extend(metric.labels);
        names.insert(metric.name.clone());
        if metric.kind == "histogram" {
            names.extend(["bucket", "sum", "count"].map(|end| format!("{}_{end}", metric.name)));
        }
    }
    let rules = values(&read("deploy/alerts.yaml"), "expr:");
    let board = dashboard();
    assert!(rules.len() >= 20 && board.len() >= 30, "{} {}", rules.len(), board.len());
    for expression in rules.iter().chain(&board) {
        let is_metric = |word: &&str| word.starts_with("outboxd_") || word.starts_with("process_");
        let asked: Vec<&str> = words(expression).filter(is_metric).collect();
        assert!(!asked.is_empty(), "{expression}");
        for name in asked {
            assert!(names.contains(name), "there is no {name}: {expression}");
        }
        for label in labels(expression) {
            assert!(known.contains(label.as_str()), "there is no label {label}: {expression}");
        }
    }
    // Whatever can be in trouble is told of by some rule; of these four by rules of their own.
    let all = rules.join(" ");
    let told: BTreeSet<&str> =
        all.split("cause=~\"").nth(1).unwrap().split('"').next().unwrap().split('|').collect();
    let own = BTreeSet::from(["dead", "held", "open", "unrouted", "unseen"]);
    let causes: BTreeSet<&str> = outboxd::alert::Cause::ALL.map(outboxd::alert::Cause::word).into();
    assert_eq!(&told | &own, causes);
}

/// Prometheus' own reading of them, and what they do.
#[tokio::test]
async fn prometheus_takes_the_rules_and_each_of_them_fires_when_it_should() {
    let (rules, tests) = (read("deploy/alerts.yaml"), read("integration/metrics/alerts.yaml"));
    for name in values(&rules, "alert:") {
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "no test in which {name} fires");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promtool = async |what: &str, file: &Path| {
        let program = crate::harness::program::program("OUTBOXD_PROMTOOL", "promtool");
        let mut command = tokio::process::Command::new(program);
        let output =
            command.args([what, "rules"]).arg(file).output().await.expect("start promtool");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    promtool("check", &root.join("deploy/alerts.yaml")).await;
    promtool("test", &root.join("integration/metrics/alerts.yaml")).await;

    // The dashboard's expressions, as rules: with what Grafana puts in place of its variables.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yaml");
    let mut text = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (n, expression) in dashboard().iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m").replace("$sink", ".*");
        writeln!(
            text,
            "      - record: panel:{n}\n        expr: '{}'",
            expression.replace('\'', "''")
        )
        .unwrap();
    }
    std::fs::write(&file, text).unwrap();
    promtool("check", &file).await;
}
