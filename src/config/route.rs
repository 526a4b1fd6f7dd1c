//! `[[routes]]`: which message goes where, and what is made of it.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::Wrong;
use super::item::{Item, quote};
use super::policy::{self, HTTP_CODES, SMTP_CODES};
use super::read::Section;
use super::sink::{self, Kind, Kinds, PACE_KEYS};
use super::{Content, Route, SinkConfig, Way, mail};
use crate::name::Name;
use crate::pattern::TypePattern;
use crate::policy::{Lane, Policy};

const LANES: [(&str, Lane); 3] =
    [("high", Lane::High), ("normal", Lane::Normal), ("low", Lane::Low)];

/// A route with its place, for comparing it with the others; without content if that has faults.
struct Placed {
    line: usize,
    path: String,
    pattern: TypePattern,
    sink: Option<Name>,
    target: String,
    lane: Lane,
    policy: Policy,
    content: Option<Content>,
}

/// A sink a route names; without its kind if that has faults.
type Named = (Name, Option<Kind>);

/// The sinks without faults.
type Sinks = BTreeMap<Name, SinkConfig>;

/// Reads all routes, one for each sink a block names.
pub(super) fn read(root: &mut Section, kinds: &Kinds, sinks: &Sinks) -> Vec<Route> {
    let Some(item) = root.get("routes") else { return Vec::new() };
    if item.is_table() {
        item.fault("is a table", "write [[routes]] with two brackets");
        return Vec::new();
    }
    let blocks = item.list().unwrap_or_default();
    let placed: Vec<Placed> = blocks.iter().flat_map(|block| routes(block, kinds, sinks)).collect();
    for (index, later) in placed.iter().enumerate() {
        if let Some(earlier) = placed[..index].iter().find(|earlier| rivals(earlier, later)) {
            report(root, earlier, later);
        }
    }
    let route = |placed: Placed| {
        let Placed { pattern, sink, target, lane, policy, content, .. } = placed;
        Some(Route { pattern, sink, target, lane, policy, content: content? })
    };
    placed.into_iter().filter_map(route).collect()
}

/// Whether some message would not know which of two routes to take.
fn rivals(one: &Placed, other: &Placed) -> bool {
    one.sink.is_some()
        && one.sink == other.sink
        && one.target == other.target
        && one.pattern.specificity() == other.pattern.specificity()
        && one.pattern.overlaps(&other.pattern)
}

fn report(root: &Section, earlier: &Placed, later: &Placed) {
    let sink = later.sink.as_ref().map_or("", Name::as_str);
    let problem = format!(
        "{} and {} on line {} are equally specific and share types for sink {sink}",
        quote(&later.pattern.to_string()),
        quote(&earlier.pattern.to_string()),
        earlier.line
    );
    let remedy = "give one of them a name, to deliver both, or a narrower type";
    let key = format!("{}.type", later.path);
    root.source.fault(later.line, &key, Wrong::new(problem, remedy));
}

fn routes(block: &Item, kinds: &Kinds, configs: &Sinks) -> Vec<Placed> {
    let Some(mut section) = block.section() else { return Vec::new() };
    for key in PACE_KEYS {
        section.refuse(key, "is a sink's, for all its routes", "write it in [sinks.NAME]");
    }
    let pattern = section.need("type", "write type = \"order.created\" or \"order.*\"");
    let line = pattern.as_ref().map_or(section.line, |item| item.line);
    let pattern = pattern.and_then(|item| {
        let pattern = TypePattern::parse(&item.text()?);
        pattern.map_err(|problem| item.fault(problem, "")).ok()
    });
    let target = section.get("name").map_or(Some(String::new()), |item| {
        let name = item.name()?;
        Some(name.as_str().to_owned())
    });
    let sinks = section
        .need("sink", "write sink = \"NAME\", or sink = [] for nowhere")
        .and_then(|item| sinks(item, kinds));
    let contents = contents(&mut section, sinks.as_deref(), configs);
    let (priority, written) = attempts(&mut section, sinks.as_deref());
    let own = |(name, kind): &Named| {
        let base = configs.get(name).map(|sink| sink.policy.clone()).unwrap_or_default();
        // A cut takes what gathered in the normal lane, and attempts nothing.
        if *kind == Some(Kind::Csv) {
            return (Lane::default(), base);
        }
        let policy = written.over(&base);
        if *kind == Some(Kind::Webhook) {
            policy::refuse_doubtful(&mut section, &policy);
        }
        (priority, policy)
    };
    let policies: Vec<(Lane, Policy)> = sinks.iter().flatten().map(own).collect();
    section.close();
    let (Some(pattern), Some(target), Some(sinks)) = (pattern, target, sinks) else {
        return Vec::new();
    };
    let place = |sink, lane, policy, content| {
        let (pattern, target) = (pattern.clone(), target.clone());
        Placed { line, path: block.path.clone(), pattern, sink, target, lane, policy, content }
    };
    if sinks.is_empty() {
        return vec![place(None, Lane::default(), Policy::default(), Some(Content::Message))];
    }
    let somewhere = sinks.into_iter().zip(policies).zip(contents);
    let somewhere = somewhere
        .map(|(((name, _), (lane, policy)), content)| place(Some(name), lane, policy, content));
    somewhere.collect()
}

