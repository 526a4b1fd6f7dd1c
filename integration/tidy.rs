//! Holds the house together: a rule worth having is a test.
//!
//! Rooms that do not exist yet have their floor already, and a room without a floor is a failure, so
//! that nobody moves in unseen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// From the ground up. A room imports from floors below its own; floors may be skipped.
const FLOORS: &[&[&str]] = &[
    &[
        "name",
        "pattern",
        "message",
        "address",
        "alert",
        "delivery",
        "recipients",
        "retry",
        "policy",
        "template",
        "calendar",
        "certificate",
        "hex",
    ],
    &["config"],
    &["store", "sink", "metrics"],
    &["relay"],
    &["cli"],
];
/// The words may use each other; above them, the rooms of one floor are strangers.
const WORDS: usize = 0;
/// What a word must not touch: it knows no input, no output and no clock.
const EFFECTS: &[&str] = &["tokio", "std::fs", "std::net", "std::process", "std::env", "::now("];

const LINES_MAX: usize = 600;
const LINES_WORTH_A_LOOK: usize = 400;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "manager"];

/// Places and hosts that exist for one of us only. Put together here, so that this file may be read
/// by its own test.
const PLACES: &[&str] = &[concat!("/", "work"), concat!("/", "root"), concat!("/", "home")];
const HOSTS: &[&str] = &[
    concat!("localhost", ".localdomain"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("pypi", ".org"),
    concat!("files.pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
    concat!("archive.ubuntu", ".com"),
];

#[test]
fn rooms_import_downwards_only() {
    let mut faults = String::new();
    for (path, text) in sources() {
        let Some(room) = room_of(&path) else { continue };
        let Some(floor) = floor_of(&room) else {
            writeln!(faults, "src/{}: give {room} a floor in integration/tidy.rs", path.display())
                .unwrap();
            continue;
        };
        for imported in imports(&text) {
            let below = match floor_of(&imported) {
                _ if imported == room => true,
                Some(other) => other < floor || (other == floor && floor == WORDS),
                // A macro or a re-export at the top of the crate would be a way around the floors.
                None => false,
            };
            if !below {
                writeln!(
                    faults,
                    "src/{}: {room} (floor {floor}) imports {imported}",
                    path.display()
                )
                .unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn words_know_no_input_no_output_and_no_clock() {
    let mut faults = String::new();
    for (path, text) in sources() {
        if room_of(&path).and_then(|room| floor_of(&room)) != Some(WORDS) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            for effect in EFFECTS.iter().filter(|effect| line.contains(**effect)) {
                writeln!(faults, "src/{}:{number}: a word uses {effect}", path.display()).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn no_file_in_src_is_too_long() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_WORTH_A_LOOK {
            long.push(format!("src/{}: {lines} lines", path.display()));
            assert!(lines <= LINES_MAX, "split it, the limit is {LINES_MAX}: {}", long.join("\n"));
        }
    }
    if !long.is_empty() {
        // Straight to stderr: the test harness keeps to itself what a passing test prints.
        let list = long.join("\n");
        let _ = writeln!(std::io::stderr(), "over {LINES_WORTH_A_LOOK} lines, look hard:\n{list}");
    }
}

#[test]
fn every_query_is_one_statement_and_says_why() {
    for path in files().iter().filter(|path| path.starts_with("sql/queries")) {
        let name = path.display();
        assert_eq!(path.extension().and_then(|end| end.to_str()), Some("sql"), "{name}");
        let text = fs::read_to_string(root().join(path)).unwrap();
        assert!(text.starts_with("--"), "{name} begins with a comment: why it is so, parameters");
        assert_eq!(statements(&text), 1, "{name} holds one statement");
    }
}

#[test]
fn tests_live_in_integration_only() {
    // autotests is off, so Cargo would pass over the folder in silence.
    let stray = files().into_iter().find(|path| path.starts_with("tests"));
    assert_eq!(stray, None, "tests stand in integration/, or at the foot of the file they test");
}

#[test]
fn names_say_what_is_inside() {
    for path in files() {
        for part in path.components() {
            let part = part.as_os_str().to_string_lossy();
            let stem = part.split('.').next().unwrap_or_default();
            assert!(!EMPTY_NAMES.contains(&stem), "{}: {stem} says nothing", path.display());
        }
    }
}

#[test]
fn nothing_speaks_of_the_place_it_was_written_in() {
    let mut faults = String::new();
    for path in files() {
        // Written by Cargo.
        if path == Path::new("Cargo.lock") {
            continue;
        }
        // What is not text has no words.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let hosts = HOSTS.iter().filter(|host| line.contains(**host));
            let places = PLACES.iter().filter(|place| names_place(line, place));
            for word in hosts.chain(places) {
                writeln!(faults, "{}:{}: {word}", path.display(), number + 1).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn unsafe_code_is_forbidden_for_every_target() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let lints = manifest.split("[lints.rust]").nth(1).expect("Cargo.toml has [lints.rust]");
    let lints = lints.split("\n[").next().unwrap_or_default();
    assert!(lints.lines().any(|line| line.trim() == "unsafe_code = \"forbid\""), "{lints}");
}

/// The rules above are only as good as what reads for them.
#[test]
fn tidy_reads_what_is_written() {
    let names = |text: &str| imports(text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names("use crate::name::Name;\nfn f() { crate::retry::g() }"), "name retry");
    assert_eq!(names("use crate::{config::{self, A}, message, store::B};"), "config message store");
    assert_eq!(names("use crate::{\n    sink::S,\n    relay,\n};"), "relay sink");
    assert_eq!(names("// crate::cli\n/// [`crate::cli::run`]\npub(crate) fn f() {}"), "");

    assert_eq!(statements("-- why; so\nSELECT $1, ';', \"a;b\" /* ; */"), 1);
    assert_eq!(statements("SELECT 1;\n-- the end;\n"), 1);
    assert_eq!(statements("DO $body$ BEGIN a; b; END $body$; SELECT $$;$$"), 2);
    assert_eq!(statements("-- nothing"), 0);

    let place = PLACES[1];
    assert!(names_place(&format!("cd {place}/x"), place));
    assert!(names_place(&format!("HOME={place} and file://{place}"), place));
    assert!(!names_place(&format!("https://example.com{place}/x and {place}ed"), place));
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// `src/store/listen.rs` belongs to `store`. The map and the door belong to no room.
fn room_of(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(room, "lib" | "main")).then(|| room.to_owned())
}

/// The rooms a source names after `crate::`, in imports and in the middle of code.
fn imports(text: &str) -> BTreeSet<String> {
    let code = code_lines(text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(list) = after.strip_prefix('{') else {
            rooms.insert(first_word(after));
            continue;
        };
        let mut depth = 1;
        let mut item = String::new();
        for letter in list.chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => rooms.extend([first_word(&std::mem::take(&mut item))]),
                _ if depth == 1 => item.push(letter),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        rooms.insert(first_word(&item));
    }
    rooms.remove("");
    rooms
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Numbered lines without those that are a comment as a whole.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Counts SQL statements, knowing comments, strings, quoted names and dollar quotes.
fn statements(sql: &str) -> usize {
    let (mut count, mut rest, mut begun) = (0, sql, false);
    while let Some(letter) = rest.chars().next() {
        let (length, is_code) = match letter {
            '-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (quoted(rest, "/*", "*/"), false),
            '\'' => (quoted(rest, "'", "'"), true),
            '"' => (quoted(rest, "\"", "\""), true),
            '$' => match dollar_quote(rest) {
                Some(quote) => (quoted(rest, quote, quote), true),
                None => (1, true),
            },
            ';' => {
                count += usize::from(begun);
                begun = false;
                (1, false)
            }
            _ => (letter.len_utf8(), !letter.is_whitespace()),
        };
        begun |= is_code;
        rest = &rest[length..];
    }
    count + usize::from(begun)
}

/// How long the quoted piece at the start of `text` is, quotes included.
fn quoted(text: &str, open: &str, close: &str) -> usize {
    let inside = &text[open.len()..];
    inside.find(close).map_or(text.len(), |at| open.len() + at + close.len())
}

/// `$$` or `$tag$` at the start of `text`, but not the parameter `$1`.
fn dollar_quote(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 1;
    let tag = &text[1..end];
    let is_tag = tag.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !tag.starts_with(|c: char| c.is_ascii_digit());
    is_tag.then(|| &text[..=end])
}

/// Whether a line holds an absolute path below `place`, and not a longer word or a part of a URL.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let within = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}');
        let longer = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        !line[..at].ends_with(within) && !line[at + place.len()..].starts_with(longer)
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust sources by their path below `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    for path in files() {
        if let Ok(below) = path.strip_prefix("src")
            && below.extension().is_some_and(|end| end == "rs")
        {
            sources.push((below.to_path_buf(), fs::read_to_string(root().join(&path)).unwrap()));
        }
    }
    assert!(!sources.is_empty(), "tidy found no sources");
    sources
}

/// Every file of the repository, new ones included and ignored ones not.
fn files() -> Vec<PathBuf> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut files = match git {
        Ok(listed) if listed.status.success() => String::from_utf8_lossy(&listed.stdout)
            .split_terminator('\0')
            .map(PathBuf::from)
            .collect(),
        // A copy without its history, or a folder that git does not trust us with.
        _ => walk(Path::new("")),
    };
    // Git still lists what was removed and not committed yet.
    files.retain(|path| root().join(path).is_file());
    files.sort();
    files
}

fn walk(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(below)).unwrap().flatten() {
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            if !["target", ".git"].iter().any(|skipped| path == Path::new(skipped)) {
                found.extend(walk(&path));
            }
        } else {
            found.push(path);
        }
    }
    found
}
