//! A connection to the mail server, from the first byte to being ready for mails.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::commands::{Ehlo, Quit, Starttls};
use lettre::transport::smtp::extension::ClientId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::stock::Slot;
use super::verdict::{self, Step};
use super::wire::{Fault, Reply, Wire};
use crate::config::{Login, MailSecurity, MailServer, Secret};
use crate::delivery::{Cause, Outcome, clean_text};
use crate::sink::tls;

/// Longest wait for name and connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for each of greeting, EHLO, TLS and AUTH.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a goodbye, which nobody waits for.
const QUIT_MAX: Duration = Duration::from_secs(2);

/// Where the mail server is and how to get in.
pub(super) struct Door {
    pub server: MailServer,
    pub tls: Arc<rustls::ClientConfig>,
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
    /// What EHLO offered last.
    offers: Vec<String>,
    /// Its right to be open. The last field: it is given back after the connection is closed.
    pub slot: Option<Slot>,
}

/// Why we did not get in: the sink's trouble and no mail's.
pub(super) struct Shut {
    /// What and where.
    pub reason: String,
    cause: Cause,
    wait: Option<Duration>,
}

impl Shut {
    /// The outcome of an attempt that could not begin.
    pub fn outcome(self) -> Outcome {
        Outcome::Transient { cause: self.cause, reason: self.reason, wait: self.wait }
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

impl Door {
    /// Connects, protects the connection as configured and logs in.
    pub async fn enter(&self, slot: Option<Slot>) -> Result<Session, Shut> {
        let tcp = step("connect", CONNECT_MAX, async {
            TcpStream::connect((self.server.host.as_str(), self.server.port))
                .await
                .map_err(Fault::Io)
        })
        .await?;
        let _ = tcp.set_nodelay(true);
        let us = client_id(tcp.local_addr().map(|a| a.ip()).ok());
        let mut session = match self.server.security {
            MailSecurity::Plain => {
                let mut wire = Wire::new(Box::new(tcp) as Box<dyn Stream>);
                greeting(&mut wire).await?;
                Session::hello(wire, us).await?
            }
            MailSecurity::Tls => {
                let mut wire = Wire::new(self.encrypt(tcp).await?);
                greeting(&mut wire).await?;
                Session::hello(wire, us).await?
            }
            MailSecurity::StartTls => {
                let mut wire = Wire::new(Box::new(tcp) as Box<dyn Stream>);
                greeting(&mut wire).await?;
                let mut open = Session::hello(wire, us.clone()).await?;
                if !open.offers("STARTTLS") {
                    let reason = "the server offers no STARTTLS, which is required".to_owned();
                    return Err(reason.into());
                }
                expect("STARTTLS", 220, open.wire.ask(Starttls)).await?;
                let bare = open.wire.into_stream().map_err(|f| format!("STARTTLS: {f}"))?;
                let wire = Wire::new(self.encrypt(bare).await?);
                // What the open text offered counts for nothing: EHLO again.
                Session::hello(wire, us).await?
            }
        };
        if let Some(Login::Password { user, password }) = &self.server.login {
            session.log_in(user, password).await?;
        }
        session.slot = slot;
        Ok(session)
    }

    async fn encrypt<S: Stream + 'static>(&self, stream: S) -> Result<Box<dyn Stream>, String> {
        step("TLS", STEP_MAX, async {
            let stream =
                tls::handshake(&self.tls, &self.server.host, stream).await.map_err(Fault::Io)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
        .await
    }
}

impl Session {
    async fn hello(mut wire: Wire<Box<dyn Stream>>, us: ClientId) -> Result<Session, Shut> {
        let reply = expect("EHLO", 250, wire.ask(Ehlo::new(us))).await?;
        let offers = reply.lines.iter().skip(1).map(|l| l.to_ascii_uppercase()).collect();
        let now = Instant::now();
        Ok(Session {
            wire,
            mails: 0,
            unfinished: false,
            opened: now,
            idle_since: now,
            offers,
            slot: None,
        })
    }

    /// Whether EHLO offered an extension.
    pub fn offers(&self, keyword: &str) -> bool {
        self.offers.iter().any(|offer| offer.split(' ').next() == Some(keyword))
    }

    /// The largest mail the server takes, in bytes, if it says so (RFC 1870 section 3).
    fn size_max(&self) -> Option<u64> {
        let size = self.offers.iter().find_map(|offer| offer.strip_prefix("SIZE "));
        size.and_then(|size| size.trim().parse().ok()).filter(|size| *size > 0)
    }

    /// Whether a mail of so many bytes is larger than the server says it takes; then in words.
    pub fn is_too_large(&self, size: usize) -> Option<String> {
        let (size, max) = (size as u64, self.size_max()?);
        (size > max).then(|| format!("the mail has {size} bytes, the mail server takes {max}"))
    }

    /// AUTH with PLAIN (RFC 4616), or LOGIN where there is nothing better.
    async fn log_in(&mut self, user: &str, password: &Secret) -> Result<(), Shut> {
        let offered = |mechanism: &str| {
            // Some servers write AUTH=LOGIN.
            let mut lines = self.offers.iter().filter(|o| o.starts_with("AUTH"));
            lines.any(|o| o.split([' ', '=']).skip(1).any(|m| m == mechanism))
        };
        let (plain, login) = (offered("PLAIN"), offered("LOGIN"));
        let wire = &mut self.wire;
        if plain {
            let token = STANDARD.encode(format!("\0{user}\0{}", password.expose()));
            expect("AUTH", 235, wire.ask(format!("AUTH PLAIN {token}\r\n"))).await?;
        } else if login {
            expect("AUTH", 334, wire.ask("AUTH LOGIN\r\n")).await?;
            expect("AUTH", 334, wire.ask(format!("{}\r\n", STANDARD.encode(user)))).await?;
            let token = STANDARD.encode(password.expose());
            expect("AUTH", 235, wire.ask(format!("{token}\r\n"))).await?;
        } else {
            return Err("AUTH: the server offers neither PLAIN nor LOGIN".to_owned().into());
        }
        Ok(())
    }

    /// Says goodbye without anybody waiting for it.
    pub fn part(mut self) {
        tokio::spawn(async move {
            let _ = timeout(QUIT_MAX, self.wire.ask(Quit)).await;
        });
    }
}

async fn greeting(wire: &mut Wire<Box<dyn Stream>>) -> Result<Reply, Shut> {
    expect("greeting", 220, wire.reply()).await
}

/// Waits for one reply and wants one code.
async fn expect(
    what: &'static str,
    code: u16,
    reply: impl Future<Output = Result<Reply, Fault>>,
) -> Result<Reply, Shut> {
    let reply = step(what, STEP_MAX, reply).await?;
    if reply.code == code {
        return Ok(reply);
    }
    let reason = clean_text(&format!("{what}: {reply}"));
    let step = match what {
        "greeting" => Step::Greeting,
        "AUTH" => Step::Login,
        _ => Step::Hello,
    };
    let (cause, wait) = verdict::of_entry(step, &reply);
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
