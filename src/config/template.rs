//! `[templates]`, and the files that templates stand in.
//!
//! All of them are read here, what they include as well: a config that was loaded needs no file any more.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use sha2::Digest as _;

use super::item::{Item, MISSING, read_file};
use super::read::{Section, Source};
use crate::template::{Form, Localised, Template, Unsound, is_html, language_tag};

const JINJA: &str = "templates are written in Jinja, e.g. {{ payload.order_id }}";
const BELOW: &str = "names start at [templates] root, by default the config file's directory";
const OUT: &str = "leads out of the root of the templates";

/// Where the files of templates are.
pub(super) enum Root {
    /// What the config names is where its other files are; what they name is below the config's directory.
    Beside,
    /// `[templates] root`: everything is below this directory.
    Below(PathBuf),
    /// A root with a fault, which is told once and not at each file.
    Broken,
}

/// A file that a key names.
struct Named {
    /// What it is called in errors, and as itself in what it includes.
    name: String,
    path: PathBuf,
}

/// Reads `[templates]`.
pub(super) fn read(root: &mut Section) -> Root {
    let Some(item) = root.get("templates") else { return Root::Beside };
    let Some(mut section) = item.section() else { return Root::Broken };
    let root = section.need("root", "write root = \"templates\"");
    section.close();
    let Some((root, path)) = root.and_then(|item| item.path().map(|path| (item, path))) else {
        return Root::Broken;
    };
    match path.canonicalize() {
        Ok(path) if path.is_dir() => return Root::Below(path),
        Ok(_) => root.fault(format!("{} is no directory", root.shown()), "name a directory"),
        Err(error) => {
            let remedy = "paths start at the config file's directory";
            root.fault(format!("{} {}", root.shown(), in_words(&error)), remedy);
        }
    }
    Root::Broken
}

/// A template that stands in the config; `view` are the names that it sees.
pub(super) fn inline(item: &Item, form: Form, view: &[&str]) -> Option<Template> {
    load(item, "", item.text()?, form, view)
}

/// A template in the file that a key names.
pub(super) fn file(item: &Item, form: Form, view: &[&str]) -> Option<Template> {
    let (named, text) = named(item, form)?;
    load(item, &named.name, text, form, view)
}

/// The same with its variants, the files beside it with a language tag before their ending.
pub(super) fn localised(item: &Item, form: Form, view: &[&str]) -> Option<Localised> {
    let (named, text) = named(item, form)?;
    let fallback = load(item, &named.name, text, form, view);
    let mut variants = BTreeMap::new();
    for (tag, named) in beside(item, &named)? {
        let text = item.source.read_template(&named).map_err(|problem| {
            item.fault(format!("{} {problem}", named.name), "mend it, or take it away");
        });
        let variant = text.ok().and_then(|text| load(item, &named.name, text, form, view));
        variants.insert(tag, variant?);
    }
    Some(Localised::new(fallback?, variants))
}

/// `order.LANGUAGE.txt` for `order.txt`.
pub(super) fn variant_of(file: &str, language: &str) -> String {
    let (stem, ending) = stem_and_ending(file);
    format!("{stem}.{language}{ending}")
}

/// The name up to its ending, and the ending with its dot, if there is one.
fn stem_and_ending(file: &str) -> (&str, &str) {
    let name = file.rfind('/').map_or(0, |slash| slash + 1);
    match file[name..].rfind('.') {
        Some(dot) if dot > 0 => file.split_at(name + dot),
        _ => (file, ""),
    }
}

/// The file that a key names, and its text.
fn named(item: &Item, form: Form) -> Option<(Named, String)> {
    let name = item.text()?;
    if form == Form::Text && is_html(&name) {
        let remedy = "name a file for plain text here, e.g. order.txt";
        item.fault(format!("{} is HTML", item.shown()), remedy);
        return None;
    }
    let templates = item.source.templates.borrow();
    let root = match &*templates {
        Root::Broken => return None,
        // As every other file that the config names.
        Root::Beside => {
            let (path, text) = (item.path()?, item.file()?);
            return Some((Named { name, path }, text));
        }
        Root::Below(root) => root,
    };
    let found = below(root, &name).and_then(|path| path.ok_or_else(|| MISSING.to_owned()));
    let text = found.and_then(|path| read_file(&path));
    let text =
        text.map_err(|problem| item.fault(format!("{} {problem}", item.shown()), BELOW)).ok()?;
    item.source.hash.borrow_mut().update(text.as_bytes());
    let path = root.join(&name);
    Some((Named { name, path }, text))
}

