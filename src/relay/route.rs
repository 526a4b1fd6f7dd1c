//! Route: which of the config's routes a delivery belongs to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::{Route, SinkConfig};
use crate::hex::hex;
use crate::policy::Lane;
use crate::store::inspect::pause::RouteName;
use crate::store::routes::RouteRow;

/// The routes that operators paused, as they were last read.
#[derive(Debug, Default)]
pub struct Paused(Mutex<BTreeSet<RouteName>>);

impl Paused {
    /// Takes the place of what was known; answers the routes that go on.
    pub fn set(&self, routes: BTreeSet<RouteName>) -> Vec<RouteName> {
        let mut paused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let go_on = paused.difference(&routes).cloned().collect();
        *paused = routes;
        go_on
    }

    /// Whether a route is paused.
    #[must_use]
    pub fn has(&self, route: &Route) -> bool {
        let paused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nearly always nothing is, and this is asked for every attempt.
        !paused.is_empty()
            && route.sink.as_ref().is_some_and(|sink| {
                let (pattern, target) = (route.pattern.to_string(), route.target.clone());
                paused.contains(&RouteName { pattern, sink: sink.to_string(), target })
            })
    }
}

/// The config's routes, ready for look-up by delivery.
#[derive(Debug)]
pub struct Routes {
    all: Vec<Route>,
    /// For each sink and target, indexes into `all`, the most specific first.
    by_way: BTreeMap<(String, String), Vec<usize>>,
}

impl Routes {
    /// Sorts the routes of a config.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Routes {
        let mut by_way: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for (index, route) in routes.iter().enumerate() {
            let sink = route.sink.as_ref().map_or(String::new(), ToString::to_string);
            by_way.entry((sink, route.target.clone())).or_default().push(index);
        }
        for indexes in by_way.values_mut() {
            indexes.sort_by_key(|index| std::cmp::Reverse(routes[*index].pattern.specificity()));
        }
        Routes { all: routes, by_way }
    }

    /// The route of a delivery: the most specific one of its sink and target that takes the type.
    /// None where another relay with another config routed it.
    #[must_use]
    pub fn of(&self, sink: &str, target: &str, message_type: &str) -> Option<&Route> {
        let indexes = self.by_way.get(&(sink.to_owned(), target.to_owned()))?;
        indexes.iter().map(|i| &self.all[*i]).find(|route| route.pattern.matches(message_type))
    }

    /// The lanes that routes to a sink use, and the longest retry horizon of any of them.
    #[must_use]
    pub fn needs_of(&self, sink: &SinkConfig) -> (Vec<Lane>, Duration) {
        let own = self.all.iter().filter(|route| route.sink.as_ref() == Some(&sink.name));
        let horizon = own.clone().map(|route| route.policy.retry.horizon()).max();
        let lanes = own.map(|route| route.lane).collect();
        (lanes, horizon.unwrap_or_else(|| sink.policy.retry.horizon()))
    }

    /// The routes as the trigger needs them, in a stable order.
    #[must_use]
    pub fn rows(&self) -> Vec<RouteRow> {
        let mut rows: Vec<RouteRow> = self
            .all
            .iter()
            .map(|route| RouteRow {
                pattern: route.pattern.to_string(),
                sink: route.sink.as_ref().map_or(String::new(), ToString::to_string),
                target: route.target.clone(),
                lane: route.lane.number(),
                exact: route.pattern.is_exact(),
                prefix: route.pattern.prefix(),
                regex: route.pattern.regex(),
                specificity: route.pattern.specificity(),
            })
            .collect();
        rows.sort_by(|a, b| {
            (&a.pattern, &a.sink, &a.target).cmp(&(&b.pattern, &b.sink, &b.target))
        });
        // "Nowhere" may be said twice of a type; anything else the config refuses.
        rows.dedup_by(|a, b| (&a.pattern, &a.sink, &a.target) == (&b.pattern, &b.sink, &b.target));
        rows
    }

    /// A hash of what is mirrored: two configs that route alike have the same, whatever else
    /// differs in them.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        for row in self.rows() {
            digest.update(format!("{}\t{}\t{}", row.pattern, row.sink, row.target));
            // The normal lane goes without saying.
            if row.lane != Lane::Normal.number() {
                digest.update(format!("\t{}", row.lane));
            }
            digest.update("\n");
        }
        hex(&digest.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Content;
    use crate::name::Name;
    use crate::pattern::TypePattern;

    fn route(pattern: &str, sink: &str, target: &str) -> Route {
        Route {
            pattern: TypePattern::parse(pattern).unwrap(),
            sink: Some(Name::parse(sink).unwrap()),
            target: target.to_owned(),
            lane: Lane::Normal,
            policy: crate::policy::Policy::default(),
            content: Content::Message,
        }
    }

    #[test]
    fn the_most_specific_route_of_the_same_sink_and_target_wins() {
        let routes = Routes::new(vec![
            route("*", "crm", ""),
            route("order.*", "crm", ""),
            route("order.created", "crm", "office"),
        ]);
        let found = |target, t| routes.of("crm", target, t).map(|r| r.pattern.to_string());
        assert_eq!(found("", "order.created").unwrap(), "order.*");
        assert_eq!(found("", "user.created").unwrap(), "*");
        assert_eq!(found("office", "order.created").unwrap(), "order.created");
        assert_eq!(found("office", "order.paid"), None);
        assert!(routes.of("mail", "", "order.created").is_none());
    }

    #[test]
    fn nowhere_said_twice_is_mirrored_once() {
        let nowhere = || Route { sink: None, ..route("noise.*", "crm", "") };
        assert_eq!(Routes::new(vec![nowhere(), nowhere()]).rows().len(), 1);
    }

    #[test]
    fn the_hash_depends_on_the_routes_and_not_on_their_order() {
        let one = Routes::new(vec![route("a", "crm", ""), route("b", "crm", "")]);
        let two = Routes::new(vec![route("b", "crm", ""), route("a", "crm", "")]);
        let three = Routes::new(vec![route("b", "crm", "x"), route("a", "crm", "")]);
        assert_eq!(one.hash(), two.hash());
        assert_ne!(one.hash(), three.hash());
        let in_lanes = |lanes: [Lane; 2]| {
            let routes = [route("a", "crm", ""), route("b", "crm", "")];
            let set = |(route, lane)| Route { lane, ..route };
            Routes::new(routes.into_iter().zip(lanes).map(set).collect())
        };
        let [low, normal, high] = [Lane::Low, Lane::Normal, Lane::High];
        let hashes: std::collections::BTreeSet<String> =
            [[low, normal], [normal, low], [high, normal], [low, low], [normal, normal]]
                .map(|lanes| in_lanes(lanes).hash())
                .into();
        assert_eq!(hashes.len(), 5);
        assert_eq!(
            in_lanes([normal, normal]).hash(),
            "a8032b177a2bbcc8b5d1d1b81490a01f772000aa6a1f179a0cf84fe78fb04347",
            "a set without priorities keeps the hash it had before there were any"
        );
        let lanes: Vec<i16> = in_lanes([high, low]).rows().iter().map(|row| row.lane).collect();
        assert_eq!(lanes, [1, -1]);
    }
}
