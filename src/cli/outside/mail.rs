//! What `check` and `doctor` say of a mail server, in plain words.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::thing;
use crate::cli::finding::{Finding, Found};
use crate::cli::words::plain;
use crate::config::{MailSecurity, SinkConfig};
use crate::sink::smtp::{Place, Reception, Smtp, Which};

/// A server may look up who calls before it says a word.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// A server that takes less is told of: mails with attachments are larger.
const SIZE_SMALL: u64 = 5 << 20;

/// A line for each server of a sink.
pub(super) async fn look(sink: &SinkConfig, smtp: &Smtp) -> Vec<Finding> {
    let one = async |which: Which| {
        let place = smtp.place(which)?;
        let seen = timeout(LIMIT, smtp.look(which)).await;
        let seen = seen.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())));
        let name = match which {
            Which::First => thing(sink),
            Which::Second => format!("{}, fallback", thing(sink)),
        };
        let mut finding = Finding::of(name, judge(&place, &seen));
        finding.detail = Some(detail(&place, seen.as_ref().ok()));
        Some(finding)
    };
    let (first, second) = tokio::join!(one(Which::First), one(Which::Second));
    first.into_iter().chain(second).collect()
}

fn judge(place: &Place, seen: &Result<Reception, String>) -> Found {
    let seen = match seen {
        Ok(seen) => seen,
        Err(reason) => {
            let remedy =
                remedy(place, reason).map_or(String::new(), |remedy| format!("; {remedy}"));
            return Found::Wrong(format!("{place}: {}{remedy}", plain(reason)));
        }
    };
    let mut words = vec![format!("{place} takes mail ({})", plain(&seen.greeting))];
    words.push(match seen.tls {
        Some((version, Some(ends))) => {
            format!("{version}, its certificate is good until {}", ends.strftime("%Y-%m-%d"))
        }
        Some((version, None)) => version.to_owned(),
        None => "no TLS".to_owned(),
    });
    words.push(match seen.login {
        Some(mechanism) => format!("the login is good ({mechanism})"),
        None => "no login".to_owned(),
    });
    words.push(match seen.size_max {
        Some(bytes) => format!("takes mails up to {}", size(bytes)),
        None => "does not say how large a mail may be".to_owned(),
    });
    let offers: Vec<&str> = seen.offers.iter().map(String::as_str).collect();
    if seen.knows_ehlo {
        words.push(format!(
            "offers {}",
            if offers.is_empty() { "nothing".to_owned() } else { plain(&offers.join(", ")) }
        ));
        if !seen.offers("PIPELINING") {
            words.push("without PIPELINING each mail takes some round trips more".to_owned());
        }
        if !seen.offers("SMTPUTF8") {
            let words_of_it = "without SMTPUTF8 addresses with other letters than those of ASCII before \
                               the @ are refused";
            words.push(words_of_it.to_owned());
        }
    } else {
        words.push("it does not know EHLO, so it offers nothing".to_owned());
    }
    let doubts = doubts(place, seen);
    if doubts.is_empty() {
        return Found::Good(words.join("; "));
    }
    Found::Doubt([doubts, words].concat().join("; "))
}

/// What works and is perhaps not meant.
fn doubts(place: &Place, seen: &Reception) -> Vec<String> {
    let mut doubts = Vec::new();
    if place.security == MailSecurity::Plain && !is_loopback(&place.host) {
        let what = if seen.login.is_some() { "password and mails go" } else { "mails go" };
        let remedy = if seen.offers("STARTTLS") {
            "the server offers STARTTLS: write smtp+starttls://"
        } else {
            "write smtp+starttls:// or smtps://, if the server has it on another port"
        };
        doubts.push(format!("{what} in clear text over the network; {remedy}"));
    }
    if let Some(bytes) = seen.size_max.filter(|bytes| *bytes < SIZE_SMALL) {
        doubts.push(format!("larger mails than {} are refused, attachments included", size(bytes)));
    }
    doubts
}

/// What to do about a server that did not let us in, where that can be told.
fn remedy(place: &Place, reason: &str) -> Option<String> {
    let says = |words: &str| reason.contains(words);
    if reason.starts_with("connect") || reason.starts_with("no answer within") {
        if says("lookup") {
            return Some("is the name right? outboxd doctor looks it up".to_owned());
        }
        if says("refused") {
            return Some(format!("nobody listens on port {} there", place.port));
        }
        let port = place.port;
        let many = if port == 25 { "; many networks close 25, so ask for 587" } else { "" };
        return Some(format!("a firewall may drop what goes to port {port}{many}"));
    }
    if says("offers no STARTTLS") {
        return Some(
            "a server with TLS from the first byte, often on port 465, is smtps://".to_owned(),
        );
    }
    if reason.starts_with("TLS") {
        return Some(
            match () {
                () if says("UnknownIssuer") => {
                    "if its certificate is from an authority of your own, name that in ca_file"
                }
                () if says("NotValidForName") => {
                    "write the host name that its certificate is made out to in url"
                }
                () if says("xpired") => "the server's certificate must be renewed",
                () if says("corrupt message") => {
                    "that server begins in clear text: write smtp+starttls://, often port 587"
                }
                () => return None,
            }
            .to_owned(),
        );
    }
    if reason.starts_with("greeting") && says("no answer") {
        return Some(
            "a server with TLS from the first byte, often on port 465, is smtps://".to_owned(),
        );
    }
    if reason.starts_with("AUTH: 5") {
        return Some("check username and password, or renew what is in token_file".to_owned());
    }
    if says("server offers n") && says("AUTH") && place.security == MailSecurity::Plain {
        return Some("many servers take logins over TLS only: write smtp+starttls://".to_owned());
    }
    None
}

