//! Negative controls of the judge: a good run passes, and each thing that must not be is seen.

use std::time::Duration;

use jiff::Timestamp;

use super::faults::Struck;
use super::journal::{Answered, Arrival, Fate, Noted, Said, Token, Trouble};
use super::oracle::{Closed, Found, Verdict, judge};
use super::plan::{Fault, Point};

/// A run: messages 1 and 2 of a key, 3 without one, 4 rolled back, 5 whose end its producer does not
/// know, 6 poisoned, 7 delayed, 8 and 9 to arrive only once, of which 9 was held. A kill at second 10, a drain at second 20, a suspended relay at 30.
struct Run {
    noted: Noted,
    struck: Vec<Struck>,
    found: Found,
}

fn at(seconds: f64) -> Timestamp {
    let begin = Timestamp::from_second(1_700_000_000).unwrap();
    begin + Duration::from_secs_f64(seconds + 100.0) - Duration::from_secs(100)
}

fn struck(fault: Fault, from: f64, until: f64) -> Struck {
    Struck { fault, from: at(from), until: at(until) }
}

impl Run {
    fn good() -> Run {
        let mut run = Run { noted: Noted::default(), struck: Vec::new(), found: Found::default() };
        run.struck = vec![
            struck(Fault::Kill(Point::Anywhere), 10.0, 10.2),
            struck(Fault::Drain, 20.0, 20.5),
            struck(Fault::Suspend, 30.0, 32.0),
            struck(Fault::StopDatabase, 40.0, 41.0),
        ];
        run.says(1, "order.paid", Some("k"), Fate::Committed);
        run.says(2, "order.paid", Some("k"), Fate::Committed);
        run.says(3, "tick", None, Fate::Committed);
        run.says(4, "tick", None, Fate::RolledBack);
        run.says(5, "tick", None, Fate::Unknown);
        run.says(6, "poison.gone", None, Fate::Committed);
        run.says(7, "tick", None, Fate::Committed);
        run.noted.said.get_mut(&7).unwrap().due_at = Some(at(5.0));
        run.says(8, "once.made", None, Fate::Committed);
        run.says(9, "once.made", None, Fate::Committed);
        run.found.messages = [1, 2, 3, 5, 6, 7, 8, 9].into();
        run.found.rows = vec![2, 1];
        for sink in ["steady", "slow", "flaky"] {
            run.delivers(sink, 1, 9.0);
            run.delivers(sink, 2, 9.5);
        }
        for token in [1, 2] {
            run.closes("orders", token, "exported", 9.0);
        }
        for (token, when) in [(3, 9.9), (5, 12.0), (7, 5.1)] {
            run.delivers("steady", token, when);
        }
        for sink in ["once", "letter"] {
            run.arrives(sink, 8, 8.0, Answered::Later);
            run.delivers(sink, 8, 9.0);
            // Taken by a receiver that said nothing; an operator asked it.
            run.arrives(sink, 9, 10.1, Answered::Nothing);
            run.found.held.push((9, sink.to_owned()));
            run.closes(sink, 9, "delivered", 50.0);
        }
        run.arrives("steady", 6, 9.0, Answered::Refused);
        run.found.open.push((6, "steady".to_owned(), "dead".to_owned()));
        run.noted.commits.push((at(1.0), Duration::from_millis(3)));
        run
    }

    fn says(&mut self, token: Token, kind: &'static str, key: Option<&str>, fate: Fate) {
        let key = key.map(str::to_owned);
        let said = Said { kind, key, place: token, due_at: None, fate, at: at(1.0) };
        self.noted.said.insert(token, said);
    }

    fn arrives(&mut self, sink: &'static str, token: Token, when: f64, answered: Answered) {
        let (id, body) = (token, token + 1_000);
        self.noted.arrived.push(Arrival { sink, token, at: at(when), answered, id, body });
    }

    fn closes(&mut self, sink: &str, token: Token, outcome: &str, when: f64) {
        let (sink, outcome, at) = (sink.to_owned(), outcome.to_owned(), at(when));
        self.found.closed.push(Closed { token, sink, outcome, attempts: 1, at });
    }

