//! Type patterns: which messages a route takes.
//!
//! A pattern is written like a type, `order.created`, and any of its segments may be `*`, which
//! stands for one or more segments: `order.*` takes `order.created` and `order.item.added`, not
//! `order`; `*` takes everything.

use std::cmp::Ordering;
use std::fmt;

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    Literal(String),
    /// `*`: one or more segments of any text.
    Any,
}

/// A parsed type pattern; see the module's text for its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TypePattern(Vec<Segment>);

impl TypePattern {
    /// Most segments a pattern may have.
    pub const SEGMENTS_MAX: usize = 16;

    /// Reads a pattern, or says what is wrong with it.
    ///
    /// # Errors
    /// When a segment is empty, holds white space, a control character or a `*` beside other
    /// text, or when there are more than [`Self::SEGMENTS_MAX`] segments.
    pub fn parse(text: &str) -> Result<TypePattern, String> {
        let segments: Vec<Segment> =
            text.split('.').map(Segment::parse).collect::<Result<_, _>>()?;
        if segments.len() > Self::SEGMENTS_MAX || text.len() > 200 {
            return Err("a pattern has at most 16 segments and 200 characters".to_owned());
        }
        Ok(TypePattern(segments))
    }

    /// Whether the pattern is a type itself, without `*`.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains(&Segment::Any)
    }

    /// How narrow the pattern is; of two patterns that take the same type, the higher wins.
    ///
    /// An exact pattern is above all others; then the one with more literal segments; then the one
    /// with fewer `*`.
    #[must_use]
    pub fn specificity(&self) -> i32 {
        if self.is_exact() {
            return 1_000_000;
        }
        let any = self.0.iter().filter(|s| **s == Segment::Any).count();
        let literal = self.0.len() - any;
        i32::try_from(literal * 100 + (100 - any)).unwrap_or(i32::MAX)
    }

    /// The text before the first `*`: a cheap test that most types fail.
    #[must_use]
    pub fn prefix(&self) -> String {
        let head: Vec<&str> = self.0.iter().map_while(Segment::literal).collect();
        let mut prefix = head.join(".");
        if !head.is_empty() && head.len() < self.0.len() {
            prefix.push('.');
        }
        prefix
    }

    /// The pattern as a PostgreSQL (ARE) regular expression over the whole type, or none where the
    /// prefix alone decides because the only `*` is the last segment.
    #[must_use]
    pub fn regex(&self) -> Option<String> {
        let first_any = self.0.iter().position(|s| *s == Segment::Any)?;
        if first_any + 1 == self.0.len() {
            return None;
        }
        let parts: Vec<String> = self.0.iter().map(Segment::regex).collect();
        Some(format!("^{}$", parts.join("\\.")))
    }

    /// Whether the pattern takes this type.
    #[must_use]
    pub fn matches(&self, message_type: &str) -> bool {
        let literal: Vec<Segment> =
            message_type.split('.').map(|s| Segment::Literal(s.to_owned())).collect();
        overlap(&self.0, &literal)
    }

    /// Whether some type is taken by both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &TypePattern) -> bool {
        overlap(&self.0, &other.0)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Segment, String> {
        match text {
            "*" => Ok(Segment::Any),
            "" => Err("a segment is empty; write order.created, order.* or *".to_owned()),
            _ if text.contains('*') => {
                Err(format!("\"{text}\" mixes * with text; * stands alone between dots"))
            }
            _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                Err("a type holds no white space and no control characters".to_owned())
            }
            _ => Ok(Segment::Literal(text.to_owned())),
        }
    }

    fn literal(&self) -> Option<&str> {
        match self {
            Segment::Literal(text) => Some(text),
            Segment::Any => None,
        }
    }

    fn regex(&self) -> String {
        match self {
            Segment::Any => "[^.]+(?:\\.[^.]+)*".to_owned(),
            Segment::Literal(text) => {
                let special = |c: char| c.is_ascii_punctuation() && c != '_' && c != '-';
                text.chars()
                    .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
                    .collect()
            }
        }
    }
}

