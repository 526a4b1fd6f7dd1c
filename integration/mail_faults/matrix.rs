//! Every fault in every phase of the dialogue, by a scripted server: what the sink makes of it, and what
//! becomes of the delivery under either guarantee. One table, which docs/faults.md shows.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use outboxd::config::{Login, MailSecurity, Secret, Way};
use outboxd::sink::{Prepared, Sink};
use serde_json::json;
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::plane::{LONG as LIMIT, send, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config_with};
use crate::harness::smtp::{Arrived, Fate, Say, Settings, SmtpPeer, Step};
use crate::sink_contract::smtp::certificate;
use crate::sink_contract::{LONG, SHORT, attempt, build, mail, message, prepare, short, smtp_to};

/// Where the fault is. `After`: once the mail was accepted, while the connection waits for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    Dot,
    After,
}

/// What the server does there in place of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Later,
    Never,
    Goodbye,
    Close,
    Reset,
    Hang,
    Garbage,
    Half,
}

use Fault::{Close, Garbage, Goodbye, Half, Hang, Later, Never, Reset};
use Phase::{After, Auth, Body, Data, Dot, Ehlo, Greeting, Mail, Rcpt, StartTls};

const FAULTS: [Fault; 8] = [Later, Never, Goodbye, Close, Reset, Hang, Garbage, Half];

const UNREACHABLE: &str = "unreachable";
const THROTTLED: &str = "throttled";
const BARRED: &str = "barred";
const REFUSED: &str = "refused";
const PERMANENT: &str = "permanent";
const IN_DOUBT: &str = "in doubt";
const DELIVERED: &str = "delivered";