    /// Arrives, is taken, and is recorded a moment later.
    fn delivers(&mut self, sink: &'static str, token: Token, when: f64) {
        self.arrives(sink, token, when, Answered::Accepted);
        self.closes(sink, token, "delivered", when + 0.05);
    }

    fn recorded(&mut self, sink: &str, token: Token) -> &mut Closed {
        let row = |row: &&mut Closed| row.sink == sink && row.token == token;
        self.found.closed.iter_mut().find(row).unwrap()
    }

    fn arrival(&mut self, sink: &str, token: Token) -> &mut Arrival {
        let found = |a: &&mut Arrival| a.sink == sink && a.token == token;
        self.noted.arrived.iter_mut().find(found).unwrap()
    }

    fn judged(&self) -> Verdict {
        judge(&self.noted, &self.struck, &self.found)
    }
}

#[test]
fn a_good_run_passes_and_its_repeats_are_counted() {
    assert_eq!(Run::good().judged().broken, Vec::<String>::new());
    // Taken before the kill, recorded by nobody, sent again by the next owner.
    let mut run = Run::good();
    run.arrives("steady", 3, 12.0, Answered::Accepted);
    run.recorded("steady", 3).at = at(12.1);
    let verdict = run.judged();
    assert_eq!((verdict.broken, verdict.repeats), (vec![], vec![1, 0, 0, 0]));
    // Refused or unanswered: sent again without any fault.
    let mut run = Run::good();
    run.arrives("flaky", 1, 8.0, Answered::Nothing);
    run.arrives("flaky", 1, 8.5, Answered::Refused);
    assert_eq!(run.judged().broken, Vec::<String>::new());
    // A relay wakes up, and what it had in its hands leaves it.
    let mut run = Run::good();
    run.arrives("steady", 3, 31.9, Answered::Accepted);
    let verdict = run.judged();
    assert_eq!((verdict.broken, verdict.late), (vec![], 1));
    // A sink changed hands though nothing struck: the machine was too busy for the heartbeat.
    let mut run = Run::good();
    run.arrives("steady", 7, 6.0, Answered::Accepted);
    run.recorded("steady", 7).at = at(6.1);
    run.noted.taken.push(("steady".to_owned(), at(5.8)));
    let verdict = run.judged();
    assert_eq!((verdict.broken, verdict.handed), (vec![], 1));
}

type Control = (&'static str, &'static str, fn(&mut Run));

