//! Share: which relay is to work which sink. Pure.
//!
//! Every relay makes the same plan of the same rows, and does its own part of it: takes what is
//! free and meant for it, and gives up what is meant for another. The plan starts from what is: a
//! sink stays where it is unless moving it evens the shares out, so a plan that was carried out is
//! followed by the same plan, and nothing moves any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::store::own::SinkRow;

/// What one relay is to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Sinks whose owner is gone and that are meant for it.
    pub take: BTreeSet<String>,
    /// Sinks it has and that are meant for others, by name. It gives up one at a time.
    pub give: Vec<String>,
    /// Whether another relay still has a sink that is meant for it.
    pub expects: bool,
}

/// The part of `me` in the plan.
#[must_use]
pub fn share(rows: &[SinkRow], me: &str) -> Share {
    let mut share = Share::default();
    for (row, planned) in rows.iter().zip(plan(rows)) {
        let mine = row.owner.as_deref() == Some(me);
        match planned {
            Some(relay) if relay == me && !row.alive => {
                share.take.insert(row.name.clone());
            }
            Some(relay) if relay == me => share.expects |= !mine,
            Some(_) if mine && row.alive => share.give.push(row.name.clone()),
            Some(_) | None => {}
        }
    }
    share
}

/// For each sink the relay that is to work it, none where no relay can.
///
/// The shares are as even as they can be with every relay working only what its config knows.
/// That is reached when no chain of relays, each passing one sink on to the next, leads from a
/// relay to one that has at least two sinks less.
fn plan(rows: &[SinkRow]) -> Vec<Option<&str>> {
    let mut plan = Plan::new(rows);
    plan.place();
    while plan.even_out() {}
    plan.at.iter().map(|relay| relay.map(|relay| plan.relays[relay])).collect()
}

/// Sinks and relays by their place in the rows and in the order of their ids.
struct Plan<'a> {
    relays: Vec<&'a str>,
    /// Which relays may have each sink.
    fit: Vec<Vec<usize>>,
    /// Where each sink is now, if it may stay there.
    present: Vec<Option<usize>>,
    /// Where it is to be.
    at: Vec<Option<usize>>,
    /// How many sinks each relay is to have.
    load: Vec<usize>,
}

