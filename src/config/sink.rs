//! `[sinks.NAME]`: what all kinds have. Each kind has a room of its own beside this one.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::item::{Item, NAME_FORM};
use super::policy::{self, HTTP_CODES, SMTP_CODES};
use super::read::Section;
use super::{SinkConfig, Way, csv, export, smtp, webhook, words};
use crate::name::Name;
use crate::policy::{Order, Policy, Rate};

/// What a route must know of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Webhook,
    Smtp,
    Csv,
    Export,
}

/// The declared sinks and exports, also those with faults, so that a route to one of them is no second
/// fault.
pub(super) type Kinds = BTreeMap<String, Option<Kind>>;

const KINDS: [(&str, Kind); 3] =
    [("webhook", Kind::Webhook), ("smtp", Kind::Smtp), ("csv", Kind::Csv)];

const ORDERS: [(&str, Order); 2] = [("block", Order::Block), ("skip", Order::Skip)];

/// What a sink says about its pace, for all its routes together.
pub(super) const PACE_KEYS: [&str; 3] = ["order", "rate", "daily_quota"];

/// What `outboxd export` takes in the place of a name.
const EXPORT_WORDS: [&str; 3] = ["help", "list", "run"];

const CONCURRENCY_MAX: usize = 1_000;
const QUOTA_MAX: usize = 1_000_000_000;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// What sinks have that talk to a server; a csv sink has it as it stands.
struct Common {
    concurrency: NonZeroUsize,
    timeout: Duration,
    policy: Policy,
    order: Order,
    rate: Option<Rate>,
    daily_quota: Option<NonZeroU32>,
}

/// What each sink and each export is. They share their names: in the database an export is a sink.
pub(super) fn kinds(sinks: &Section, exports: &Section) -> Kinds {
    let remedy = "write kind = \"webhook\", \"smtp\" or \"csv\"";
    let kind = |item: &Item| item.section()?.need("kind", remedy)?.choice(&KINDS);
    let mut kinds: Kinds =
        sinks.entries().map(|(name, item)| (name.to_owned(), kind(&item))).collect();
    for (name, item) in exports.entries() {
        if kinds.insert(name.to_owned(), Some(Kind::Export)).is_some() {
            item.fault(format!("sinks.{name} has that name"), "give one of the two another");
        }
    }
    kinds
}

/// Reads all sinks and exports.
pub(super) fn read(
    sinks: &Section,
    exports: &Section,
    kinds: &Kinds,
) -> BTreeMap<Name, SinkConfig> {
    let sinks = sinks.entries().map(|(name, item)| (sink(name, &item, kinds), item));
    let exports = exports.entries().map(|(name, item)| (export(name, &item, kinds), item));
    let read: Vec<(Option<SinkConfig>, Item)> = sinks.chain(exports).collect();
    refuse_shared_paths(&read);
    read.into_iter().filter_map(|(sink, _)| sink).map(|sink| (sink.name.clone(), sink)).collect()
}

/// Of two that would write the same files, the later one has the fault.
fn refuse_shared_paths(sinks: &[(Option<SinkConfig>, Item)]) {
    let mut paths: Vec<(PathBuf, &Item, Item)> = sinks
        .iter()
        .filter_map(|(sink, item)| match &sink.as_ref()?.way {
            Way::Csv(csv) => Some((csv.path(), item, item.section()?.get("path")?)),
            Way::Webhook(_) | Way::Smtp(_) => None,
        })
        .collect();
    paths.sort_by_key(|(_, _, path)| path.line);
    for (index, (path, _, item)) in paths.iter().enumerate() {
        if let Some((_, first, _)) = paths[..index].iter().find(|(earlier, ..)| earlier == path) {
            let remedy = "give each csv sink and export a path of its own";
            item.fault(format!("{} writes the same files", first.path), remedy);
        }
    }
}

