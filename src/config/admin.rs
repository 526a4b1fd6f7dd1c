//! `[admin]`: the listener for health and metrics.

use std::net::SocketAddr;

use super::item::Item;
use super::read::Section;
use super::{Admin, Secret};

/// A shorter token is guessed.
const TOKEN_MIN: usize = 16;
const LISTEN: &str =
    "write an address and a port, e.g. \"127.0.0.1:9464\", or \"0.0.0.0:9464\" for all";

/// Reads the table; no table, no listener.
pub(super) fn read(mut section: Section) -> Option<Admin> {
    let listen = section.need("listen", LISTEN).and_then(|item| listen(&item));
    let is_written = section.has("token") || section.has("token_file");
    let token = section.secret("token", "token_file").and_then(|(item, text)| token(&item, text));
    if let Some((item, listen)) = &listen
        && !listen.ip().is_loopback()
        && !is_written
    {
        item.fault(
            format!("{} is heard by other machines, and there is no token", item.shown()),
            "add token = \"${ADMIN_TOKEN}\" or token_file, or listen on 127.0.0.1",
        );
    }
    section.close();
    listen.map(|(_, listen)| Admin { listen, token })
}

fn listen<'a>(item: &Item<'a>) -> Option<(Item<'a>, SocketAddr)> {
    match item.text()?.parse() {
        Ok(listen) => Some((item.clone(), listen)),
        Err(_) => {
            item.fault(format!("{} is no address with a port", item.shown()), LISTEN);
            None
        }
    }
}

fn token(item: &Item, text: String) -> Option<Secret> {
    let problem = if text.len() < TOKEN_MIN {
        "is shorter than 16 characters"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has characters that a header cannot carry"
    } else {
        return Some(Secret::new(text));
    };
    item.fault(problem, "make one with: openssl rand -hex 32");
    None
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{parse, refuses};

    #[test]
    fn there_is_a_listener_where_there_is_a_table() {
        assert!(parse("").unwrap().admin.is_none());
        let admin = parse("[admin]\nlisten = \"127.0.0.1:9464\"\n").unwrap().admin.unwrap();
        assert_eq!(
            (admin.listen.to_string().as_str(), admin.token.is_none()),
            ("127.0.0.1:9464", true)
        );
        let text = "[admin]\nlisten = \"[::]:9464\"\ntoken = \"${SESAME}-0123456789\"\n";
        let admin = parse(text).unwrap().admin.unwrap();
        assert_eq!(admin.token.as_ref().unwrap().expose(), "open-sesame-0123456789");
        assert!(!format!("{admin:?}").contains("sesame"));
    }

    #[test]
    fn a_listener_for_other_machines_needs_a_token() {
        for listen in ["0.0.0.0:9464", "[::]:9464", "10.0.0.7:9464"] {
            let fault = format!(
                "outboxd.toml:2: admin.listen: \"{listen}\" is heard by other machines, and there is no \
                 token; add token = \"${{ADMIN_TOKEN}}\" or token_file, or listen on 127.0.0.1"
            );
            refuses(&format!("[admin]\nlisten = \"{listen}\"\n"), &[&fault]);
        }
        for listen in ["127.0.0.1:1", "127.8.9.1:0", "[::1]:1"] {
            assert!(parse(&format!("[admin]\nlisten = \"{listen}\"\n")).is_ok(), "{listen}");
        }
    }

    #[test]
    fn faults_of_admin() {
        let remedy =
            "write an address and a port, e.g. \"127.0.0.1:9464\", or \"0.0.0.0:9464\" for all";
        for (lines, faults) in [
            ("", vec![format!("1: admin.listen: is missing; {remedy}")]),
            (
                "listen = \"localhost:9464\"",
                vec![format!("2: admin.listen: \"localhost:9464\" is no address with a port; {remedy}")],
            ),
            ("listen = 9464", vec!["2: admin.listen: is an integer; write a string".to_owned()]),
            (
                "listen = \"127.0.0.1:1\"\ntoken = \"${SESAME}\"",
                vec![
                    "3: admin.token: is shorter than 16 characters; make one with: openssl rand -hex 32"
                        .to_owned(),
                ],
            ),
            (
                "listen = \"127.0.0.1:1\"\ntoken = \"${SESAME} ${SESAME}\"",
                vec![
                    "3: admin.token: has characters that a header cannot carry; \
                     make one with: openssl rand -hex 32"
                        .to_owned(),
                ],
            ),
            (
                "listen = \"127.0.0.1:1\"\nport = 3",
                vec!["3: admin.port: is unknown; known here: listen, token, token_file".to_owned()],
            ),
        ] {
            let faults: Vec<String> =
                faults.iter().map(|fault| format!("outboxd.toml:{fault}")).collect();
            let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
            refuses(&format!("[admin]\n{lines}\n"), &faults);
        }
    }
}
