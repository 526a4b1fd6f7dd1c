//! `[sinks.NAME.dkim]`: keys that sign a sink's mails.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::DkimConfig;
use super::fault::Wrong;
use super::item::Item;
use super::read::Section;

/// Keys a sink may sign with: one of each kind, and the next ones.
const KEYS_MAX: usize = 4;
/// Longest name in DNS.
const DNS_NAME_MAX: usize = 253;
/// What stands in a record's name between selector and domain.
const BETWEEN: &str = "._domainkey.";
/// How to make a key.
const MAKE: &str = "make one with: openssl genrsa -out dkim.pem 2048";

/// A private key that signs mails. Nothing of it prints.
#[derive(Clone)]
pub enum DkimKey {
    /// `rsa-sha256` (RFC 6376); 2048 to 4096 bits.
    Rsa(Arc<rsa::KeyPair>),
    /// `ed25519-sha256` (RFC 8463).
    Ed25519(Arc<Ed25519KeyPair>),
}

impl DkimKey {
    /// Reads PEM: PKCS#8, of RSA also PKCS#1.
    ///
    /// # Errors
    /// Says what would be right, never the key.
    pub fn parse(pem: &str) -> Result<DkimKey, String> {
        read_key(pem).map_err(|Wrong { problem, remedy }| format!("{problem}; {remedy}"))
    }

    /// How it signs (`a=`).
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            DkimKey::Rsa(_) => "rsa-sha256",
            DkimKey::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The signature of these bytes, the same each time.
    ///
    /// # Errors
    /// When the numbers of an RSA key do not fit each other; such a key is refused by [`DkimKey::parse`].
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            DkimKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature)
                    .map_err(|_| "signs nothing: its numbers do not fit each other")?;
                Ok(signature)
            }
            // What is signed is the hash (RFC 8463 section 3).
            DkimKey::Ed25519(key) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
                Ok(key.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }

    /// The public key as a TXT record tells it.
    #[must_use]
    pub fn record(&self) -> String {
        let (kind, public) = match self {
            DkimKey::Rsa(key) => ("rsa", subject_public_key_info(key.public().as_ref())),
            DkimKey::Ed25519(key) => ("ed25519", key.public_key().as_ref().to_vec()),
        };
        format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(public))
    }
}

impl fmt::Debug for DkimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DkimKey({}, …)", self.algorithm())
    }
}

impl DkimConfig {
    /// Where its TXT record stands.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!("{}{BETWEEN}{}", self.selector, self.domain)
    }
}

/// Reads `dkim` of a sink: a table, or a list of them.
pub(super) fn read(section: &mut Section) -> Vec<DkimConfig> {
    let Some(written) = section.get("dkim") else { return Vec::new() };
    let tables =
        if written.is_table() { vec![written] } else { written.list().unwrap_or_default() };
    if let Some(item) = tables.get(KEYS_MAX) {
        item.fault("is one too many", format!("at most {KEYS_MAX}"));
    }
    let mut read: Vec<(DkimConfig, &Item)> = Vec::new();
    for item in &tables {
        let Some(config) = one(item) else { continue };
        let name = config.record_name();
        if let Some((_, first)) = read.iter().find(|(other, _)| other.record_name() == name) {
            let problem = format!("has the selector and domain of {}", first.path);
            item.fault(problem, "each key has a record of its own: give it another selector");
        }
        read.push((config, item));
    }
    read.into_iter().map(|(config, _)| config).collect()
}

fn one(item: &Item) -> Option<DkimConfig> {
    let mut section = item.section()?;
    let domain = section
        .need("domain", "write domain = \"example.com\", as in From")
        .and_then(|item| domain(&item));
    let selector = section
        .need("selector", "write selector = \"2026a\", any name for this key")
        .and_then(|item| selector(&item));
    if !section.has("key") && !section.has("key_file") {
        section.missing("key", &format!("write key_file = \"dkim.pem\"; {MAKE}"));
    }
    let key = section.secret("key", "key_file").and_then(|(item, pem)| {
        read_key(&pem).map_err(|Wrong { problem, remedy }| item.fault(problem, remedy)).ok()
    });
    let whole = domain.and_then(|domain| {
        let selector = selector?;
        if selector.len() + BETWEEN.len() + domain.len() > DNS_NAME_MAX {
            section.fault("has a record whose name is too long for DNS", "shorten the selector");
            return None;
        }
        Some((domain, selector))
    });
    section.close();
    let (domain, selector) = whole?;
    Some(DkimConfig { domain, selector, key: key? })
}

