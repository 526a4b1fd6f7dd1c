//! What others read in our CSV files: psql, Python's `csv`, pandas and LibreOffice. The files are cut by a
//! relay from messages of a real PostgreSQL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::plane::{number, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::program::{program, python};
use crate::harness::relay::{Relay, config};

/// The rows, as payloads; the last has nothing in it.
const ROWS: [&str; 5] = [
    r#"{"name": "Jörg Müßig, \"Hof\"; 3 €\nzweite Zeile", "code": "00123", "total": 1.5, "paid": true,
        "day": "2026-11-20", "at": "2026-11-20T09:15:30.25Z", "items": [{"no": 1.50, "b": null}]}"#,
    r#"{"name": "=1+1", "code": "", "total": -12345678901234567890.10, "paid": false,
        "day": "2024-02-29", "at": "2026-07-01T12:00:00+02:00", "items": null}"#,
    r#"{"name": " @SUM(1) ", "code": "+43 1", "total": 0.00, "paid": true, "day": "1999-12-31",
        "at": "2026-03-29T01:00:00Z", "items": "=1+1"}"#,
    r#"{"name": "@SUM(1)", "code": "-5", "total": 100, "paid": false, "day": "2026-01-01",
        "at": "2026-10-25T00:30:00Z", "items": {}}"#,
    "{}",
];

/// A file of the rows, and the database it was made from.
struct Cut {
    database: Database,
    folder: tempfile::TempDir,
    file: PathBuf,
}

async fn cut(profile: &str, formulas: &str) -> Cut {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(config(
        &database.url(),
        &format!(
            "[sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\n\
             profile = \"{profile}\"\nformulas = \"{formulas}\"\nmax_rows = {}\n\
             every = {{ at = \"01:00\", time_zone = \"Europe/Vienna\" }}\n\
             columns = [{{ name = \"ID\", value = \"id\", as = \"integer\" }},\n\
             {{ name = \"name\", value = \"payload.name\" }},\n\
             {{ name = \"code\", value = \"payload.code\" }},\n\
             {{ name = \"total\", value = \"payload.total\", as = \"decimal\" }},\n\
             {{ name = \"paid\", value = \"payload.paid\", as = \"boolean\" }},\n\
             {{ name = \"day\", value = \"payload.day\", as = \"date\" }},\n\
             {{ name = \"at\", value = \"payload.at\", as = \"timestamp\" }},\n\
             {{ name = \"items\", value = \"payload.items\", as = \"json\" }}]\n\
             [[routes]]\ntype = \"*\"\nsink = \"orders\"\n",
            folder.path().display(),
            ROWS.len(),
        ),
    ));
    until_routed(&client).await;
    let rows: Vec<&str> = ROWS.to_vec();
    let insert = "INSERT INTO outbox.message (type, payload) SELECT 'order.created', r::jsonb
                    FROM unnest($1::text[]) r";
    client.execute(insert, &[&rows]).await.unwrap();
    let published = "SELECT count(*) FROM outbox.export WHERE state = 'published'";
    until_count(&client, "the file is published", published, 1).await;
    relay.stop().await;
    let file = client.query_one("SELECT file FROM outbox.export", &[]).await.unwrap();
    Cut { database, file: PathBuf::from(file.get::<_, String>(0)), folder }
}

