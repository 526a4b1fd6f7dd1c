//! What the relays say of themselves. Pure.

use std::collections::BTreeSet;

use super::book::finding;
use super::judge::or_well;
use crate::cli::finding::Finding;
use crate::cli::words::age;
use crate::store::doctor::RelayFacts;

/// Characters of a hash that tell two configs apart.
const HASH_SHOWN: usize = 8;

pub(super) fn relays(relays: &[RelayFacts], own_hash: &str) -> Vec<Finding> {
    let (live, silent): (Vec<&RelayFacts>, Vec<&RelayFacts>) =
        relays.iter().partition(|relay| relay.alive);
    let mut found = Vec::new();
    let hashes: BTreeSet<&str> = live.iter().map(|relay| relay.config_hash.as_str()).collect();
    let versions: BTreeSet<&str> = live.iter().map(|relay| relay.version.as_str()).collect();
    let listed = || {
        let hash =
            |relay: &RelayFacts| relay.config_hash.get(..HASH_SHOWN).unwrap_or("?").to_owned();
        let named = live.iter().map(|relay| format!("{} has {}", name(relay), hash(relay)));
        named.collect::<Vec<_>>().join(", ")
    };
    if hashes.len() > 1 {
        found.push(finding("relays-differ", &[("relays", &listed())]));
    } else if hashes.first().is_some_and(|hash| *hash != own_hash) {
        found.push(finding("relays-other-config", &[("relays", &listed())]));
    }
    if versions.len() > 1 {
        let versions = versions.into_iter().collect::<Vec<_>>().join(", ");
        found.push(finding("relays-versions", &[("versions", &versions)]));
    }
    let cause = if live.is_empty() { "relays-none" } else { "relay-silent" };
    // A relay that was started again on its host is not missed there.
    let missed = silent.iter().filter(|relay| live.iter().all(|other| other.host != relay.host));
    let last = missed.min_by_key(|relay| relay.heartbeat_age);
    if let Some(relay) = last {
        let (relay, age) = (name(relay), age(relay.heartbeat_age));
        found.push(finding(cause, &[("relay", &relay), ("age", &age)]));
    }
    let deaf = live.iter().filter(|relay| relay.listens == Some(false));
    found.extend(deaf.map(|relay| finding("relay-deaf", &[("relay", &name(relay))])));
    or_well(found, "relays", || match live.len() {
        0 => "none has run yet, or all were stopped in order".to_owned(),
        count => format!("{count} live, with this config"),
    })
}

fn name(relay: &RelayFacts) -> String {
    format!("relay {} (pid {})", relay.host, relay.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(host: &str, hash: &str, alive: bool) -> RelayFacts {
        RelayFacts {
            host: host.to_owned(),
            config_hash: hash.to_owned(),
            version: "1".to_owned(),
            heartbeat_age: 90,
            alive,
            ..RelayFacts::default()
        }
    }

    fn causes(list: &[RelayFacts]) -> Vec<&'static str> {
        relays(list, "mine").iter().filter_map(|one| one.cause).collect()
    }

    #[test]
    fn what_relays_do_not_have_in_common_is_told() {
        assert_eq!(causes(&[]), [""; 0]);
        assert_eq!(causes(&[relay("a", "mine", true), relay("b", "mine", true)]), [""; 0]);
        let differ = [relay("a", "mine", true), relay("b", "other", true)];
        assert_eq!(causes(&differ), ["relays-differ"]);
        assert_eq!(causes(&[relay("a", "other", true)]), ["relays-other-config"]);
        let newer = RelayFacts { version: "2".to_owned(), ..relay("b", "mine", true) };
        assert_eq!(causes(&[relay("a", "mine", true), newer]), ["relays-versions"]);
        let deaf = RelayFacts { listens: Some(false), ..relay("a", "mine", true) };
        assert_eq!(causes(&[deaf]), ["relay-deaf"]);
    }

    #[test]
    fn a_silent_relay_is_missed_unless_its_host_has_another() {
        assert_eq!(causes(&[relay("a", "mine", false)]), ["relays-none"]);
        let other = [relay("a", "mine", false), relay("b", "mine", true)];
        assert_eq!(causes(&other), ["relay-silent"]);
        let again = [relay("a", "old", false), relay("a", "mine", true)];
        assert_eq!(causes(&again), [""; 0]);
    }
}
