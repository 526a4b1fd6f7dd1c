//! What holds README and the pages in docs/ together: none is forgotten, links lead somewhere, and no
//! command or key is named that is not there, nor the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use outboxd::alert::Cause;

use super::README;

pub(super) const CALENDAR: &str = include_str!("../../docs/calendar.md");
pub(super) const BACKGROUND: &str = include_str!("../../docs/background.md");
const CONFIG: &str = include_str!("../../docs/config.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
/// The pages whose blocks run here, in this order; those of the calendar in a place of their own.
pub(super) const PAGES: &[(&str, &str)] = &[
    ("background.md", BACKGROUND),
    ("calendar.md", CALENDAR),
    ("comparison.md", include_str!("../../docs/comparison.md")),
    ("config.md", CONFIG),
    ("faults.md", include_str!("../../docs/faults.md")),
    ("figures.md", include_str!("../../docs/figures.md")),
    ("mail.md", include_str!("../../docs/mail.md")),
    ("metrics.md", include_str!("../../docs/metrics.md")),
    ("operations.md", OPERATIONS),
    ("security.md", include_str!("../../docs/security.md")),
    ("where.md", include_str!("../../docs/where.md")),
];
/// Pages whose blocks another test looks after, and its file; that their commands are some is seen here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("deploy.md", "integration/deploy/manifests.rs"),
    ("doctor.md", "src/cli/doctor/book.rs"),
    ("inbox.md", "integration/inbox.rs"),
    ("producers.md", "integration/producers.rs"),
];
/// What else has links, beside README and docs/.
const WITH_LINKS: &[&str] = &["CHANGELOG.md", "examples/daily-orders/README.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README and every page there is, with their paths from the root.
fn documents() -> Vec<(PathBuf, String)> {
    let pages = PAGES.iter().map(|(name, _)| *name).chain(ELSEWHERE.iter().map(|(name, _)| *name));
    let docs = pages.map(|name| Path::new("docs").join(name));
    [PathBuf::from("README.md")]
        .into_iter()
        .chain(docs)
        .map(|p| (p.clone(), read(&root().join(p))))
        .collect()
}

/// The lines of a text that are not inside a fenced block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    })
}

/// The lines of a text's blocks for the shell.
fn in_shell(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().strip_prefix("```");
        inside = fence.map_or(inside, |language| language == "sh");
        inside && fence.is_none()
    })
}

/// A line's pieces between backticks.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Where the links of a text go.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let words: String = line.split('`').step_by(2).collect();
        let mut rest = words.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let (target, after) = after.split_once(')').expect("a link has its end on its line");
            found.push(target.to_owned());
            rest = after;
        }
    }
    found
}

/// The anchors of a text's headings, as they are made where the repository is read: in small letters,
/// punctuation gone, blanks as hyphens, the second of a name with a number.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let headings = prose(text).filter_map(|line| {
        line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
    });
    headings
        .map(|heading| {
            let kept = heading.trim().to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let times = seen.entry(slug.clone()).or_default();
            *times += 1;
            if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) }
        })
        .collect()
}

