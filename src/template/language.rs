//! Templates in several languages.

use std::collections::BTreeMap;

use super::Template;

/// Longest locale of a message that is looked up, in bytes; RFC 5646 asks for 35.
const LOCALE_MAX: usize = 64;

/// A template in several languages.
#[derive(Debug)]
pub struct Localised {
    /// For every language that there is no variant for.
    fallback: Template,
    /// By language tag, as [`language_tag`] gives it.
    variants: BTreeMap<String, Template>,
}

impl Localised {
    /// Without variants.
    #[must_use]
    pub fn only(fallback: Template) -> Localised {
        Localised { fallback, variants: BTreeMap::new() }
    }

    /// With variants by language tag, as [`language_tag`] gives it.
    #[must_use]
    pub fn new(fallback: Template, variants: BTreeMap<String, Template>) -> Localised {
        Localised { fallback, variants }
    }

    /// Whether there is more than the fallback.
    #[must_use]
    pub fn has_variants(&self) -> bool {
        !self.variants.is_empty()
    }

    /// The variant for a language tag (RFC 5646), or for what it begins with (RFC 4647 section 3.4:
    /// `de-AT`, then `de`), or else the fallback. `_` is taken for `-`, and no case is told apart.
    #[must_use]
    pub fn variant(&self, locale: Option<&str>) -> &Template {
        let locale = locale.map(str::trim).filter(|locale| locale.len() <= LOCALE_MAX);
        let mut tag = locale.unwrap_or_default().replace('_', "-").to_ascii_lowercase();
        while !tag.is_empty() {
            if let Some(variant) = self.variants.get(&tag) {
                return variant;
            }
            tag.truncate(tag.rfind('-').unwrap_or_default());
        }
        &self.fallback
    }
}

impl From<Template> for Localised {
    fn from(template: Template) -> Localised {
        Localised::only(template)
    }
}

/// A language tag in the form that is looked up: `de_AT` and `de-at` are both `de-at`. None where `text`
/// is no tag: a language of two or three letters, then subtags (script, region, variant).
#[must_use]
pub fn language_tag(text: &str) -> Option<String> {
    let tag = text.replace('_', "-").to_ascii_lowercase();
    let mut subtags = tag.split('-');
    let language = subtags.next().unwrap_or_default();
    let is_language =
        (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_lowercase());
    let is_subtag = |subtag: &str| {
        (2..=8).contains(&subtag.len()) && subtag.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let is_tag = is_language && subtags.all(is_subtag) && tag.len() <= LOCALE_MAX;
    is_tag.then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::View;

    #[test]
    fn a_variant_is_looked_up_from_the_narrowest_to_the_widest() {
        let parse = |source: &str| Template::parse(source).unwrap();
        let variants = ["de", "de-at", "pt-br", "zh-hant-tw"];
        let variants = variants.map(|tag| (tag.to_owned(), parse(tag))).into();
        let localised = Localised::new(parse("fallback"), variants);
        let chosen = |locale| {
            let view = View::of_values(BTreeMap::new());
            localised.variant(locale).render(&view).unwrap()
        };
        let long = format!("de-{}", "a-".repeat(100_000));
        for (locale, variant) in [
            ("de-AT", "de-at"),
            ("de_at", "de-at"),
            ("DE-at-1996", "de-at"),
            (" de-AT\n", "de-at"),
            ("de-CH", "de"),
            ("de_AT.UTF-8", "de"),
            ("de", "de"),
            ("deu", "fallback"),
            ("pt", "fallback"),
            ("pt-BR", "pt-br"),
            ("zh-Hant", "fallback"),
            ("zh-Hant-TW-x-private", "zh-hant-tw"),
            ("fr", "fallback"),
            ("", "fallback"),
            ("-", "fallback"),
            ("*", "fallback"),
            ("../de", "fallback"),
            ("de/../../etc", "fallback"),
            (&long, "fallback"),
        ] {
            assert_eq!(chosen(Some(locale)), variant, "{locale:.40}");
        }
        assert_eq!(chosen(None), "fallback");
    }

    #[test]
    fn a_tag_is_a_language_and_what_narrows_it() {
        let tags = [
            ("de", "de"),
            ("de-AT", "de-at"),
            ("de_AT", "de-at"),
            ("zh-Hant-TW", "zh-hant-tw"),
            ("es-419", "es-419"),
            ("sl-rozaj-1994", "sl-rozaj-1994"),
        ];
        for (text, tag) in tags {
            assert_eq!(language_tag(text).as_deref(), Some(tag));
        }
        for text in
            ["", "d", "subject", "de.AT", "de-", "-de", "d\u{e9}", "12", "de-x", "de-waytoolong1"]
        {
            assert_eq!(language_tag(text), None, "{text}");
        }
    }
}
