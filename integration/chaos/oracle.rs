//! The judge. It sees what producers know, what receivers saw and what the tables say at the end, and
//! nothing of the relay's inside. I1 to I12 are the invariants of `postgres.md` C2.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Client;

use super::faults::Struck;
use super::journal::{Answered, Arrival, Fate, Noted, Said, Token};
use super::plan::Fault;
use super::producers::LOOSE;
use super::receivers::{CONCURRENCY, ONCE};

/// How long after a fault of the database a producer may still feel it.
const AFTER_PAINS: Duration = Duration::from_secs(2);
/// What was taken so long before a fault must be recorded when it strikes.
const UNRECORDED_MAX: Duration = Duration::from_secs(2);
/// How long a relay may have a row in hand before it sends it.
const IN_HAND_MAX: Duration = Duration::from_secs(2);
/// A producer's commit may never take so long, whatever becomes of the relays.
const COMMIT_MAX: Duration = Duration::from_secs(5);

/// What the tables say at the end.
#[derive(Clone, Default)]
pub struct Found {
    /// The messages that committed, by token.
    pub messages: BTreeSet<Token>,
    /// Ledger rows.
    pub closed: Vec<Closed>,
    /// What is still open: token, sink, state.
    pub open: Vec<(Token, String, String)>,
    /// The rows of all CSV files.
    pub rows: Vec<Token>,
    /// What was held before an operator said what became of it: token, sink.
    pub held: Vec<(Token, String)>,
}

/// A ledger row.
#[derive(Clone, Debug)]
pub struct Closed {
    pub token: Token,
    pub sink: String,
    pub outcome: String,
    pub attempts: i32,
    pub at: Timestamp,
}

/// How a delivery must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Delivered,
    /// The same; what was held and had arrived counts as delivered, whatever was answered.
    Once,
    Exported,
    Dead,
}

/// What came out.
#[derive(Default)]
pub struct Verdict {
    /// Broken invariants, in words. None, or the run has failed.
    pub broken: Vec<String>,
    /// Deliveries that arrived again after they had been taken, by the place of the fault that explains
    /// it.
    pub repeats: Vec<usize>,
    /// The same, explained by a sink that changed hands without a fault of ours: a starved machine.
    pub handed: usize,
    /// Deliveries that may arrive only once, those of them that were held, and the most often that one
    /// of them arrived.
    pub once: usize,
    pub held: usize,
    pub once_most: usize,
    /// Arrivals after the record: two owners had the same row in hand.
    pub late: usize,
    /// For each fault the longest wait of a steady message that was committed from then to the next.
    pub recovery: Vec<Duration>,
    /// Messages that committed.
    pub messages: usize,
    /// Arrivals at all receivers.
    pub arrivals: usize,
    /// The longest commit of the steady producer outside the database's own faults.
    pub slowest_commit: Duration,
}

impl Found {
    /// Reads the tables and the files.
    pub async fn read(client: &Client, files: &Path, held: Vec<(Token, String)>) -> Found {
        let token = "(m.payload ->> 'token')::bigint";
        let all = format!("SELECT {token} FROM outbox.message m");
        let messages = client.query(&all, &[]).await.expect("messages");
        let closed = format!(
            "SELECT {token}, l.sink, l.outcome, l.attempts, l.closed_at
               FROM outbox.ledger l JOIN outbox.message m ON m.id = l.message_id"
        );
        let closed = client.query(&closed, &[]).await.expect("the ledger");
        let open = format!(
            "SELECT {token}, d.sink, d.state
               FROM outbox.delivery d JOIN outbox.message m ON m.id = d.message_id"
        );
        let open = client.query(&open, &[]).await.expect("what is open");
        let token = |row: &tokio_postgres::Row| row.get::<_, i64>(0).cast_unsigned();
        let mut rows = Vec::new();
        for entry in std::fs::read_dir(files).expect("the folder of the files") {
            let mut reader = csv::Reader::from_path(entry.expect("a file").path()).expect("a file");
            for row in reader.records() {
                rows.push(row.expect("a row")[0].parse().expect("a token"));
            }
        }
        Found {
            messages: messages.iter().map(token).collect(),
            closed: closed
                .iter()
                .map(|row| Closed {
                    token: token(row),
                    sink: row.get(1),
                    outcome: row.get(2),
                    attempts: row.get(3),
                    at: row.get(4),
                })
                .collect(),
            open: open.iter().map(|row| (token(row), row.get(1), row.get(2))).collect(),
            rows,
            held,
        }
    }
}

