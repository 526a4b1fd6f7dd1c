//! What a template is put together from: the files that it includes, extends and imports, read and parsed
//! before the first message comes.

use std::collections::BTreeSet;

use minijinja::Environment;
use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::{Form, describe, place};

/// Files that one template may be put together from, itself among them.
const FILES_MAX: usize = 100;
/// Files that may name one another in a row.
const ROW_MAX: usize = 10;

/// Tags that bring other files in.
const REFERENCES: [&str; 4] = ["include", "extends", "import", "from"];
/// Tags that set names.
const SETTING: [&str; 7] = ["for", "set", "with", "macro", "call", "import", "from"];

/// Gives the text of a file by the name that a template has for it, below the root. None where there is no
/// such file; an error says what is wrong with it, to follow its name.
pub type Read<'a> = dyn FnMut(&str) -> Result<Option<String>, String> + 'a;

/// Why a template cannot be put together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// Its syntax.
    #[error("{0}")]
    Syntax(String),
    /// A file that it names.
    #[error("{0}")]
    File(String),
}

/// One file, or the text that stands in the config.
pub(super) struct Part {
    /// Its name below the root; empty for what is no file.
    pub name: String,
    /// Names that its tags set, or only mention: of those, that file is found at fault itself.
    sets: BTreeSet<String>,
}

impl Part {
    /// Whether a tag here may set a name.
    pub fn sets(&self, name: &str) -> bool {
        self.sets.contains(name)
    }

    /// The line where it asks for a name first; none where it is no file.
    pub fn line_of(&self, source: &str, name: &str) -> Option<usize> {
        let mut behind_dot = false;
        let mut tokens = tokenize(source, false, SyntaxConfig::default()).filter_map(Result::ok);
        let found = tokens.find(|(token, _)| {
            let is_it = matches!(token, Token::Ident(word) if *word == name) && !behind_dot;
            behind_dot = matches!(token, Token::Dot);
            is_it
        });
        found.filter(|_| !self.name.is_empty()).map(|(_, span)| line(span))
    }
}

/// Puts a template together.
pub(super) struct Loading<'a, 'r> {
    environment: &'a mut Environment<'static>,
    form: Form,
    read: &'a mut Read<'r>,
    parts: Vec<Part>,
    /// From the template to the file that is being read now.
    open: Vec<String>,
}

impl<'a, 'r> Loading<'a, 'r> {
    pub fn new(
        environment: &'a mut Environment<'static>,
        form: Form,
        read: &'a mut Read<'r>,
    ) -> Loading<'a, 'r> {
        Loading { environment, form, read, parts: Vec::new(), open: Vec::new() }
    }

    /// All parts, the template itself first.
    pub fn load(mut self, name: &str, source: String) -> Result<Vec<Part>, Unsound> {
        self.add(name, source)?;
        Ok(self.parts)
    }

    fn add(&mut self, name: &str, source: String) -> Result<(), Unsound> {
        let scanned = scan(&source);
        self.environment
            .add_template_owned(name.to_owned(), source)
            .map_err(|error| Unsound::Syntax(describe(&error)))?;
        self.check_filters(name)?;
        let (references, sets) = scanned.map_err(|line| {
            let words =
                "a file must be named in quotes, so that it can be read before it is needed";
            Unsound::File(format!("{words}{}", place(name, line)))
        })?;
        self.parts.push(Part { name: name.to_owned(), sets });
        self.open.push(name.to_owned());
        for reference in &references {
            self.follow(reference, &place(name, reference.line))?;
        }
        self.open.pop();
        Ok(())
    }

