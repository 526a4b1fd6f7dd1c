//! A connection to the mail server, from the first byte to being ready for mails.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lettre::transport::smtp::commands::{Ehlo, Quit, Starttls};
use lettre::transport::smtp::extension::ClientId;
use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::connect::connect;
use super::login::Trust;
use super::stock::Slot;
use super::transcript::Transcript;
use super::verdict::{self, Step};
use super::wire::{Fault, Reply, Wire};
use crate::certificate;
use crate::config::{MailSecurity, MailServer};
use crate::delivery::{Cause, Outcome, clean_text};
use crate::sink::tls;

/// Longest wait for name and connection, over all of its addresses.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Longest wait for a reply of the server before a mail begins: the greeting, and those to EHLO, STARTTLS
/// and AUTH (RFC 5321 section 4.5.3.2). A server that looks a client up first is slow, and not dead.
const REPLY_MAX: Duration = Duration::from_mins(5);
/// Longest wait for a TLS handshake, in which nobody looks anything up.
const HANDSHAKE_MAX: Duration = Duration::from_mins(1);
/// Longest wait for a goodbye, which nobody waits for.
const QUIT_MAX: Duration = Duration::from_secs(2);

/// Replies to EHLO of a server that does not know the word (RFC 5321 sections 3.2 and 4.2.4).
const KNOWS_NO_EHLO: [u16; 4] = [500, 501, 502, 504];

/// Where the mail server is and how to get in.
pub(super) struct Door {
    pub server: MailServer,
    tls: Arc<rustls::ClientConfig>,
    pub(super) trust: Trust,
}

/// A connection that is ready for a mail, or in the middle of one.
pub(super) struct Session {
    pub wire: Wire<Box<dyn Stream>>,
    /// How many mails it was used for.
    pub mails: u32,
    /// Whether the last mail was broken off, so that RSET must come before the next.
    pub unfinished: bool,
    /// When it was opened.
    pub opened: Instant,
    /// When it was last put aside.
    pub idle_since: Instant,
    /// What was met on the way in.
    pub seen: Seen,
    /// What EHLO offered last.
    offers: Vec<String>,
    /// Its right to be open. The last field: it is given back after the connection is closed.
    pub slot: Option<Slot>,
}

/// What was met on the way in.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// The server's first words.
    pub greeting: String,
    /// TLS, if there is any.
    pub protection: Option<Protection>,
    /// How we logged in, if we did.
    pub mechanism: Option<&'static str>,
    /// Whether it answers EHLO; without that it has no extensions.
    pub knows_ehlo: bool,
}

/// What protects a connection.
#[derive(Clone, Copy)]
pub(super) struct Protection {
    /// The version, in words.
    pub version: &'static str,
    /// When the server's certificate ends.
    pub ends: Option<Timestamp>,
}

/// Why we did not get in: the sink's trouble and no mail's.
#[derive(Debug)]
pub(super) struct Shut {
    /// What and where.
    pub reason: String,
    /// Whose trouble it is.
    pub cause: Cause,
    wait: Option<Duration>,
}

impl Shut {
    /// The outcome of an attempt that could not begin.
    pub fn outcome(self) -> Outcome {
        Outcome::Transient { cause: self.cause, reason: self.reason, wait: self.wait }
    }

    /// Where an attempt ended in the trouble of its server.
    pub fn of(outcome: &Outcome) -> Option<Shut> {
        let Outcome::Transient { cause, reason, wait } = outcome else { return None };
        Some(Shut { reason: reason.clone(), cause: *cause, wait: *wait })
    }

    /// True of every mail, until somebody mends it.
    pub fn barred(reason: String) -> Shut {
        Shut { reason, cause: Cause::Barred, wait: None }
    }
}

impl From<String> for Shut {
    fn from(reason: String) -> Shut {
        Shut { reason, cause: Cause::Unreachable, wait: None }
    }
}

/// Bytes both ways, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What the dialogue must know of the connection beneath.
struct Road {
    us: ClientId,
    /// Whether other machines can see it.
    is_open: bool,
}

impl Door {
    pub fn new(server: MailServer, tls: Arc<rustls::ClientConfig>) -> Door {
        Door { server, tls, trust: Trust::default() }
    }

    /// Connects, protects the connection as configured and logs in.
    pub async fn enter(&self, slot: Option<Slot>) -> Result<Session, Shut> {
        self.enter_heard(slot, None).await
    }

