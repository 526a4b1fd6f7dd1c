//! What one attempt learns of each recipient, and the outcome that follows from it.

use std::time::Duration;

use lettre::Address;

use super::verdict::{self, Sender, Step, Verdict};
use super::wire::Reply;
use super::{Attempt, beginning, without_addresses};
use crate::delivery::{Cause, Outcome, clean_text};
use crate::recipients::{RecipientState, Recipients};

/// The state of an attempt: who accepted, who refused, and why. Begins with what earlier attempts left.
pub(super) struct Tally<'a> {
    attempt: &'a Attempt<'a>,
    known: Recipients,
    receipt: Option<String>,
    refused: Option<String>,
    deferred: Option<Deferred>,
    /// Those for whom there was no room in a transaction that others were accepted in.
    crowded: Vec<&'a Address>,
    accepted_some: bool,
    /// Whether a server said something about the mail itself, beside goodbye.
    answered: bool,
}

/// Why some recipients wait; of several reasons the one that concerns most.
struct Deferred {
    cause: Cause,
    wait: Option<Duration>,
    reason: String,
}

impl<'a> Tally<'a> {
    pub fn new(attempt: &'a Attempt<'a>) -> Tally<'a> {
        Tally {
            attempt,
            known: attempt.phase.recipients().clone(),
            receipt: None,
            refused: None,
            deferred: None,
            crowded: Vec::new(),
            accepted_some: false,
            answered: false,
        }
    }

    /// Those for whom an attempt is to be made.
    pub fn open(&self) -> Vec<&'a Address> {
        let to = self.attempt.mail.to.iter();
        to.filter(|address| self.known.is_open(address.as_ref())).collect()
    }

    /// Those who are to have a transaction of their own, after one that was full.
    pub fn crowded(&mut self) -> Vec<&'a Address> {
        let crowded = std::mem::take(&mut self.crowded);
        if std::mem::take(&mut self.accepted_some) { crowded } else { Vec::new() }
    }

    /// Whether some recipients are put off by what a server said of the mail or of them.
    pub fn has_answers(&self) -> bool {
        self.answered
    }

    /// The mail was taken for these.
    pub fn accept(&mut self, reply: &Reply, to: &[&Address]) {
        let words = self.words(reply);
        self.note(to, RecipientState::Accepted, &words);
        self.attempt.phase.end();
        self.accepted_some = true;
        self.receipt = Some(words);
    }

    /// A reply that is no yes, to what concerns these.
    pub fn refuse(&mut self, step: Step, reply: &Reply, to: &[&'a Address]) {
        let words = self.words(reply);
        let sender = if self.attempt.mail.made_sender { Sender::Message } else { Sender::Config };
        match verdict::of(step, reply, sender, self.attempt.permanent) {
            Verdict::Refused { policy } => {
                if policy {
                    self.attempt.phase.refused_by_policy();
                }
                self.note(to, RecipientState::Refused, &words);
                self.refused.get_or_insert_with(|| self.attempt.said(said(step), reply));
            }
            Verdict::Deferred { cause, wait } => self.defer(step, reply, to, (cause, wait)),
            Verdict::TooMany => {
                self.crowded.extend(to);
                self.defer(step, reply, to, (Cause::Refused, None));
            }
        }
        self.attempt.phase.end();
    }

    /// The server cannot take this mail, whoever it is for. What the second one cannot is no reason to give
    /// it up: the first may be back.
    pub fn give_up(&mut self, reason: &str) {
        if self.attempt.speaker.is_empty() {
            self.note(&self.open(), RecipientState::Refused, reason);
            self.refused.get_or_insert_with(|| reason.to_owned());
            return;
        }
        self.note(&self.open(), RecipientState::Deferred, reason);
        self.answered = true;
        let reason = format!("{}{reason}", self.attempt.speaker);
        self.deferred = Some(Deferred { cause: Cause::Refused, wait: None, reason });
    }

    fn defer(
        &mut self,
        step: Step,
        reply: &Reply,
        to: &[&Address],
        (cause, wait): (Cause, Option<Duration>),
    ) {
        self.answered |= reply.code != 421 || cause != Cause::Throttled;
        self.note(to, RecipientState::Deferred, &self.words(reply));
        let longest = wait.max(self.deferred.as_ref().and_then(|known| known.wait));
        let known = self.deferred.take().filter(|known| reach(known.cause) >= reach(cause));
        let reason = || self.attempt.said(said(step), reply);
        let new = || Deferred { cause, wait, reason: reason() };
        self.deferred = Some(Deferred { wait: longest, ..known.unwrap_or_else(new) });
    }

    /// The first byte of the final dot is out: from now on the mail may have arrived at these.
    pub fn doubt(&mut self, to: &[&Address]) {
        self.note(to, RecipientState::InDoubt, "no answer to the mail");
    }

    /// Where there is one recipient, the outcome says it all.
    fn note(&mut self, to: &[&Address], state: RecipientState, words: &str) {
        let several = self.attempt.mail.to.len() > 1;
        let mut shared = self.attempt.phase.recipients();
        for address in to {
            self.known.note(address.as_ref(), state, words);
            if several {
                shared.note(address.as_ref(), state, words);
            }
        }
    }

    fn words(&self, reply: &Reply) -> String {
        let words = format!("{}{reply}", self.attempt.speaker);
        clean_text(&without_addresses(beginning(&words), &self.attempt.mail.to))
    }

    /// What the attempt came to.
    pub fn outcome(self) -> Outcome {
        let to = &self.attempt.mail.to;
        let among = |wanted: RecipientState| {
            let mut known = to.iter().filter_map(|address| self.known.of(address.as_ref()));
            known.find(|known| known.state == wanted)
        };
        let counted = |reason: String| match to.len() {
            1 => reason,
            _ => clean_text(&format!("{}: {reason}", self.known.counts())),
        };
        if let Some(Deferred { cause, wait, reason }) = self.deferred
            && among(RecipientState::Deferred).is_some()
        {
            return Outcome::Transient { cause, reason: counted(reason), wait };
        }
        if let Some(known) = among(RecipientState::Refused) {
            let reason = self.refused.unwrap_or_else(|| format!("refused: {}", known.reply));
            return Outcome::Permanent { reason: counted(reason) };
        }
        let earlier = || among(RecipientState::Accepted).map(|known| known.reply.clone());
        let receipt = self.receipt.or_else(earlier).unwrap_or_default();
        Outcome::Delivered { receipt }
    }
}

/// How much a cause concerns beside the recipient it was met at.
fn reach(cause: Cause) -> u8 {
    match cause {
        Cause::Barred => 3,
        Cause::Unreachable | Cause::Away => 2,
        Cause::Throttled => 1,
        Cause::Refused | Cause::Rejected | Cause::Failed => 0,
    }
}

fn said(step: Step) -> &'static str {
    match step {
        Step::Greeting => "greeting",
        Step::Hello => "EHLO",
        Step::Login => "AUTH",
        Step::Mail => "MAIL",
        Step::Recipient => "recipient refused",
        Step::Data => "DATA",
        Step::Content => "mail refused",
    }
}
