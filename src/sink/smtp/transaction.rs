//! One mail transaction over one connection: the envelope, the mail, and what was answered for whom
//! (RFC 5321 section 3.3).

use std::fmt::Write as _;
use std::time::Duration;

use lettre::Address;

use super::session::Session;
use super::tally::Tally;
use super::verdict::Step;
use super::wire::{Cut, Fault, Reply, Stuffed, UNASKED};
use super::{Attempt, broken};
use crate::delivery::{Outcome, clean_text};

/// Longest waits for each reply (RFC 5321 section 4.5.3.2).
const MAIL_MAX: Duration = Duration::from_mins(5);
const RCPT_MAX: Duration = Duration::from_mins(5);
const DATA_MAX: Duration = Duration::from_mins(2);
const DOT_MAX: Duration = Duration::from_mins(10);
/// Longest wait until the server has taken one more block of a mail.
const BLOCK_MAX: Duration = Duration::from_mins(3);

/// How long a server that takes no more may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Most commands in one write: their replies must fit what is in flight, or both sides would wait for
/// each other to read (RFC 2920 section 3.1).
const GROUP_MAX: usize = 50;

/// How a transaction ended. What was answered for whom is in the [`Tally`].
pub(super) enum Turn {
    /// In order: the connection may serve again.
    Kept(Session),
    /// In order, and the connection is of no more use.
    Spent,
    /// The server had closed the connection while it was idle; it had not accepted anything.
    Stale,
    /// The connection failed before anything of the final dot went out.
    Lost(Outcome),
    /// The server said goodbye before that: 421.
    Left,
    /// The attempt is over: the relay may send no more, or nobody knows whether the mail arrived.
    Broken(Outcome),
}

/// A command of the envelope.
enum Command<'a> {
    Reset,
    Mail,
    Recipient(&'a Address),
    Data,
}

/// Where the envelope has come to.
#[derive(Default)]
struct Envelope<'a> {
    /// Whether the sender was accepted.
    open: bool,
    /// Who takes the mail.
    to: Vec<&'a Address>,
    /// Whether the server waits for the mail.
    go: bool,
    /// Whether the sender was refused, and how many recipients were.
    refused: bool,
    noes: usize,
    server: Listening,
}

/// Whether the server goes on with us.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Listening {
    #[default]
    Yes,
    /// It said goodbye, and hangs up.
    Left,
    /// It speaks of something else than we do.
    Lost,
}

/// Offers a mail to the server for those in `to`.
pub(super) async fn transact<'a>(
    mut session: Session,
    attempt: &Attempt<'a>,
    to: &[&'a Address],
    tally: &mut Tally<'a>,
) -> Turn {
    attempt.phase.at_door(false);
    if let Some(reason) = cannot_take(&session, attempt) {
        tally.give_up(&reason);
        return Turn::Kept(session);
    }
    let used = session.mails > 0;
    session.mails += 1;
    let mut envelope = Envelope::default();
    match offer(&mut session, attempt, to, (&mut envelope, tally)).await {
        Ok(()) => {}
        Err(Unheard { step: None, .. }) if used => return Turn::Stale,
        // What was said before the connection failed stands.
        Err(_) if envelope.is_refused(to.len()) => return Turn::Spent,
        Err(Unheard { step, fault }) => {
            return Turn::Lost(broken(step.unwrap_or("MAIL"), &fault));
        }
    }
    // Nobody takes it. A server that waits for a mail all the same gets none: whatever it makes of the
    // next bytes, it is not the mail.
    if envelope.server == Listening::Left {
        return Turn::Left;
    }
    if envelope.server == Listening::Lost || (envelope.go && envelope.to.is_empty()) {
        return Turn::Spent;
    }
    if !envelope.go {
        // RSET comes with the next mail: what is known must not depend on one more reply.
        session.unfinished = true;
        return Turn::Kept(session);
    }
    hand_over(session, attempt, &envelope.to, tally).await
}

/// Why a server cannot take a mail, by what it offered.
fn cannot_take(session: &Session, attempt: &Attempt<'_>) -> Option<String> {
    let mail = attempt.mail;
    if let Some(reason) = session.is_too_large(mail.size()) {
        return Some(reason);
    }
    (mail.utf8 && !session.offers("SMTPUTF8")).then(|| {
        "an address has a character before its @ that is not ASCII, and the mail server offers no \
         SMTPUTF8 for it"
            .to_owned()
    })
}

/// An envelope whose connection failed.
struct Unheard {
    /// The command that was not answered; none if nothing was answered at all.
    step: Option<&'static str>,
    fault: Fault,
}