/// How the attempt ends, for each fault in the order of [`FAULTS`].
#[rustfmt::skip]
const TABLE: [(Phase, [&str; 8]); 10] = [
    (Greeting, [UNREACHABLE, BARRED, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Ehlo, [UNREACHABLE, BARRED, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (StartTls, [UNREACHABLE, BARRED, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Auth, [UNREACHABLE, BARRED, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Mail, [REFUSED, BARRED, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Rcpt, [REFUSED, PERMANENT, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Data, [REFUSED, PERMANENT, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Body, [REFUSED, PERMANENT, THROTTLED, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    (Dot, [REFUSED, PERMANENT, THROTTLED, IN_DOUBT, IN_DOUBT, IN_DOUBT, IN_DOUBT, IN_DOUBT]),
    (After, [DELIVERED, DELIVERED, DELIVERED, DELIVERED, DELIVERED, DELIVERED, DELIVERED, DELIVERED]),
];

/// What is left in the end when the fault was met once and never again, and how many mails the server then
/// has that it did not refuse: under at-least-once, and under at-most-once.
fn ends(outcome: &str) -> [(&'static str, usize); 2] {
    match outcome {
        DELIVERED | UNREACHABLE | THROTTLED | REFUSED => [("delivered", 1); 2],
        BARRED => [("pending, the sink waits", 0); 2],
        PERMANENT => [("dead, attempt spent", 0); 2],
        IN_DOUBT => [("delivered", 2), ("held, attempt spent", 1)],
        _ => panic!("{outcome}"),
    }
}

/// The same in the words of docs/faults.md.
fn words(outcome: &str) -> &'static str {
    match outcome {
        UNREACHABLE => "again, as where the sink is down",
        THROTTLED => "again, once the sink has waited",
        BARRED => "the sink waits for you",
        REFUSED => "again after a delay of `retry`",
        PERMANENT => "dead",
        IN_DOUBT => "**in doubt**",
        DELIVERED => "delivered",
        _ => panic!("{outcome}"),
    }
}

impl Phase {
    fn step(self) -> Step {
        match self {
            Greeting => Step::Greeting,
            Ehlo => Step::Ehlo,
            StartTls => Step::StartTls,
            Auth => Step::Auth,
            Mail => Step::Mail,
            Rcpt => Step::Rcpt,
            Data => Step::Data,
            Body => Step::Body,
            Dot | After => Step::Dot,
        }
    }

    /// As docs/faults.md calls it.
    fn name(self) -> &'static str {
        match self {
            Greeting => "greeting",
            Ehlo => "EHLO",
            StartTls => "STARTTLS",
            Auth => "AUTH",
            Mail => "MAIL",
            Rcpt => "RCPT",
            Data => "DATA",
            Body => "the mail, before its end",
            Dot => "the final dot",
            After => "after the reply to the dot",
        }
    }

    fn is_secured(self) -> bool {
        matches!(self, StartTls | Auth)
    }
}

impl Fault {
    /// What the server says at this phase.
    fn say(self, phase: Phase) -> Say {
        let cut = |say| Say::ThenCut(Box::new(say));
        match (phase, self) {
            // Whoever hangs up while bytes come in resets the connection, and its words go with it.
            (Body, Goodbye) => return Say::text("421 4.3.0 going down"),
            // What is not read is not on its way as a whole.
            (Body, Hang) => return Say::Stall,
            _ => {}
        }
        if phase == After {
            let accepted = || Box::new(Say::text("250 2.0.0 ok"));
            return match self {
                Later => Say::text("250 2.0.0 ok\r\n451 4.3.0 not now"),
                Never => Say::text("250 2.0.0 ok\r\n550 5.7.1 never"),
                Goodbye => cut(Say::text("250 2.0.0 ok\r\n421 4.4.2 nothing to do")),
                Close => Say::ThenCut(accepted()),
                Reset => Say::ThenReset(accepted()),
                Hang => Say::ThenHang(accepted()),
                Garbage => Say::text("250 2.0.0 ok\r\nwhat?"),
                Half => cut(Say::Bytes(b"250 2.0.0 ok\r\n250 2.".to_vec())),
            };
        }
        match self {
            Later => Say::text("451 4.3.0 not now"),
            Never => Say::text("550 5.7.1 never"),
            Goodbye => cut(Say::text("421 4.3.0 try again in 1 second")),
            Close => Say::Cut,
            Reset => Say::Reset,
            Hang => Say::Hang,
            Garbage => Say::text("what?"),
            Half => cut(Say::Bytes(b"250 2.".to_vec())),
        }
    }
}

/// A server that makes the fault once.
async fn faulty(phase: Phase, fault: Fault, tls: &Arc<rustls::ServerConfig>) -> SmtpPeer {
    let secured = phase.is_secured();
    let settings = Settings {
        tls: secured.then(|| Arc::clone(tls)),
        login: secured.then(|| ("shop".to_owned(), "secret".to_owned())),
        ..Settings::default()
    };
    let peer = SmtpPeer::start_with(settings).await;
    peer.script(phase.step(), [fault.say(phase)]);
    peer
}

/// The mails that it has and did not refuse.
fn had(peer: &SmtpPeer) -> Vec<Arrived> {
    peer.mails().into_iter().filter(|mail| mail.fate != Fate::Refused).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_as_its_phase_and_fault_say() {
    let (ca, tls) = certificate("127.0.0.1");
    let any = build(LONG, Way::Smtp(smtp_to(25)));
    let (small, large) = (letter(&any, "hello"), large(&any));
    for (phase, outcomes) in TABLE {
        for (fault, expected) in FAULTS.into_iter().zip(outcomes) {
            let peer = faulty(phase, fault, &tls).await;
            let mut smtp = smtp_to(peer.address.port());
            if phase.is_secured() {
                smtp.server.security = MailSecurity::StartTls;
                smtp.server.ca_file = Some(ca.path().to_owned());
                let (user, password) = ("shop".to_owned(), Secret::new("secret"));
                smtp.server.login = Some(Login::Password { user, password });
            }
            let sink = build(LONG, Way::Smtp(smtp));
            let letter = if phase == Body { &large } else { &small };
            let limit = if fault == Hang && phase != After { SHORT } else { LONG };
            let outcome = attempt(&sink, letter, limit).await;
            assert_eq!(short(&outcome).0, expected, "{phase:?} {fault:?}: {outcome:?}");
            let at_most_once = ends(expected)[1].1;
            let tried_again = !matches!(expected, DELIVERED | IN_DOUBT);
            let had_now = if tried_again { 0 } else { at_most_once };
            assert_eq!(had(&peer).len(), had_now, "{phase:?} {fault:?}");
            // Whatever it was, the next mail is not taken for it.
            let limit = if (phase, fault) == (After, Hang) { SHORT } else { LONG };
            let next = attempt(&sink, &small, limit).await;
            let expected = match (phase, fault) {
                (After, Hang) => UNREACHABLE,
                // A login that was refused is not tried again at once.
                (Auth, Never) => BARRED,
                _ => DELIVERED,
            };
            assert_eq!(short(&next).0, expected, "{phase:?} {fault:?}: {next:?}");
        }
    }
}

fn letter(sink: &Sink, text: &str) -> Prepared {
    let payload = json!({ "to": "bob@shop.example", "text": text }).to_string();
    prepare(sink, &mail(), &message(42, &payload))
}

/// A mail that cannot be on its way as a whole while nobody reads it.
fn large(sink: &Sink) -> Prepared {
    let large = letter(sink, &"€".repeat(1_390_000));
    let Prepared::Mail(mail) = &large else { panic!("no mail") };
    assert!(
        mail.data().len() > unread() + 500_000,
        "a larger mail is needed where tcp_wmem is larger"
    );
    large
}

/// How many bytes a connection takes from us that nobody reads.
fn unread() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    limits.split_whitespace().last().and_then(|most| most.parse().ok()).unwrap()
}

/// One cell: a server and a sink of its own.
struct Cell {
    name: String,
    phase: Phase,
    fault: Fault,
    expected: &'static str,
    peer: SmtpPeer,
}

/// All but those in the middle of a mail, whose size would be the time that this takes.
async fn cells(tls: &Arc<rustls::ServerConfig>) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (phase, outcomes) in TABLE.into_iter().filter(|(phase, _)| *phase != Body) {
        for (fault, expected) in FAULTS.into_iter().zip(outcomes) {
            let name = format!("{phase:?}-{fault:?}").to_lowercase();
            let peer = faulty(phase, fault, tls).await;
            cells.push(Cell { name, phase, fault, expected, peer });
        }
    }
    cells
}

fn config_of(cells: &[Cell], ca: &Path, guarantee: &str) -> String {
    let mut config = String::new();
    for Cell { name, phase, peer, .. } in cells {
        let (scheme, more) = if phase.is_secured() {
            let login = "username = \"shop\"\npassword = \"secret\"";
            ("smtp+starttls", format!("{login}\nca_file = \"{}\"\n", ca.display()))
        } else {
            ("smtp", String::new())
        };
        write!(
            config,
            "[sinks.{name}]\nkind = \"smtp\"\nurl = \"{scheme}://{}\"\n\
             from = \"Shop <shop@example.com>\"\ntimeout = \"5s\"\nguarantee = \"{guarantee}\"\n\
             retry = {{ delays = [\"100ms\", \"100ms\", \"100ms\"] }}\n{more}\
             [[routes]]\ntype = \"{name}\"\nsink = \"{name}\"\nto = \"bob@shop.example\"\n\
             subject = \"x\"\ntext = \"hello\"\n",
            peer.address
        )
        .unwrap();
    }
    config + "[[routes]]\ntype = \"outboxd.alert\"\nsink = []\n"
}

/// What stands in the database of a sink's messages, in order.
async fn ends_of(client: &Client, sink: &str) -> String {
    let sql = "SELECT coalesce(string_agg(word, ' ' ORDER BY message_id), '') FROM (
                 SELECT message_id, state || CASE WHEN attempt > 0 THEN ', attempt spent'
                   WHEN EXISTS (SELECT FROM outbox.flow f WHERE f.sink = $1
                                 AND f.open_reason LIKE '%5.7.1 never%')
                   THEN ', the sink waits' ELSE '' END AS word
                   FROM outbox.delivery WHERE sink = $1
                 UNION ALL SELECT message_id, outcome FROM outbox.ledger WHERE sink = $1) all_of_it";
    client.query_one(sql, &[&sink]).await.unwrap().get(0)
}

async fn relay_ends(at: usize, guarantee: &str) {
    let (ca, tls) = certificate("127.0.0.1");
    let cells = cells(&tls).await;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let text = config_of(&cells, ca.path(), guarantee);
    let relay =
        Relay::start(config_with(&database.url(), "lease = \"60s\"\ngrace = \"10s\"", &text));
    until_routed(&client).await;
    let post = async |cell: &Cell| {
        send(&client, &cell.name, "{}").await;
    };
    for cell in &cells {
        post(cell).await;
    }
    let settled = async |name: &str, wanted: &str| {
        eventually(&format!("{name} is {wanted}"), LIMIT, async || {
            match ends_of(&client, name).await {
                state if state == wanted => Ok(()),
                state => Err(state),
            }
        })
        .await;
    };
    // First those whose sink waits for a minute.
    let (waiting, others): (Vec<&Cell>, Vec<&Cell>) =
        cells.iter().partition(|cell| cell.expected == BARRED);
    for cell in waiting.into_iter().chain(others) {
        let Cell { name, phase, fault, expected, peer } = cell;
        let (state, mut count) = ends(expected)[at];
        peer.until(|peer| peer.connections() > 0).await;
        settled(name, state).await;
        if *phase == After {
            // The one that meets what the first one's connection has become.
            post(cell).await;
            settled(name, "delivered delivered").await;
            count += 1;
        }
        let mails = had(peer);
        assert_eq!(mails.len(), count, "{guarantee}: {phase:?} {fault:?}");
        if *phase != After {
            assert!(mails.iter().all(|mail| mail.data == mails[0].data), "{phase:?} {fault:?}");
        }
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_ends_as_its_phase_and_fault_say_at_least_once() {
    relay_ends(0, "at-least-once").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_ends_as_its_phase_and_fault_say_at_most_once() {
    relay_ends(1, "at-most-once").await;
}

/// docs/faults.md says what this table says.
#[test]
fn the_documentation_shows_this_table() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md"));
    let page = page.unwrap();
    for (phase, outcomes) in TABLE {
        // Closed, reset, hanging, garbage and half replies are told in one column.
        let [later, never, goodbye, broken @ ..] = outcomes;
        assert!(broken.iter().all(|outcome| *outcome == broken[0]), "{phase:?}");
        let cells = [later, never, goodbye, broken[0]].map(words).join(" | ");
        let row = format!("| {} | {cells} |", phase.name());
        assert!(page.contains(&row), "docs/faults.md lacks: {row}");
    }
}
