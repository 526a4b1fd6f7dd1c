//! `kind = "webhook"`: where to post and what signs it.

use url::Url;

use super::item::Item;
use super::read::Section;
use super::sink::ca_file;
use super::{BodyForm, WebhookConfig, WebhookSecret};

/// Secrets a webhook may sign with: the present one, the next one, and a few forgotten.
const SECRETS_MAX: usize = 10;

/// Reads the webhook part of a sink.
pub(super) fn read(section: &mut Section) -> Option<WebhookConfig> {
    let url = section
        .need("url", "write url = \"https://example.com/hooks\"")
        .and_then(|item| webhook_url(&item));
    let secrets = secrets(section);
    let bodies = [("payload", BodyForm::Payload), ("envelope", BodyForm::Envelope)];
    let body = section.get("body").and_then(|item| item.choice(&bodies));
    let encrypted = url.as_ref().is_none_or(|url| url.scheme() == "https");
    let ca_file = ca_file(section, encrypted);
    Some(WebhookConfig { url: url?, secrets, body: body.unwrap_or(BodyForm::Payload), ca_file })
}

/// The path of such a URL is often a secret of its own, so faults do not show it.
fn webhook_url(item: &Item) -> Option<Url> {
    let form = "write it like https://example.com/hooks";
    let Ok(url) = Url::parse(&item.text()?) else {
        item.fault("is no URL", form);
        return None;
    };
    if !matches!(url.scheme(), "http" | "https") {
        item.fault("is neither http nor https", form);
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        item.fault("holds a user name or password", "webhooks are signed: write secrets = […]");
        return None;
    }
    if url.fragment().is_some() {
        item.fault("holds a #fragment, which is never sent", "remove it");
        return None;
    }
    Some(url)
}

fn secrets(section: &mut Section) -> Vec<WebhookSecret> {
    let listed = section.get("secrets");
    let file = section.get("secrets_file");
    let texts: Vec<(Item, String)> = match (listed, file) {
        (Some(_), Some(file)) => {
            file.fault("secrets is there too", "keep one of the two");
            return Vec::new();
        }
        (Some(listed), None) => {
            let items = listed.list().unwrap_or_default();
            items.into_iter().filter_map(|item| item.text().map(|text| (item, text))).collect()
        }
        (None, Some(file)) => {
            let Some(text) = file.secret_file() else { return Vec::new() };
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let texts: Vec<_> = lines.map(|line| (file.clone(), line.to_owned())).collect();
            if texts.is_empty() {
                file.fault("gives no secret", "write one on each line of the file");
            }
            texts
        }
        (None, None) => return Vec::new(),
    };
    if let Some((item, _)) = texts.get(SECRETS_MAX) {
        item.fault("is one too many", format!("at most {SECRETS_MAX}"));
    }
    let read = |(item, text): &(Item, String)| {
        let secret = WebhookSecret::parse(text);
        secret.map_err(|problem| item.fault(problem, "")).ok()
    };
    texts.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Way;
    use crate::config::testing::{parse_in, refuses_each, sink};
    use crate::retry::RetryPolicy;

    const WEBHOOK: &str = "kind = \"webhook\"\nurl = \"https://crm.example/hooks\"\n";
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_webhook_has_defaults() {
        let read = sink(WEBHOOK);
        assert_eq!((read.concurrency.get(), read.timeout.as_secs()), (16, 15));
        assert_eq!(read.policy.retry, RetryPolicy::default());
        let Way::Webhook(webhook) = read.way else { panic!("not a webhook") };
        assert_eq!((webhook.secrets.len(), webhook.body), (0, BodyForm::Payload));
        let read = sink(&format!("{WEBHOOK}secrets = [\"{SECRET}\"]\nbody = \"envelope\"\n"));
        let Way::Webhook(webhook) = read.way else { panic!("not a webhook") };
        assert_eq!((webhook.secrets[0].key().len(), webhook.body), (24, BodyForm::Envelope));
    }

    #[test]
    fn secrets_may_stand_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("hooks", &format!("{SECRET}\n\n{SECRET}\r\n"));
        write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
        let text = format!("[sinks.a]\n{WEBHOOK}secrets_file = \"hooks\"\nca_file = \"ca.pem\"\n");
        let config = parse_in(directory.path(), &text).unwrap();
        let way = config.sinks.into_values().next().unwrap().way;
        let Way::Webhook(webhook) = way else { panic!("not a webhook") };
        assert_eq!(webhook.secrets.len(), 2);
        assert_eq!(webhook.ca_file, Some(directory.path().join("ca.pem")));
        write("hooks", "\n");
        let error = parse_in(directory.path(), &text).unwrap_err().to_string();
        let fault = "4: sinks.a.secrets_file: gives no secret; write one on each line of the file";
        assert!(error.ends_with(fault), "{error}");
    }

    #[test]
    fn faults_of_webhooks() {
        let form = "write it like https://example.com/hooks";
        let many = format!("secrets = [{}]", format!("\"{SECRET}\",").repeat(11));
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            WEBHOOK,
            &[
                ("url", "1: url: is missing; write url = \"https://example.com/hooks\""),
                ("url = \"crm/sesame\"", &format!("3: url: is no URL; {form}")),
                ("url = \"https://\"", &format!("3: url: is no URL; {form}")),
                ("url = \"smtp://sesame\"", &format!("3: url: is neither http nor https; {form}")),
                (
                    "url = \"https://u:sesame@crm.example\"",
                    "3: url: holds a user name or password; webhooks are signed: write secrets = […]",
                ),
                (
                    "url = \"https://crm.example/#sesame\"",
                    "3: url: holds a #fragment, which is never sent; remove it",
                ),
                ("body = \"json\"", "4: body: \"json\" is unknown; use \"payload\", \"envelope\""),
                ("secrets = \"sesame\"", "4: secrets: is a string; write a list: [ … ]"),
                ("secrets = [\"sesame\"]", "4: secrets[0]: a secret starts with whsec_"),
                (
                    "secrets = [\"whsec_\\u0020sesame\"]",
                    "4: secrets[0]: what follows whsec_ is not base64",
                ),
                (
                    "secrets = [\"whsec_c2VzYW1l\"]",
                    "4: secrets[0]: a secret has 24 to 64 bytes, this one 6; \
                     make one with: echo whsec_$(head -c 24 /dev/urandom | base64)",
                ),
                ("secrets = [\"${SESAME}\"]", "4: secrets[0]: a secret starts with whsec_"),
                (&many, "4: secrets[10]: is one too many; at most 10"),
                (
                    "secrets = []\nsecrets_file = \"x\"",
                    "5: secrets_file: secrets is there too; keep one of the two",
                ),
                (
                    "secrets_file = \"none\"",
                    "4: secrets_file: \"none\" does not exist; \
                     paths start at the config file's directory",
                ),
                (
                    "ca_file = \"none.pem\"",
                    "4: ca_file: \"none.pem\" does not exist; \
                     paths start at the config file's directory",
                ),
                (
                    "ca_file = \"Cargo.toml\"",
                    "4: ca_file: \"Cargo.toml\" holds no certificate; name a PEM file",
                ),
                ("ca_file = \"\"", "4: ca_file: is empty; write a path"),
                (
                    "url = \"http://crm.example\"\nca_file = \"x\"",
                    "4: ca_file: does nothing without TLS; remove it, or change the scheme of url",
                ),
            ],
        );
    }
}