    /// The engine looks for a filter only when it is used: that would be at the first mail.
    fn check_filters(&self, name: &str) -> Result<(), Unsound> {
        let Ok(template) = self.environment.get_template(name) else { return Ok(()) };
        let tokens = tokenize(template.source(), false, SyntaxConfig::default());
        let tokens: Vec<_> = tokens.filter_map(Result::ok).collect();
        for pair in tokens.windows(3) {
            let (filter, span) = match pair {
                [(Token::Pipe, _), (Token::Ident(filter), span), _]
                | [
                    (Token::BlockStart, _),
                    (Token::Ident("filter"), _),
                    (Token::Ident(filter), span),
                ] => (*filter, span),
                _ => continue,
            };
            let is_there = self.environment.compile_expression("name is filter");
            let is_there =
                is_there.and_then(|test| test.eval(minijinja::context! { name => filter }));
            if is_there.is_ok_and(|there| !there.is_true()) {
                let words =
                    "; preview tells what a template makes, and Jinja's common filters are there";
                let at = place(name, line(*span));
                return Err(Unsound::Syntax(format!("there is no filter {filter}{at}{words}")));
            }
        }
        Ok(())
    }

    /// Reads what a tag names; of several files the engine takes the first there is.
    fn follow(&mut self, reference: &Reference, place: &str) -> Result<(), Unsound> {
        let mut is_there = reference.optional;
        for file in &reference.files {
            let wrong = |problem: &str| Unsound::File(format!("{file} {problem}{place}"));
            if let Some(at) = self.open.iter().position(|open| open == file) {
                let circle = self.open[at..].join(", ");
                return Err(wrong(&format!("comes back to itself, by way of {circle}")));
            }
            if self.parts.iter().any(|part| part.name == *file) {
                is_there = true;
                continue;
            }
            let Some(source) = (self.read)(file).map_err(|problem| wrong(&problem))? else {
                continue;
            };
            is_there = true;
            if self.form == Form::Text && is_html(file) {
                return Err(wrong("is HTML, and no part of a plain text"));
            }
            if self.parts.len() >= FILES_MAX {
                return Err(wrong(&format!("is one too many: a template has up to {FILES_MAX}")));
            }
            if self.open.len() >= ROW_MAX {
                return Err(wrong(&format!(
                    "is one too deep: up to {ROW_MAX} name one another in a row"
                )));
            }
            self.add(file, source)?;
        }
        let missing = reference.files.join(", ");
        is_there
            .then_some(())
            .ok_or_else(|| Unsound::File(format!("{missing} does not exist{place}")))
    }
}

/// Whether a file's name says that it is HTML.
#[must_use]
pub fn is_html(file: &str) -> bool {
    let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
    ending.eq_ignore_ascii_case("html") || ending.eq_ignore_ascii_case("htm")
}

/// A tag that brings another file in.
struct Reference {
    /// One, or several of which one has to be there.
    files: Vec<String>,
    /// `ignore missing`: none has to be there.
    optional: bool,
    line: usize,
}

/// What a source refers to, and the names that its tags set; or the line of a tag that does not name its
/// file in quotes. What is wrong with the syntax is for the engine to say.
fn scan(source: &str) -> Result<(Vec<Reference>, BTreeSet<String>), usize> {
    let (mut references, mut sets) = (Vec::new(), BTreeSet::new());
    let mut tokens = tokenize(source, false, SyntaxConfig::default()).map_while(Result::ok);
    while let Some((token, _)) = tokens.next() {
        if !matches!(token, Token::BlockStart) {
            continue;
        }
        let inside = tokens.by_ref().take_while(|(token, _)| !matches!(token, Token::BlockEnd));
        let tag: Vec<(Token, Span)> = inside.collect();
        let Some(((Token::Ident(word), span), rest)) = tag.split_first() else { continue };
        if REFERENCES.contains(word) {
            references.push(reference(rest, line(*span)).ok_or(line(*span))?);
        }
        if SETTING.contains(word) {
            sets.extend(["loop", "caller"].map(str::to_owned));
            sets.extend(rest.iter().filter_map(|(token, _)| match token {
                Token::Ident(name) => Some((*name).to_owned()),
                _ => None,
            }));
        }
    }
    Ok((references, sets))
}