/// What a route says of the attempts of its deliveries. There must be some: a csv sink has none.
fn attempts(section: &mut Section, sinks: Option<&[Named]>) -> (Lane, policy::Written) {
    let has = |wanted| sinks.is_some_and(|sinks| sinks.iter().any(|(_, kind)| *kind == wanted));
    if sinks.is_some() && !has(Some(Kind::Webhook)) && !has(Some(Kind::Smtp)) && !has(None) {
        for key in policy::KEYS.into_iter().chain(["priority"]) {
            let remedy = "remove it, or name a sink of kind \"webhook\" or \"smtp\"";
            section.refuse(key, "only a webhook or a mail has this", remedy);
        }
        return Default::default();
    }
    let lane = section.get("priority").and_then(|item| item.choice(&LANES)).unwrap_or_default();
    // A code that no mail server answers would do nothing there.
    let codes = if has(Some(Kind::Smtp)) { SMTP_CODES } else { HTTP_CODES };
    (lane, policy::Written::read(section, &codes))
}

/// The sinks a route names, each declared, none twice.
fn sinks(item: Item, kinds: &Kinds) -> Option<Vec<Named>> {
    let mut seen = BTreeSet::new();
    let mut sinks = Vec::new();
    let items = item.one_or_many()?;
    for item in &items {
        let Some(text) = item.text() else { continue };
        let Some(kind) = kinds.get(&text) else {
            sink::refuse_unknown(item, &text, kinds);
            continue;
        };
        if *kind == Some(Kind::Export) {
            let problem = format!("{} is an export, whose rows come from its query", item.shown());
            item.fault(problem, "name a sink; of kind \"csv\" for files of messages");
            continue;
        }
        if !seen.insert(text.clone()) {
            item.fault(format!("{} is there twice", item.shown()), "keep one of the two");
            continue;
        }
        // A sink with a bad name has its fault already.
        sinks.push((Name::parse(&text).ok()?, *kind));
    }
    (sinks.len() == items.len()).then_some(sinks)
}