/// Where messages of a type must end.
fn ends(kind: &str) -> &'static [(&'static str, End)] {
    match kind.split('.').next().unwrap_or_default() {
        "order" => &[
            ("steady", End::Delivered),
            ("slow", End::Delivered),
            ("flaky", End::Delivered),
            ("orders", End::Exported),
        ],
        "once" => &[("once", End::Once), ("letter", End::Once)],
        "poison" => &[("steady", End::Dead)],
        "away" => &[("away", End::Delivered)],
        "mail" if kind == "mail.poison" => &[("mail", End::Dead)],
        "mail" => &[("mail", End::Delivered)],
        _ => &[("steady", End::Delivered)],
    }
}

/// Everything the judge knows, put in order.
struct Case<'a> {
    noted: &'a Noted,
    struck: &'a [Struck],
    found: &'a Found,
    /// Arrivals by sink and token, in order of time.
    arrived: BTreeMap<(&'static str, Token), Vec<&'a Arrival>>,
    closed: BTreeMap<(&'a str, Token), Vec<&'a Closed>>,
    verdict: Verdict,
}

/// Judges a run that has been drained.
pub fn judge(noted: &Noted, struck: &[Struck], found: &Found) -> Verdict {
    let mut case = Case {
        noted,
        struck,
        found,
        arrived: BTreeMap::new(),
        closed: BTreeMap::new(),
        verdict: Verdict { repeats: vec![0; struck.len()], ..Verdict::default() },
    };
    for arrival in &noted.arrived {
        case.arrived.entry((arrival.sink, arrival.token)).or_default().push(arrival);
    }
    for arrivals in case.arrived.values_mut() {
        arrivals.sort_by_key(|arrival| arrival.at);
    }
    for closed in &found.closed {
        case.closed.entry((closed.sink.as_str(), closed.token)).or_default().push(closed);
    }
    case.commits_are_what_producers_know();
    case.nothing_is_lost();
    case.files_hold_each_row_once();
    case.nothing_is_a_phantom();
    case.repeats_are_alike_and_explained();
    case.once_is_once();
    case.keys_are_in_order();
    case.attempts_reconcile();
    case.producers_feel_nothing();
    case.measure();
    case.verdict
}

impl<'a> Case<'a> {
    fn broken(&mut self, words: String) {
        self.verdict.broken.push(words);
    }

    fn committed(&self) -> impl Iterator<Item = (&'a Token, &'a Said)> + use<'a> {
        let found = self.found;
        self.noted.said.iter().filter(|(token, _)| found.messages.contains(token))
    }

    /// The database holds what producers were told it holds, and nothing that was rolled back.
    fn commits_are_what_producers_know(&mut self) {
        for (token, said) in &self.noted.said {
            let there = self.found.messages.contains(token);
            match said.fate {
                Fate::Committed if !there => {
                    self.broken(format!("{token} {} was committed and is gone", said.kind));
                }
                Fate::RolledBack if there => {
                    self.broken(format!("{token} {} was rolled back and is there", said.kind));
                }
                Fate::Committed | Fate::RolledBack | Fate::Unknown => {}
            }
        }
    }

    /// I1: every committed message reached its end at each of its sinks, and the record says so.
    fn nothing_is_lost(&mut self) {
        let open: BTreeMap<(&str, Token), &str> = self
            .found
            .open
            .iter()
            .map(|(token, sink, state)| ((sink.as_str(), *token), state.as_str()))
            .collect();
        for (token, said) in self.committed() {
            for (sink, end) in ends(said.kind) {
                let arrivals = self.arrived.get(&(*sink, *token)).map_or(&[][..], Vec::as_slice);
                let taken = arrivals.iter().any(|arrival| arrival.answered == Answered::Accepted);
                let closed = self.closed.get(&(*sink, *token)).map_or(&[][..], Vec::as_slice);
                let recorded = |outcome| closed.iter().any(|row| row.outcome == outcome);
                let open = open.get(&(*sink, *token)).copied();
                let good = match end {
                    End::Once => !arrivals.is_empty() && recorded("delivered") && open.is_none(),
                    End::Delivered => taken && recorded("delivered") && open.is_none(),
                    End::Exported => recorded("exported") && open.is_none(),
                    End::Dead => !taken && open == Some("dead"),
                };
                if !good {
                    let (kind, outcomes) = (said.kind, closed.iter().map(|row| &row.outcome));
                    let outcomes: Vec<&String> = outcomes.collect();
                    self.broken(format!(
                        "I1 {token} {kind} at {sink} must be {end:?}: taken {taken}, ledger {outcomes:?}, open {open:?}"
                    ));
                }
            }
        }
    }

    /// I1, I2 and no repeats, for files.
    fn files_hold_each_row_once(&mut self) {
        let mut rows = self.found.rows.clone();
        rows.sort_unstable();
        let exported = |said: &Said| ends(said.kind).iter().any(|(_, end)| *end == End::Exported);
        let wanted: Vec<Token> =
            self.committed().filter(|(_, said)| exported(said)).map(|(token, _)| *token).collect();
        if rows != wanted {
            let (have, want): (BTreeSet<_>, BTreeSet<_>) =
                (rows.iter().copied().collect(), wanted.iter().copied().collect());
            self.broken(format!(
                "files: {} rows instead of {}; missing {:?}, too many {:?}",
                rows.len(),
                wanted.len(),
                want.difference(&have).take(5).collect::<Vec<_>>(),
                have.difference(&want).take(5).collect::<Vec<_>>(),
            ));
        }
    }

    /// I2: nothing arrived that did not commit, or that has no business there. I7: nothing early.
    fn nothing_is_a_phantom(&mut self) {
        for arrival in &self.noted.arrived {
            let Arrival { sink, token, at, .. } = arrival;
            let Some(said) = self.noted.said.get(token) else {
                self.broken(format!("I2 {token} arrived at {sink}, and nobody said it"));
                continue;
            };
            if !self.found.messages.contains(token) {
                self.broken(format!(
                    "I2 {token} {} arrived at {sink} and did not commit",
                    said.kind
                ));
            }
            if !ends(said.kind).iter().any(|(name, _)| name == sink) {
                self.broken(format!("I2 {token} {} arrived at {sink}", said.kind));
            }
            if let Some(due) = said.due_at.filter(|due| at < due) {
                self.broken(format!(
                    "I7 {token} arrived at {sink} {:#} early",
                    due.duration_since(*at)
                ));
            }
        }
    }

    /// I3: what arrives again is the same to the byte; after it had been taken it may come again only if
    /// it was not recorded when a fault struck; and never after it was recorded.
    fn repeats_are_alike_and_explained(&mut self) {
        for ((sink, token), arrivals) in std::mem::take(&mut self.arrived) {
            let first = arrivals[0];
            if arrivals.iter().any(|a| (a.id, a.body) != (first.id, first.body)) {
                self.broken(format!("I3 {token} came to {sink} with different bytes or ids"));
            }
            let recorded = self
                .closed
                .get(&(sink, token))
                .and_then(|rows| rows.iter().map(|row| row.at).min());
            let mut taken: Option<&Arrival> = None;
            for arrival in &arrivals {
                if recorded.is_some_and(|recorded| arrival.at > recorded) {
                    self.late(arrival, "it was recorded");
                }
                if let Some(before) = taken.filter(|_| !ONCE.contains(&sink)) {
                    self.explain(before, arrival);
                }
                if arrival.answered == Answered::Accepted {
                    taken = Some(arrival);
                }
            }
            self.arrived.insert((sink, token), arrivals);
        }
        let again = |sink: &str| !ONCE.contains(&sink);
        let slots = CONCURRENCY.iter().filter(|(sink, _)| again(sink));
        let slots: usize = slots.map(|(_, slots)| slots).sum();
        for (place, struck) in self.struck.iter().enumerate() {
            let from = struck.from - UNRECORDED_MAX;
            let near = |a: &&Arrival| again(a.sink) && a.at >= from && a.at <= struck.until;
            let bound = slots + self.noted.arrived.iter().filter(near).count();
            if self.verdict.repeats[place] > bound {
                let (fault, repeats) = (struck.fault, self.verdict.repeats[place]);
                self.broken(format!("I3 {fault:?} repeated {repeats}, more than {bound}"));
            }
        }
    }

    /// I4: where a message may arrive only once, nothing comes again, whatever struck, but what the
    /// receiver asked to come later; and no more is held than can have been in doubt.
    fn once_is_once(&mut self) {
        for sink in ONCE {
            let all = self.arrived.iter().filter(|((name, _), _)| name == sink);
            let (mut again, mut in_doubt) = (Vec::new(), 0);
            for ((_, token), arrivals) in all {
                let came = arrivals.iter().filter(|a| a.answered != Answered::Later).count();
                self.verdict.once_most = self.verdict.once_most.max(came);
                self.verdict.once += 1;
                let unclear =
                    |a: &&&Arrival| matches!(a.answered, Answered::Refused | Answered::Nothing);
                in_doubt += arrivals.iter().filter(unclear).count();
                let before_last = &arrivals[..arrivals.len() - 1];
                if let Some(first) = before_last.iter().find(|a| a.answered != Answered::Later) {
                    let (times, answered, at) = (arrivals.len(), first.answered, first.at);
                    again.push(format!(
                        "I4 {token} came to {sink} {times} times, first {answered:?} at {at}"
                    ));
                }
            }
            self.verdict.broken.append(&mut again);
            let slots = CONCURRENCY.iter().find(|(name, _)| name == sink).map_or(0, |(_, n)| *n);
            let taken = self.noted.taken.iter().filter(|(name, _)| name == sink).count();
            // In flight, and as much again whose end was about to be written, at each hand-over.
            let bound = 2 * slots * (taken + 1) + in_doubt;
            let held = self.found.held.iter().filter(|(_, name)| name == sink).count();
            if held > bound {
                self.broken(format!("I4 {held} were held at {sink}, more than {bound}"));
            }
            self.verdict.held += held;
        }
    }

    /// An arrival after all was over: allowed only where two owners had it in hand.
    fn late(&mut self, arrival: &Arrival, why: &str) {
        let Arrival { sink, token, at, .. } = arrival;
        let had_it = |s: &Struck| {
            s.fault.leaves_a_former_owner() && s.from <= *at && *at <= s.until + IN_HAND_MAX
        };
        if self.struck.iter().any(had_it) {
            self.verdict.late += 1;
        } else {
            self.broken(format!("I3 {token} came to {sink} at {at}, after {why}"));
        }
    }

    /// Which fault explains that what had been taken came again.
    fn explain(&mut self, before: &Arrival, again: &Arrival) {
        let between = |s: &Struck| s.from <= again.at && before.at <= s.until;
        // The first that struck after it was taken kept its record from being written, however late it
        // came again.
        let fault = self.struck.iter().position(|s| s.fault.may_repeat() && between(s));
        if let Some(place) = fault {
            self.verdict.repeats[place] += 1;
            return;
        }
        // A relay that leaves in order hands its sinks over and repeats nothing.
        let left = self.struck.iter().any(|s| s.fault == Fault::Drain && between(s));
        let slack = Duration::from_millis(200);
        let handed = |(sink, at): &(String, Timestamp)| {
            sink == again.sink && *at >= before.at - slack && *at <= again.at + slack
        };
        if !left && self.noted.taken.iter().any(handed) {
            self.verdict.handed += 1;
            return;
        }
        let Arrival { sink, token, at, .. } = again;
        self.broken(format!(
            "I3 {token} came to {sink} at {at}, though it was taken at {} and nothing struck",
            before.at
        ));
    }

    /// I5: the first deliveries of a key are in order, each begun after all before it were taken; what
    /// comes again is only the last that was begun.
    fn keys_are_in_order(&mut self) {
        let mut keys: BTreeMap<(&str, &str), Vec<(u64, Token)>> = BTreeMap::new();
        for (token, said) in self.committed() {
            let Some(key) = said.key.as_deref().filter(|key| *key != LOOSE) else { continue };
            for (sink, end) in ends(said.kind).iter().filter(|(_, end)| *end == End::Delivered) {
                let _ = end;
                keys.entry((*sink, key)).or_default().push((said.place, *token));
            }
        }
        for ((sink, key), mut messages) in keys {
            messages.sort_unstable();
            self.key_is_in_order(sink, key, &messages);
        }
    }

    fn key_is_in_order(&mut self, sink: &str, key: &str, messages: &[(u64, Token)]) {
        let sink = CONCURRENCY.iter().map(|(name, _)| *name).find(|name| *name == sink);
        let sink = sink.expect("a sink of ours");
        // All before the next one are taken by then.
        let mut all_taken: Option<Timestamp> = None;
        let mut last_begun: Option<(Token, Timestamp)> = None;
        let mut late = Vec::new();
        for (_, token) in messages {
            let Some(arrivals) = self.arrived.get(&(sink, *token)) else { continue };
            let begun = arrivals[0].at;
            if all_taken.is_some_and(|taken| begun < taken) {
                let words = format!(
                    "I5 {token} of key {key} came to {sink} before its predecessor was taken"
                );
                self.verdict.broken.push(words);
            }
            // Repeats of those before this one, after it was begun.
            if let Some((before, _)) = last_begun {
                let of_before = &self.arrived[&(sink, before)];
                late.extend(of_before.iter().filter(|a| a.at > begun).copied());
            }
            let taken = arrivals.iter().find(|a| a.answered == Answered::Accepted);
            all_taken = all_taken.max(taken.map(|a| a.at));
            last_begun = Some((*token, begun));
        }
        for arrival in late {
            self.late(arrival, "a later one of its key was begun");
        }
    }

    /// I12: where every attempt arrives, attempts and arrivals are the same number, but for those whose
    /// end nobody lived to record.
    fn attempts_reconcile(&mut self) {
        for ((sink, token), rows) in std::mem::take(&mut self.closed) {
            let mut kinds: Vec<(&str, i32)> =
                rows.iter().map(|row| (row.outcome.as_str(), row.attempts)).collect();
            kinds.sort_unstable();
            kinds.dedup();
            if kinds.len() < rows.len() {
                self.broken(format!("I12 {token} at {sink}: an end is recorded twice"));
            }
            let attempts = rows.iter().map(|row| row.attempts).max().unwrap_or_default();
            let attempts = usize::try_from(attempts).unwrap_or_default();
            let all_arrive = CONCURRENCY.iter().map(|(name, _)| *name).find(|name| *name == sink);
            if let Some(name) = all_arrive.filter(|name| ["steady", "slow"].contains(name)) {
                let arrivals = self.arrived.get(&(name, token)).map_or(0, Vec::len);
                if attempts > arrivals || (arrivals == 1 && attempts != 1) {
                    self.broken(format!(
                        "I12 {token} at {sink}: {attempts} attempts, {arrivals} arrivals"
                    ));
                }
            }
            self.closed.insert((sink, token), rows);
        }
    }

    /// I11: whatever becomes of relays and receivers, producers notice nothing.
    fn producers_feel_nothing(&mut self) {
        let hurts = |from: Timestamp, until: Timestamp| {
            let during = |s: &Struck| s.from <= until && from <= s.until + AFTER_PAINS;
            self.struck.iter().any(|s| s.fault.hurts_producers() && during(s))
        };
        let felt = self.noted.troubles.iter().filter(|t| !hurts(t.from, t.until));
        let mut broken: Vec<String> =
            felt.map(|t| format!("I11 a producer was told at {}: {}", t.until, t.error)).collect();
        let calm = self.noted.commits.iter().filter(|(at, took)| !hurts(*at, *at + *took));
        self.verdict.slowest_commit = calm.map(|(_, took)| *took).max().unwrap_or_default();
        if self.verdict.slowest_commit > COMMIT_MAX {
            broken.push(format!("I11 a commit took {:?}", self.verdict.slowest_commit));
        }
        self.verdict.broken.append(&mut broken);
    }

    /// I8, as numbers.
    fn measure(&mut self) {
        self.verdict.messages = self.found.messages.len();
        self.verdict.arrivals = self.noted.arrived.len();
        let mut waits: Vec<(Timestamp, Duration)> = Vec::new();
        for (token, said) in self.committed().filter(|(_, said)| said.kind == "tick") {
            let Some(arrivals) = self.arrived.get(&("steady", *token)) else { continue };
            let wait = arrivals[0].at.duration_since(said.at);
            waits.push((said.at, Duration::try_from(wait).unwrap_or_default()));
        }
        let steady = |a: &&Arrival| a.sink == "steady";
        for (place, struck) in self.struck.iter().enumerate() {
            let next = self.struck.get(place + 1).map_or(Timestamp::MAX, |next| next.from);
            let during = waits.iter().filter(|(at, _)| *at >= struck.from && *at < next);
            let mut longest = during.map(|(_, wait)| *wait).max().unwrap_or_default();
            if struck.fault.hurts_producers() {
                // Nobody could commit meanwhile: until the first arrival after it.
                let after =
                    self.noted.arrived.iter().filter(steady).filter(|a| a.at > struck.until);
                let gap = after.map(|a| a.at.duration_since(struck.until)).min();
                longest = longest.max(gap.and_then(|gap| gap.try_into().ok()).unwrap_or_default());
            }
            self.verdict.recovery.push(longest);
        }
    }
}