    /// The same; what is said on the way is written to `heard`.
    pub async fn enter_heard(
        &self,
        slot: Option<Slot>,
        heard: Option<&Transcript>,
    ) -> Result<Session, Shut> {
        self.trust.is_worth_it()?;
        let connected = connect(&self.server.host, self.server.port);
        let tcp: TcpStream =
            step("connect", CONNECT_MAX, async { connected.await.map_err(Fault::Io) }).await?;
        let _ = tcp.set_nodelay(true);
        let road = Road {
            us: client_id(tcp.local_addr().map(|a| a.ip()).ok()),
            is_open: !tcp.peer_addr().is_ok_and(|a| a.ip().is_loopback()),
        };
        let mut session = self.welcome(Box::new(tcp), road, heard).await?;
        session.slot = slot;
        Ok(session)
    }

    /// The dialogue on a new connection, up to where a mail may begin.
    async fn welcome(
        &self,
        stream: Box<dyn Stream>,
        road: Road,
        heard: Option<&Transcript>,
    ) -> Result<Session, Shut> {
        let mut seen = Seen::default();
        let stream = match self.server.security {
            MailSecurity::Plain | MailSecurity::StartTls => stream,
            MailSecurity::Tls => self.encrypt(stream, &mut seen, heard).await?,
        };
        let mut wire = wire(stream, heard);
        let greeting = expect(Step::Greeting, "greeting", 220, wire.reply()).await?;
        seen.greeting = clean_text(&greeting.lines.join(" "));
        let mut session = Session::hello(wire, &road.us, seen).await?;
        if self.server.security == MailSecurity::StartTls {
            session = self.start_tls(session, &road.us, heard).await?;
        }
        self.log_in(&mut session, road.is_open).await?;
        Ok(session)
    }

    async fn start_tls(
        &self,
        mut open: Session,
        us: &ClientId,
        heard: Option<&Transcript>,
    ) -> Result<Session, Shut> {
        if !open.offers("STARTTLS") {
            let reason = "the server offers no STARTTLS, which is required".to_owned();
            return Err(Shut::barred(reason));
        }
        expect(Step::Hello, "STARTTLS", 220, open.wire.ask(Starttls)).await?;
        let bare = open.wire.into_stream().map_err(|f| format!("STARTTLS: {f}"))?;
        let wire = wire(self.encrypt(bare, &mut open.seen, heard).await?, heard);
        // What the open text offered counts for nothing: EHLO again.
        Session::hello(wire, us, open.seen).await
    }

    async fn encrypt(
        &self,
        stream: Box<dyn Stream>,
        seen: &mut Seen,
        heard: Option<&Transcript>,
    ) -> Result<Box<dyn Stream>, Shut> {
        let handshake = tls::handshake(&self.tls, &self.server.host, stream);
        let stream =
            step("TLS", HANDSHAKE_MAX, async { handshake.await.map_err(Fault::Io) }).await?;
        let connection = stream.get_ref().1;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        let shown = connection.peer_certificates().and_then(|all| all.first());
        let ends = shown.and_then(|certificate| certificate::ends_at(certificate));
        seen.protection = Some(Protection { version, ends });
        if let Some(heard) = heard {
            heard.remark(&format!("{version} from here on"));
        }
        Ok(Box::new(stream))
    }
}

impl Session {
    async fn hello(
        mut wire: Wire<Box<dyn Stream>>,
        us: &ClientId,
        seen: Seen,
    ) -> Result<Session, Shut> {
        let mut reply = step("EHLO", REPLY_MAX, wire.ask(Ehlo::new(us.clone()))).await?;
        let knows_ehlo = !KNOWS_NO_EHLO.contains(&reply.code);
        if knows_ehlo {
            check(Step::Hello, "EHLO", 250, &reply)?;
        } else {
            let hello = wire.ask(format!("HELO {us}\r\n"));
            expect(Step::Hello, "HELO", 250, hello).await?;
            reply.lines.clear();
        }
        let offers = reply.lines.iter().skip(1).map(|l| l.to_ascii_uppercase()).collect();
        let (now, seen) = (Instant::now(), Seen { knows_ehlo, ..seen });
        Ok(Session {
            wire,
            mails: 0,
            unfinished: false,
            opened: now,
            idle_since: now,
            seen,
            offers,
            slot: None,
        })
    }

    /// Whether EHLO offered an extension.
    pub fn offers(&self, keyword: &str) -> bool {
        self.offered().any(|offer| offer.split(' ').next() == Some(keyword))
    }

    /// The lines of EHLO, in capitals.
    pub fn offered(&self) -> impl Iterator<Item = &str> {
        self.offers.iter().map(String::as_str)
    }

    /// The largest mail the server takes, in bytes, if it says so (RFC 1870 section 3).
    pub fn size_max(&self) -> Option<u64> {
        let size = self.offers.iter().find_map(|offer| offer.strip_prefix("SIZE "));
        size.and_then(|size| size.trim().parse().ok()).filter(|size| *size > 0)
    }