/// PostgreSQL's own reader takes the file back: numbers to the digit, text with everything in it, NULL
/// told from the empty text, and what begins like a formula, where it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn psql_copies_a_file_back_as_it_was() {
    let cut = cut("machine", "keep").await;
    let client = cut.database.connect().await;
    client
        .batch_execute(
            "CREATE TABLE back (id bigint, name text, code text, total numeric, paid boolean,
               day date, at timestamptz, items jsonb)",
        )
        .await
        .unwrap();
    let copy = format!("\\copy back FROM '{}' WITH (FORMAT csv, HEADER)", cut.file.display());
    cut.database.psql(&copy);
    let differs = "SELECT count(*) FROM back b FULL JOIN outbox.message m ON m.id = b.id
                    WHERE b.name IS DISTINCT FROM m.payload->>'name'
                       OR b.code IS DISTINCT FROM m.payload->>'code'
                       OR b.total::text IS DISTINCT FROM m.payload->>'total'
                       OR b.paid::text IS DISTINCT FROM m.payload->>'paid'
                       OR b.day::text IS DISTINCT FROM m.payload->>'day'
                       OR b.at IS DISTINCT FROM (m.payload->>'at')::timestamptz
                       OR b.items::text IS DISTINCT FROM (m.payload->'items')::text";
    assert_eq!(number(&client, differs).await, 0);
    assert_eq!(number(&client, "SELECT count(*) FROM back WHERE code = ''").await, 1);
    assert_eq!(number(&client, "SELECT count(*) FROM back WHERE code IS NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_reads_every_profile() {
    let source = "
import csv, json, sys
file = open(sys.argv[1], newline='', encoding='utf-8-sig')
separator = ';' if file.readline().startswith('\"ID\";') else ','
file.seek(0)
print(json.dumps(list(csv.reader(file, delimiter=separator, strict=True))))";
    for (profile, total, paid, at) in [
        ("machine", "1.5", "true", "2026-11-20T09:15:30.25Z"),
        ("excel", "1.5", "TRUE", "2026-11-20 10:15:30"),
        ("excel-de", "1,5", "WAHR", "2026-11-20 10:15:30"),
    ] {
        let read = python(source, &cut(profile, "guard").await.file).await;
        assert_eq!(
            read[0],
            json!(["ID", "name", "code", "total", "paid", "day", "at", "items"]),
            "{profile}"
        );
        let name = "Jörg Müßig, \"Hof\"; 3 €\nzweite Zeile";
        let items = r#"[{"b": null, "no": 1.50}]"#;
        assert_eq!(read[1], json!(["1", name, "00123", total, paid, "2026-11-20", at, items]));
        let second = &read[2];
        assert_eq!((&second[1], &second[2]), (&json!("'=1+1"), &json!("")), "{profile}");
        assert_eq!(read.as_array().unwrap().len(), 6, "{profile}");
    }
}

/// pandas takes numbers for numbers and times for times, and the empty text, as it does by default, for
/// missing.
#[tokio::test(flavor = "multi_thread")]
async fn pandas_reads_numbers_truths_and_times() {
    for (profile, options, seconds, offset) in [
        ("machine", "", ".250000", "+00:00"),
        (
            "excel-de",
            "sep=';', decimal=',', encoding='utf-8-sig', true_values=['WAHR'], false_values=['FALSCH'], ",
            "",
            "",
        ),
    ] {
        let source = format!(
            "
import json, pandas, sys
read = pandas.read_csv(sys.argv[1], {options}dtype={{'code': str}}, parse_dates=['day', 'at'])
print(json.dumps({{
    'columns': list(read.columns), 'ids': read['ID'].tolist(), 'total': read['total'].tolist()[:4],
    'total_type': str(read['total'].dtype), 'paid': read['paid'].tolist()[:4], 'code': read['code'].tolist()[:1],
    'empty': read['code'].isna().tolist(), 'day': str(read['day'].dtype),
    'at': [v.isoformat() for v in read['at'][:4]], 'name': read['name'].tolist()[:2],
}}))"
        );
        let read = python(&source, &cut(profile, "guard").await.file).await;
        let hour = if profile == "machine" { 9 } else { 10 };
        let at = |text: &str| format!("{text}{offset}");
        let [second, third, fourth] = match profile {
            "machine" => ["2026-07-01T10:00:00", "2026-03-29T01:00:00", "2026-10-25T00:30:00"],
            _ => ["2026-07-01T12:00:00", "2026-03-29T03:00:00", "2026-10-25T02:30:00"],
        };
        let expected = json!({
            "columns": ["ID", "name", "code", "total", "paid", "day", "at", "items"],
            "ids": [1, 2, 3, 4, 5],
            "total": [1.5, -12_345_678_901_234_567_890.10, 0.0, 100.0],
            "total_type": "float64",
            "paid": [true, false, true, false],
            "code": ["00123"],
            "empty": [false, true, false, false, true],
            "day": "datetime64[ns]",
            "at": [at(&format!("2026-11-20T{hour:02}:15:30{seconds}")), at(second), at(third), at(fourth)],
            "name": ["Jörg Müßig, \"Hof\"; 3 €\nzweite Zeile", "'=1+1"],
        });
        assert_eq!(numbers(read), numbers(expected), "{profile}");
    }
}

/// Numbers as floats: our JSON keeps their digits, and Python writes others.
fn numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(format!("{:e}", number.as_f64().unwrap())),
        Value::Array(all) => all.into_iter().map(numbers).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, numbers(value))).collect(),
        other => other,
    }
}