/// Sends the envelope, in one write where the server allows it (RFC 2920), and reads every reply.
async fn offer<'a>(
    session: &mut Session,
    attempt: &Attempt<'a>,
    to: &[&'a Address],
    (envelope, tally): (&mut Envelope<'a>, &mut Tally<'a>),
) -> Result<(), Unheard> {
    let mut commands = Vec::with_capacity(to.len() + 3);
    if std::mem::take(&mut session.unfinished) {
        commands.push(Command::Reset);
    }
    commands.push(Command::Mail);
    commands.extend(to.iter().map(|address| Command::Recipient(address)));
    commands.push(Command::Data);
    let most = if session.offers("PIPELINING") { GROUP_MAX } else { 1 };
    let mut answered = false;
    for group in commands.chunks(most) {
        if !envelope.wants(group) {
            break;
        }
        let lines = group.iter().map(|command| command.line(session, attempt));
        let unheard = |step: &Command<'_>, answered: bool, fault| Unheard {
            step: answered.then(|| step.verb()),
            fault,
        };
        let told = session.wire.tell(&lines.collect::<Vec<_>>(), BLOCK_MAX).await;
        told.map_err(|fault| unheard(&group[0], answered, fault))?;
        for command in group {
            let reply = session.wire.reply_within(command.patience()).await;
            let reply = reply.map_err(|fault| unheard(command, answered, fault))?;
            // With the first reply it says goodbye to a connection that was idle too long.
            let goodbye = reply.code == 421 && session.mails > 1;
            let no_reset = matches!(command, Command::Reset) && !reply.is_done();
            if !answered && (goodbye || no_reset) {
                return Err(unheard(command, answered, Fault::Closed));
            }
            answered = true;
            envelope.learn(command, &reply, tally);
            if envelope.server != Listening::Yes {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl Command<'_> {
    fn verb(&self) -> &'static str {
        match self {
            Command::Reset => "RSET",
            Command::Mail => "MAIL",
            Command::Recipient(_) => "RCPT",
            Command::Data => "DATA",
        }
    }

    fn patience(&self) -> Duration {
        match self {
            Command::Reset | Command::Mail => MAIL_MAX,
            Command::Recipient(_) => RCPT_MAX,
            Command::Data => DATA_MAX,
        }
    }

    fn line(&self, session: &Session, attempt: &Attempt<'_>) -> String {
        match self {
            Command::Mail => {
                let mail = attempt.mail;
                let mut line = format!("MAIL FROM:<{}>", mail.from());
                if session.offers("SIZE") {
                    let _ = write!(line, " SIZE={}", mail.size());
                }
                if mail.utf8 {
                    line.push_str(" BODY=8BITMIME SMTPUTF8");
                }
                line
            }
            Command::Recipient(address) => format!("RCPT TO:<{address}>"),
            Command::Reset | Command::Data => self.verb().to_owned(),
        }
    }
}

impl<'a> Envelope<'a> {
    /// Whether there is any sense in the next commands.
    fn wants(&self, group: &[Command<'a>]) -> bool {
        match group {
            [Command::Reset | Command::Mail, ..] => true,
            [Command::Data] => !self.to.is_empty(),
            _ => self.open,
        }
    }

    /// Whether it is clear that nobody of so many takes the mail.
    fn is_refused(&self, count: usize) -> bool {
        self.refused || self.noes == count
    }

    /// Takes in the reply to a command.
    fn learn(&mut self, command: &Command<'a>, reply: &Reply, tally: &mut Tally<'a>) {
        let is_yes = match command {
            Command::Data => reply.code == 354,
            _ => reply.is_done(),
        };
        let is_no = reply.is_transient() || reply.is_refusal();
        // After 421 the server hangs up; what is neither yes nor no is no answer to what we said.
        self.server = match reply.code {
            421 => Listening::Left,
            _ if is_yes || is_no => Listening::Yes,
            _ => Listening::Lost,
        };
        match command {
            Command::Reset => {}
            Command::Mail if is_yes => self.open = true,
            Command::Mail => {
                self.refused = true;
                tally.refuse(Step::Mail, reply, &tally.open());
            }
            // Answers to commands out of turn say nothing.
            Command::Recipient(_) if !self.open => {}
            Command::Recipient(address) if is_yes => self.to.push(address),
            Command::Recipient(address) => {
                self.noes += 1;
                tally.refuse(Step::Recipient, reply, &[address]);
            }
            Command::Data if is_yes => self.go = true,
            Command::Data if self.to.is_empty() => {}
            Command::Data => tally.refuse(Step::Data, reply, &self.to),
        }
    }
}

/// Sends the mail itself and reads what becomes of it.
async fn hand_over<'a>(
    mut session: Session,
    attempt: &Attempt<'a>,
    to: &[&'a Address],
    tally: &mut Tally<'a>,
) -> Turn {
    let mail = attempt.mail;
    let stuffed = Stuffed::new(&[&mail.signatures, &mail.data]);
    if let Err(fault) = session.wire.send_body(&stuffed, BLOCK_MAX).await {
        return unsent(session, &fault, to, tally).await;
    }
    match session.wire.has_spoken() {
        Ok(false) => {}
        // A server that answers before the mail has ended cannot have accepted it.
        Ok(true) => {
            return match session.wire.reply_within(DATA_MAX).await {
                Ok(reply) if reply.is_transient() || reply.is_refusal() => {
                    tally.refuse(Step::Content, &reply, to);
                    if reply.code == 421 { Turn::Left } else { Turn::Spent }
                }
                Ok(_) => Turn::Lost(broken("mail data", &UNASKED)),
                Err(fault) => Turn::Lost(broken("mail data", &fault)),
            };
        }
        Err(fault) => return Turn::Lost(broken("mail data", &fault)),
    }
    let doubt = || tally.doubt(to);
    if let Err(cut) = session.wire.send_end(&stuffed, attempt.phase, BLOCK_MAX, doubt).await {
        return match cut {
            Cut::Forbidden(outcome) => Turn::Broken(outcome),
            Cut::Unsent(fault) => unsent(session, &fault, to, tally).await,
            Cut::Sent(fault) => {
                Turn::Broken(in_doubt(&format!("the connection failed at the final dot: {fault}")))
            }
        };
    }
    match session.wire.reply_within(DOT_MAX).await {
        Ok(reply) if reply.is_done() => {
            tally.accept(&reply, to);
            Turn::Kept(session)
        }
        Ok(reply) if reply.is_transient() || reply.is_refusal() => {
            tally.refuse(Step::Content, &reply, to);
            if reply.code == 421 { Turn::Spent } else { Turn::Kept(session) }
        }
        Ok(reply) => Turn::Broken(in_doubt(&attempt.said("unexpected answer to the mail", &reply))),
        Err(fault) => Turn::Broken(in_doubt(&format!("no answer to the mail: {fault}"))),
    }
}

/// A mail that the server stopped taking before its end. It may have said why.
async fn unsent<'a>(
    mut session: Session,
    fault: &Fault,
    to: &[&'a Address],
    tally: &mut Tally<'a>,
) -> Turn {
    match session.wire.reply_within(LAST_WORDS).await {
        Ok(reply) if reply.is_transient() || reply.is_refusal() => {
            tally.refuse(Step::Content, &reply, to);
            if reply.code == 421 { Turn::Left } else { Turn::Spent }
        }
        _ => Turn::Lost(broken("mail data", fault)),
    }
}

fn in_doubt(reason: &str) -> Outcome {
    Outcome::InDoubt { reason: clean_text(reason) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::time::Instant;

    use super::*;
    use crate::delivery::Phase;
    use crate::sink::mail::PreparedMail;

    /// How long a server is waited for that gives so many answers and then none, and whether the mail is in
    /// doubt then.
    async fn waited(answers: &'static [&'static str]) -> (Duration, bool) {
        let (client, server) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut server = BufReader::new(server);
            for answer in answers {
                server.read_line(&mut String::new()).await.unwrap();
                server.get_mut().write_all(answer.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let mail = PreparedMail {
            id: "msg_shop_1_mail".to_owned(),
            from: None,
            to: vec!["a@x.example".parse().unwrap()],
            from_domain: "example.com".to_owned(),
            utf8: false,
            made_sender: false,
            signatures: Vec::new(),
            data: b"Subject: S\r\n\r\nT\r\n".to_vec(),
        };
        let phase = Phase::default();
        let attempt = Attempt { mail: &mail, permanent: None, phase: &phase, speaker: "" };
        let (mut tally, begun) = (Tally::new(&attempt), Instant::now());
        let session = Session::ready(Box::new(client), None);
        let to = tally.open();
        let turn = transact(session, &attempt, &to, &mut tally).await;
        server.abort();
        let in_doubt = matches!(turn, Turn::Broken(Outcome::InDoubt { .. }));
        assert!(in_doubt || matches!(turn, Turn::Lost(_)));
        assert_eq!(phase.may_have_arrived(), in_doubt);
        (begun.elapsed(), in_doubt)
    }

    /// RFC 5321 section 4.5.3.2: one that is slow is not given up before, and one that is dead is then.
    #[tokio::test(start_paused = true)]
    async fn each_step_waits_as_long_as_the_standard_says() {
        let minutes = Duration::from_mins;
        assert_eq!(waited(&[]).await, (minutes(5), false), "MAIL");
        assert_eq!(waited(&["250 ok\r\n"]).await, (minutes(5), false), "RCPT");
        assert_eq!(waited(&["250 ok\r\n"; 2]).await, (minutes(2), false), "DATA");
        let until_the_dot = waited(&["250 ok\r\n", "250 ok\r\n", "354 go\r\n"]).await;
        assert_eq!(until_the_dot, (minutes(10), true), "the final dot");
    }
}
