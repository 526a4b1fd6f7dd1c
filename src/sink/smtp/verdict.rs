//! What a reply means that is no yes: whose trouble it is, and for how long. Pure.
//!
//! Code, enhanced code (RFC 3463) and words are looked at together, as servers use them loosely. Taking one
//! recipient's trouble for the server's would keep every other mail waiting for it, and taking the server's
//! for a recipient's would kill mails that nothing is wrong with. So only clear words count, and where there
//! are none the first digit does.

mod said;
mod wait;

use std::time::Duration;

use self::said::Said;
use super::wire::Reply;
use crate::delivery::Cause;
use crate::policy::Codes;

/// The wait of those who are seen for the first time, where no words say how long: what most servers that
/// do this have by default.
const GREYLISTED: Duration = Duration::from_secs(5 * 60);
/// The wait for a mailbox or a disk that is full: somebody must make room.
const FULL: Duration = Duration::from_secs(30 * 60);

/// Where in the dialogue a reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The first word of the server.
    Greeting,
    /// EHLO, HELO or STARTTLS.
    Hello,
    /// AUTH, with all of its lines.
    Login,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA.
    Data,
    /// The mail itself.
    Content,
}

/// Where the senders of a mail come from, in the envelope and in `From:`: whose trouble it is when one of
/// them is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// The config names them: the sink's.
    Config,
    /// At least one was made from the message: the mail's own.
    Message,
}

/// What a reply that is no yes means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// For good: this recipient's (at [`Step::Recipient`]), or the mail's. `policy`: the receiver refuses
    /// us rather than the address (x.7.x).
    Refused {
        /// Whether it is us that are refused.
        policy: bool,
    },
    /// Not now.
    Deferred {
        /// Whose trouble it is.
        cause: Cause,
        /// The least wait.
        wait: Option<Duration>,
    },
    /// Too many recipients in one transaction, for this one: it goes with the next one. Said of the first
    /// one of a transaction, that does not help.
    TooMany,
}

/// What a reply means that came where a yes was hoped for. `permanent` are the route's codes after which
/// asking again cannot help; none for those of class 5xx. They count from RCPT on, and not for what is true
/// of every mail: a connection that is lost, a login or a sender that is refused.
pub(super) fn of(step: Step, reply: &Reply, sender: Sender, permanent: Option<&Codes>) -> Verdict {
    if matches!(step, Step::Greeting | Step::Hello | Step::Login) {
        let (cause, wait) = of_entry(step, reply);
        return Verdict::Deferred { cause, wait };
    }
    let said = Said::new(reply);
    let policy = said.is_about_us();
    let is_listed = step != Step::Mail && permanent.is_some_and(|codes| codes.has(said.code));
    let (cause, least) = if said.code == 421 {
        // The connection is gone with it, and it is no answer to what was asked.
        if said.is_greylisting() {
            (Cause::Refused, Some(GREYLISTED))
        } else {
            (Cause::Throttled, None)
        }
    } else if said.is_about_login() || said.is_about_host() {
        (Cause::Barred, None)
    } else if said.is_out_of_step(step) {
        (Cause::Unreachable, None)
    } else if said.is_about_size() {
        return Verdict::Refused { policy: false };
    } else if step == Step::Recipient && said.is_about_crowds() {
        return Verdict::TooMany;
    } else if said.is_about_sender(step) {
        match sender {
            Sender::Config => (Cause::Barred, None),
            Sender::Message => return Verdict::Refused { policy },
        }
    } else if is_listed {
        return Verdict::Refused { policy };
    } else if said.is_about_pace() || (said.code == 454 && !said.is_greylisting()) {
        // 454 is how Amazon says that its rate or quota is used up, also after the mail itself.
        (Cause::Throttled, None)
    } else if said.is_about_room() {
        // Before anybody is named it is the server's own disk that is full.
        if step == Step::Mail { (Cause::Throttled, None) } else { (Cause::Refused, Some(FULL)) }
    } else if said.is_no() && permanent.is_none() {
        return Verdict::Refused { policy };
    } else {
        (Cause::Refused, said.is_perhaps_greylisting().then_some(GREYLISTED))
    };
    Verdict::Deferred { cause, wait: said.wait().or(least) }
}

