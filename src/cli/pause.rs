//! `outboxd pause` and `outboxd resume`: a sink, a route or everything waits, or goes on.

use clap::Args;
use serde_json::json;

use super::actor::actor;
use super::bulk::looked;
use super::filter::{Filter, Walk, Which, no_such_sink};
use super::resume_restored::resume_restored;
use super::words::{self, DeliveryName};
use super::{Answer, Failure, Verdict, connect, same_installation, say, say_aside, say_json};
use crate::config::Config;
use crate::pattern::TypePattern;
use crate::store::inspect::act::{Looked, release_page};
use crate::store::inspect::known_sinks;
use crate::store::inspect::pause::{
    RouteName, pause_all, pause_route, pause_sink, paused, paused_routes, routes_in_force,
};
use crate::store::inspect::status::status;
use crate::store::{Link, StoreError};

const PAUSE_EXAMPLES: &str = "\
Examples:
  outboxd pause --sink crm                        nothing more starts through this sink
  outboxd pause --route mail --type 'newsletter.*'  only what this route takes
  outboxd pause --route mail/office               the route of that name
  outboxd pause --all                             nothing more starts at all

What is in flight is not recalled. Messages are taken meanwhile, and wait.";

const RESUME_EXAMPLES: &str = "\
Examples:
  outboxd resume --sink crm
  outboxd resume --route mail --type 'newsletter.*'
  outboxd resume --all
  outboxd resume --restored                       after a restore; asks first
  outboxd resume --restored --ids-above 4711      the receivers have seen no id above 4711";

/// The reason of a delivery that was put back because its route is paused.
const ROUTE_PAUSED: &str = "route paused";
/// Routes named in an error before the rest is only counted.
const NAMED_MAX: usize = 20;

#[derive(Args)]
#[group(skip)]
struct What {
    /// A sink
    #[arg(long, conflicts_with_all = ["route", "all"])]
    sink: Option<String>,
    /// A route, by its sink and, if it has one, its name
    #[arg(long, value_name = "SINK[/NAME]", conflicts_with = "all")]
    route: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
    /// Of several routes, the one of this type, written as in the config
    #[arg(long = "type", value_name = "PATTERN", value_parser = TypePattern::parse, requires = "route")]
    pattern: Option<TypePattern>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = PAUSE_EXAMPLES)]
pub(super) struct Pause {
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
#[command(after_help = RESUME_EXAMPLES)]
pub(super) struct Resume {
    #[command(flatten)]
    what: What,
    /// The original is stopped, and this restored copy takes its place
    #[arg(long, conflicts_with_all = ["sink", "route", "all"])]
    restored: bool,
    /// The highest message id that the receivers have seen; without it, ids go on a billion higher
    #[arg(long, value_name = "ID", requires = "restored", value_parser = clap::value_parser!(i64).range(0..))]
    ids_above: Option<i64>,
    /// Do not ask
    #[arg(long, requires = "restored")]
    yes: bool,
}

impl Pause {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        same_installation(&link, config).await?;
        let (name, changed) = self.what.set(&link, true).await?;
        if self.what.json {
            say_json(&json!({ "paused": name, "changed": changed }));
        } else if changed {
            say(&format!("{name} is paused; what is in flight is not recalled"));
        } else {
            say(&format!("{name} is paused already: nothing to do"));
        }
        Ok(Verdict::Ok)
    }
}

impl Resume {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        same_installation(&link, config).await?;
        if self.restored {
            let (ids_above, json) = (self.ids_above, self.what.json);
            return resume_restored(&link, config, ids_above, self.yes, json).await;
        }
        if self.what.all {
            not_restored(&link).await?;
        }
        let (name, changed) = self.what.set(&link, false).await?;
        // Also where it went on already: a resume that was interrupted left some of them waiting.
        let released = match &self.what.route {
            Some(route) => release(&link, route).await?,
            None => 0,
        };
        if self.what.json {
            say_json(&json!({ "resumed": name, "changed": changed, "released": released }));
        } else if !changed && released == 0 {
            say(&format!("{name} is not paused: nothing to do"));
        } else {
            let due = (released > 0)
                .then(|| format!("; due now: {} that waited for it", words::deliveries(released)));
            say(&format!("{name} goes on{}", due.unwrap_or_default()));
        }
        if self.what.all {
            still_paused(&link).await?;
        }
        Ok(Verdict::Ok)
    }
}

impl What {
    /// Pauses it, or lets it go on; its name, and whether that changed anything.
    async fn set(&self, link: &Link, pause: bool) -> Result<(String, bool), Failure> {
        let who = actor();
        if let Some(sink) = &self.sink {
            let known = known_sinks(link).await?;
            if !known.contains(sink) {
                return Err(no_such_sink(sink, &known));
            }
            return Ok((format!("sink {sink}"), pause_sink(link, sink, pause, &who).await?));
        }
        if let Some(name) = &self.route {
            let route = self.find(link, name, pause).await?;
            let Some(route) = route else { return Ok((format!("route {name}"), false)) };
            let changed = pause_route(link, &route, pause, &who).await?;
            return Ok((in_words(&route), changed));
        }
        if !self.all {
            let words = "say what: --sink SINK, --route SINK[/NAME] or --all";
            return Err(Failure::Usage(words.to_owned()));
        }
        Ok(("everything".to_owned(), pause_all(link, pause, &who).await?))
    }