fn sink(name: &str, item: &Item, kinds: &Kinds) -> Option<SinkConfig> {
    let mut section = item.section()?;
    let parsed = name_of(&section, name);
    section.knows(&["kind"]);
    section.refuse("priority", "is a route's", "write it in [[routes]]");
    let read = match (*kinds.get(name)?)? {
        Kind::Webhook => {
            section.not_yet(&["allow_private"]);
            let common = common(&mut section, 16, 15, &HTTP_CODES);
            policy::refuse_doubtful(&mut section, &common.policy);
            webhook::read(&mut section).map(|way| (common, Way::Webhook(way)))
        }
        Kind::Smtp => {
            let common = common(&mut section, 4, 30 * 60, &SMTP_CODES);
            smtp::read(&mut section).map(|way| (common, Way::Smtp(way)))
        }
        // An export of the same name has its fault already.
        Kind::Csv | Kind::Export => {
            refuse_attempts(&mut section, "a csv sink");
            section.refuse("timeout", "does nothing for a csv sink", "remove it");
            refuse_word(&section, name);
            let csv = csv::read(&mut section, name, kinds);
            csv.map(|way| (Common::of_csv(), Way::Csv(Box::new(way))))
        }
    };
    section.close();
    let (common, way) = read?;
    Some(common.into_sink(parsed?, way))
}

fn export(name: &str, item: &Item, kinds: &Kinds) -> Option<SinkConfig> {
    let mut section = item.section()?;
    let parsed = name_of(&section, name);
    refuse_word(&section, name);
    refuse_attempts(&mut section, "an export");
    section.refuse("kind", "does nothing for an export", "remove it");
    let problem = "does nothing for an export: its files are cut by the calendar";
    section.refuse("max_rows", problem, "remove it");
    let csv = export::read(&mut section, name, kinds);
    section.close();
    Some(Common::of_csv().into_sink(parsed?, Way::Csv(Box::new(csv?))))
}

fn name_of(section: &Section, name: &str) -> Option<Name> {
    Name::parse(name).map_err(|_| section.fault("is no name", NAME_FORM)).ok()
}

/// Files have no attempts.
fn refuse_attempts(section: &mut Section, whose: &str) {
    for key in ["concurrency"].into_iter().chain(policy::KEYS).chain(PACE_KEYS) {
        section.refuse(key, &format!("does nothing for {whose}"), "remove it");
    }
}

/// `outboxd export NAME` would be taken for another command.
fn refuse_word(section: &Section, name: &str) {
    if EXPORT_WORDS.contains(&name) {
        section.fault("is a word of the command outboxd export", "give it another name");
    }
}