/// Fault, how often, what held, repeats, longest recovery.
pub fn table(struck: &[Struck], verdict: &Verdict) -> String {
    let mut lines: BTreeMap<(u8, String), (usize, usize, Duration)> = BTreeMap::new();
    for (place, one) in struck.iter().enumerate() {
        let name = (one.fault.number(), format!("{:?}", one.fault));
        let line = lines.entry(name).or_default();
        line.0 += 1;
        line.1 += verdict.repeats[place];
        line.2 = line.2.max(verdict.recovery[place]);
    }
    let mut text = String::from(
        " #  FAULT                TIMES  HELD                 REPEATS  LONGEST RECOVERY\n",
    );
    for ((number, name), (times, repeats, recovery)) in lines {
        let held = match name.as_str() {
            _ if !verdict.broken.is_empty() => "see below",
            _ if struck
                .iter()
                .any(|s| format!("{:?}", s.fault) == name && s.fault.may_repeat()) =>
            {
                "I1-I5 I8 I11"
            }
            _ => "the same, no repeat",
        };
        writeln!(text, "{number:>2}  {name:<20} {times:>5}  {held:<20} {repeats:>7}  {recovery:?}")
            .expect("writing to a string");
    }
    let Verdict { messages, arrivals, held, late, handed, slowest_commit, .. } = verdict;
    writeln!(
        text,
        "{messages} messages, {arrivals} arrivals; {held} held at most once; {late} after the record, from a second owner; {handed} repeats \
         at hand-overs without a fault; the slowest commit outside the database's faults {slowest_commit:?}"
    )
    .expect("writing to a string");
    text
}