    /// The one route that is meant: of those in force, or of those that are paused. None where nothing
    /// is paused of what is to go on.
    async fn find(
        &self,
        link: &Link,
        name: &str,
        pause: bool,
    ) -> Result<Option<RouteName>, Failure> {
        let all: Vec<RouteName> = if pause {
            routes_in_force(link).await?
        } else {
            paused_routes(link).await?.into_iter().map(|paused| paused.route).collect()
        };
        let (sink, target) = sink_and_target(name)?;
        let pattern = self.pattern.as_ref().map(ToString::to_string);
        let meant: Vec<&RouteName> = all
            .iter()
            .filter(|route| route.sink == sink && route.target == target)
            .filter(|route| pattern.as_ref().is_none_or(|pattern| *pattern == route.pattern))
            .collect();
        match meant[..] {
            [route] => Ok(Some(route.clone())),
            [] if !pause => Ok(None),
            [] => Err(Failure::Fault(format!(
                "no such route is in force; these are: {}",
                listed(&all.iter().collect::<Vec<_>>())
            ))),
            _ => Err(Failure::Fault(format!(
                "several routes are meant; name one with --type: {}",
                listed(&meant)
            ))),
        }
    }
}

/// `SINK` or `SINK/NAME`, read as the names of deliveries are.
fn sink_and_target(text: &str) -> Result<(String, String), Failure> {
    let name: DeliveryName = format!("1/{text}")
        .parse()
        .map_err(|wrong| Failure::Usage(format!("--route {text}: {wrong}")))?;
    Ok((name.sink.unwrap_or_default(), name.target.unwrap_or_default()))
}

fn in_words(route: &RouteName) -> String {
    let slash = if route.target.is_empty() { "" } else { "/" };
    format!("route {} to {}{slash}{}", words::plain(&route.pattern), route.sink, route.target)
}

fn listed(routes: &[&RouteName]) -> String {
    let mut named: Vec<String> =
        routes.iter().take(NAMED_MAX).map(|route| in_words(route)).collect();
    if routes.len() > NAMED_MAX {
        named.push(format!("{} more", routes.len() - NAMED_MAX));
    }
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}

/// What was paused because it is not the cluster that it was does not go on like this.
async fn not_restored(link: &Link) -> Result<(), Failure> {
    let all = paused(link).await?;
    match all.paused_for.as_deref() {
        Some(why) if all.paused && why != "operator" => Err(Failure::Fault(format!(
            "paused because this is not the cluster that it was ({}); if it is to deliver from now \
             on, and the former one no more, use: outboxd resume --restored",
            words::plain(why)
        ))),
        _ => Ok(()),
    }
}

/// Names what waits on although not everything is paused any more: sinks and routes have pauses of
/// their own.
async fn still_paused(link: &Link) -> Result<(), StoreError> {
    let status = status(link).await?;
    let sinks = status.sinks.iter().filter(|sink| sink.paused);
    let sinks = sinks.map(|sink| format!("sink {}", sink.name));
    let routes = status.paused_routes.iter().map(|paused| in_words(&paused.route));
    let paused: Vec<String> = sinks.chain(routes).collect();
    if !paused.is_empty() {
        let which = paused.join(", ");
        say_aside(&format!("paused by themselves, and still: {which}; see: outboxd status"));
    }
    Ok(())
}

/// Lets fall due what was put back while a route was paused. What belongs to another paused route of the
/// sink is put back again by its owner.
async fn release(link: &Link, route: &str) -> Result<u64, Failure> {
    let (sink, target) = sink_and_target(route)?;
    let known = known_sinks(link).await?;
    if !known.contains(&sink) {
        return Err(no_such_sink(&sink, &known));
    }
    let which = Which { sink: Some(sink), ..Which::default() };
    let filter = Filter { which, reason: Some(ROUTE_PAUSED.to_owned()), ..Filter::default() };
    let mut walk = Walk::later(link, &filter).await?;
    let mut released = 0;
    while let Some(page) = walk.next().await? {
        let page: Vec<Looked> =
            page.iter().filter(|row| row.target == target).map(looked).collect();
        if !page.is_empty() {
            released += release_page(link, &page).await?.len() as u64;
        }
    }
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_named_by_sink_and_name() {
        let both = |sink: &str, name: &str| (sink.to_owned(), name.to_owned());
        assert_eq!(sink_and_target("crm").unwrap(), both("crm", ""));
        assert_eq!(sink_and_target("mail/office").unwrap(), both("mail", "office"));
        for wrong in ["", "crm/", "a/b/c", "CRM"] {
            assert!(sink_and_target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn long_lists_of_routes_end() {
        let route =
            RouteName { pattern: "a.*".to_owned(), sink: "crm".to_owned(), target: String::new() };
        let many: Vec<&RouteName> = std::iter::repeat_n(&route, NAMED_MAX + 2).collect();
        assert!(listed(&many).ends_with("route a.* to crm, 2 more"));
        assert_eq!(listed(&[]), "none");
    }
}