    /// Whether a mail of so many bytes is larger than the server says it takes; then in words.
    pub fn is_too_large(&self, size: usize) -> Option<String> {
        let (size, max) = (size as u64, self.size_max()?);
        (size > max).then(|| format!("the mail has {size} bytes, the mail server takes {max}"))
    }

    /// One that is ready for its first mail, over any stream.
    #[cfg(test)]
    pub fn ready(stream: Box<dyn Stream>, slot: Option<Slot>) -> Session {
        let now = Instant::now();
        Session {
            wire: wire(stream, None),
            mails: 0,
            unfinished: false,
            opened: now,
            idle_since: now,
            seen: Seen::default(),
            offers: Vec::new(),
            slot,
        }
    }

    /// Says goodbye without anybody waiting for it; it keeps its slot until it is closed.
    pub fn part(self) {
        tokio::spawn(async move {
            // All of it: a block that names but the wire takes no more along, and the slot would be free.
            let mut session = self;
            let _ = timeout(QUIT_MAX, session.wire.ask(Quit)).await;
        });
    }
}

fn wire(stream: Box<dyn Stream>, heard: Option<&Transcript>) -> Wire<Box<dyn Stream>> {
    let mut wire = Wire::new(stream);
    wire.transcript = heard.cloned();
    wire
}

/// Waits for one reply and wants one code.
pub(super) async fn expect(
    at: Step,
    what: &'static str,
    code: u16,
    reply: impl Future<Output = Result<Reply, Fault>>,
) -> Result<Reply, Shut> {
    let reply = step(what, REPLY_MAX, reply).await?;
    check(at, what, code, &reply)?;
    Ok(reply)
}

fn check(at: Step, what: &str, code: u16, reply: &Reply) -> Result<(), Shut> {
    if reply.code == code {
        return Ok(());
    }
    let reason = clean_text(&format!("{what}: {reply}"));
    let (cause, wait) = verdict::of_entry(at, reply);
    Err(Shut { reason, cause, wait })
}

async fn step<T>(
    what: &'static str,
    limit: Duration,
    action: impl Future<Output = Result<T, Fault>>,
) -> Result<T, String> {
    match timeout(limit, action).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(clean_text(&format!("{what}: {fault}"))),
        Err(_) => Err(format!("{what}: no answer within {} s", limit.as_secs())),
    }
}