/// A domain in A-labels.
fn domain(item: &Item) -> Option<String> {
    let text = item.text()?;
    match url::Host::parse(&text) {
        Ok(url::Host::Domain(domain)) if domain.contains('.') && is_name(&domain) => Some(domain),
        _ => {
            let remedy =
                "write what stands behind _domainkey in the record's name, e.g. example.com";
            item.fault(format!("{} is no domain", item.shown()), remedy);
            None
        }
    }
}

fn selector(item: &Item) -> Option<String> {
    let text = item.text()?;
    if is_name(&text) {
        return Some(text.to_ascii_lowercase());
    }
    let remedy = "write what stands before _domainkey in the record's name, e.g. 2026a: \
                  letters, digits and hyphens";
    item.fault(format!("{} is no selector", item.shown()), remedy);
    None
}

/// Labels of letters, digits and inner hyphens with dots between them.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.split('.').all(is_label)
}

fn read_key(pem: &str) -> Result<DkimKey, Wrong> {
    let no_key = || {
        if pem.contains("-----BEGIN") {
            let remedy = "use key_file, or keep its lines as they are";
            return Wrong::new(
                "holds a key in PEM that does not parse, as where line breaks are lost",
                remedy,
            );
        }
        Wrong::new("holds no private key in PEM", MAKE)
    };
    if pem.contains("ENCRYPTED") {
        let remedy = "take it off with: openssl pkey -in KEY -out dkim.pem";
        return Err(Wrong::new("holds a key that is locked with a passphrase", remedy));
    }
    let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| no_key())? {
        PrivateKeyDer::Pkcs1(der) => rsa_key(rsa::KeyPair::from_der(der.secret_pkcs1_der()))?,
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                Ok(key) => DkimKey::Ed25519(Arc::new(key)),
                Err(_) => rsa_key(rsa::KeyPair::from_pkcs8(der))?,
            }
        }
        _ => return Err(Wrong::new("is no key for DKIM: neither RSA nor Ed25519", MAKE)),
    };
    // Only that shows whether the numbers of an RSA key fit each other.
    key.sign(b"").map_err(|problem| Wrong::new(problem, MAKE))?;
    Ok(key)
}

fn rsa_key(read: Result<rsa::KeyPair, ring::error::KeyRejected>) -> Result<DkimKey, Wrong> {
    let words = |error: ring::error::KeyRejected| match error.to_string().as_str() {
        "TooSmall" => "is an RSA key of less than 2048 bits".to_owned(),
        "TooLarge" => "is an RSA key of more than 4096 bits".to_owned(),
        "WrongAlgorithm" => "is no key for DKIM: neither RSA nor Ed25519".to_owned(),
        other => format!("is no sound private key ({other})"),
    };
    match read {
        Ok(key) => Ok(DkimKey::Rsa(Arc::new(key))),
        Err(error) => Err(Wrong::new(words(error), MAKE)),
    }
}

/// A public key of RSA with its algorithm before it, as records have it (RFC 6376 erratum 3017).
fn subject_public_key_info(key: &[u8]) -> Vec<u8> {
    /// The object identifier of rsaEncryption, and NULL.
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let bits = tagged(0x03, &[&[0], key].concat());
    tagged(0x30, &[&ALGORITHM[..], &bits].concat())
}