/// Notes that a sink is named that does not exist.
pub(super) fn refuse_unknown(item: &Item, text: &str, kinds: &Kinds) {
    // Faults of syntax may hide a table that is there.
    let hidden = |table: &str| item.source.text.contains(&format!("[{table}.{text}"));
    if item.source.broken && (hidden("sinks") || hidden("exports")) {
        return;
    }
    let near = words::nearest(text, kinds.keys().map(String::as_str));
    let remedy = near.map_or_else(
        || "write a table [sinks.NAME] for it".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    item.fault(format!("there is no sink {}", item.shown()), remedy);
}

/// Reads what sinks have that talk to a server; `timeout` in seconds.
fn common(
    section: &mut Section,
    concurrency: usize,
    timeout: u64,
    codes: &RangeInclusive<u16>,
) -> Common {
    let written = section.get("concurrency").and_then(|item| item.count(1..=CONCURRENCY_MAX));
    let concurrency = NonZeroUsize::new(written.unwrap_or(concurrency));
    let quota = |item: Item| NonZeroU32::new(u32::try_from(item.count(1..=QUOTA_MAX)?).ok()?);
    Common {
        concurrency: concurrency.unwrap_or(NonZeroUsize::MIN),
        timeout: section.duration("timeout", Duration::from_secs(timeout), TIMEOUT),
        policy: policy::Written::read(section, codes).over(&Policy::default()),
        order: section.get("order").and_then(|item| item.choice(&ORDERS)).unwrap_or_default(),
        rate: section.get("rate").and_then(|item| item.rate()),
        daily_quota: section.get("daily_quota").and_then(quota),
    }
}

impl Common {
    fn into_sink(self, name: Name, way: Way) -> SinkConfig {
        let Common { concurrency, timeout, policy, order, rate, daily_quota } = self;
        SinkConfig { name, concurrency, timeout, policy, order, rate, daily_quota, way }
    }

    fn of_csv() -> Common {
        Common {
            concurrency: NonZeroUsize::MIN,
            timeout: Duration::from_secs(15 * 60),
            policy: Policy::default(),
            order: Order::default(),
            rate: None,
            daily_quota: None,
        }
    }
}

/// More roots make sense only where certificates are checked.
pub(super) fn ca_file(section: &mut Section, encrypted: bool) -> Option<PathBuf> {
    let item = section.get("ca_file")?;
    if !encrypted {
        item.fault("does nothing without TLS", "remove it, or change the scheme of url");
        return None;
    }
    item.certificates()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{refuses, refuses_each, sink};

    const WEBHOOK: &str = "kind = \"webhook\"\nurl = \"https://crm.example/hooks\"\n";

    #[test]
    fn pace_and_order_are_read_and_have_defaults() {
        let plain = sink(WEBHOOK);
        assert_eq!((plain.order, plain.rate, plain.daily_quota), (Order::Block, None, None));
        let pace = "order = \"skip\"\nrate = \"600/min\"\ndaily_quota = 50000\n";
        for head in [WEBHOOK, "kind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"a@b.example\"\n"] {
            let read = sink(&format!("{head}{pace}"));
            let rate = read.rate.map(|rate| (rate.count.get(), rate.period.as_secs()));
            assert_eq!((read.order, rate), (Order::Skip, Some((600, 60))));
            assert_eq!(read.daily_quota.map(NonZeroU32::get), Some(50_000));
        }
    }

    #[test]
    fn faults_of_all_kinds() {
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            WEBHOOK,
            &[
                ("kind", "1: kind: is missing; write kind = \"webhook\", \"smtp\" or \"csv\""),
                (
                    "kind = \"webhok\"",
                    "3: kind: \"webhok\" is unknown; use \"webhook\", \"smtp\", \"csv\"",
                ),
                ("kind = 1", "3: kind: is an integer; write a string"),
                ("concurrency = 0", "4: concurrency: 0 is out of range; 1 to 1000"),
                ("concurrency = -1", "4: concurrency: -1 is out of range; 1 to 1000"),
                ("concurrency = \"4\"", "4: concurrency: is a string; write a whole number"),
                ("timeout = \"50ms\"", "4: timeout: \"50ms\" is out of range; 100ms to 1h"),
                ("timout = \"1s\"", "4: timout: is unknown; did you mean timeout?"),
                (
                    "rate = \"14/m\"",
                    "4: rate: \"14/m\" is no rate; \
                     write a number from 1 to 1000000, then /s, /min, /h or /d, e.g. \"14/s\"",
                ),
                ("rate = 14", "4: rate: is an integer; write a rate, e.g. \"14/s\""),
                ("daily_quota = 0", "4: daily_quota: 0 is out of range; 1 to 1000000000"),
                ("daily_quota = \"50000\"", "4: daily_quota: is a string; write a whole number"),
                ("order = \"park\"", "4: order: \"park\" is unknown; use \"block\", \"skip\""),
                ("priority = \"high\"", "4: priority: is a route's; write it in [[routes]]"),
                ("allow_private = []", "4: allow_private: is not there yet; remove it"),
            ],
        );
        refuses("[sinks]\na = 3\n", &["outboxd.toml:2: sinks.a: is an integer; write a table"]);
        refuses(
            &format!("[sinks.A_1]\n{WEBHOOK}"),
            &["outboxd.toml:1: sinks.A_1: is no name; \
               use a lower-case letter, then up to 39 of a-z, 0-9 and -"],
        );
    }
}