/// How we call ourselves in EHLO: by host name if it is a full one, else by address
/// (RFC 5321 section 4.1.3), because many servers refuse a bare name.
fn client_id(local: Option<IpAddr>) -> ClientId {
    match (ClientId::default(), local) {
        (ClientId::Domain(name), Some(ip)) if !name.contains('.') => match ip {
            IpAddr::V4(v4) => ClientId::Ipv4(v4),
            IpAddr::V6(v6) => ClientId::Ipv6(v6),
        },
        (known, _) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::super::stock::{Stock, Taken};
    use super::*;

    /// Guard: a connection that parts is still one until the server has said goodbye, or its time is up.
    #[tokio::test(start_paused = true)]
    async fn who_parts_keeps_its_slot_until_it_is_closed() {
        let stock = Stock::new(1);
        let Taken::Slot(slot) = stock.take().await else { panic!("nothing waits") };
        let (client, _server) = tokio::io::duplex(99);
        let now = Instant::now();
        Session::ready(Box::new(client), Some(slot)).part();
        let Taken::Slot(_) = stock.take().await else { panic!("it parted") };
        assert!(now.elapsed() >= QUIT_MAX, "{:?}", now.elapsed());
    }
    use crate::config::{Login, Secret};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::io::{BufReader, DuplexStream};

    fn door(security: MailSecurity, login: bool) -> Door {
        let (user, password) = ("shop".to_owned(), Secret::new("sesame"));
        let server = MailServer {
            host: "mail.example".to_owned(),
            port: 25,
            security,
            login: login.then_some(Login::Password { user, password }),
            clear_text_login: false,
            ca_file: None,
        };
        Door::new(server, tls::client_config(None).unwrap())
    }

    /// A server that answers a line each, and then is silent; what it was told, when it is hung up on.
    async fn serve(stream: DuplexStream, answers: &[&str]) -> Vec<String> {
        let mut stream = BufReader::new(stream);
        let mut heard = Vec::new();
        for answer in answers {
            stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap() == 0 {
                return heard;
            }
            heard.push(line.trim_end().to_owned());
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        heard.extend(String::from_utf8_lossy(&rest).lines().map(str::to_owned));
        heard
    }

    /// What comes of a server that answers so, and what it was told.
    async fn welcome(
        door: &Door,
        is_open: bool,
        answers: &[&str],
    ) -> (Result<Session, Shut>, Vec<String>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let road = Road { us: ClientId::Domain("we.example".to_owned()), is_open };
        let enter = async {
            let entered = door.welcome(Box::new(ours), road, None).await;
            entered.map(|session| (session.seen, session.offers))
        };
        let (entered, heard) = tokio::join!(enter, serve(theirs, answers));
        let entered = entered.map(|(seen, offers)| {
            let wire = Wire::new(Box::new(tokio::io::empty()) as Box<dyn Stream>);
            let (opened, idle_since, mails) = (Instant::now(), Instant::now(), 0);
            Session { wire, mails, unfinished: false, opened, idle_since, seen, offers, slot: None }
        });
        (entered, heard)
    }

    #[tokio::test(start_paused = true)]
    async fn each_reply_is_waited_for_as_long_as_the_standard_says() {
        let offers = "250-mail.example\r\n250 AUTH PLAIN";
        let tls = "250-mail.example\r\n250 STARTTLS";
        let cases: [(MailSecurity, &[&str], &str, u64); 5] = [
            (MailSecurity::Plain, &[], "greeting", 300),
            (MailSecurity::Plain, &["220 hello"], "EHLO", 300),
            (MailSecurity::Plain, &["220 hello", offers], "AUTH", 300),
            (MailSecurity::StartTls, &["220 hello", tls], "STARTTLS", 300),
            (MailSecurity::Tls, &[], "TLS", 60),
        ];
        for (security, answers, what, seconds) in cases {
            let begun = Instant::now();
            let (entered, _) = welcome(&door(security, true), false, answers).await;
            let shut = entered.err().unwrap();
            assert_eq!(shut.reason, format!("{what}: no answer within {seconds} s"));
            assert_eq!(shut.cause, Cause::Unreachable);
            assert_eq!(begun.elapsed().as_secs(), seconds, "{what}");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_ehlo_is_greeted_as_of_old() {
        for unknown in ["500 5.5.1 what", "501 what", "502 5.5.1 what", "504 what"] {
            let answers = ["220 mail.example SMTP", unknown, "250-mail.example\r\n250 SIZE 9"];
            let door = door(MailSecurity::Plain, false);
            let (entered, heard) = welcome(&door, false, &answers).await;
            let session = entered.unwrap();
            assert_eq!(heard, ["EHLO we.example", "HELO we.example"], "{unknown}");
            assert!(!session.seen.knows_ehlo && session.size_max().is_none(), "no extensions");
            assert_eq!(session.seen.greeting, "mail.example SMTP");
        }
    }

    #[tokio::test]
    async fn any_other_refusal_of_ehlo_is_one() {
        for refusal in ["550 5.7.1 go away", "554 no", "451 later", "220 what"] {
            let door = door(MailSecurity::Plain, false);
            let (entered, heard) = welcome(&door, false, &["220 hello", refusal]).await;
            assert_eq!(entered.err().unwrap().reason, format!("EHLO: {refusal}"));
            assert_eq!(heard, ["EHLO we.example"]);
        }
    }

    #[tokio::test]
    async fn neither_tls_nor_login_is_done_without_where_it_is_wanted() {
        let hello = "250-mail.example\r\n250 8BITMIME";
        for (security, answer, reason) in [
            (MailSecurity::StartTls, hello, "the server offers no STARTTLS, which is required"),
            (MailSecurity::Plain, hello, "AUTH: the server offers neither PLAIN nor LOGIN"),
        ] {
            let (entered, heard) =
                welcome(&door(security, true), false, &["220 hello", answer]).await;
            let shut = entered.err().unwrap();
            assert_eq!((shut.reason.as_str(), shut.cause), (reason, Cause::Barred));
            assert_eq!(heard, ["EHLO we.example"]);
        }
        let answers = ["220 hello", "500 what", "250 mail.example"];
        let (entered, _) = welcome(&door(MailSecurity::Plain, true), false, &answers).await;
        let reason = entered.err().unwrap().reason;
        assert!(reason.ends_with("neither PLAIN nor LOGIN: it does not know EHLO"), "{reason}");
    }

    #[tokio::test]
    async fn no_password_goes_in_clear_text_to_another_machine_unless_told_to() {
        let answers = ["220 hello", "250-mail.example\r\n250 AUTH login plain", "235 welcome"];
        let mut door = door(MailSecurity::Plain, true);
        let (entered, heard) = welcome(&door, true, &answers).await;
        assert_eq!(entered.err().unwrap().cause, Cause::Barred);
        assert_eq!(heard, ["EHLO we.example"]);
        door.server.clear_text_login = true;
        let (entered, heard) = welcome(&door, true, &answers).await;
        assert_eq!(entered.unwrap().seen.mechanism, Some("PLAIN"));
        assert_eq!(heard, ["EHLO we.example", "AUTH PLAIN AHNob3AAc2VzYW1l"]);
    }
}
