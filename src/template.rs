//! Templates: strict, with limited fuel and limited output, so that no message can make the relay
//! spin or send a mail with a hole in it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, escape_formatter};

use crate::message::Message;

/// Instructions one rendering may spend.
const FUEL: u64 = 200_000;
/// Largest text one rendering may produce, in bytes.
const OUTPUT_MAX: usize = 4 * 1024 * 1024;

/// What the template of a message sees.
pub const MESSAGE_VIEW: [&str; 6] = ["id", "type", "key", "created_at", "headers", "payload"];
/// What the template of a mail with files sees: `period`, its bounds `from` and `to` (RFC 3339), the sum
/// of `rows`, `files` (each with name, period, rows, bytes, sha256), `sink`.
pub const FILES_VIEW: [&str; 6] = ["period", "from", "to", "rows", "files", "sink"];

/// A parsed template. Rendering fails on a name the message does not have and on a null, rather
/// than leaving a hole.
pub struct Template(Environment<'static>);

impl Template {
    /// Parses a template in Jinja syntax.
    ///
    /// # Errors
    /// What is wrong with the syntax, with the line inside the template.
    pub fn parse(source: &str) -> Result<Template, String> {
        Template::parse_as(source, || AutoEscape::None)
    }

    /// The same for HTML: values are escaped.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_html(source: &str) -> Result<Template, String> {
        Template::parse_as(source, || AutoEscape::Html)
    }

    fn parse_as(source: &str, escape: fn() -> AutoEscape) -> Result<Template, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(|out, state, value| {
            if value.is_none() {
                let hint =
                    "a value is null; say what stands for it, e.g. {{ x | default('', true) }}";
                return Err(Error::new(ErrorKind::InvalidOperation, hint));
            }
            escape_formatter(out, state, value)
        });
        environment.set_auto_escape_callback(move |_| escape());
        environment.add_template_owned("template", source.to_owned()).map_err(|e| describe(&e))?;
        Ok(Template(environment))
    }

    /// A name that the template asks for and `view` does not have.
    #[must_use]
    pub fn unknown(&self, view: &[&str]) -> Option<String> {
        let names = self.0.get_template("template").ok()?.undeclared_variables(false);
        let mut unknown: Vec<String> = names
            .into_iter()
            .filter(|name| !view.contains(&&**name))
            .filter(|name| self.0.globals().all(|(global, _)| global != name))
            .collect();
        unknown.sort_unstable();
        unknown.into_iter().next()
    }

    /// Renders the template for what is in view.
    ///
    /// # Errors
    /// A missing or null value, spent fuel or too large an output, in words that name the place in
    /// the template and none of the message's values.
    pub fn render(&self, view: &View) -> Result<String, String> {
        let mut out = Limited(Vec::new());
        let template = self.0.get_template("template").map_err(|e| describe(&e))?;
        template.render_captured_to(view.0.clone(), &mut out).map_err(|e| describe(&e))?;
        String::from_utf8(out.0).map_err(|_| "the template made invalid UTF-8".to_owned())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

/// A template in several languages.
#[derive(Debug)]
pub struct Localised {
    /// For every language that there is no variant for.
    fallback: Template,
    /// By language tag, in lower case (`de`, `de-at`).
    variants: BTreeMap<String, Template>,
}

impl Localised {
    /// Without variants.
    #[must_use]
    pub fn only(fallback: Template) -> Localised {
        Localised { fallback, variants: BTreeMap::new() }
    }

    /// The variant for a language tag (RFC 5646), or for what it begins with (RFC 4647 section 3.4:
    /// `de-AT`, then `de`), or else the fallback.
    #[must_use]
    pub fn variant(&self, locale: Option<&str>) -> &Template {
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

/// What a template sees: [`MESSAGE_VIEW`] or [`FILES_VIEW`].
#[derive(Clone, Debug)]
pub struct View(Value);

impl View {
    /// Reads the payload of a message for templates. Numbers keep the digits PostgreSQL gave:
    /// whole ones are numbers, all others are text (`19.90` stays `19.90`; `| float` calculates).
    ///
    /// # Errors
    /// When the payload is not JSON, which a jsonb column does not let happen.
    pub fn of(message: &Message) -> Result<View, String> {
        let payload: serde_json::Value = serde_json::from_str(&message.payload)
            .map_err(|e| format!("payload is not JSON: {e}"))?;
        let headers: BTreeMap<String, Value> =
            message.headers.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
        let fields = [
            ("id", Value::from(message.id)),
            ("type", Value::from(message.message_type.clone())),
            ("key", message.key.clone().map_or(Value::from(()), Value::from)),
            ("created_at", Value::from(message.created_at.to_string())),
            ("headers", Value::from(headers)),
            ("payload", value_of(payload)),
        ];
        let fields: BTreeMap<String, Value> = fields.map(|(n, v)| (n.to_owned(), v)).into();
        Ok(View(Value::from(fields)))
    }

    /// A view of named values, with numbers as above.
    #[must_use]
    pub fn of_values(values: BTreeMap<String, serde_json::Value>) -> View {
        View(value_of(serde_json::Value::Object(values.into_iter().collect())))
    }
}

fn value_of(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(truth),
        serde_json::Value::Number(number) => {
            let digits = number.to_string();
            digits.parse::<i128>().map_or_else(|_| Value::from(digits), Value::from)
        }
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => items.into_iter().map(value_of).collect(),
        serde_json::Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(name, value)| (name, value_of(value))).collect();
            Value::from(fields)
        }
    }
}