/// Parses a template with everything that it names.
fn load(item: &Item, name: &str, text: String, form: Form, view: &[&str]) -> Option<Template> {
    let mut read = |file: &str| item.source.read_part(file);
    let loaded = Template::load(name, text, form, &mut read).map_err(|unsound| match unsound {
        Unsound::Syntax(problem) => item.fault(problem, JINJA),
        Unsound::File(problem) => item.fault(problem, BELOW),
    });
    let template = loaded.ok()?;
    if let Some(name) = template.unknown(view) {
        item.fault(format!("sees no {name}"), format!("it sees {}", view.join(", ")));
    }
    Some(template)
}

/// The variants of a file, by language tag.
fn beside(item: &Item, named: &Named) -> Option<BTreeMap<String, Named>> {
    let directory = named.path.parent().filter(|path| !path.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = listed
        .map_err(|error| item.fault(format!("its directory {}", in_words(&error)), BELOW))
        .ok()?;
    let (stem, ending) = stem_and_ending(&named.name);
    let (folder, stem) = stem.rsplit_once('/').map_or(("", stem), |(folder, stem)| (folder, stem));
    let mut found: BTreeMap<String, Named> = BTreeMap::new();
    for entry in entries {
        let Ok(file) = entry.file_name().into_string() else { continue };
        let tag = file.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.'));
        let tag = tag.and_then(|rest| rest.strip_suffix(ending)).and_then(language_tag);
        let Some(tag) = tag else { continue };
        let name = if folder.is_empty() { file } else { format!("{folder}/{file}") };
        let variant = Named { name, path: entry.path() };
        if let Some(other) = found.get(&tag) {
            let both = format!("{} and {} are for one language", other.name, variant.name);
            item.fault(both, "keep one of the two");
            return None;
        }
        found.insert(tag, variant);
    }
    Some(found)
}

impl Source<'_> {
    /// A variant's text; part of the config's hash, as is that it is there.
    fn read_template(&self, named: &Named) -> Result<String, String> {
        let text = match &*self.templates.borrow() {
            Root::Below(root) => below(root, &named.name)?.ok_or(MISSING)?,
            Root::Beside | Root::Broken => named.path.clone(),
        };
        let text = read_file(&text)?;
        self.hash_named(&named.name, &text);
        Ok(text)
    }

    /// What a template names; likewise part of the hash.
    fn read_part(&self, name: &str) -> Result<Option<String>, String> {
        let path = match &*self.templates.borrow() {
            Root::Below(root) => below(root, name)?,
            Root::Beside => {
                let beside = self.directory.as_os_str();
                let beside = if beside.is_empty() { Path::new(".") } else { self.directory };
                let root = beside.canonicalize().map_err(|error| in_words(&error))?;
                below(&root, name)?
            }
            Root::Broken => None,
        };
        let text = path.map(|path| read_file(&path)).transpose()?;
        if let Some(text) = &text {
            self.hash_named(name, text);
        }
        Ok(text)
    }

    fn hash_named(&self, name: &str, text: &str) {
        let mut hash = self.hash.borrow_mut();
        for part in [name, text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
}

/// Where a file below a root is, links followed; none where there is none.
fn below(root: &Path, name: &str) -> Result<Option<PathBuf>, String> {
    let mut parts = Path::new(name).components();
    if name.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
        return Err(OUT.to_owned());
    }
    let path = match root.join(name).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(in_words(&error)),
    };
    if !path.starts_with(root) {
        return Err(OUT.to_owned());
    }
    // What is no file might never end.
    if path.is_file() { Ok(Some(path)) } else { Err("is no file".to_owned()) }
}

fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => MISSING.to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::testing::{SINKS, parse_in, refuses};
    use crate::config::{Config, ConfigError, Content, Mail};
    use crate::template::View;

    const MAIL: &str = "to = \"a@b.example\"\nsubject = \"S\"\n";

    /// A directory with a config in it, and files of templates.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new(files: &[(&str, &str)]) -> Place {
            let place = Place(tempfile::tempdir().unwrap());
            for (name, text) in files {
                place.write(name, text);
            }
            place
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Reads a config with `top` on its first lines and a route whose own keys begin behind `MAIL`.
        fn config(&self, top: &str, route: &str) -> Result<Config, ConfigError> {
            let route = format!("[[routes]]\ntype = \"a\"\nsink = \"mail\"\n{MAIL}{route}");
            parse_in(self.0.path(), &format!("{top}{SINKS}{route}\n"))
        }

        /// The faults, with key and problem and without where the directory is.
        fn faults(&self, top: &str, route: &str) -> Vec<String> {
            let error = self.config(top, route).expect_err(route);
            let told = |fault: &crate::config::Fault| format!("{}: {}", fault.key, fault.problem);
            error.faults.iter().map(told).collect()
        }
    }

    fn mail(config: &Config) -> &Mail {
        let Content::Mail(mail) = &config.routes[0].content else { panic!("no mail") };
        mail
    }

    fn text(config: &Config, locale: Option<&str>) -> String {
        let view = View::of_values(BTreeMap::new());
        mail(config).text.as_ref().unwrap().variant(locale).render(&view).unwrap()
    }

    const BELOW_MAIL: &str = "[templates]\nroot = \"mail\"\n";

    #[test]
    fn names_start_at_the_root() {
        let place = Place::new(&[
            ("mail/order.txt", "{% include 'parts/bye.txt' %}"),
            ("mail/parts/bye.txt", "bye"),
            ("order.txt", "{% include 'mail/parts/bye.txt' %} beside"),
        ]);
        let below = place.config(BELOW_MAIL, "text_template = \"order.txt\"").unwrap();
        assert_eq!(text(&below, None), "bye");
        let beside = place.config("", "text_template = \"order.txt\"").unwrap();
        assert_eq!(text(&beside, None), "bye beside");
        let inline = place.config(BELOW_MAIL, "text = \"{% include 'parts/bye.txt' %}!\"").unwrap();
        assert_eq!(text(&inline, None), "bye!");
        // Without the table, what the config itself names may be anywhere, as before there was one.
        let whole = place.0.path().join("mail/order.txt");
        for name in [&*whole.to_string_lossy(), "./order.txt", "mail/../order.txt"] {
            let route = format!("text_template = \"{name}\"");
            let config = place.config("", &route);
            let broken = name.starts_with('/');
            assert_eq!(
                config.is_err(),
                broken,
                "its include is below the config's directory: {name}"
            );
        }
    }

    #[test]
    fn nothing_outside_of_the_root_is_read() {
        let place = Place::new(&[
            ("secret", "sesame"),
            ("mail/parts/a.txt", "inside"),
            ("maildir/a.txt", "sesame"),
        ]);
        let root = place.0.path().join("mail");
        symlink("../secret", root.join("link.txt")).unwrap();
        symlink("../maildir", root.join("linked")).unwrap();
        symlink("parts/a.txt", root.join("fine.txt")).unwrap();
        symlink("loop.txt", root.join("loop.txt")).unwrap();
        let out = "leads out of the root of the templates";
        let whole = root.join("parts/a.txt").display().to_string();
        for name in [
            "../secret",
            "parts/../../secret",
            "link.txt",
            "linked/a.txt",
            "/etc/hostname",
            &whole,
            ".",
        ] {
            let said = place.faults(BELOW_MAIL, &format!("text = \"{{% include '{name}' %}}\""));
            assert_eq!(said, [format!("routes[0].text: {name} {out} (template line 1)")]);
            let said = place.faults(BELOW_MAIL, &format!("text_template = \"{name}\""));
            assert_eq!(
                said,
                [format!("routes[0].text_template: {} {out}", super::super::item::quote(name))]
            );
        }
        for (name, problem) in [
            ("parts", "is no file"),
            ("none.txt", "does not exist"),
            ("parts/a.txt/b", "cannot be read: Not a directory (os error 20)"),
            ("loop.txt", "cannot be read: Too many levels of symbolic links (os error 40)"),
        ] {
            let said = place.faults(BELOW_MAIL, &format!("text = \"{{% include '{name}' %}}\""));
            assert_eq!(said, [format!("routes[0].text: {name} {problem} (template line 1)")]);
        }
        let fine = place.config(BELOW_MAIL, "text_template = \"fine.txt\"").unwrap();
        assert_eq!(text(&fine, None), "inside");
    }

    #[test]
    fn faults_of_files_name_file_and_line() {
        let place = Place::new(&[
            ("mail/a.txt", "\n{% include 'b.txt' %}"),
            ("mail/b.txt", "x\n{% include 'c.txt' %}"),
        ]);
        let said = || place.faults(BELOW_MAIL, "text_template = \"a.txt\"").concat();
        assert_eq!(said(), "routes[0].text_template: c.txt does not exist (b.txt line 2)");
        place.write("mail/c.txt", "\n\n{{ paylod.x }}");
        assert_eq!(said(), "routes[0].text_template: sees no paylod (c.txt line 3)");
        place.write("mail/c.txt", "{% if %}");
        assert!(said().ends_with("unexpected end of block (c.txt line 1)"), "{}", said());
        place.write("mail/c.txt", "{% include 'a.txt' %}");
        let circle = "a.txt comes back to itself, by way of a.txt, b.txt, c.txt (c.txt line 1)";
        assert_eq!(said(), format!("routes[0].text_template: {circle}"));
        fs::write(place.0.path().join("mail/c.txt"), b"\xff").unwrap();
        assert!(said().ends_with("c.txt is not UTF-8 text (b.txt line 2)"), "{}", said());
        place.write("mail/c.txt", &"x".repeat(1024 * 1024 + 1));
        assert!(said().ends_with("c.txt is larger than 1 MB (b.txt line 2)"), "{}", said());
    }

    #[test]
    fn faults_of_the_root() {
        for (table, fault) in [
            ("[templates]", "1: templates.root: is missing; write root = \"templates\""),
            ("templates = 1", "1: templates: is an integer; write a table"),
            ("[templates]\nroot = 1", "2: templates.root: is an integer; write a string"),
            ("[templates]\nroot = \"\"", "2: templates.root: is empty; write a path"),
            (
                "[templates]\nroot = \"none\"",
                "2: templates.root: \"none\" does not exist; \
                 paths start at the config file's directory",
            ),
            (
                "[templates]\nroot = \"Cargo.toml\"",
                "2: templates.root: \"Cargo.toml\" is no directory; name a directory",
            ),
            (
                "[templates]\nroot = \"src\"\nrot = 1",
                "3: templates.rot: is unknown; did you mean root?",
            ),
        ] {
            // Told once, and not of each file too.
            let route = format!("[[routes]]\ntype = \"a\"\nsink = \"mail\"\n{MAIL}");
            let route = format!("{route}text_template = \"lib.rs\"\n");
            refuses(&format!("{table}\n{SINKS}{route}"), &[&format!("outboxd.toml:{fault}")]);
        }
    }

    #[test]
    fn variants_are_found_beside_their_file() {
        let files = [
            ("mail/order.txt", "en"),
            ("mail/order.de.txt", "{% include 'order.de-AT.txt' %} de"),
            ("mail/order.de-AT.txt", "at"),
            ("mail/order.pt_BR.txt", "br"),
            ("mail/order.subject.txt", "no language: {{"),
            ("mail/order.de.html", "another ending: {{"),
            ("mail/reorder.fr.txt", "another name: {{"),
            ("mail/order.fr/x.txt", "a directory's"),
        ];
        let place = Place::new(&files);
        let keys = "locale = \"de\"\ntext_template = \"order.txt\"";
        let config = place.config(BELOW_MAIL, keys).unwrap();
        assert!(mail(&config).locale.is_some());
        let said = ["de", "de-AT", "pt-br", "fr", ""].map(|locale| text(&config, Some(locale)));
        assert_eq!(said, ["at de", "at", "br", "en", "en"]);
        // Without the table too.
        place.write("mail/order.de.txt", "de");
        let config = place.config("", &keys.replace("order", "mail/order")).unwrap();
        assert_eq!(["de", "fr"].map(|locale| text(&config, Some(locale))), ["de", "en"]);
        // Without a locale nobody looks at them.
        place.write("mail/order.de.txt", "{{");
        assert!(place.config(BELOW_MAIL, "text_template = \"order.txt\"").is_ok());
        let fault = "routes[0].text_template: syntax error: unexpected end of input, expected expression \
                     (order.de.txt line 1)";
        assert_eq!(place.faults(BELOW_MAIL, keys), [fault]);
        place.write("mail/order.de.txt", "{{ paylod }}");
        let fault = "routes[0].text_template: sees no paylod (order.de.txt line 1)";
        assert_eq!(place.faults(BELOW_MAIL, keys), [fault]);
        fs::remove_file(place.0.path().join("mail/order.de.txt")).unwrap();
        symlink("../outside.txt", place.0.path().join("mail/order.de.txt")).unwrap();
        place.write("outside.txt", "sesame");
        let fault = "routes[0].text_template: order.de.txt leads out of the root of the templates";
        assert_eq!(place.faults(BELOW_MAIL, keys), [fault]);
        fs::remove_file(place.0.path().join("mail/order.de.txt")).unwrap();
        place.write("mail/order.DE_at.txt", "");
        let said = place.faults(BELOW_MAIL, keys).concat();
        assert!(said.ends_with("are for one language"), "{said}");
    }

    #[test]
    fn a_locale_without_a_variant_says_what_is_looked_for() {
        let place = Place::new(&[
            ("mail/order.txt", ""),
            ("mail/subject", "s"),
            ("mail/subject.de", "Betreff"),
        ]);
        let keys = "locale = \"de\"\ntext_template = \"order.txt\"";
        let fault = place.config(BELOW_MAIL, keys).unwrap_err().faults.remove(0);
        assert_eq!(
            (&*fault.key, &*fault.problem),
            ("routes[0].locale", "has no variant to choose")
        );
        let remedy = "beside order.txt, order.LANGUAGE.txt is looked for, e.g. order.de.txt";
        assert_eq!(fault.remedy, remedy);
        // One part with variants is enough; a file may lack an ending.
        let subject = keys.replace("text_template", "text = \"t\"\nsubject_template");
        let config = format!(
            "[templates]\nroot = \"mail\"\n{SINKS}[[routes]]\ntype = \"a\"\nsink = \"mail\"\nto = \"a@b.example\"\n{}\n",
            subject.replace("order.txt", "subject")
        );
        let config = parse_in(place.0.path(), &config).unwrap();
        assert_eq!(
            mail(&config)
                .subject
                .variant(Some("de-AT"))
                .render(&View::of_values(BTreeMap::new()))
                .unwrap(),
            "Betreff"
        );
        assert_eq!(variant_of("a.b/order", "de"), "a.b/order.de");
        assert_eq!(variant_of("a/.order", "de"), "a/.order.de");
        assert_eq!(variant_of("a/order.x.txt", "de"), "a/order.x.de.txt");
    }

    #[test]
    fn every_file_that_was_read_is_part_of_the_hash() {
        let place = Place::new(&[
            ("mail/order.txt", "{% include 'a.txt' %}{% include 'no.txt' ignore missing %}"),
            ("mail/order.de.txt", "de"),
            ("mail/a.txt", "{% include 'b.txt' %}"),
            ("mail/b.txt", "b"),
            ("mail/other.txt", "other"),
        ]);
        let keys = "locale = \"de\"\ntext_template = \"order.txt\"";
        let hash = || place.config(BELOW_MAIL, keys).unwrap().hash;
        let mut seen = vec![hash()];
        place.write("mail/other.txt", "of no route");
        assert_eq!(hash(), seen[0]);
        for (file, text) in [
            ("b.txt", "B"),
            ("a.txt", "{% include 'b.txt' %}!"),
            ("order.de.txt", "DE"),
            ("order.fr.txt", ""),
            ("no.txt", ""),
        ] {
            place.write(&format!("mail/{file}"), text);
            let now = hash();
            assert!(!seen.contains(&now), "{file}");
            seen.push(now);
        }
        // The same text under another name is another config.
        let mail = place.0.path().join("mail");
        fs::rename(mail.join("order.de.txt"), mail.join("order.da.txt")).unwrap();
        assert!(!seen.contains(&hash()));
    }

    /// What `examples/mail` makes of its order, values escaped.
    #[test]
    fn the_example_mails_are_put_together() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mail");
        let root = examples.canonicalize().unwrap();
        let order = fs::read_to_string(root.join("order.json")).unwrap();
        let view = [("payload".to_owned(), serde_json::from_str(&order).unwrap())].into();
        let view = View::of_values(view);
        let render = |file: &str, form: Form| {
            let mut read = |name: &str| {
                let path = below(&root, name)?;
                path.map(|path| read_file(&path)).transpose()
            };
            let source = read(file).unwrap().unwrap();
            let template = Template::load(file, source, form, &mut read).unwrap();
            assert_eq!(template.unknown(&["payload"]), None, "{file}");
            template.render(&view).unwrap()
        };
        let (english, german) =
            (render("order.html", Form::Html), render("order.de.html", Form::Html));
        for (html, words) in [
            (&english, ["<html lang=\"en\">", "because you ordered", "€ 93.30", "3 items"]),
            (&german, ["<html lang=\"de\">", "weil Sie bei uns", "93,30 €", "3 Artikel"]),
        ] {
            for words in words {
                assert!(html.contains(words), "{words}: {html}");
            }
            for words in [
                "Jörg Müller &amp; Söhne",
                "Übertopf &quot;Größe L&quot;",
                "Gießkanne &lt;10 l&gt;",
            ] {
                assert!(html.contains(words), "{words}: {html}");
            }
            assert_eq!(html.matches("Example Shop").count(), 2, "header and footer");
        }
        let (english, german) =
            (render("order.txt", Form::Text), render("order.de.txt", Form::Text));
        assert!(english.contains("\n1 x Gießkanne <10 l>, 24.50 EUR\n"), "{english}");
        assert!(german.contains("\nSumme: 93,30 EUR\n"), "{german}");
    }
}