/// The same for programs.
fn detail(place: &Place, seen: Option<&Reception>) -> Value {
    let ends = |seen: &Reception| seen.tls.and_then(|(_, ends)| ends).map(|ends| ends.to_string());
    json!({
        "server": place.to_string(),
        "greeting": seen.map(|seen| &seen.greeting),
        "tls": seen.and_then(|seen| seen.tls).map(|(version, _)| version),
        "certificate_ends": seen.and_then(ends),
        "login": seen.and_then(|seen| seen.login),
        "size_max": seen.and_then(|seen| seen.size_max),
        "offers": seen.map(|seen| &seen.offers),
    })
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 2] = [(1 << 20, "MB"), (1 << 10, "KB")];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{} {unit}", bytes / size),
        None => format!("{bytes} bytes"),
    }
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, port: u16, security: MailSecurity) -> Place {
        Place { host: host.to_owned(), port, security }
    }

    fn reception(offers: &[&str]) -> Reception {
        Reception {
            greeting: "mail.example ESMTP Postfix".to_owned(),
            tls: Some(("TLS 1.3", Some("2027-02-01T10:00:00Z".parse().unwrap()))),
            login: Some("PLAIN"),
            knows_ehlo: true,
            size_max: Some(35 << 20),
            offers: offers.iter().map(|&offer| offer.to_owned()).collect(),
        }
    }

    #[test]
    fn a_good_server_is_described_in_a_sentence() {
        let server = place("relay.example", 587, MailSecurity::StartTls);
        let seen = Ok(reception(&["PIPELINING", "SIZE", "SMTPUTF8"]));
        assert_eq!(
            judge(&server, &seen),
            Found::Good(
                "relay.example:587 takes mail (mail.example ESMTP Postfix); TLS 1.3, its \
                 certificate is good until 2027-02-01; the login is good (PLAIN); takes mails up to \
                 35 MB; offers PIPELINING, SIZE, SMTPUTF8"
                    .to_owned()
            )
        );
    }

    #[test]
    fn what_a_server_lacks_is_told_with_what_it_means() {
        let (plain, far) = (MailSecurity::Plain, "relay.example");
        let bare = Reception { tls: None, login: None, size_max: None, ..reception(&[]) };
        let old = Reception { knows_ehlo: false, ..bare.clone() };
        let offering = Reception { offers: vec!["STARTTLS".to_owned()], ..bare.clone() };
        let small = Reception { size_max: Some(1 << 20), ..reception(&[]) };
        for (host, security, seen, good, words) in [
            ("127.0.0.1", plain, &bare, true, "without PIPELINING each mail takes"),
            ("127.0.0.1", plain, &bare, true, "; offers nothing; without"),
            ("127.0.0.1", plain, &bare, true, "does not say how large a mail may be"),
            ("localhost", plain, &old, true, "it does not know EHLO, so it offers nothing"),
            (far, plain, &bare, false, "mails go in clear text over the network; write smtp+"),
            (far, plain, &offering, false, "offers STARTTLS: write smtp+starttls://; "),
            (far, MailSecurity::Tls, &small, false, "larger mails than 1 MB are refused"),
        ] {
            let found = judge(&place(host, 25, security), &Ok(seen.clone()));
            assert_eq!(matches!(found, Found::Good(_)), good, "{found:?}");
            assert!(found.words().1.contains(words), "{words}: {found:?}");
        }
    }

    #[test]
    fn what_keeps_us_out_comes_with_what_to_do() {
        let (tls, start) = (MailSecurity::Tls, MailSecurity::StartTls);
        let no_name = "connect: failed to lookup address information: Name or service not known";
        for (port, security, reason, words) in [
            (25, start, "connect: no answer within 30 s", "many networks close 25, so ask for 587"),
            (
                587,
                start,
                "connect: Connection refused (os error 111)",
                "nobody listens on port 587",
            ),
            (587, start, no_name, "is the name right?"),
            (587, start, "the server offers no STARTTLS, which is required", "is smtps://"),
            (465, start, "greeting: no answer within 300 s", "is smtps://"),
            (465, tls, "TLS: invalid peer certificate: UnknownIssuer", "name that in ca_file"),
            (587, tls, "TLS: received corrupt message of type InvalidContentType", "in clear text"),
            (587, start, "AUTH: 535 5.7.8 no", "check username and password"),
        ] {
            let found = judge(&place("m.example", port, security), &Err(reason.to_owned()));
            let Found::Wrong(told) = found else { panic!("{found:?}") };
            assert!(told.starts_with(&format!("m.example:{port}: {reason}; ")), "{told}");
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(place("::1", 25, MailSecurity::Plain).to_string(), "[::1]:25");
    }
}
