//! Names that are identity: sinks, targets, the installation.

use std::fmt;

/// A name as the config writes it: `[a-z][a-z0-9-]{0,39}`.
///
/// Names are identity: they stand in rows, metrics and idempotency keys, so renaming a sink makes
/// a new one. The form keeps them free of `.` (a separator in signed content), of `_` (a separator
/// in idempotency keys) and of anything that would need quoting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The longest name there can be, in characters.
    pub const LENGTH_MAX: usize = 40;

    /// Reads a name, or says what is wrong with it and what would be right.
    ///
    /// # Errors
    /// When `text` does not have the form above.
    pub fn parse(text: &str) -> Result<Name, String> {
        let mut chars = text.chars();
        let head = chars.next().is_some_and(|c| c.is_ascii_lowercase());
        let tail = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if head && tail && text.len() <= Self::LENGTH_MAX {
            return Ok(Name(text.to_owned()));
        }
        Err(format!(
            "\"{}\" is no name: use a lower-case letter, then up to 39 of a-z, 0-9 and -",
            text.chars().take(60).collect::<String>().escape_debug()
        ))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_the_documented_form() {
        for good in ["a", "crm", "shop-prod", "a1-2", &"a".repeat(40)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "1a", "-a", "A", "a_b", "a.b", "a b", "ä", &"a".repeat(41)] {
            assert!(Name::parse(bad).unwrap_err().contains("is no name"), "{bad}");
        }
    }
}