/// The engine's words without the values of the message: kind, detail where it speaks of names
/// only, and the line.
fn describe(error: &Error) -> String {
    let line = error.line().map(|l| format!(" (template line {l})")).unwrap_or_default();
    let what = match error.kind() {
        ErrorKind::UndefinedError => {
            let expression = error
                .range()
                .and_then(|range| error.template_source().and_then(|source| source.get(range)))
                .unwrap_or("a value");
            format!("the message lacks what the template needs: {expression}")
        }
        ErrorKind::OutOfFuel => "the template runs too long".to_owned(),
        ErrorKind::WriteFailure => format!("the text is larger than {OUTPUT_MAX} bytes"),
        kind => {
            error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"))
        }
    };
    format!("{what}{line}")
}

/// A buffer that refuses to grow beyond [`OUTPUT_MAX`].
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_MAX {
            return Err(io::Error::other("too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, payload: &str) -> Result<String, String> {
        let message = Message {
            id: 7,
            message_type: "order.created".to_owned(),
            payload: payload.to_owned(),
            key: None,
            headers: BTreeMap::from([("lang".to_owned(), "de".to_owned())]),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        Template::parse(source)?.render(&View::of(&message)?)
    }

    #[test]
    fn numbers_keep_their_digits() {
        let payload = r#"{"total": 19.90, "n": 3, "big": 12345678901234567890123456789.10}"#;
        let text =
            render("{{ payload.total }} {{ payload.n + 1 }} {{ payload.big }}", payload).unwrap();
        assert_eq!(text, "19.90 4 12345678901234567890123456789.10");
    }

    #[test]
    fn a_hole_is_an_error_that_names_the_place() {
        let error = render("Dear\n{{ payload.name }}", "{}").unwrap_err();
        assert_eq!(
            error,
            "the message lacks what the template needs: payload.name (template line 2)"
        );
        assert!(render("{{ payload.name }}", r#"{"name": null}"#).unwrap_err().contains("null"));
        assert_eq!(
            render("{{ payload.name | default('', true) }}", r#"{"name": null}"#).unwrap(),
            ""
        );
    }

    #[test]
    fn what_a_template_asks_for_and_will_never_see_is_known_before() {
        let unknown = |source: &str| Template::parse(source).unwrap().unknown(&FILES_VIEW);
        assert_eq!(unknown("{{ paylod.id }} {{ sink }}").as_deref(), Some("paylod"));
        assert_eq!(unknown("{% if b or a %}{% endif %}").as_deref(), Some("a"));
        for fine in [
            "{{ period }} {{ files[0].sha256 }} {{ rows }} {{ from }} {{ to }} {{ sink }}",
            "{% set n = files | length %}{% for f in files %}{{ loop.index }}/{{ n }}{% endfor %}",
            "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(rows) }}{{ range(3) | join }}",
            "plain",
        ] {
            assert_eq!(unknown(fine), None, "{fine}");
        }
    }

    #[test]
    fn named_values_are_a_view() {
        let values = serde_json::json!({ "rows": 3, "files": [{ "name": "a.csv" }] });
        let serde_json::Value::Object(values) = values else { unreachable!() };
        let view = View::of_values(values.into_iter().collect());
        let source = "{{ rows + 1 }} {{ files[0].name }} {{ files[1] }}";
        let error = Template::parse(source).unwrap().render(&view).unwrap_err();
        assert!(error.contains("files[1]"), "{error}");
        let text = Template::parse("{{ rows + 1 }} {{ files[0].name }}").unwrap().render(&view);
        assert_eq!(text.unwrap(), "4 a.csv");
    }

    #[test]
    fn endless_and_huge_templates_stop() {
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(render(endless, "{}").unwrap_err().contains("too long"));
        let huge = format!("{{% for a in range(9000) %}}{}{{% endfor %}}", "x".repeat(1000));
        assert!(render(&huge, "{}").unwrap_err().contains("larger than"));
    }

    #[test]
    fn the_message_itself_is_in_view() {
        assert_eq!(
            render("{{ id }} {{ type }} {{ headers.lang }}", "{}").unwrap(),
            "7 order.created de"
        );
        assert!(Template::parse("{{ payload.").unwrap_err().contains("line 1"));
    }
}
