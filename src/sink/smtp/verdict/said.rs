//! What a server says, by code, enhanced code and words.

use std::time::Duration;

use super::super::wire::Reply;
use super::Step;
use super::wait;

/// What a server said, made ready to be looked at.
pub(super) struct Said {
    pub code: u16,
    /// The code of RFC 3463, if the reply begins with one.
    status: Option<[u16; 3]>,
    /// In small letters, lines joined.
    text: String,
}

impl Said {
    pub fn new(reply: &Reply) -> Said {
        let text = reply.lines.join(" ").to_ascii_lowercase();
        Said { code: reply.code, status: status(reply), text }
    }

    fn has(&self, any: &[&str]) -> bool {
        any.iter().any(|one| self.text.contains(one))
    }

    /// Whether it is a no for good, by its first digit.
    pub fn is_no(&self) -> bool {
        (500..600).contains(&self.code)
    }

    fn is_not_yet(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Whether we are to log in, or to do it otherwise (RFC 4954): true of every mail.
    pub fn is_about_login(&self) -> bool {
        let words = [
            "authentication required",
            "authentication is required",
            "authenticate first",
            "must authenticate",
            "must be authenticated",
            "not authenticated",
            "log in first",
            "must issue a starttls",
        ];
        matches!(self.code, 530 | 534 | 535 | 538) || (self.is_no() && self.has(&words))
    }

    /// Whether it is the machine we send from that is refused, or the name it has.
    pub fn is_about_host(&self) -> bool {
        self.is_no() && self.has(&["client host", "helo command rejected"])
    }

    /// Whether the server does not understand what we said, or that we say it now: then this connection is
    /// of no more use. Whether one mail makes it so or all do is for the breaker to see.
    pub fn is_out_of_step(&self, step: Step) -> bool {
        let is_protocol = matches!(self.status, None | Some([_, 5, _]));
        match self.code {
            500 | 502 | 503 => is_protocol && step != Step::Content,
            // What we add to MAIL, which it offered itself. Of a recipient it is the address.
            555 => step == Step::Mail,
            501 | 504 => step == Step::Mail && matches!(self.status, Some([_, 5, _])),
            _ => false,
        }
    }

    /// Whether this mail is too large, for good.
    pub fn is_about_size(&self) -> bool {
        let words =
            ["too large", "too big", "message size", "size limit", "maximum size", "max size"];
        let is_about_mailbox = matches!(self.status, Some([_, 2, 0..=2]));
        self.is_no()
            && (matches!(self.status, Some([_, 3, 4] | [_, 2, 3]))
                || (!is_about_mailbox && self.has(&words)))
    }

    /// Whether it is the number of recipients in one transaction. RFC 5321 section 4.5.3.1.10: 552 is meant
    /// as 452.
    pub fn is_about_crowds(&self) -> bool {
        let is_crowded = matches!(self.status, Some([_, 5, 3]))
            || self.has(&["too many recipients", "per transaction", "separate transaction"]);
        is_crowded && !self.has(&["hour", "day", "daily", "throttl"])
    }

    /// Whether our sender is refused for good. Many servers say at MAIL only yes, and what they think of the
    /// sender at RCPT, or after the mail.
    pub fn is_about_sender(&self, step: Step) -> bool {
        // SendGrid says it with a 403.
        if !(self.is_no() || self.code == 403) || self.is_about_pace() || self.is_about_room() {
            return false;
        }
        let words = [
            "sender address rejected",
            "sender verify failed",
            "sender rejected",
            "sender denied",
            "not owned by user",
            "send as this sender",
            "sendasdenied",
            "sender identity",
            "authorized to send from",
        ];
        let is_named = matches!(self.status, Some([_, 1, 7 | 8] | [_, 7, 60]));
        step == Step::Mail || is_named || self.has(&words)
    }

    /// Whether a no means us rather than an address or a mail: a policy, a block list, no relaying.
    pub fn is_about_us(&self) -> bool {
        match self.status {
            Some([_, 7, _]) => true,
            Some([_, 1 | 2 | 3 | 5 | 6, _]) => false,
            Some(_) | None => self.has(&[
                "blocked",
                "blacklist",
                "black list",
                "blocklist",
                "block list",
                "banned",
                "spam",
                "reputation",
                "policy",
                "relay",
                "not verified",
                "access denied",
            ]),
        }
    }

    /// Whether a mailbox or a disk is full. 552 without more words is that, whatever its first digit says.
    pub fn is_about_room(&self) -> bool {
        let words = [
            "mailbox full",
            "mailbox is full",
            "full mailbox",
            "inbox is full",
            "over quota",
            "overquota",
            "quota exceeded",
            "exceeded quota",
            "storage allocation",
            "insufficient system storage",
            "insufficient disk space",
            "space shortage",
        ];
        match self.status {
            Some([_, 2, 2] | [4, 3, 1]) => true,
            Some([_, 1 | 5 | 7, _]) => false,
            Some(_) => self.has(&words),
            None => self.code == 552 || self.has(&words),
        }
    }

    /// Whether the server asks the sender as such to slow down or to go away for a while; with a 5xx, too:
    /// some use it for limits that are over by tomorrow.
    pub fn is_about_pace(&self) -> bool {
        if !(self.is_not_yet() || self.is_no()) || self.is_greylisting() {
            return false;
        }
        // Exchange Online has these for addresses that send it too much, and for senders that had their day;
        // Gmail has 5.4.5 for the latter.
        let is_named = matches!(self.status, Some([4, 7, 500..=699] | [5, 1, 90] | [5, 4, 5]));
        if self.code == 421 || is_named {
            return true;
        }
        // RFC 3463: x.1 is about the address, x.2 about the mailbox, x.6 about the content, and 4.5.3
        // about the number of recipients. "Receiving mail at a rate that …" comes with 4.2.1.
        if matches!(self.status, Some([_, 1 | 2 | 6, _] | [_, 5, 3])) {
            return false;
        }
        let mut each = self.text.split(|c: char| !c.is_ascii_alphanumeric());
        if each.any(|word| matches!(word, "rate" | "rates" | "ratelimit" | "ratelimited")) {
            return true;
        }
        let crowds = [
            "connections",
            "connects",
            "sessions",
            "messages",
            "mails",
            "emails",
            "requests",
            "commands",
            "concurrent",
            "login attempts",
        ];
        let bounds = ["quota", "limit", "max emails", "maximum credits"];
        let senders = [
            "sending",
            "sender",
            "daily",
            "hourly",
            "per hour",
            "per day",
            "per minute",
            "per second",
            "connection",
            "concurrent",
            "credits",
        ];
        let is_of_recipient = self.has(&["recipient"]) && !self.has(&["this hour", "per hour"]);
        self.has(&["throttl", "too frequent"])
            || (self.has(&["too many"]) && self.has(&crowds) && !is_of_recipient)
            || (self.has(&bounds) && self.has(&senders) && !is_of_recipient)
    }

    /// Whether the server says that it defers whom it sees for the first time: one mail's matter, and over
    /// by itself when it comes again.
    pub fn is_greylisting(&self) -> bool {
        let text = self.text.replace(['-', ' '], "");
        text.contains("greylist") || text.contains("graylist")
    }

    /// Whether it may be that, where the words do not say so.
    pub fn is_perhaps_greylisting(&self) -> bool {
        let is_policy = matches!(self.code, 450 | 451) && matches!(self.status, Some([4, 7, _]));
        self.is_greylisting() || is_policy
    }

    /// How long it wants us to wait, where its words say so.
    pub fn wait(&self) -> Option<Duration> {
        wait::of(&self.text)
    }
}

/// The status code of RFC 3463 with which a reply begins.
fn status(reply: &Reply) -> Option<[u16; 3]> {
    let word = reply.lines.first()?.split_ascii_whitespace().next()?;
    let parts: Option<Vec<u16>> = word.split('.').map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}
