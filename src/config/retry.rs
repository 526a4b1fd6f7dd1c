//! `retry = { delays = […] }` or `retry = { attempts, first, factor, max }`, with `jitter` in both.

use std::time::Duration;

use super::item::Item;
use super::read::Section;
use super::words;
use crate::retry::RetryPolicy;

/// Longest wait of a growing policy unless it says so.
const MAX_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Shortest first wait of a growing policy.
const FIRST_MIN: Duration = Duration::from_millis(100);

/// Reads a policy; faults are noted and then the default stands for it.
pub(super) fn read(item: &Item) -> RetryPolicy {
    let default = RetryPolicy::default();
    let Some(mut section) = item.section() else { return default };
    let jitter = section.get("jitter").and_then(|item| item.number(0.0..=1.0));
    let listed = section.has("delays");
    let growing = ["attempts", "first", "factor", "max"].iter().any(|key| section.has(key));
    let delays = match (listed, growing) {
        (true, true) => {
            section.fault("mixes two forms", "write delays, or attempts and first");
            return default;
        }
        (false, false) if !section.has("jitter") => {
            section.fault("says nothing", "write { delays = [\"5s\", \"5m\"] }");
            return default;
        }
        (false, true) => grow(&mut section),
        (_, false) => list(&mut section),
    };
    section.close();
    let delays = delays.unwrap_or(default.delays);
    RetryPolicy { delays, jitter: jitter.unwrap_or(default.jitter) }
}

fn list(section: &mut Section) -> Option<Vec<Duration>> {
    section.knows(&["attempts", "first", "factor", "max"]);
    let item = section.get("delays")?;
    let items = item.list()?;
    if items.len() > RetryPolicy::DELAYS_MAX {
        let most = RetryPolicy::DELAYS_MAX;
        item.fault(format!("has {} delays", items.len()), format!("at most {most}"));
        return None;
    }
    let range = Duration::ZERO..=RetryPolicy::DELAY_MAX;
    items.iter().map(|item| item.duration(range.clone())).collect()
}

/// The first wait, then each `factor` times the one before, none above `max`.
fn grow(section: &mut Section) -> Option<Vec<Duration>> {
    let remedy = "write e.g. { attempts = 10, first = \"5s\", factor = 3 }";
    let attempts = section
        .need("attempts", remedy)
        .and_then(|item| item.count(1..=RetryPolicy::DELAYS_MAX + 1));
    let range = FIRST_MIN..=RetryPolicy::DELAY_MAX;
    let first = section.need("first", remedy).and_then(|item| item.duration(range.clone()));
    let factor = section.get("factor").map_or(Some(2.0), |item| item.number(1.0..=100.0));
    let max = section.duration("max", MAX_DEFAULT, range);
    section.knows(&["delays"]);
    let (attempts, first, factor) = (attempts?, first?, factor?);
    if first > max {
        let (first, max) = (words::in_words(first), words::in_words(max));
        section.fault(format!("first {first} is longer than max {max}"), "first is at most max");
        return None;
    }
    let mut wait = first.as_secs_f64();
    let mut delays = Vec::new();
    for _ in 1..attempts {
        delays.push(Duration::from_secs_f64(wait.min(max.as_secs_f64())));
        wait = (wait * factor).min(max.as_secs_f64());
    }
    Some(delays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses};

    fn policy(retry: &str) -> RetryPolicy {
        let text = format!(
            "[sinks.crm]\nkind = \"webhook\"\nurl = \"https://crm.example\"\nretry = {retry}\n"
        );
        parse(&text).unwrap().sinks.into_values().next().unwrap().policy.retry
    }

    #[test]
    fn both_forms_become_a_list() {
        let seconds =
            |list: &[u64]| list.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
        let listed = policy("{ delays = [\"5s\", \"5m\"], jitter = 0 }");
        assert_eq!(listed, RetryPolicy { delays: seconds(&[5, 300]), jitter: 0.0 });
        let growing = policy("{ attempts = 5, first = \"5s\", factor = 3, max = \"1m\" }");
        assert_eq!(growing, RetryPolicy { delays: seconds(&[5, 15, 45, 60]), jitter: 0.1 });
        assert_eq!(policy("{ attempts = 1, first = \"1s\" }").delays.len(), 0);
        assert_eq!(policy("{ attempts = 3, first = \"1s\" }").delays, seconds(&[1, 2]));
        assert_eq!(policy("{ jitter = 0.5 }").delays, RetryPolicy::default().delays);
        let long = policy("{ attempts = 101, first = \"7d\", max = \"7d\", factor = 100 }");
        assert_eq!(long.delays, vec![RetryPolicy::DELAY_MAX; 100]);
    }

    #[test]
    fn faults_say_what_would_be_right() {
        let head = "[sinks.crm]\nkind = \"webhook\"\nurl = \"https://crm.example\"\n";
        let remedy = "write e.g. { attempts = 10, first = \"5s\", factor = 3 }";
        let many = format!("{{ delays = [{}] }}", "\"1s\",".repeat(101));
        for (retry, fault) in [
            ("3", ": is an integer; write a table"),
            ("{}", ": says nothing; write { delays = [\"5s\", \"5m\"] }"),
            (
                "{ delays = [], attempts = 3 }",
                ": mixes two forms; write delays, or attempts and first",
            ),
            ("{ attempts = 3 }", &format!(".first: is missing; {remedy}")),
            ("{ first = \"3s\" }", &format!(".attempts: is missing; {remedy}")),
            ("{ attempts = 102, first = \"3s\" }", ".attempts: 102 is out of range; 1 to 101"),
            ("{ attempts = 3, first = \"0s\" }", ".first: \"0s\" is out of range; 100ms to 7d"),
            (
                "{ attempts = 3, first = \"1h\", max = \"1m\" }",
                ": first 1h is longer than max 1m; first is at most max",
            ),
            (
                "{ attempts = 3, first = \"1h\", factor = 0.5 }",
                ".factor: 0.5 is out of range; 1 to 100",
            ),
            ("{ jitter = 2 }", ".jitter: 2 is out of range; 0 to 1"),
            ("{ jitter = \"2\" }", ".jitter: is a string; write a number"),
            (&many, ": has 101 delays; at most 100"),
            ("{ delays = [\"8d\"] }", ".delays[0]: \"8d\" is out of range; 0s to 7d"),
            ("{ delay = [\"8d\"], jitter = 0 }", ".delay: is unknown; did you mean delays?"),
        ] {
            let fault = format!("outboxd.toml:4: sinks.crm.retry{fault}");
            let fault = fault.replace("retry: has 101", "retry.delays: has 101");
            refuses(&format!("{head}retry = {retry}\n"), &[&fault]);
        }
    }
}