/// Whether two lists of segments, each `*` one or more long, can be the same type.
///
/// `reach[i][j]` says that the first `i` and the first `j` can stand for the same text; a `*` may
/// stay where it is while the other side moves on.
fn overlap(left: &[Segment], right: &[Segment]) -> bool {
    let mut reach = vec![vec![false; right.len() + 1]; left.len() + 1];
    reach[0][0] = true;
    for (i, a) in left.iter().enumerate() {
        for (j, b) in right.iter().enumerate() {
            let alike = *a == Segment::Any || *b == Segment::Any || a == b;
            let before = reach[i][j]
                || (*a == Segment::Any && reach[i + 1][j])
                || (*b == Segment::Any && reach[i][j + 1]);
            reach[i + 1][j + 1] = alike && before;
        }
    }
    reach[left.len()][right.len()]
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&str> = self.0.iter().map(|s| s.literal().unwrap_or("*")).collect();
        f.write_str(&parts.join("."))
    }
}

impl PartialOrd for TypePattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TypePattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.specificity()
            .cmp(&other.specificity())
            .then_with(|| self.to_string().cmp(&other.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TypePattern {
        TypePattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_is_one_or_more_segments() {
        for (p, yes, no) in [
            (
                "order.created",
                vec!["order.created"],
                vec!["order", "order.created.x", "Order.created"],
            ),
            ("order.*", vec!["order.a", "order.a.b"], vec!["order", "orders.a", "a.order.b"]),
            ("*.created", vec!["order.created", "a.b.created"], vec!["created", "order.created.x"]),
            ("a.*.z", vec!["a.b.z", "a.b.c.z"], vec!["a.z", "a.b.c"]),
            ("*", vec!["a", "a.b"], vec![]),
        ] {
            for t in yes {
                assert!(pattern(p).matches(t), "{p} takes {t}");
            }
            for t in no {
                assert!(!pattern(p).matches(t), "{p} leaves {t}");
            }
        }
    }

    #[test]
    fn overlap_is_found_where_it_is() {
        for (a, b, yes) in [
            ("order.*", "*.created", true),
            ("order.*", "payment.*", false),
            ("a.*.z", "a.b.*", true),
            ("a.*.z", "a.b.*.y", false),
            ("*", "a", true),
            ("*.*", "a", false),
            ("*.a.*", "b.*.c", true),
        ] {
            assert_eq!(pattern(a).overlaps(&pattern(b)), yes, "{a} ~ {b}");
            assert_eq!(pattern(b).overlaps(&pattern(a)), yes, "{b} ~ {a}");
        }
    }

    #[test]
    fn the_narrower_pattern_is_more_specific() {
        let rising = ["*.*", "*", "order.*", "order.item.*", "order.item"];
        for pair in rising.windows(2) {
            assert!(pattern(pair[0]).specificity() < pattern(pair[1]).specificity(), "{pair:?}");
        }
        assert_eq!(pattern("order.*").specificity(), pattern("*.created").specificity());
    }

    #[test]
    fn prefix_and_regex_describe_the_pattern() {
        assert_eq!(pattern("order.*.x").prefix(), "order.");
        assert_eq!(pattern("*").prefix(), "");
        assert_eq!(pattern("order.created").prefix(), "order.created");
        assert_eq!(pattern("order.*").regex(), None);
        assert_eq!(pattern("order.created").regex(), None);
        assert_eq!(pattern("*.a+b").regex().unwrap(), "^[^.]+(?:\\.[^.]+)*\\.a\\+b$");
    }

    #[test]
    fn faults_say_what_would_be_right() {
        assert!(TypePattern::parse("order..x").unwrap_err().contains("segment is empty"));
        assert!(TypePattern::parse("order*").unwrap_err().contains("stands alone"));
        assert!(TypePattern::parse("or der").unwrap_err().contains("white space"));
        assert!(TypePattern::parse(&["a"; 17].join(".")).unwrap_err().contains("at most 16"));
    }
}