/// Why the server did not let us in, and the least wait: no mail's fault, whatever it says.
pub(super) fn of_entry(step: Step, reply: &Reply) -> (Cause, Option<Duration>) {
    let said = Said::new(reply);
    // RFC 4954: 432 is a password that must be changed.
    let is_for_good = said.is_no() || (step == Step::Login && said.code == 432);
    let cause = if said.is_about_pace() {
        Cause::Throttled
    } else if is_for_good && !(step == Step::Hello && said.code == 503) {
        Cause::Barred
    } else {
        Cause::Unreachable
    };
    (cause, said.wait())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{Content, Data, Greeting, Hello, Login, Mail, Recipient};

    fn reply(text: &str) -> Reply {
        let (code, rest) = text.split_at(3);
        let lines = rest.trim_start_matches([' ', '-']).split('\n').map(str::to_owned).collect();
        Reply { code: code.parse().unwrap(), lines }
    }

    /// A verdict in short, and the seconds it asks to wait.
    fn short(verdict: Verdict) -> (&'static str, Option<u64>) {
        match verdict {
            Verdict::Refused { policy: false } => ("refused", None),
            Verdict::Refused { policy: true } => ("refused us", None),
            Verdict::TooMany => ("too many", None),
            Verdict::Deferred { cause, wait } => {
                let word = match cause {
                    Cause::Unreachable => "unreachable",
                    Cause::Barred => "barred",
                    Cause::Throttled => "throttled",
                    Cause::Refused => "later",
                    Cause::Away | Cause::Rejected | Cause::Failed => "of no mail server",
                };
                (word, wait.map(|wait| wait.as_secs()))
            }
        }
    }

    /// Each line: at which steps, by their first letters (c for the mail itself); the verdict in short, with
    /// the seconds to wait; the reply.
    fn assert_each(sender: Sender, table: &str) {
        let steps = [Greeting, Hello, Login, Mail, Recipient, Data, Content];
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (at, rest) = line.split_once(' ').unwrap();
            let (expected, text) = rest.trim_start().split_once("  ").unwrap();
            let text = text.trim_start();
            for step in steps.into_iter().zip("ghlmrdc".chars()).filter(|(_, c)| at.contains(*c)) {
                let (word, wait) = short(of(step.0, &reply(text), sender, None));
                let wait = wait.map(|wait| format!(" {wait}")).unwrap_or_default();
                assert_eq!(format!("{word}{wait}"), expected, "{step:?} {text}");
            }
        }
    }

    #[test]
    fn who_is_not_let_in_is_never_a_mail() {
        assert_each(
            Sender::Config,
            "
            ghl     throttled        421 4.3.2 Service shutting down
            g       throttled        421 Too many concurrent SMTP connections; please try again later.
            g       throttled 300    421 4.7.0 too many connections, retry in 5 minutes
            g       unreachable 60   450 4.3.2 try again in 60 seconds
            h       throttled        451 4.7.1 connection rate too high
            h       unreachable      454 4.7.0 TLS not available due to local problem
            h       unreachable      503 5.5.1 Bad sequence
            g       barred           554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked
            g       barred           554 mail.example No SMTP service here
            g       barred           521 5.3.2 mail.example does not accept mail
            h       barred           504 5.5.2 <laptop>: Helo command rejected: need fully-qualified hostname
            h       barred           501 5.5.4 Invalid domain name
            h       barred           550 5.7.1 no
            l       barred           535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6
            l       barred           535 Incorrect authentication data
            l       barred           535-5.7.8 Username and Password not accepted.
            l       barred           534-5.7.9 Application-specific password required.
            l       barred           535 5.7.139 Authentication unsuccessful, basic authentication is disabled.
            l       barred           535 Authentication Credentials Invalid
            l       barred           538 5.7.11 Encryption required
            l       barred           530 5.7.0 Must issue a STARTTLS command first
            l       barred           503 5.5.1 Error: authentication not enabled
            l       barred           504 5.5.4 Unrecognized authentication type
            l       barred           432 4.7.12 A password transition is needed
            l       throttled        432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded
            l       throttled        454 4.7.0 Too many login attempts, please try again later.
            l       unreachable      454 4.7.0 Temporary authentication failure
            l       throttled        451 Authentication failed: Maximum credits exceeded
            l       unreachable      334 what
            ",
        );
    }

    #[test]
    fn who_may_not_send_at_all_is_the_sinks_trouble() {
        for sender in [Sender::Config, Sender::Message] {
            assert_each(
                sender,
                "
            mrdc    barred           530 5.7.0 Authentication Required.
            m       barred           530 5.7.57 Client not authenticated to send mail.
            mrdc    barred           530 5.7.0 Must issue a STARTTLS command first
            r       barred           550 5.7.1 Authentication required
            r       barred           554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied
            r       barred           554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example
            r       barred           504 5.5.2 <laptop>: Helo command rejected: need fully-qualified hostname
                ",
            );
        }
    }

    #[test]
    fn a_sender_that_is_refused_is_the_trouble_of_whoever_named_it() {
        // Postfix says it at RCPT, Exchange Online and Sendgrid after the mail.
        assert_each(
            Sender::Config,
            "
            m       barred           550 5.7.1 no
            m       barred           550 no
            m       barred           553 sorry, that domain isn't allowed to be relayed thru this MTA (#5.7.1)
            m       barred           554 5.7.1 no
            m       barred           501 5.1.7 Bad sender address syntax
            m       barred           501 <shop>: sender address must contain a domain
            mrdc    barred           553 5.7.1 <a@x.example>: Sender address rejected: not owned by user shop
            mrdc    barred           550 Sender verify failed
            mrdc    barred           550 5.1.8 Access denied, bad outbound sender
            c       barred           550 5.7.60 SMTP; Client does not have permissions to send as this sender
            c       barred           554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException
            c       barred           550 The from address does not match a verified Sender Identity.
            m       barred           403 You are not authorized to send from that email address
            mr      later            450 4.1.8 <a@x.example>: Sender address rejected: Domain not found
            ",
        );
        assert_each(
            Sender::Message,
            "
            m       refused us       550 5.7.1 no
            m       refused          550 no
            m       refused          501 5.1.7 Bad sender address syntax
            mrdc    refused us       553 5.7.1 <a@x.example>: Sender address rejected: not owned by user shop
            mrdc    refused          550 Sender verify failed
            c       refused us       550 5.7.60 SMTP; Client does not have permissions to send as this sender
            ",
        );
    }

    #[test]
    fn only_clear_words_about_pace_are_everybodys_trouble() {
        assert_each(
            Sender::Config,
            "
            ghlmrdc throttled        421 4.7.0 Try again later, closing connection
            ghlmrdc throttled        421
            rdc     throttled 10     421 4.3.0 wait 10 seconds
            ghlmrdc throttled        421 4.7.28 Our system has detected an unusual rate of unsolicited mail
            dc      throttled        454 Throttling failure: Maximum sending rate exceeded.
            dc      throttled        454 Throttling failure: Daily message quota exceeded.
            mrdc    throttled        454 4.7.0 Temporary authentication failure
            ghlmrdc throttled        450 4.7.1 Error: rate limit exceeded
            ghlmrdc throttled 120    450 4.7.1 Error: too much mail from 192.0.2.1: rate exceeded, in 2 min again
            ghlmrdc throttled        451 4.7.1 Sender throttled
            ghlmrdc throttled        451 4.7.0 hourly sending limit reached
            ghlmrdc throttled 3600   451 4.7.0 throttled, try again in 1 hour
            ghlmrdc throttled        450 Too many messages, slow down
            ghlmrdc throttled        450 too frequent connects from 192.0.2.1, please try again later.
            ghlmrdc throttled        451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (AS77712344)
            ghlmrdc throttled        451 4.7.650 The mail server has been temporarily rate limited
            r       throttled        452 Too many recipients received this hour (throttled)
            rdc     throttled        550 5.4.5 Daily user sending limit exceeded.
            c       throttled        550 5.1.90 You've reached your daily limit for message recipients
            r       throttled        550 Domain x.example has exceeded the max emails per hour (150/150 (100%)) allowed.
            rdc     throttled        550 5.7.1 sending rate exceeded
            rdc     later            450 4.2.1 The user is receiving mail at a rate that prevents more
            rdc     later            452 4.1.1 daily limit of this address
            rdc     later            451 4.3.0 temporarily overloaded
            rdc     later            451 Moderate and separate, please generate accurate mail
            ",
        );
    }

    #[test]
    fn who_is_seen_for_the_first_time_comes_again_in_five_minutes() {
        assert_each(
            Sender::Config,
            "
            mrdc    later 300        450 4.7.1 Greylisted at this rate, try again in 300 seconds
            mrdc    later 60         450 4.2.0 <a@x.example>: Recipient address rejected: Greylisted for 60 seconds, try again
            mrdc    later 291        451 4.7.1 Greylisting in action, please come back in 00:04:51
            mrdc    later 300        451 4.7.1 grey-listing is in action
            mrdc    later 300        450 4.2.0 Recipient address rejected: Graylisted
            mrdc    later 300        421 4.7.0 Greylisted, come back later
            mrdc    later 300        454 greylisted
            mrdc    later 300        451 4.7.1 Service unavailable - try again later
            mrdc    later 300        450 4.7.25 Client host rejected: cannot find your hostname
            mrdc    later            451 Temporary local problem - please try later
            mrdc    later            450
            g       unreachable      421 4.7.0 Greylisted, come back later
            ",
        );
    }

    #[test]
    fn what_is_full_must_be_emptied_first() {
        assert_each(
            Sender::Config,
            "
            rdc     later 1800       452 4.2.2 The email account that you tried to reach is over quota.
            rdc     later 1800       552 5.2.2 <a@x.example> Quota exceeded (mailbox for user is full)
            rdc     later 1800       554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException
            rdc     later 1800       552 Requested mail action aborted: exceeded storage allocation
            rdc     later 1800       550 Mailbox quota exceeded for this recipient
            rdc     later 1800       552
            rdc     later 1800       452 4.3.1 Insufficient system storage
            rdc     later 600        452 4.3.1 Insufficient system storage, try again in 10 minutes
            rdc     later 1800       452 4.2.2 Mailbox full: quota of the sender's friend exceeded
            m       throttled        452 4.3.1 Insufficient system storage
            m       throttled        452 space shortage, please try later
            ",
        );
    }

    #[test]
    fn a_mail_that_is_too_large_is_nobody_elses_trouble() {
        assert_each(
            Sender::Config,
            "
            mrdc    refused          552 5.3.4 Message size exceeds fixed limit
            mrdc    refused          552 5.2.3 Message length exceeds administrative limit
            mrdc    refused          552 Message size exceeds maximum permitted
            mrdc    refused          552 sorry, that message size exceeds my databytes limit (#5.3.4)
            mrdc    refused          554 5.7.1 mail is too large
            mrdc    refused          523 5.3.4 too big for you
            ",
        );
    }

    #[test]
    fn too_many_at_once_go_one_after_the_other() {
        assert_each(
            Sender::Config,
            "
            r       too many         452 4.5.3 Error: too many recipients
            r       too many         452 too many recipients
            r       too many         552 5.5.3 Too many recipients
            r       too many         550 5.5.3 Too many recipients
            r       too many         452 4.5.3 Domain policy size per transaction exceeded, please try this recipient in a separate transaction.
            r       too many         451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again.
            c       refused          554 5.5.3 Too many recipients
            ",
        );
    }

    #[test]
    fn a_no_for_good_is_about_an_address_a_mail_or_us() {
        assert_each(
            Sender::Config,
            "
            r       refused          550 5.1.1 <a@x.example>: Recipient address rejected: User unknown
            r       refused          550-5.1.1 The email account that you tried to reach does not exist.
            r       refused          550 No such user here
            r       refused          553 5.1.3 <a@x>: not a valid mailbox
            r       refused          555 5.5.2 Syntax error, goodbye
            r       refused          501 5.1.3 Bad recipient address syntax
            r       refused          551 5.1.6 User has moved
            r       refused          556 5.1.10 Recipient address has null MX
            c       refused          554 5.6.0 Invalid message content
            c       refused          550 5.6.7 non-ASCII address
            c       refused          599
            r       refused us       550 5.7.1 Unable to relay
            r       refused us       554 5.7.1 <a@x.example>: Relay access denied
            r       refused us       550 relay not permitted
            r       refused us       553 sorry, that domain isn't in my list of allowed rcpthosts; no relaying here
            rdc     refused us       550 5.7.606 Access denied, banned sending IP [192.0.2.1].
            rdc     refused us       550-5.7.26 This mail has been blocked because the sender is unauthenticated.
            c       refused us       550 5.7.1 Message rejected as spam by content filtering
            c       refused us       554 Message rejected: Email address is not verified. The following identities failed
            c       refused us       550 blacklisted: see our policy
            ",
        );
    }

    #[test]
    fn what_is_out_of_step_is_the_connections_trouble() {
        assert_each(
            Sender::Config,
            "
            mrd     unreachable      503 5.5.1 Error: nested MAIL command
            mrd     unreachable      502 5.5.1 Unrecognized command
            mrd     unreachable      500 5.5.2 Error: bad syntax
            m       unreachable      555 5.5.4 Unsupported option: SMTPUTF8
            m       unreachable      501 5.5.4 Syntax: MAIL FROM:<address>
            r       later            354 what
            d       later            250 what
            d       later            499 what
            ",
        );
    }

    #[test]
    fn a_routes_codes_count_where_they_speak_of_its_mails() {
        let all = Codes::new(400..600);
        let none = Codes::new([]);
        let under = |codes, step, text| short(of(step, &reply(text), Sender::Config, Some(codes)));
        for (step, text) in [
            (Recipient, "450 4.2.0 no"),
            (Recipient, "552 5.2.2 full"),
            (Content, "454 Throttling failure: Daily message quota exceeded."),
        ] {
            assert_eq!(under(&all, step, text), ("refused", None), "{step:?} {text}");
        }
        assert_eq!(under(&none, Recipient, "550 5.1.1 no"), ("later", None));
        assert_eq!(under(&none, Content, "554 5.7.1 no"), ("later", None));
        for (step, text, word) in [
            (Mail, "450 no", "later"),
            (Login, "535 5.7.8 no", "barred"),
            (Mail, "550 5.7.1 no", "barred"),
            (Recipient, "530 5.7.0 log in", "barred"),
            (Recipient, "553 5.7.1 Sender address rejected: not owned by user", "barred"),
            (Recipient, "421 4.7.0 no", "throttled"),
            (Recipient, "452 4.5.3 too many recipients", "too many"),
            (Data, "503 5.5.1 no", "unreachable"),
        ] {
            assert_eq!(under(&all, step, text).0, word, "{step:?} {text}");
        }
    }
}