impl<'a> Plan<'a> {
    fn new(rows: &'a [SinkRow]) -> Plan<'a> {
        let ids: BTreeSet<&str> =
            rows.iter().flat_map(|r| r.ripe.iter().chain(&r.young)).map(String::as_str).collect();
        let relays: Vec<&str> = ids.into_iter().collect();
        let places: BTreeMap<&str, usize> = relays.iter().copied().zip(0..).collect();
        let place = |id: &String| places[id.as_str()];
        let (mut fit, mut present) = (Vec::new(), Vec::new());
        for row in rows {
            // A draining owner is in neither list: what it has is as good as free.
            let stays = |owner: &&String| row.ripe.contains(owner) || row.young.contains(owner);
            let owner = row.owner.as_ref().filter(|_| row.alive).filter(stays).map(place);
            let mut may: Vec<usize> = row.ripe.iter().map(place).collect();
            match owner {
                Some(owner) if !may.contains(&owner) => may.push(owner),
                // Nobody else is there: better a relay that may not last than none.
                None if may.is_empty() => may = row.young.iter().map(place).collect(),
                _ => {}
            }
            fit.push(may);
            present.push(owner);
        }
        let mut load = vec![0; relays.len()];
        for relay in present.iter().flatten() {
            load[*relay] += 1;
        }
        Plan { relays, fit, at: present.clone(), present, load }
    }

    /// Places what is free, each sink with the relay that has the fewest.
    fn place(&mut self) {
        for sink in 0..self.at.len() {
            if self.at[sink].is_none()
                && let Some(relay) =
                    self.fit[sink].iter().copied().min_by_key(|r| (self.load[*r], *r))
            {
                self.at[sink] = Some(relay);
                self.load[relay] += 1;
            }
        }
    }

    /// Moves one sink along each step of the shortest chain that evens out; `false` if there is none.
    fn even_out(&mut self) -> bool {
        let mut fullest: Vec<usize> = (0..self.relays.len()).collect();
        fullest.sort_by_key(|relay| std::cmp::Reverse(self.load[*relay]));
        let Some((from, chain)) = fullest.iter().find_map(|from| Some((*from, self.chain(*from)?)))
        else {
            return false;
        };
        let mut giver = from;
        for (sink, taker) in chain {
            self.at[sink] = Some(taker);
            self.load[giver] -= 1;
            self.load[taker] += 1;
            giver = taker;
        }
        true
    }

    /// The shortest chain from a relay to one with at least two sinks less, as the sinks to move
    /// and their takers.
    fn chain(&self, from: usize) -> Option<Vec<(usize, usize)>> {
        let mut reached: Vec<Option<(usize, usize)>> = vec![None; self.relays.len()];
        let mut next = VecDeque::from([from]);
        while let Some(giver) = next.pop_front() {
            let mut steps = self.steps(giver);
            // Of equally short chains the one to the relay that has the fewest.
            steps.sort_by_key(|(taker, _)| (self.load[*taker], *taker));
            for (taker, sink) in steps {
                if taker == from || reached[taker].is_some() {
                    continue;
                }
                reached[taker] = Some((giver, sink));
                if self.load[taker] + 2 <= self.load[from] {
                    return Some(Self::walk_back(&reached, from, taker));
                }
                next.push_back(taker);
            }
        }
        None
    }

    fn walk_back(
        reached: &[Option<(usize, usize)>],
        from: usize,
        to: usize,
    ) -> Vec<(usize, usize)> {
        let (mut chain, mut taker) = (Vec::new(), to);
        while taker != from
            && let Some((giver, sink)) = reached[taker]
        {
            chain.push((sink, taker));
            taker = giver;
        }
        chain.reverse();
        chain
    }

    /// To which relays a relay could give a sink, and which: rather one that it does not have yet.
    fn steps(&self, giver: usize) -> Vec<(usize, usize)> {
        let mut steps: BTreeMap<usize, (bool, usize)> = BTreeMap::new();
        for sink in (0..self.at.len()).filter(|sink| self.at[*sink] == Some(giver)) {
            let step = (self.present[sink] == Some(giver), sink);
            for taker in self.fit[sink].iter().filter(|taker| **taker != giver) {
                steps.entry(*taker).and_modify(|best| *best = step.min(*best)).or_insert(step);
            }
        }
        steps.into_iter().map(|(taker, (_, sink))| (taker, sink)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A sink, its living owner or "", the ripe and the young relays that know it.
    fn row(name: &str, owner: &str, ripe: &[&str], young: &[&str]) -> SinkRow {
        SinkRow {
            name: name.to_owned(),
            owner: (!owner.is_empty()).then(|| owner.to_owned()),
            alive: !owner.is_empty(),
            ripe: strings(ripe),
            young: strings(young),
            ..SinkRow::default()
        }
    }

    fn planned(rows: &[SinkRow]) -> Vec<&str> {
        plan(rows).into_iter().map(|relay| relay.unwrap_or("-")).collect()
    }

    #[test]
    fn a_plan_moves_what_evens_the_shares_out_and_nothing_else() {
        let all: &[&str] = &["a", "b", "c"];
        let seven = |owners: [&str; 7]| -> Vec<SinkRow> {
            owners.iter().enumerate().map(|(n, o)| row(&n.to_string(), o, all, &[])).collect()
        };
        let cases = [
            (["a", "a", "a", "b", "b", "c", "c"], ["a", "a", "a", "b", "b", "c", "c"]),
            (["c", "c", "b", "b", "a", "a", "c"], ["c", "c", "b", "b", "a", "a", "c"]),
            (["a", "a", "a", "a", "a", "a", "a"], ["b", "c", "b", "c", "a", "a", "a"]),
            (["a", "a", "a", "a", "b", "b", "c"], ["c", "a", "a", "a", "b", "b", "c"]),
            (["", "", "", "", "", "", ""], ["a", "b", "c", "a", "b", "c", "a"]),
            (["a", "a", "a", "b", "b", "", ""], ["a", "a", "a", "b", "b", "c", "c"]),
        ];
        for (owners, wanted) in cases {
            assert_eq!(planned(&seven(owners)), wanted, "{owners:?}");
        }
    }

    #[test]
    fn a_young_relay_gets_only_what_nobody_ripe_could_work() {
        // Alone at its start: everything, at once.
        let lone = [row("x", "", &[], &["a"]), row("y", "", &[], &["a"])];
        assert_eq!(share(&lone, "a").take, BTreeSet::from(["x".to_owned(), "y".to_owned()]));
        // Two that start together share.
        let two = [row("x", "", &[], &["a", "b"]), row("y", "", &[], &["a", "b"])];
        assert_eq!(planned(&two), ["a", "b"]);
        // Neither what a ripe one could work, nor what another young one has.
        assert_eq!(
            planned(&[row("x", "", &["b"], &["a"]), row("y", "b", &["b"], &["a"])]),
            ["b"; 2]
        );
        let kept = [row("x", "b", &[], &["a", "b"]), row("y", "b", &[], &["a", "b"])];
        assert_eq!(planned(&kept), ["b"; 2]);
        assert_eq!(share(&kept, "a"), Share::default());
        // Once ripe, it gets its share, also of what a young one has.
        let ripened = [row("x", "b", &["a"], &["b"]), row("y", "b", &["a"], &["b"])];
        assert_eq!(share(&ripened, "b").give, ["x"]);
        assert!(share(&ripened, "a").expects);
        assert!(share(&ripened, "a").take.is_empty(), "its owner lives");
    }

    #[test]
    fn what_a_draining_relay_has_counts_as_free_and_is_not_taken_before_it_is() {
        let rows = [
            row("1", "a", &["a", "b"], &[]),
            row("2", "a", &["a", "b"], &[]),
            row("3", "d", &["a", "b"], &[]),
            row("4", "d", &["a", "b"], &[]),
        ];
        assert_eq!(planned(&rows), ["a", "a", "b", "b"]);
        assert_eq!(share(&rows, "a"), Share::default());
        let expecting = Share { expects: true, ..Share::default() };
        assert_eq!(share(&rows, "b"), expecting);
        assert_eq!(share(&rows, "d").take, BTreeSet::new());
    }

    #[test]
    fn where_configs_differ_a_sink_is_passed_on_through_relays_that_know_it() {
        // b takes from a what it knows, and gives to c what c knows.
        let rows = [
            row("1", "a", &["a"], &[]),
            row("2", "a", &["a"], &[]),
            row("3", "a", &["a", "b"], &[]),
            row("4", "b", &["b"], &[]),
            row("5", "b", &["b", "c"], &[]),
            row("6", "c", &["c"], &[]),
        ];
        assert_eq!(planned(&rows), ["a", "a", "b", "b", "c", "c"]);
        // Nobody knows it: nobody is to have it.
        assert_eq!(planned(&[row("1", "", &[], &[])]), ["-"]);
    }

    /// Relays that look and then act, in any order, so that much may have changed between the two;
    /// each drain takes its time.
    struct World {
        knows: Vec<Vec<bool>>,
        owners: Vec<Option<usize>>,
        draining: Vec<bool>,
        seen: Vec<Option<Vec<SinkRow>>>,
        moves: usize,
    }

    const IDS: [&str; 4] = ["a", "b", "c", "d"];

    impl World {
        fn any(sinks: usize, relays: usize, random: &mut fastrand::Rng) -> World {
            let all_alike = random.bool();
            let knows: Vec<Vec<bool>> = (0..sinks)
                .map(|_| (0..relays).map(|_| all_alike || random.u8(0..3) > 0).collect())
                .collect();
            let owners = knows
                .iter()
                .map(|knowing| {
                    let owner = random.usize(0..=relays);
                    (owner < relays && knowing[owner]).then_some(owner)
                })
                .collect();
            World {
                knows,
                owners,
                draining: vec![false; sinks],
                seen: vec![None; relays],
                moves: 0,
            }
        }

        fn rows(&self) -> Vec<SinkRow> {
            let sinks = self.knows.iter().zip(&self.owners).enumerate();
            sinks
                .map(|(n, (knowing, owner))| {
                    let ripe: Vec<&str> =
                        IDS.iter().zip(knowing).filter(|(_, k)| **k).map(|(id, _)| *id).collect();
                    row(&n.to_string(), owner.map_or("", |owner| IDS[owner]), &ripe, &[])
                })
                .collect()
        }

        /// A relay looks, or acts on what it saw; `false` if it had nothing to do.
        fn step(&mut self, relay: usize) -> bool {
            let Some(seen) = self.seen[relay].take() else {
                self.seen[relay] = Some(self.rows());
                return false;
            };
            let share = share(&seen, IDS[relay]);
            let number = |name: &String| name.parse::<usize>().unwrap();
            let mut acted = false;
            for sink in share.take.iter().map(number) {
                // The epoch makes only one of two that try succeed.
                if self.owners[sink].is_none() {
                    self.owners[sink] = Some(relay);
                    acted = true;
                }
            }
            let mine = |world: &World, sink: usize| world.owners[sink] == Some(relay);
            let busy = (0..self.owners.len()).any(|sink| self.draining[sink] && mine(self, sink));
            let give = share.give.iter().map(number).find(|sink| mine(self, *sink));
            if let Some(sink) = give.filter(|_| !busy) {
                self.draining[sink] = true;
                self.moves += 1;
                acted = true;
            }
            acted
        }

        /// The fewest that the squares of all shares can sum up to, found by trying everything.
        fn best(&self, from: usize, loads: &mut Vec<usize>) -> usize {
            let Some(knowing) = self.knows.get(from) else {
                return loads.iter().map(|load| load * load).sum();
            };
            if !knowing.contains(&true) {
                return self.best(from + 1, loads);
            }
            let mut best = usize::MAX;
            for relay in (0..loads.len()).filter(|relay| knowing[*relay]) {
                loads[relay] += 1;
                best = best.min(self.best(from + 1, loads));
                loads[relay] -= 1;
            }
            best
        }
    }

    #[test]
    fn from_any_start_and_in_any_order_the_shares_become_even_and_stay() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..2_000 {
            let (sinks, relays) = (random.usize(1..=7), random.usize(1..=4));
            let mut world = World::any(sinks, relays, &mut random);
            let mut quiet = 0;
            let mut steps = 0;
            // Quiet: every relay has looked in vain while nothing was being drained.
            while quiet < 80 {
                steps += 1;
                assert!(steps < 5_000, "round {round}: it goes on moving");
                let draining: Vec<usize> = (0..sinks).filter(|s| world.draining[*s]).collect();
                let acted = if !draining.is_empty() && random.bool() {
                    let ended = draining[random.usize(0..draining.len())];
                    world.draining[ended] = false;
                    world.owners[ended] = None;
                    true
                } else {
                    world.step(random.usize(0..relays)) || !draining.is_empty()
                };
                quiet = if acted { 0 } else { quiet + 1 };
            }
            let mut loads = vec![0; relays];
            for owner in world.owners.iter().flatten() {
                loads[*owner] += 1;
            }
            let squares: usize = loads.iter().map(|load| load * load).sum();
            let best = world.best(0, &mut vec![0; relays]);
            assert_eq!(squares, best, "round {round}: {loads:?}, {:?}", world.knows);
            assert!(world.moves <= 2 * sinks, "round {round}: {} moves", world.moves);
        }
    }
}
