//! `[retention]`: how long messages are kept once all is closed.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Retention;
use super::item::Item;
use super::read::Section;
use crate::pattern::TypePattern;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KEEP: RangeInclusive<Duration> = HOUR..=Duration::from_secs(3650 * 24 * 3600);

/// Reads the table.
pub(super) fn read(mut section: Section) -> Retention {
    let default = section.duration("default", 7 * DAY, KEEP);
    let types = section.get("types").and_then(|item| item.section());
    let types = types.map_or(Vec::new(), |types| {
        types.entries().filter_map(|(pattern, item)| kept(pattern, &item)).collect()
    });
    section.close();
    Retention { default, types }
}

fn kept(pattern: &str, item: &Item) -> Option<(TypePattern, Duration)> {
    let pattern = TypePattern::parse(pattern).map_err(|problem| item.fault(problem, "")).ok();
    let keep = item.duration(KEEP);
    Some((pattern?, keep?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses};

    #[test]
    fn messages_are_kept_a_week_unless_their_type_says_otherwise() {
        assert_eq!(parse("").unwrap().retention, Retention { default: 7 * DAY, types: Vec::new() });
        let text = "[retention]\ndefault = \"1h\"\n\
                    types = { \"order.*\" = \"30d\", \"newsletter.sent\" = \"1d\" }\n";
        let retention = parse(text).unwrap().retention;
        assert_eq!((retention.default, retention.longest()), (HOUR, 30 * DAY));
        let mut types = retention.types;
        types.sort_by_key(|(pattern, _)| pattern.to_string());
        let types: Vec<(String, Duration)> =
            types.into_iter().map(|(pattern, keep)| (pattern.to_string(), keep)).collect();
        assert_eq!(types, [("newsletter.sent".to_owned(), DAY), ("order.*".to_owned(), 30 * DAY)]);
    }

    #[test]
    fn faults_of_retention() {
        for (line, fault) in [
            ("default = \"30m\"", "default: \"30m\" is out of range; 1h to 3650d"),
            ("keep = \"1d\"", "keep: is unknown; known here: default, types"),
            ("types = \"1d\"", "types: is a string; write a table"),
            (
                "types = { \"a*\" = \"1d\" }",
                "types.\"a*\": \"a*\" mixes * with text; * stands alone between dots",
            ),
            ("types = { a = 7 }", "types.a: is an integer; write a duration, e.g. \"15s\""),
        ] {
            let text = format!("[retention]\n{line}\n");
            refuses(&text, &[&format!("outboxd.toml:2: retention.{fault}")]);
        }
    }
}
