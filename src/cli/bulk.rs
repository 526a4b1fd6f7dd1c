//! What is done to open deliveries, be it to those of one message or to all that fit a filter.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use serde_json::{Value, json};

use super::actor::actor;
use super::filter::{Filter, State, Walk};
use super::show::{no_such_delivery, unknown};
use super::words::{self, DeliveryName, Named, delivery_name};
use super::{Answer, Failure, Verdict, connect, mail, same_installation, say, say_aside, say_json};
use crate::config::Config;
use crate::store::Link;
use crate::store::inspect::act::{Act, Changed, Looked, act_on_message, act_on_page};
use crate::store::inspect::status::Count;
use crate::store::inspect::{DeliveryRow, OpenRow, actions, deliveries, message};

/// One message's deliveries, or all that fit.
#[derive(Args)]
pub(super) struct Chosen {
    /// The message, or one of its deliveries; or the mail of an exported period, EXPORT/PERIOD
    #[arg(value_name = "MESSAGE[/SINK[/TARGET]]")]
    pub name: Option<Named>,
    #[command(flatten)]
    pub filter: Filter,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// What a command does, in its words.
pub(super) struct Deed {
    pub act: Act,
    /// `retry`
    pub verb: &'static str,
    /// `retried`
    pub done: &'static str,
    /// What becomes of them: `to be tried again now`
    pub became: &'static str,
    /// What the question says after the deliveries that are meant.
    pub caution: &'static str,
    /// The state it suits; none is any.
    pub state: Option<State>,
    /// Whether the state was asked for, which is a filter by itself.
    pub state_chosen: bool,
}

impl Deed {
    /// Whether what it said holds for some recipients, and the delivery stays open for others.
    fn leaves_recipients(&self, row: &Changed) -> bool {
        self.act == (Act::Resolve { delivered: true }) && row.became != "delivered"
    }
}

/// What is left of a mail after it was resolved as delivered to those in doubt.
pub(super) fn left_open(became: &str, name: &str) -> String {
    if became == "dead" {
        format!("dead: other recipients refused it; who: outboxd show {name}")
    } else {
        "tried again now, for those who deferred it".to_owned()
    }
}

impl Chosen {
    /// Does it, to one message's deliveries or to all that fit.
    pub async fn run(&self, config: &Config, deed: &Deed) -> Answer {
        let verb = deed.verb;
        let all = !self.filter.is_empty() || deed.state_chosen;
        if self.name.is_some() == all {
            return Err(Failure::Usage(if self.name.is_some() {
                format!("{verb} a named delivery, or all that fit a filter, not both")
            } else {
                format!(
                    "name what to {verb}: MESSAGE[/SINK[/TARGET]], or all that fit --sink, --type, \
                     --key, --reason, --older-than"
                )
            }));
        }
        let link = connect(config);
        same_installation(&link, config).await?;
        match &self.name {
            Some(Named::Delivery(name)) => self.one(&link, name, deed).await,
            Some(Named::File(name)) => mail::act(&link, name, deed, self.json).await,
            None => self.all(&link, deed).await,
        }
    }

    async fn one(&self, link: &Link, name: &DeliveryName, deed: &Deed) -> Answer {
        let (id, sink, target) = (name.message_id, name.sink.as_deref(), name.target.as_deref());
        if deed.act == (Act::Resolve { delivered: false }) {
            not_yet(link, name).await?;
        }
        let changed = act_on_message(link, deed.act, id, sink, target, &actor()).await?;
        if changed.is_empty() {
            let wanted = deed.state.map_or("open", State::word);
            return Err(unchanged(link, name, deed.verb, wanted).await?);
        }
        if self.json {
            say_json(&changed_json(deed.done, &changed));
        } else {
            let count = words::deliveries(changed.len() as u64);
            say(&format!("{count} {}: {}", deed.became, names(&changed).join(", ")));
            for row in changed.iter().filter(|row| row.was == "sending") {
                let name = delivery_name(id, &row.sink, &row.target);
                say(&format!(
                    "{name} is in flight and not recalled; if it arrives, that is recorded"
                ));
            }
            if deed.act == Act::Discard && changed.iter().any(|row| row.was == "pending") {
                say("what is in flight is not recalled");
            }
            for row in changed.iter().filter(|row| deed.leaves_recipients(row)) {
                let name = delivery_name(id, &row.sink, &row.target);
                say(&format!("{name} is {}", left_open(&row.became, &name)));
            }
        }
        Ok(Verdict::Ok)
    }