/// What each sink gets, or nothing where that has faults. The keys of a mail must be there for a
/// mail server and fit nothing else.
fn contents(
    section: &mut Section,
    sinks: Option<&[Named]>,
    configs: &Sinks,
) -> Vec<Option<Content>> {
    let Some(sinks) = sinks else {
        section.knows(&mail::KEYS);
        return Vec::new();
    };
    let has = |wanted| sinks.iter().any(|(_, kind)| *kind == wanted);
    if has(Some(Kind::Smtp)) || has(None) {
        section.knows(&mail::KEYS);
    } else {
        for key in mail::KEYS {
            let remedy = "remove it, or name a sink of kind \"smtp\"";
            section.refuse(key, "only a mail has this", remedy);
        }
    }
    let server = |name: &Name| match &configs.get(name)?.way {
        Way::Smtp(way) => Some(way),
        Way::Webhook(_) | Way::Csv(_) => None,
    };
    let content = |(name, kind): &Named| match kind {
        Some(Kind::Smtp) => {
            mail::read(section, server(name)).map(|mail| Content::Mail(Box::new(mail)))
        }
        Some(Kind::Webhook | Kind::Csv) => Some(Content::Message),
        Some(Kind::Export) | None => None,
    };
    sinks.iter().map(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::testing::{SINKS, parse, refusal, refuses};

    const MAIL: &str = "to = \"a@b.example\"\nsubject = \"S\"\ntext = \"T\"\n";

    fn with(routes: &str) -> Config {
        parse(&format!("{SINKS}{routes}")).unwrap()
    }

    /// The routes start on line 13, behind the sinks.
    fn check(routes: &str, fault: &str) {
        refuses(&format!("{SINKS}{routes}"), &[&format!("outboxd.toml:{fault}")]);
    }

    #[test]
    fn a_block_becomes_a_route_for_each_sink() {
        let block =
            "[[routes]]\ntype = \"order.*\"\nsink = [\"crm\", \"mail\"]\nname = \"office\"\n";
        let config = with(&format!("{block}{MAIL}[[routes]]\ntype = \"noise\"\nsink = []\n"));
        let routes: Vec<(&str, &str, bool)> = config
            .routes
            .iter()
            .map(|route| {
                let sink = route.sink.as_ref().map_or("-", Name::as_str);
                (sink, &*route.target, matches!(route.content, Content::Mail(_)))
            })
            .collect();
        assert_eq!(routes, [("crm", "office", false), ("mail", "office", true), ("-", "", false)]);
    }

    #[test]
    fn routes_that_differ_in_name_sink_or_width_live_together() {
        let crm = |pattern: &str, more: &str| {
            format!("[[routes]]\ntype = \"{pattern}\"\nsink = \"crm\"\n{more}")
        };
        for pair in [
            [crm("order.*", ""), crm("order.created", "")],
            [crm("order.*", ""), crm("order.*", "name = \"b\"\n")],
            [crm("order.*", ""), crm("payment.*", "")],
            [crm("a", ""), "[[routes]]\ntype = \"a\"\nsink = \"file\"\n".to_owned()],
        ] {
            assert_eq!(with(&pair.concat()).routes.len(), 2, "{pair:?}");
        }
        check(
            &format!("{}{}", crm("order.*", ""), crm("*.created", "")),
            "17: routes[1].type: \"*.created\" and \"order.*\" on line 14 are equally specific and \
             share types for sink crm; give one of them a name, to deliver both, or a narrower type",
        );
        let mail = "[[routes]]\ntype = \"a\"\nsink = \"mail\"\n";
        let fault = refusal(&format!("{SINKS}{mail}{MAIL}{mail}subject = \"S\"\ntext = \"T\"\n"));
        assert!(fault.contains(":19: routes[1].to: is missing"), "{fault}");
        assert!(fault.contains(":20: routes[1].type: \"a\" and \"a\" on line 14 are"), "{fault}");
    }

    #[test]
    fn faults_of_any_route() {
        let any = "type = \"a\"\nsink = \"crm\"\n";
        for (text, fault) in [
            (
                "sink = \"crm\"",
                "13: routes[0].type: is missing; write type = \"order.created\" or \"order.*\"",
            ),
            (
                "type = \"a*\"\nsink = \"crm\"",
                "14: routes[0].type: \"a*\" mixes * with text; * stands alone between dots",
            ),
            (
                "type = \"a\"",
                "13: routes[0].sink: is missing; write sink = \"NAME\", or sink = [] for nowhere",
            ),
            (
                "type = \"a\"\nsink = \"cmr\"",
                "15: routes[0].sink: there is no sink \"cmr\"; did you mean \"crm\"?",
            ),
            (
                "type = \"a\"\nsink = [\"crm\", \"kafka\"]",
                "15: routes[0].sink[1]: there is no sink \"kafka\"; \
                 write a table [sinks.NAME] for it",
            ),
            (
                "type = \"a\"\nsink = [\"crm\", \"crm\"]",
                "15: routes[0].sink[1]: \"crm\" is there twice; keep one of the two",
            ),
            (
                "type = \"a\"\nsink = true",
                "15: routes[0].sink: is a boolean; write a string or a list of strings",
            ),
            (
                "type = \"a\"\nsink = []\ntext = \"x\"",
                "16: routes[0].text: only a mail has this; \
                 remove it, or name a sink of kind \"smtp\"",
            ),
        ] {
            check(&format!("[[routes]]\n{text}\n"), fault);
        }
        for (text, fault) in [
            (
                "name = \"B\"",
                "name: \"B\" is no name; use a lower-case letter, then up to 39 of a-z, 0-9 and -",
            ),
            ("to = \"x\"", "to: only a mail has this; remove it, or name a sink of kind \"smtp\""),
            ("nmae = \"x\"", "nmae: is unknown; did you mean name?"),
        ] {
            check(&format!("[[routes]]\n{any}{text}\n"), &format!("16: routes[0].{fault}"));
        }
        check("[routes]\n", "13: routes: is a table; write [[routes]] with two brackets");
        refuses("routes = 3", &["outboxd.toml:1: routes: is an integer; write a list: [ … ]"]);
        refuses("routes = [3]", &["outboxd.toml:1: routes[0]: is an integer; write a table"]);
    }

    #[test]
    fn faults_of_what_a_route_says_of_its_attempts() {
        for (text, fault) in [
            ("priority = 1", "priority: is an integer; write a string"),
            (
                "priority = \"urgent\"",
                "priority: \"urgent\" is unknown; use \"high\", \"normal\", \"low\"",
            ),
            (
                "guarantee = \"x\"",
                "guarantee: \"x\" is unknown; use \"at-least-once\", \"at-most-once\"",
            ),
            ("permanent = [200]", "permanent[0]: 200 is out of range; 300 to 599"),
            ("rerender = 1", "rerender: is an integer; write true or false"),
            ("expires_after = \"0s\"", "expires_after: \"0s\" is out of range; 1s to 365d"),
            ("retry = { }", "retry: says nothing; write { delays = [\"5s\", \"5m\"] }"),
            ("rate = \"14/s\"", "rate: is a sink's, for all its routes; write it in [sinks.NAME]"),
            (
                "daily_quota = 1",
                "daily_quota: is a sink's, for all its routes; write it in [sinks.NAME]",
            ),
            (
                "order = \"skip\"",
                "order: is a sink's, for all its routes; write it in [sinks.NAME]",
            ),
        ] {
            let any = "type = \"a\"\nsink = \"crm\"\n";
            check(&format!("[[routes]]\n{any}{text}\n"), &format!("16: routes[0].{fault}"));
        }
        check(
            &format!(
                "[[routes]]\ntype = \"a\"\nsink = [\"crm\", \"mail\"]\n{MAIL}permanent = [301]\n"
            ),
            "19: routes[0].permanent[0]: 301 is out of range; 400 to 599",
        );
    }

    #[test]
    fn a_route_without_attempts_says_nothing_of_them() {
        for sink in ["\"file\"", "[]"] {
            for key in policy::KEYS.into_iter().chain(["priority"]) {
                check(
                    &format!("[[routes]]\ntype = \"a\"\nsink = {sink}\n{key} = 1\n"),
                    &format!(
                        "16: routes[0].{key}: only a webhook or a mail has this; \
                         remove it, or name a sink of kind \"webhook\" or \"smtp\""
                    ),
                );
            }
        }
    }

    #[test]
    fn the_lane_is_the_routes_and_never_that_of_a_file() {
        let route = |sink: &str, more: &str| {
            format!(
                "[[routes]]\ntype = \"{sink}\"\nsink = [\"{sink}\", \"file\"]\nname = \"n{}\"\n{more}",
                more.len()
            )
        };
        let config = with(
            &[
                route("crm", "priority = \"high\"\n"),
                route("crm", "priority = \"low\"\n"),
                route("crm", ""),
            ]
            .concat(),
        );
        let lanes: Vec<Lane> = config.routes.iter().map(|route| route.lane).collect();
        let normal = Lane::Normal;
        assert_eq!(lanes, [Lane::High, normal, Lane::Low, normal, normal, normal]);
    }

    #[test]
    fn a_route_to_a_sink_with_faults_has_none_of_its_own() {
        let text = format!("[sinks.m]\n[[routes]]\ntype = \"a\"\nsink = \"m\"\n{MAIL}");
        let fault = "outboxd.toml:1: sinks.m.kind: is missing; \
                     write kind = \"webhook\", \"smtp\" or \"csv\"";
        refuses(&text, &[fault]);
    }
}
