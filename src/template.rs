//! Templates: strict, with limited fuel and limited output, so that no message can make the relay
//! spin or send a mail with a hole in it.
//!
//! A template is whole once it is parsed: the files that it includes, extends or imports were read with
//! it, and rendering reads nothing.

mod language;
mod parts;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::io;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, escape_formatter};

pub use self::language::{Localised, language_tag};
use self::parts::{Loading, Part};
pub use self::parts::{Read, Unsound, is_html};
use crate::message::Message;

/// Instructions one rendering may spend, those of included files among them. 64 bytes count as one.
const FUEL: u64 = 200_000;
/// How deep a rendering may go: an include counts 10, a call of a macro 4.
const DEPTH_MAX: usize = 250;
/// Largest text one rendering may produce, in bytes.
const OUTPUT_MAX: usize = 4 * 1024 * 1024;

/// What the template of a message sees.
pub const MESSAGE_VIEW: [&str; 6] = ["id", "type", "key", "created_at", "headers", "payload"];
/// What the template of a mail with files sees: `period`, its bounds `from` and `to` (RFC 3339), the sum
/// of `rows`, `files` (each with name, period, rows, bytes, sha256), `sink`.
pub const FILES_VIEW: [&str; 6] = ["period", "from", "to", "rows", "files", "sink"];

/// What a template's values are written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Values are written as they are.
    Text,
    /// Values are escaped, whatever the names of the files are; `| safe` lets one through.
    Html,
}

/// A parsed template. Rendering fails on a name the message does not have and on a null, rather
/// than leaving a hole.
pub struct Template {
    environment: Environment<'static>,
    /// The template itself, then the files it is put together from.
    parts: Vec<Part>,
    /// Whether what it makes depends on what a producer wrote.
    asks_message: bool,
}

impl Template {
    /// Parses a text in Jinja syntax that stands alone.
    ///
    /// # Errors
    /// What is wrong with the syntax, with the line inside the template.
    pub fn parse(source: &str) -> Result<Template, String> {
        let alone = Template::load("", source.to_owned(), Form::Text, &mut |_| Ok(None));
        alone.map_err(|unsound| unsound.to_string())
    }

    /// Parses a template and every file that it includes, extends or imports. `name` is what it is called
    /// in errors, and empty for one that is no file.
    ///
    /// # Errors
    /// What is wrong with the syntax or with a file, with the file and the line.
    pub fn load(
        name: &str,
        source: String,
        form: Form,
        read: &mut Read<'_>,
    ) -> Result<Template, Unsound> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH_MAX);
        environment.set_formatter(|out, state, value| {
            if value.is_none() {
                let hint =
                    "a value is null; say what stands for it, e.g. {{ x | default('', true) }}";
                return Err(Error::new(ErrorKind::InvalidOperation, hint));
            }
            escape_formatter(out, state, value)
        });
        environment.add_filter("quoted", quoted);
        // By the mail's part and not by a file's name: what an HTML part includes is HTML there.
        environment.set_auto_escape_callback(move |_| match form {
            Form::Text => AutoEscape::None,
            Form::Html => AutoEscape::Html,
        });
        let parts = Loading::new(&mut environment, form, read).load(name, source)?;
        let mut template = Template { environment, parts, asks_message: false };
        template.asks_message = template.unknown(&["id", "type", "created_at"]).is_some();
        Ok(template)
    }

    /// Whether it asks for what a producer wrote (payload, key, headers) and not just for the message's id,
    /// type or time.
    #[must_use]
    pub fn asks_message(&self) -> bool {
        self.asks_message
    }

    /// A name that the template asks for and `view` does not have, and in which file and line it does.
    #[must_use]
    pub fn unknown(&self, view: &[&str]) -> Option<String> {
        self.parts.iter().find_map(|part| {
            let template = self.environment.get_template(&part.name).ok()?;
            // What another file sets may be there when this one is rendered.
            let is_set = |name: &str| {
                let mut others = self.parts.iter().filter(|other| other.name != part.name);
                others.any(|other| other.sets(name))
            };
            let unknown = template.undeclared_variables(false).into_iter().filter(|name| {
                let is_global = self.environment.globals().any(|(global, _)| global == name);
                !view.contains(&&**name) && !is_global && !is_set(name)
            });
            unknown.min().map(|name| match part.line_of(template.source(), &name) {
                Some(line) => format!("{name}{}", place(&part.name, line)),
                None => name,
            })
        })
    }

    /// Renders the template for what is in view.
    ///
    /// # Errors
    /// A missing or null value, spent fuel or too large an output, in words that name the place in
    /// the template and none of the message's values.
    pub fn render(&self, view: &View) -> Result<String, String> {
        let mut out = Limited(Vec::new());
        let main = self.parts.first().map_or("", |part| &part.name);
        let template = self.environment.get_template(main).map_err(|e| describe(&e))?;
        template.render_captured_to(view.0.clone(), &mut out).map_err(|e| describe(&e))?;
        String::from_utf8(out.0).map_err(|_| "the template made invalid UTF-8".to_owned())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

/// `quoted`: a name as it stands in quotes before an address (RFC 5322 section 3.2.4), so that nothing in it
/// is taken for an address.
#[allow(clippy::needless_pass_by_value, reason = "the engine hands it over so")]
fn quoted(name: String) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
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
/// only, and the place. Of an error in an included file, the innermost one is told.
fn describe(error: &Error) -> String {
    let mut error = error;
    while let Some(inner) = error.source().and_then(|source| source.downcast_ref()) {
        error = inner;
    }
    let line = error.line().map(|line| place(error.name().unwrap_or_default(), line));
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
    format!("{what}{}", line.unwrap_or_default())
}

/// Where something is, behind the words for it.
fn place(file: &str, line: usize) -> String {
    let file = if file.is_empty() { "template" } else { file };
    format!(" ({file} line {line})")
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
    fn a_quoted_name_holds_no_address() {
        let name = r#"{"name": "Ann\" <eve@x.example>, \"Bob\\"}"#;
        let made = render("{{ payload.name | quoted }}", name).unwrap();
        assert_eq!(made, r#""Ann\" <eve@x.example>, \"Bob\\""#);
    }

    #[test]
    fn a_filter_that_there_is_not_is_known_before() {
        for (source, name) in [
            ("{{ payload.a | money }}", "money"),
            ("{{ payload.a | upper | euroo(2) }}", "euroo"),
            ("{% filter shout %}x{% endfilter %}", "shout"),
        ] {
            let fault = Template::parse(source).unwrap_err();
            assert!(
                fault.starts_with(&format!("there is no filter {name} (template line 1)")),
                "{fault}"
            );
        }
        for fine in
            ["{{ payload.a | default('', true) | upper }}", "{% filter upper %}x{% endfilter %}"]
        {
            assert!(Template::parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn what_depends_on_the_producer_is_known() {
        let asks = |source: &str| Template::parse(source).unwrap().asks_message();
        assert!(!asks("bounce@example.com") && !asks("b+{{ id }}@example.com"));
        assert!(asks("{{ payload.from }}") && asks("b+{{ key }}@example.com"));
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