/// `"a.txt" …` or `["a.txt", "b.txt"] …`, with nothing behind it that makes another name of it.
fn reference(tokens: &[(Token<'_>, Span)], line: usize) -> Option<Reference> {
    let mut tokens = tokens.iter().map(|(token, _)| token).peekable();
    let mut files = Vec::new();
    let is_list = tokens.next_if(|token| matches!(token, Token::BracketOpen)).is_some();
    loop {
        match tokens.next()? {
            Token::Str(file) => files.push((*file).to_owned()),
            Token::String(file) => files.push(file.to_string()),
            _ => return None,
        }
        if !is_list || matches!(tokens.next()?, Token::BracketClose) {
            break;
        }
    }
    if files.iter().any(String::is_empty) {
        return None;
    }
    match tokens.next() {
        None => Some(Reference { files, optional: false, line }),
        Some(Token::Ident(word)) => {
            let optional = *word == "ignore";
            let is_fine = optional || ["as", "import", "with", "without"].contains(word);
            is_fine.then_some(Reference { files, optional, line })
        }
        Some(_) => None,
    }
}

fn line(span: Span) -> usize {
    usize::from(span.start_line)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::template::{MESSAGE_VIEW, Template, View};

    type Files<'a> = &'a [(&'a str, &'a str)];

    fn load_as(form: Form, files: Files) -> Result<Template, String> {
        let (name, source) = files[0];
        let mut read = |name: &str| {
            let found = files.iter().find(|(file, _)| *file == name);
            Ok(found.map(|(_, source)| (*source).to_owned()))
        };
        let loaded = Template::load(name, source.to_owned(), form, &mut read);
        loaded.map_err(|unsound| unsound.to_string())
    }

    /// Renders the first file, with all of them to be had.
    fn render_as(form: Form, files: Files) -> Result<String, String> {
        let payload = serde_json::json!({
            "name": "Ann", "evil": "<b>\"&'", "items": [{ "n": 1 }, { "n": 2 }],
        });
        let values = BTreeMap::from([("payload".to_owned(), payload)]);
        load_as(form, files)?.render(&View::of_values(values))
    }

    fn render(files: Files) -> Result<String, String> {
        render_as(Form::Text, files)
    }

    #[test]
    fn files_are_included_extended_and_imported() {
        let files = [
            (
                "order.txt",
                "{% extends 'parts/layout.txt' %}{% from \"parts/money.txt\" import euro %}\
                 {% block body %}{% for item in payload.items %}{% include 'parts/row.txt' %}{% endfor %}\
                 {{ euro(3) }}{% endblock %}",
            ),
            ("parts/layout.txt", "Dear {{ payload.name }}: {% block body %}{% endblock %}. Bye"),
            ("parts/money.txt", "{% macro euro(x) %}{{ x }} EUR{% endmacro %}"),
            ("parts/row.txt", "{{ loop.index }}={{ item.n }} "),
        ];
        assert_eq!(render(&files).unwrap(), "Dear Ann: 1=1 2=2 3 EUR. Bye");
        let both =
            [("a", "{% include ['none', 'b'] %}{% include 'none' ignore missing %}"), ("b", "B")];
        assert_eq!(render(&both).unwrap(), "B");
        let twice =
            [("a", "{% include 'b' %}{% include 'c' %}"), ("b", "{% include 'c' %}"), ("c", "C")];
        assert_eq!(render(&twice).unwrap(), "CC");
        // No tags, to the engine.
        let raw = [(
            "a",
            "{% raw %}{% include x %}{% endraw %}{# {% include x %} #}{{ '{% include x %}' }}",
        )];
        assert_eq!(render(&raw).unwrap(), "{% include x %}{% include x %}");
    }

    #[test]
    fn what_a_file_names_must_be_there_and_sound() {
        let faults: &[(Files, &str)] = &[
            (&[("a", "\n{% include 'b' %}")], "b does not exist (a line 2)"),
            (&[("", "{% include 'b' %}")], "b does not exist (template line 1)"),
            (&[("a", "{% include ['b', 'c'] %}")], "b, c does not exist (a line 1)"),
            (&[("a", "{% extends 'b' %}")], "b does not exist (a line 1)"),
            (&[("a", "{% import 'b' as b %}")], "b does not exist (a line 1)"),
            (&[("a", "{%- from 'b' import c %}")], "b does not exist (a line 1)"),
            (
                &[("a", "{% include 'b' %}"), ("b", "\n\n{% if %}")],
                "syntax error: unexpected end of block (b line 3)",
            ),
            (&[("a", "{% include 'a' %}")], "a comes back to itself, by way of a (a line 1)"),
            (
                &[
                    ("x", "{% extends 'a' %}"),
                    ("a", "{% include 'b' %}"),
                    ("b", "\n{% import 'a' as c %}"),
                ],
                "a comes back to itself, by way of a, b (b line 2)",
            ),
            (
                &[("a.txt", "{% include 'b.HTML' %}"), ("b.HTML", "")],
                "b.HTML is HTML, and no part of a plain text (a.txt line 1)",
            ),
        ];
        for (files, fault) in faults {
            assert_eq!(load_as(Form::Text, files).unwrap_err(), *fault);
        }
        let quotes = "a file must be named in quotes, so that it can be read before it is needed";
        for tag in [
            "include payload.file",
            "include ''",
            "include ['b', '']",
            "include []",
            "include 'a' ~ payload.x",
            "include 'b' if payload.x else 'c'",
            "include ['b', payload.x]",
            "include ['b'][0]",
            "extends payload.x",
            "import payload.x as y",
            "from payload.x import y",
        ] {
            let fault = load_as(Form::Text, &[("a", &format!("\n{{% {tag} %}}"))]).unwrap_err();
            assert_eq!(fault, format!("{quotes} (a line 2)"), "{tag}");
        }
    }

    #[test]
    fn the_files_of_a_template_are_counted() {
        let load = |sources: &[String]| {
            let names: Vec<String> = (0..sources.len()).map(|n| n.to_string()).collect();
            let files = names.iter().zip(sources).map(|(name, source)| (&**name, &**source));
            load_as(Form::Text, &files.collect::<Vec<_>>()).map(drop)
        };
        let include = |n: usize| format!("{{% include '{n}' %}}");
        let wide = |count: usize| {
            let main: String = (1..count).map(include).collect();
            load(
                &std::iter::once(main).chain((1..count).map(|_| String::new())).collect::<Vec<_>>(),
            )
        };
        assert_eq!(wide(FILES_MAX), Ok(()));
        let fault = "100 is one too many: a template has up to 100 (0 line 1)";
        assert_eq!(wide(FILES_MAX + 1).unwrap_err(), fault);
        let row = |count: usize| {
            load(&(1..count).map(include).chain([String::new()]).collect::<Vec<_>>())
        };
        assert_eq!(row(ROW_MAX), Ok(()));
        let fault = "10 is one too deep: up to 10 name one another in a row (9 line 1)";
        assert_eq!(row(ROW_MAX + 1).unwrap_err(), fault);
    }

    #[test]
    fn a_hole_in_a_file_is_told_with_that_file() {
        let files = [("a", "{% include 'b' %}"), ("b", "x\n{{ payload.nmae }}")];
        let error = "the message lacks what the template needs: payload.nmae (b line 2)";
        assert_eq!(render(&files).unwrap_err(), error);
        let files = [
            ("a", "{% import 'b' as b %}{{ b.m() }}"),
            ("b", "{% macro m() %}\n{{ payload.x }}{% endmacro %}"),
        ];
        assert!(render(&files).unwrap_err().ends_with("payload.x (b line 2)"));
        let files = [
            ("a", "{% extends 'b' %}\n{% block c %}{{ payload.x }}{% endblock %}"),
            ("b", "{% block c %}{% endblock %}"),
        ];
        assert!(render(&files).unwrap_err().ends_with("payload.x (a line 2)"));
    }

    #[test]
    fn what_no_file_sets_and_no_view_has_is_known_before() {
        let unknown = |files: Files| load_as(Form::Text, files).unwrap().unknown(&MESSAGE_VIEW);
        let row = ("row", "x.y\n{{ x.y }}");
        for (main, fine) in [
            ("{% for x in payload.items %}{% include 'row' %}{% endfor %}", true),
            ("{% set x = payload %}{% include 'row' %}", true),
            ("{% with x = payload %}{% include 'row' %}{% endwith %}", true),
            ("{% for z in payload.items %}{% include 'row' %}{% endfor %}", false),
            ("{% include 'row' %}", false),
        ] {
            let found = unknown(&[("main", main), row]);
            assert_eq!(found.as_deref(), (!fine).then_some("x (row line 2)"), "{main}");
        }
        let found = unknown(&[("main", "\n{{ payload.paylod }}\n{{ paylod }}"), row]);
        assert_eq!(found.as_deref(), Some("paylod (main line 3)"));
    }

    #[test]
    fn values_in_html_are_escaped_whatever_the_files_are_called() {
        let main = "{% from 'm' import m %}{{ payload.evil }} {% include 'b.txt' %} {{ m(payload.evil) }} \
                    {{ payload.evil | safe }}";
        let files = [
            ("a.html", main),
            ("b.txt", "<i>{{ payload.evil }}</i>"),
            ("m", "{% macro m(x) %}{{ x }}{% endmacro %}"),
        ];
        let escaped = "&lt;b&gt;&quot;&amp;&#x27;";
        assert_eq!(
            render_as(Form::Html, &files).unwrap(),
            format!("{escaped} <i>{escaped}</i> {escaped} <b>\"&'")
        );
        assert_eq!(render(&[("a.txt", "{{ payload.evil }}")]).unwrap(), "<b>\"&'");
    }

    #[test]
    fn nothing_runs_for_ever_or_too_deep() {
        let inner = ("b", "{% for x in range(9999) %}x{% endfor %}");
        let endless = [("a", "{% for x in range(9999) %}{% include 'b' %}{% endfor %}"), inner];
        assert_eq!(render(&endless).unwrap_err(), "the template runs too long (b line 1)");
        let wide = "x".repeat(1000);
        let huge = [("a", "{% for x in range(9000) %}{% include 'b' %}{% endfor %}"), ("b", &wide)];
        assert!(render(&huge).unwrap_err().contains("larger than"), "{huge:?}");
        let hidden = [
            ("a", "{% set x %}{% for x in range(9000) %}{% include 'b' %}{% endfor %}{% endset %}"),
            ("b", &*wide.repeat(20)),
        ];
        assert!(render(&hidden).unwrap_err().contains("runs too long"));
        let macros = [
            ("a", "{% import 'b' as b %}{{ b.m(1) }}"),
            ("b", "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}"),
        ];
        let error = render(&macros).unwrap_err();
        assert!(error.contains("recursion limit"), "{error}");
        let deep = |calls: usize| {
            let of = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}";
            render(&[("a", &format!("{of}{{{{ m({calls}) }}}}"))])
        };
        assert_eq!(deep(30), Ok(String::new()));
        assert!(
            deep(60).unwrap_err().contains("recursion limit"),
            "half of what the engine allows"
        );
        let doubling = [(
            "a",
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
        )];
        assert!(render(&doubling).unwrap_err().contains("runs too long"));
        let looping = [("a", "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}")];
        let error = render(&looping).unwrap_err();
        assert!(error.contains("recursion limit"), "{error}");
    }
}