/// The cells of a file as LibreOffice has them once it has opened it in German: kind, value, text, and a
/// formula where there is one. `quoted_is_text` is the choice its import dialogue offers.
async fn calc(file: &Path, folder: &Path, quoted_is_text: bool) -> Vec<Vec<Value>> {
    // Separator, quote, UTF-8, from line 1, no formats by column, German, quoted is text, numbers detected.
    let filter = format!("--infilter=CSV:59,34,76,1,,1031,{quoted_is_text},true");
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120"]).arg(program("OUTBOXD_SOFFICE", "soffice"));
    command.arg(format!("-env:UserInstallation=file://{}", profile.path().display()));
    command.args(["--headless", &filter, "--convert-to", "fods", "--outdir"]).arg(folder).arg(file);
    let done = tokio::time::timeout(Duration::from_secs(150), command.output()).await;
    let output = done.expect("soffice ends").expect("start soffice");
    let said = String::from_utf8_lossy(&output.stderr);
    let made = folder.join(file.with_extension("fods").file_name().unwrap());
    assert!(output.status.success() && made.exists(), "soffice: {} {said}", output.status);
    let source = "
import json, sys, xml.etree.ElementTree as xml
O, T, X = ('{urn:oasis:names:tc:opendocument:xmlns:' + n + ':1.0}' for n in ('office', 'table', 'text'))
rows = []
for row in xml.parse(sys.argv[1]).iter(T + 'table-row'):
    cells = []
    for cell in row.iter(T + 'table-cell'):
        kind = cell.get(O + 'value-type')
        value = next((v for n in ('value', 'boolean-value', 'date-value') if (v := cell.get(O + n))), None)
        text = '\\n'.join(''.join(p.itertext()) for p in cell.iter(X + 'p'))
        found = {'kind': kind, 'value': value, 'text': text, 'formula': cell.get(T + 'formula')}
        cells += [found] * int(cell.get(T + 'number-columns-repeated', 1))
    rows.append(cells)
print(json.dumps(rows))";
    let read = python(source, &made).await;
    serde_json::from_value(read).unwrap()
}

fn formulas(cells: &[Vec<Value>]) -> Vec<&Value> {
    cells.iter().flatten().map(|cell| &cell["formula"]).filter(|f| !f.is_null()).collect()
}

/// German Excel's stand-in shows the file as the department wants it. Leading zeros stay where its user
/// has quoted fields taken for text; else they go, whatever a CSV file does.
#[tokio::test(flavor = "multi_thread")]
async fn libreoffice_opens_a_german_file_as_it_was_meant() {
    let cut = cut("excel-de", "guard").await;
    for (quoted_is_text, code) in
        [(true, json!(["string", null, "00123"])), (false, json!(["float", "123", "123"]))]
    {
        let cells = calc(&cut.file, cut.folder.path(), quoted_is_text).await;
        let is = |row: usize, column: usize| {
            let cell = &cells[row][column];
            json!([cell["kind"], cell["value"], cell["text"]])
        };
        let text = |text: &str| json!(["string", null, text]);
        assert_eq!(formulas(&cells), Vec::<&Value>::new());
        assert_eq!(is(0, 0), text("ID"));
        assert_eq!(is(1, 0), json!(["float", "1", "1"]));
        assert_eq!(is(1, 1), text("Jörg Müßig, \"Hof\"; 3 €\nzweite Zeile"));
        assert_eq!(is(1, 2), code);
        assert_eq!((&is(1, 3)[0], &is(1, 3)[1]), (&json!("float"), &json!("1.5")));
        assert_eq!((&is(1, 4)[0], &is(1, 4)[1]), (&json!("boolean"), &json!("true")));
        assert_eq!((&is(1, 5)[0], &is(1, 5)[1]), (&json!("date"), &json!("2026-11-20")));
        assert_eq!((&is(1, 6)[0], &is(1, 6)[1]), (&json!("date"), &json!("2026-11-20T10:15:30")));
        assert_eq!(is(1, 7), text(r#"[{"b": null, "no": 1.50}]"#));
        assert_eq!(is(2, 1), text("'=1+1"));
        // The clock of Vienna, in summer and right after the change.
        assert_eq!(is(2, 6)[1], json!("2026-07-01T12:00:00"));
        assert_eq!(is(3, 6)[1], json!("2026-03-29T03:00:00"));
        assert_eq!(is(4, 4)[1], json!("false"));
    }
}

/// What the test above would see if nothing were guarded.
#[tokio::test(flavor = "multi_thread")]
async fn libreoffice_takes_kept_text_for_a_formula() {
    let cut = cut("excel-de", "keep").await;
    let cells = calc(&cut.file, cut.folder.path(), false).await;
    assert_eq!(formulas(&cells), [&json!("of:=1+1")]);
}