/// What is done to a good run, and what the judge must say.
const CONTROLS: &[Control] = &[
    ("never arrived", "I1 3", |run| run.noted.arrived.retain(|a| a.token != 3)),
    ("arrived and was never taken", "I1 3", |run| {
        run.arrival("steady", 3).answered = Answered::Nothing;
    }),
    ("not recorded", "I1 3", |run| run.found.closed.retain(|row| row.token != 3)),
    ("still open", "I1 3", |run| {
        run.found.open.push((3, "steady".to_owned(), "pending".to_owned()));
    }),
    ("a poisoned one was taken", "I1 6", |run| {
        run.arrival("steady", 6).answered = Answered::Accepted;
    }),
    ("unknown to its producer, and lost", "I1 5", |run| {
        run.noted.arrived.retain(|a| a.token != 5);
    }),
    ("the database forgot a commit", "committed and is gone", |run| {
        run.found.messages.remove(&3);
    }),
    ("the database kept what was rolled back", "rolled back and is there", |run| {
        run.found.messages.insert(4);
    }),
    ("not in any file", "files: 1 rows instead of 2", |run| run.found.rows = vec![1]),
    ("twice in files", "files: 3 rows instead of 2", |run| run.found.rows = vec![1, 2, 2]),
    ("rolled back and delivered", "I2 4", |run| {
        run.arrives("steady", 4, 2.0, Answered::Accepted);
    }),
    ("never said and delivered", "I2 99", |run| {
        run.arrives("steady", 99, 2.0, Answered::Accepted);
    }),
    ("delivered to another sink", "I2 3 tick arrived at mail", |run| {
        run.arrives("mail", 3, 2.0, Answered::Accepted);
    }),
    ("before it was due", "I7 7", |run| run.arrival("steady", 7).at = at(4.9)),
    ("other bytes the second time", "different bytes", |run| {
        run.arrives("steady", 3, 9.8, Answered::Refused);
        run.noted.arrived.last_mut().unwrap().body = 0;
    }),
    ("another idempotency key", "different bytes", |run| {
        run.arrives("steady", 3, 9.8, Answered::Refused);
        run.noted.arrived.last_mut().unwrap().id = 0;
    }),
    ("again without a fault", "nothing struck", |run| {
        run.arrives("steady", 7, 6.0, Answered::Accepted);
        run.recorded("steady", 7).at = at(6.1);
    }),
    ("again after a drain", "nothing struck", |run| {
        run.arrival("steady", 7).at = at(19.9);
        run.arrives("steady", 7, 21.0, Answered::Accepted);
        run.recorded("steady", 7).at = at(21.1);
        run.noted.taken.push(("steady".to_owned(), at(20.5)));
    }),
    ("again though it was recorded before the kill", "after it was recorded", |run| {
        run.arrives("steady", 3, 12.0, Answered::Accepted);
    }),
    ("more again than can have been in flight", "more than", |run| {
        for token in 100..160 {
            run.says(token, "tick", None, Fate::Committed);
            run.found.messages.insert(token);
            run.delivers("steady", token, 7.0);
            run.arrives("steady", token, 12.0, Answered::Accepted);
            run.recorded("steady", token).at = at(12.1);
        }
    }),
    ("the second of a key before the first was taken", "I5 2", |run| {
        run.arrival("slow", 2).at = at(8.9);
    }),
    ("the second of a key between two attempts of the first", "I5 2", |run| {
        run.arrives("flaky", 1, 8.0, Answered::Refused);
        run.arrival("flaky", 2).at = at(8.5);
    }),
    ("the first of a key again after the second", "a later one of its key", |run| {
        run.arrival("slow", 1).at = at(9.2);
        run.arrives("slow", 1, 10.5, Answered::Accepted);
        run.recorded("slow", 1).at = at(10.6);
    }),
    ("more attempts than arrivals", "I12 3", |run| run.recorded("steady", 3).attempts = 2),
    ("the same end twice", "I12 3", |run| run.closes("steady", 3, "delivered", 10.0)),
    ("to a sink where once is the limit, again in a kill", "I4 8 came to once 3", |run| {
        run.arrives("once", 8, 11.0, Answered::Accepted);
        run.recorded("once", 8).at = at(11.1);
    }),
    ("a second mail though the first had no answer", "I4 9 came to letter 2", |run| {
        run.arrives("letter", 9, 12.0, Answered::Accepted);
    }),
    ("a second request after an error", "I4 9 came to once 2", |run| {
        run.arrival("once", 9).answered = Answered::Refused;
        run.arrives("once", 9, 12.0, Answered::Later);
    }),
    ("again from a relay that was suspended", "I4 8 came to once 3", |run| {
        run.arrives("once", 8, 31.0, Answered::Accepted);
    }),
    ("held in the end", "I1 9 once.made at once must be Once", |run| {
        run.found.closed.retain(|row| (row.sink.as_str(), row.token) != ("once", 9));
        run.found.open.push((9, "once".to_owned(), "held".to_owned()));
    }),
    ("called delivered, and never arrived", "I1 8 once.made at letter must be Once", |run| {
        run.noted.arrived.retain(|a| (a.sink, a.token) != ("letter", 8));
    }),
    ("held without a doubt", "I4 18 were held at once, more than 17", |run| {
        run.found.held.extend((100..117).map(|token| (token, "once".to_owned())));
    }),
    ("a producer's error while only relays were hurt", "I11", |run| {
        let (from, until) = (at(10.0), at(10.1));
        run.noted.troubles.push(Trouble { from, until, error: "deadlock".to_owned() });
    }),
    ("a commit that waited for a relay", "I11", |run| {
        run.noted.commits.push((at(30.0), Duration::from_secs(6)));
    }),
];

#[test]
fn the_judge_sees_each_thing_that_must_not_be() {
    for (what, words, spoil) in CONTROLS {
        let mut run = Run::good();
        spoil(&mut run);
        let broken = run.judged().broken;
        assert!(broken.iter().any(|b| b.contains(words)), "{what}: {words:?} is not in {broken:?}");
    }
}
