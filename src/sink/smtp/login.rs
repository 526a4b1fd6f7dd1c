//! AUTH (RFC 4954): PLAIN, LOGIN and XOAUTH2.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::session::{Door, Session, Shut, expect};
use super::verdict::Step;
use crate::config::{Login, MailSecurity, Secret};
use crate::delivery::Cause;

/// How long a login that was refused is not tried again: seldom enough that no server locks the account.
const REST: Duration = Duration::from_secs(60);
/// Largest token that is read, in bytes. With its user it must fit a line of AUTH (RFC 4954 section 4).
const TOKEN_MAX: u64 = 8 * 1024;

/// In place of a secret where a dialogue is written down.
const MASK: &str = "(secret)";

/// What is known of a login.
///
/// Until one was good they go one at a time: of many attempts that begin together with a wrong password,
/// one finds out.
#[derive(Default)]
pub(super) struct Trust(Mutex<Standing>);

#[derive(Default)]
enum Standing {
    #[default]
    Unknown,
    Good,
    Refused {
        until: Instant,
        reason: String,
    },
}

impl Standing {
    /// The refusal that still stands.
    fn refused(&self) -> Result<(), Shut> {
        match self {
            Standing::Refused { until, reason } if Instant::now() < *until => {
                Err(Shut::barred(reason.clone()))
            }
            Standing::Refused { .. } | Standing::Unknown | Standing::Good => Ok(()),
        }
    }
}

impl Trust {
    /// Whether a login is worth a connection.
    ///
    /// # Errors
    /// The refusal of a moment ago.
    pub fn is_worth_it(&self) -> Result<(), Shut> {
        // Whoever holds it is just logging in.
        self.0.try_lock().map_or(Ok(()), |standing| standing.refused())
    }

    /// The right to log in; with what is known of it in hand where that is not that it is good.
    async fn turn(&self) -> Result<Option<MutexGuard<'_, Standing>>, Shut> {
        let standing = self.0.lock().await;
        standing.refused()?;
        Ok((!matches!(*standing, Standing::Good)).then_some(standing))
    }

    async fn learn(&self, turn: Option<MutexGuard<'_, Standing>>, done: &Result<(), Shut>) {
        let mut standing = match turn {
            Some(turn) => turn,
            None if done.is_ok() => return,
            None => self.0.lock().await,
        };
        match done {
            Ok(()) => *standing = Standing::Good,
            Err(shut) if shut.cause == Cause::Barred => {
                let (until, reason) = (Instant::now() + REST, shut.reason.clone());
                *standing = Standing::Refused { until, reason };
            }
            // That says nothing of the login.
            Err(_) => {}
        }
    }
}

impl Door {
    /// Logs in as the config says; `is_open` says that anybody on its way can read the connection.
    pub(super) async fn log_in(&self, session: &mut Session, is_open: bool) -> Result<(), Shut> {
        let Some(login) = &self.server.login else { return Ok(()) };
        if is_open && self.server.security == MailSecurity::Plain && !self.server.clear_text_login {
            let reason = "AUTH: would send the login in clear text to another machine".to_owned();
            return Err(Shut::barred(reason));
        }
        let turn = self.trust.turn().await?;
        let done = match login {
            Login::Password { user, password } => session.with_password(user, password).await,
            Login::Token { user, file } => match token(file).await {
                Ok(token) => session.with_token(user, &token).await,
                Err(problem) => Err(Shut::barred(format!("AUTH: token_file {problem}"))),
            },
        };
        self.trust.learn(turn, &done).await;
        done
    }
}

impl Session {
    /// PLAIN (RFC 4616), or LOGIN where there is nothing better.
    async fn with_password(&mut self, user: &str, password: &Secret) -> Result<(), Shut> {
        let (plain, login) = (self.takes_login("PLAIN"), self.takes_login("LOGIN"));
        let wire = &mut self.wire;
        if plain {
            self.seen.mechanism = Some("PLAIN");
            let token = STANDARD.encode(format!("\0{user}\0{}", password.expose()));
            let ask = wire.ask_secret("AUTH PLAIN ", &token, MASK);
            expect(Step::Login, "AUTH", 235, ask).await?;
        } else if login {
            self.seen.mechanism = Some("LOGIN");
            expect(Step::Login, "AUTH", 334, wire.ask("AUTH LOGIN\r\n")).await?;
            let user = STANDARD.encode(user);
            expect(Step::Login, "AUTH", 334, wire.ask_secret("", &user, MASK)).await?;
            let password = STANDARD.encode(password.expose());
            expect(Step::Login, "AUTH", 235, wire.ask_secret("", &password, MASK)).await?;
        } else {
            return Err(self.offers_no_login("neither PLAIN nor LOGIN"));
        }
        Ok(())
    }

    /// XOAUTH2, as Google and Microsoft have it.
    async fn with_token(&mut self, user: &str, token: &Secret) -> Result<(), Shut> {
        if !self.takes_login("XOAUTH2") {
            return Err(self.offers_no_login("no XOAUTH2"));
        }
        self.seen.mechanism = Some("XOAUTH2");
        let token = format!("user={user}\x01auth=Bearer {}\x01\x01", token.expose());
        let (wire, token) = (&mut self.wire, STANDARD.encode(token));
        let reply = async {
            let reply = wire.ask_secret("AUTH XOAUTH2 ", &token, MASK).await?;
            // Why not, in words for programs; an empty line brings the refusal itself.
            if reply.code == 334 { wire.ask("\r\n").await } else { Ok(reply) }
        };
        expect(Step::Login, "AUTH", 235, reply).await.map(drop)
    }

    fn takes_login(&self, mechanism: &str) -> bool {
        // Some servers write AUTH=LOGIN.
        let mut lines = self.offered().filter(|line| line.starts_with("AUTH"));
        lines.any(|line| line.split([' ', '=']).skip(1).any(|offered| offered == mechanism))
    }

    fn offers_no_login(&self, which: &str) -> Shut {
        let why = if self.seen.knows_ehlo { "" } else { ": it does not know EHLO" };
        Shut::barred(format!("AUTH: the server offers {which}{why}"))
    }
}

/// The access token in a file, which somebody renews from time to time.
async fn token(file: &Path) -> Result<Secret, String> {
    use tokio::io::AsyncReadExt as _;
    let shown = file.display();
    let mut text = String::new();
    let read = async {
        let file = tokio::fs::File::open(file).await?;
        file.take(TOKEN_MAX + 1).read_to_string(&mut text).await
    };
    read.await.map_err(|error| format!("{shown}: {error}"))?;
    let token = text.trim();
    if token.is_empty() || token.len() as u64 > TOKEN_MAX {
        return Err(format!("{shown}: it holds no access token, or more than {TOKEN_MAX} bytes"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{shown}: it holds more than one word, or something that is no token"));
    }
    Ok(Secret::new(token))
}
