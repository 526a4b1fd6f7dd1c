//! Keys that sign mails, and two who verify the signatures: OpenDKIM and dkimpy. Neither asks any DNS: they
//! are told the records.

use std::fmt::Write as _;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outboxd::config::{DkimConfig, DkimKey};
use tokio::process::Command;

use super::program::{program, run};

/// Each signature of each mail, in order, by its algorithm; true if the record's key verifies it.
pub type Verdicts = Vec<Vec<(String, bool)>>;

/// Two keys of one domain, RSA and Ed25519.
pub fn keys() -> Vec<DkimConfig> {
    let pems = [
        ("2026r", include_str!("../keys/rsa.pem")),
        ("2026e", include_str!("../keys/ed25519.pem")),
    ];
    let key = |(selector, pem): (&str, &str)| DkimConfig {
        domain: "example.com".to_owned(),
        selector: selector.to_owned(),
        key: DkimKey::parse(pem).unwrap(),
    };
    pems.map(key).into()
}

/// What a mail signed by both is called by one who verifies it.
pub fn verified(good: bool) -> Vec<(String, bool)> {
    ["rsa-sha256", "ed25519-sha256"].map(|algorithm| (algorithm.to_owned(), good)).into()
}

/// Verifies with dkimpy.
pub async fn by_dkimpy(keys: &[DkimConfig], mails: &[Vec<u8>]) -> Verdicts {
    const SOURCE: &str = "
import base64, dkim, json, re, sys
asked = json.load(open(sys.argv[1]))
records = {name.encode() + b'.': text.encode() for name, text in asked['records'].items()}
def verify(mail, at):
    try:
        return dkim.DKIM(mail).verify(at, dnsfunc=lambda name, timeout=5: records.get(name))
    except dkim.DKIMException:
        return False
def verdicts(mail):
    found = re.findall(rb'^DKIM-Signature:.*?\\ba=([^;]+);', mail, re.M | re.S)
    return [[a.decode(), bool(verify(mail, at))] for at, a in enumerate(found)]
print(json.dumps([verdicts(base64.b64decode(mail)) for mail in asked['mails']]))
";
    let records: serde_json::Map<String, serde_json::Value> =
        keys.iter().map(|key| (key.record_name(), key.key.record().into())).collect();
    let mails: Vec<String> = mails.iter().map(|mail| STANDARD.encode(mail)).collect();
    let asked = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        asked.path(),
        serde_json::json!({ "records": records, "mails": mails }).to_string(),
    )
    .unwrap();
    let mut command = Command::new(program("OUTBOXD_PYTHON", "python3"));
    command.env("PYTHONPATH", named("OUTBOXD_DKIMPY")).args(["-c", SOURCE]).arg(asked.path());
    serde_json::from_str(&run(&mut command).await).expect("it prints JSON")
}

/// Verifies with OpenDKIM.
pub async fn by_opendkim(keys: &[DkimConfig], mails: &[Vec<u8>]) -> Verdicts {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let records = keys.iter().fold(String::new(), |mut all, key| {
        writeln!(all, "{} {}", key.record_name(), key.key.record()).unwrap();
        all
    });
    std::fs::write(path("records"), records).unwrap();
    let config = format!("Mode v\nTestPublicKeys {}\n", path("records").display());
    std::fs::write(path("config"), config).unwrap();
    let mut all = Vec::new();
    for (number, mail) in mails.iter().enumerate() {
        let file = path(&format!("{number}.eml"));
        std::fs::write(&file, mail).unwrap();
        let mut command = Command::new(program("OUTBOXD_OPENDKIM", "opendkim"));
        command.arg("-x").arg(path("config")).args(["-v", "-v", "-v", "-t"]).arg(&file);
        let said = run(&mut command).await;
        // It says what it would write into the mail: a verdict for each signature.
        let results = said.split("dkim=").skip(1).filter(|result| result.contains("header.a="));
        let verdict = |result: &str| {
            let (_, algorithm) = result.split_once("header.a=").unwrap();
            let algorithm = algorithm.split([' ', ';']).next().unwrap_or_default().to_owned();
            (algorithm, result.starts_with("pass "))
        };
        all.push(results.map(verdict).collect());
    }
    all
}

fn named(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(value.unwrap_or_else(|| panic!("{variable} is not set; run integration/run.sh")))
}