#[test]
fn every_page_is_known_and_readme_leads_to_it() {
    let there: BTreeSet<String> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known = PAGES.iter().chain(ELSEWHERE).map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(there, known, "nothing runs what docs/ shows; enter it in PAGES, or in ELSEWHERE");
    let from_readme = links(README);
    for name in &there {
        assert!(from_readme.contains(&format!("docs/{name}")), "README does not name docs/{name}");
    }
    for (name, test) in ELSEWHERE {
        let named = format!("docs/{name}\"");
        assert!(read(&root().join(test)).contains(&named), "{test} does not read docs/{name}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = String::new();
    let others = WITH_LINKS.iter().map(|name| (PathBuf::from(name), read(&root().join(name))));
    let mut checked = 0;
    for (path, text) in documents().into_iter().chain(others) {
        let folder = path.parent().expect("a file stands in a folder");
        for link in links(&text) {
            if link.starts_with("https://") {
                continue;
            }
            checked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target =
                if file.is_empty() { root().join(&path) } else { root().join(folder).join(file) };
            if !target.exists() {
                writeln!(faults, "{}: {link}: there is no {file}", path.display()).unwrap();
            } else if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                writeln!(faults, "{}: {link}: no such heading", path.display()).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
    assert!(checked > 30, "only {checked} links were found");
}

/// What a command says of itself, asked once.
struct Help(BTreeMap<String, Option<String>>);

impl Help {
    fn of(&mut self, words: &[&str]) -> Option<&str> {
        let ask = || {
            let said = Command::new(env!("CARGO_BIN_EXE_outboxd"))
                .args(words)
                .arg("--help")
                .output()
                .unwrap();
            said.status.success().then(|| String::from_utf8(said.stdout).unwrap())
        };
        self.0.entry(words.join(" ")).or_insert_with(ask).as_deref()
    }

    /// What is wrong with a command line, as far as its help tells.
    fn fault(&mut self, line: &str) -> Option<String> {
        let mut words = line.split_whitespace().skip(1).peekable();
        let first = words.next()?;
        let Some(help) = self.of(&[first]).map(str::to_owned) else {
            return Some(format!("there is no command {first}"));
        };
        let second = words.peek().copied().unwrap_or_default();
        let has_second = help.lines().any(|line| line.trim().starts_with(&format!("{second} ")));
        let of_second =
            if has_second { self.of(&[first, second]).map(str::to_owned) } else { None };
        let help = of_second.unwrap_or(help);
        let is_end = |c: char| !(c.is_alphanumeric() || c == '-' || c == '_');
        let has = |word: &str| help.split(is_end).any(|known| known == word);
        while let Some(word) = words.next() {
            if word.starts_with('-') && !has(word) {
                return Some(format!("it has no {word}"));
            }
            let value = words.peek().copied().unwrap_or_default();
            if word == "--state" && !has(value) {
                return Some(format!("there is no state {value}"));
            }
        }
        None
    }
}

#[test]
fn every_command_in_a_sentence_is_one() {
    let (mut help, mut faults, mut checked) = (Help(BTreeMap::new()), String::new(), 0);
    for (path, text) in documents() {
        for line in prose(&text) {
            for command in code(line).filter(|code| code.starts_with("outboxd ")) {
                checked += 1;
                if let Some(fault) = help.fault(command) {
                    writeln!(faults, "{}: {command}: {fault}", path.display()).unwrap();
                }
            }
        }
    }
    for (name, _) in ELSEWHERE {
        let text = read(&root().join("docs").join(name));
        for command in in_shell(&text).filter(|line| line.starts_with("outboxd ")) {
            checked += 1;
            if let Some(fault) = help.fault(command) {
                writeln!(faults, "docs/{name}: {command}: {fault}").unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
    assert!(checked > 40, "only {checked} commands were found");
}

#[test]
fn the_reference_has_every_key() {
    let example = read(&root().join("examples/outboxd.toml"));
    let named: BTreeSet<&str> = prose(CONFIG).flat_map(code).collect();
    let is_key = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut keys = BTreeSet::new();
    for line in example.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) {
            keys.insert(key);
        }
    }
    let lacking: Vec<&&str> = keys.iter().filter(|key| !named.contains(**key)).collect();
    assert!(lacking.is_empty(), "docs/config.md lacks {lacking:?}");
    assert!(keys.len() > 40, "only {} keys were found", keys.len());
}

#[test]
fn the_guide_has_every_alert() {
    let rows = |cause: &Cause| OPERATIONS.matches(&format!("\n| `{}` | ", cause.word())).count();
    let lacking: Vec<&str> = Cause::ALL.iter().filter(|c| rows(c) != 1).map(|c| c.word()).collect();
    assert!(lacking.is_empty(), "docs/operations.md has no row, or several, for {lacking:?}");
}

/// The rules above are only as good as what reads for them.
#[test]
fn pages_are_read_as_they_are_meant() {
    let text = "# A `[b.C]`, d\n[x](y.md#z) `[n](o)` [p](#q)\n```sh\n[r](s)\n# not one\n```\n## A b\n## A b\n";
    assert_eq!(links(text), ["y.md#z", "#q"]);
    assert_eq!(in_shell(text).collect::<Vec<_>>(), ["[r](s)", "# not one"]);
    let found = anchors(text);
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["a-b", "a-b-1", "a-bc-d"]);
    let mut help = Help(BTreeMap::new());
    assert_eq!(help.fault("outboxd list --state dead"), None);
    assert_eq!(help.fault("outboxd schedule run x --period 2026-11-20"), None);
    assert!(help.fault("outboxd fly").is_some());
    assert!(help.fault("outboxd list --state lost").is_some());
    assert!(help.fault("outboxd retry --gently 1").is_some());
    assert!(help.fault("outboxd schedule list --period 1").is_some());
}