/// DER: tag, length, content. Keys are longer than 127 bytes and shorter than 64 KB.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = if high == 0 { vec![tag, 0x81, low] } else { vec![tag, 0x82, high, low] };
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Way;
    use crate::config::testing::{parse_in, refusal, refuses_each, sink};
    use ring::signature::{self, UnparsedPublicKey};

    const RSA: &str = include_str!("../../integration/keys/rsa.pem");
    const RSA_PKCS1: &str = include_str!("../../integration/keys/rsa-pkcs1.pem");
    const ED25519: &str = include_str!("../../integration/keys/ed25519.pem");
    const SMTP: &str = "kind = \"smtp\"\nurl = \"smtps://m.example\"\nfrom = \"a@b.example\"\n";

    /// A PEM on one line of TOML.
    fn line(pem: &str) -> String {
        format!("\"{}\"", pem.replace('\n', "\\n"))
    }

    fn dkim(text: &str) -> Vec<DkimConfig> {
        let Way::Smtp(smtp) = sink(&format!("{SMTP}{text}")).way else { panic!("not smtp") };
        smtp.dkim
    }

    #[test]
    fn a_sink_signs_with_one_key_or_with_several() {
        assert!(dkim("").is_empty());
        let (rsa, ed25519) = (line(RSA), line(ED25519));
        let [one] = &dkim(&format!(
            "[sinks.a.dkim]\ndomain = \"B\u{fc}cher.Example\"\nselector = \"M1.2026\"\nkey = {rsa}\n"
        ))[..] else {
            panic!("not one")
        };
        assert_eq!(one.record_name(), "m1.2026._domainkey.xn--bcher-kva.example");
        assert_eq!(one.key.algorithm(), "rsa-sha256");
        let several = dkim(&format!(
            "[[sinks.a.dkim]]\ndomain = \"b.example\"\nselector = \"r\"\nkey = {rsa}\n\
             [[sinks.a.dkim]]\ndomain = \"b.example\"\nselector = \"e\"\nkey = {ed25519}\n"
        ));
        let ways: Vec<_> = several.iter().map(|one| one.key.algorithm()).collect();
        assert_eq!(ways, ["rsa-sha256", "ed25519-sha256"]);
        let shown = format!("{several:?}");
        assert!(shown.contains("DkimKey(ed25519-sha256, …)"), "{shown}");
    }

    #[test]
    fn a_key_may_stand_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("dkim.pem"), ED25519).unwrap();
        let text = format!(
            "[sinks.b]\n{SMTP}dkim = {{ domain = \"b.example\", selector = \"s\", key_file = \"dkim.pem\" }}\n"
        );
        let config = parse_in(directory.path(), &text).unwrap();
        let Way::Smtp(smtp) = config.sinks.into_values().next().unwrap().way else {
            panic!("not smtp")
        };
        assert_eq!(smtp.dkim[0].key.algorithm(), "ed25519-sha256");
    }

    #[test]
    fn the_record_has_the_key_that_verifies() {
        let public = |record: &str, kind: &str| {
            let head = format!("v=DKIM1; k={kind}; p=");
            STANDARD.decode(record.strip_prefix(&head).expect(record)).unwrap()
        };
        let key = DkimKey::parse(ED25519).unwrap();
        let hash = ring::digest::digest(&ring::digest::SHA256, b"text");
        UnparsedPublicKey::new(&signature::ED25519, public(&key.record(), "ed25519"))
            .verify(hash.as_ref(), &key.sign(b"text").unwrap())
            .unwrap();
        for pem in [RSA, RSA_PKCS1] {
            let key = DkimKey::parse(pem).unwrap();
            let info = public(&key.record(), "rsa");
            assert_eq!((info[..4].to_vec(), info.len()), (vec![0x30, 0x82, 1, 0x22], 294));
            // Behind two tags, the algorithm and a byte that counts no bits.
            UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &info[24..])
                .verify(b"text", &key.sign(b"text").unwrap())
                .unwrap();
            assert_eq!(key.record(), DkimKey::parse(RSA).unwrap().record());
        }
    }

    fn refuses_dkim(changes: &[(&str, &str)]) {
        let key = line(ED25519);
        let good = format!("domain = \"b.example\"\nselector = \"s\"\nkey = {key}\n");
        let before = format!("[sinks.a]\n{SMTP}[sinks.a.dkim]\n");
        refuses_each(&before, "sinks.a.dkim", &good, changes);
    }

    #[test]
    fn faults_of_names() {
        let domain = "write what stands behind _domainkey in the record's name, e.g. example.com";
        for wrong in ["example", "10.0.0.1", "s._domainkey.b.example", "a.example.", ""] {
            let fault = format!("8: domain: \"{wrong}\" is no domain; {domain}");
            refuses_dkim(&[(&format!("domain = \"{wrong}\""), &fault)]);
        }
        let selector = "write what stands before _domainkey in the record's name, e.g. 2026a: \
                        letters, digits and hyphens";
        for wrong in ["s._domainkey", "", "-s", "s-", "a..b", "\u{e4}"] {
            let fault = format!("8: selector: \"{wrong}\" is no selector; {selector}");
            refuses_dkim(&[(&format!("selector = \"{wrong}\""), &fault)]);
        }
        refuses_dkim(&[
            ("domain", "5: domain: is missing; write domain = \"example.com\", as in From"),
            (
                "selector",
                "5: selector: is missing; write selector = \"2026a\", any name for this key",
            ),
            (
                "private = \"x\"",
                "9: private: is unknown; known here: domain, selector, key, key_file",
            ),
        ]);
        let dkim = |last: usize| {
            let labels = ["x".repeat(60), "y".repeat(60), "z".repeat(60), "a".repeat(last)];
            let (selector, key) = (labels.join("."), line(ED25519));
            format!("dkim = {{ domain = \"b.example\", selector = \"{selector}\", key = {key} }}\n")
        };
        assert_eq!(self::dkim(&dkim(49)).first().unwrap().record_name().len(), DNS_NAME_MAX);
        let fault = "has a record whose name is too long for DNS; shorten the selector";
        assert_eq!(
            refusal(&format!("[sinks.a]\n{SMTP}{}", dkim(50))),
            format!("outboxd.toml:5: sinks.a.dkim: {fault}")
        );
    }

    #[test]
    fn faults_of_keys() {
        let form = "make one with: openssl genrsa -out dkim.pem 2048";
        let locked = "holds a key that is locked with a passphrase; \
                      take it off with: openssl pkey -in KEY -out dkim.pem";
        let made = |problem: &str| format!("{problem}; {form}");
        let broken = RSA_PKCS1.replacen("MIIEowIBAAKCAQEA", "MIIEowIBAAKCAQEB", 1);
        for (pem, fault) in [
            ("sesame", made("holds no private key in PEM")),
            (
                include_str!("../../integration/keys/rsa-1024.pem"),
                made("is an RSA key of less than 2048 bits"),
            ),
            (
                include_str!("../../integration/keys/ec.pem"),
                made("is no key for DKIM: neither RSA nor Ed25519"),
            ),
            (include_str!("../../integration/keys/locked.pem"), locked.to_owned()),
            (&broken, made("is no sound private key (InconsistentComponents)")),
            (
                include_str!("../../integration/keys/rsa-unsound.pem"),
                made("signs nothing: its numbers do not fit each other"),
            ),
        ] {
            refuses_dkim(&[(&format!("key = {}", line(pem)), &format!("8: key: {fault}"))]);
            assert_eq!(DkimKey::parse(pem).unwrap_err(), fault);
        }
        refuses_dkim(&[
            ("key", &format!("5: key: is missing; write key_file = \"dkim.pem\"; {form}")),
            (
                "key_file = \"none\"\nkey",
                "8: key_file: \"none\" does not exist; \
                 paths start at the config file's directory",
            ),
        ]);
    }

    #[test]
    fn every_key_has_a_record_of_its_own_and_there_are_few() {
        let one = |selector: &str| {
            let key = line(ED25519);
            format!(
                "[[sinks.a.dkim]]\ndomain = \"b.example\"\nselector = \"{selector}\"\nkey = {key}\n"
            )
        };
        let twice = format!("[sinks.a]\n{SMTP}{}{}", one("s"), one("S"));
        assert_eq!(
            refusal(&twice),
            "outboxd.toml:9: sinks.a.dkim[1]: has the selector and domain of sinks.a.dkim[0]; \
             each key has a record of its own: give it another selector"
        );
        let five: String = ["a", "b", "c", "d", "e"].map(one).concat();
        assert_eq!(
            refusal(&format!("[sinks.a]\n{SMTP}{five}")),
            "outboxd.toml:21: sinks.a.dkim[4]: is one too many; at most 4"
        );
    }
}