    async fn all(&self, link: &Link, deed: &Deed) -> Answer {
        // Without a state of its own a deed would hit whatever is open.
        let state = deed.state.ok_or_else(|| {
            Failure::Usage(format!("say which are meant with --state; {} is for good", deed.verb))
        })?;
        let (verb, filter) = (deed.verb, self.filter.in_words());
        let what = format!("{} deliveries{filter}", state.word());
        let found = self.count(link, state).await?;
        let question = format!("{verb} {found} {what}{}", deed.caution);
        if !found.is_zero() && !self.yes && !confirmed(&question)? {
            say_aside("nothing was changed");
            return Ok(Verdict::Ok);
        }
        let (mut done, mut left, mut open) = (0, 0, 0);
        let who = actor();
        let mut walk = Walk::all(link, &self.filter, state).await?;
        while let Some(page) = walk.next().await? {
            if page.is_empty() {
                continue;
            }
            let page: Vec<Looked> = page.iter().map(looked).collect();
            let changed = act_on_page(link, deed.act, &page, &who).await?;
            open += changed.iter().filter(|row| deed.leaves_recipients(row)).count() as u64;
            done += changed.len() as u64;
            left += (page.len() - changed.len()) as u64;
        }
        if self.json {
            say_json(&json!({ deed.done: done, "left": left }));
        } else if done + left == 0 {
            say(&format!("no {what}: nothing to do"));
        } else {
            say(&format!("{}{filter} {}", words::deliveries(done), deed.became));
        }
        if open > 0 {
            say_aside(&format!(
                "of these {open} stay open for other recipients: some deferred, or refused; look: \
                 outboxd list"
            ));
        }
        if left > 0 {
            let waiting = if deed.act == (Act::Resolve { delivered: false }) {
                "a relay that fell silent may yet be sending them, or they changed meanwhile"
            } else {
                "they changed meanwhile"
            };
            say_aside(&format!("{} left as they are: {waiting}", words::deliveries(left)));
        }
        Ok(Verdict::wrong_if(left > 0))
    }

    /// How many fit, up to the limit of every count.
    async fn count(&self, link: &Link, state: State) -> Result<Count, Failure> {
        let mut walk = Walk::all(link, &self.filter, state).await?;
        let mut found = 0;
        while let Some(page) = walk.next().await? {
            found += page.len();
            if found as u64 > Count::LIMIT {
                break;
            }
        }
        Ok(Count::new(i64::try_from(found).unwrap_or(i64::MAX)))
    }
}

pub(super) fn looked(row: &OpenRow) -> Looked {
    Looked {
        message_id: row.message_id,
        sink: row.sink.clone(),
        target: row.target.clone(),
        seen: row.rev,
    }
}

pub(super) fn names(changed: &[Changed]) -> Vec<String> {
    changed.iter().map(|row| delivery_name(row.message_id, &row.sink, &row.target)).collect()
}

pub(super) fn changed_json(done: &str, changed: &[Changed]) -> Value {
    json!({
        done: changed.len(),
        "deliveries": names(changed),
        "was": changed.iter().map(|row| &row.was).collect::<Vec<_>>(),
        "became": changed.iter().map(|row| &row.became).collect::<Vec<_>>(),
    })
}

/// Asks on a terminal; elsewhere nobody can answer, and it must have been said before.
pub(super) fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("this would {question}; say so with --yes")));
    }
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{question}? [y/N] ");
    let _ = err.flush();
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Refuses to send again what a relay that fell silent may yet be sending.
async fn not_yet(link: &Link, name: &DeliveryName) -> Result<(), Failure> {
    let rows = deliveries(link, name.message_id).await?;
    let held = rows.iter().filter(|r| r.state == "held" && name.takes(&r.sink, &r.target));
    let waiting = held.filter_map(|row| Some((row, row.hold_until?, row.hold_for?)));
    let longest = waiting.max_by(|a, b| a.2.total_cmp(&b.2));
    let Some((row, until, left)) = longest.filter(|(.., left)| *left > 0.0) else {
        return Ok(());
    };
    Err(Failure::Fault(format!(
        "{} cannot be sent again before {}, {left:.0} s from now: until then the relay that fell \
         silent while it sent it may yet be at it",
        delivery_name(name.message_id, &row.sink, &row.target),
        words::moment(until),
    )))
}

/// Why nothing changed: what the deliveries are instead, and who was faster.
pub(super) async fn unchanged(
    link: &Link,
    name: &DeliveryName,
    verb: &str,
    wanted: &str,
) -> Result<Failure, Failure> {
    let id = name.message_id;
    let rows = deliveries(link, id).await?;
    if rows.is_empty() && message(link, id).await?.is_none() {
        return Ok(unknown(id));
    }
    let rows: Vec<&DeliveryRow> =
        rows.iter().filter(|row| name.takes(&row.sink, &row.target)).collect();
    if rows.is_empty() {
        return Ok(no_such_delivery(name));
    }
    let acted = actions(link, id).await?;
    // Of one that was replayed, what became of it last.
    let is_last = |row: &DeliveryRow| {
        rows.iter()
            .all(|r| (&r.sink, &r.target) != (&row.sink, &row.target) || r.round <= row.round)
    };
    let states: Vec<String> = rows
        .iter()
        .filter(|row| is_last(row))
        .map(|row| {
            let due = row.due_at.map(|_| format!(", due {}", words::due(row.due_in)));
            let named = delivery_name(id, &row.sink, &row.target);
            let last = acted.iter().rfind(|action| {
                action.sink.as_deref() == Some(&row.sink)
                    && action.target.as_deref() == Some(&row.target)
            });
            let by = last.map(|action| {
                let note = action.note.as_ref().map(|note| format!(" ({note})"));
                let (did, at) = (words::did(&action.verb), words::moment(action.acted_at));
                format!("; {} {did} it at {at}{}", action.actor, note.unwrap_or_default())
            });
            format!("{named} is {}{}{}", row.state, due.unwrap_or_default(), by.unwrap_or_default())
        })
        .collect();
    Ok(Failure::Fault(format!("nothing {wanted} to {verb}: {}", states.join("; "))))
}
