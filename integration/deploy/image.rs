//! The Dockerfile, read as an engine reads it.

use std::path::Path;

pub const DOCKERFILE: &str = include_str!("../../Dockerfile");
const IGNORED: &str = include_str!("../../.dockerignore");

/// An instruction and its arguments, continued lines joined.
pub fn instructions() -> Vec<(String, String)> {
    let lines: Vec<&str> = DOCKERFILE.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join("\n").replace("\\\n", " ");
    let word = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(word).collect()
}

/// Of the last stage: the arguments of the only instruction of this name.
#[track_caller]
pub fn last(name: &str) -> String {
    let all = instructions();
    let stage = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    let found: Vec<_> = all[stage..].iter().filter(|(found, _)| found == name).collect();
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    found[0].1.clone()
}

/// What the image runs: entry point and command as the engine joins them.
pub fn command_line() -> Vec<String> {
    let list = |name| serde_json::from_str::<Vec<String>>(&last(name)).expect("a JSON list");
    [list("ENTRYPOINT"), list("CMD")].concat()
}

/// What the compiler is told beyond what Cargo tells it.
pub fn static_flags() -> Vec<String> {
    let all = instructions();
    let command = all.iter().find_map(|(_, rest)| Some(rest.split_once("cargo rustc ")?.1));
    let (cargo, flags) =
        command.and_then(|line| line.split_once(" -- ")).expect("cargo rustc … --");
    assert_eq!(cargo, "--release --locked --bin outboxd");
    flags.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_image_is_made_of_what_is_there_and_of_nothing_else() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = instructions();
    let stages: Vec<_> = all.iter().filter(|(name, _)| name == "FROM").map(|(_, it)| it).collect();
    let version = include_str!("../../Cargo.toml")
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap()
        .trim_matches('"');
    assert_eq!(stages, [&format!("rust:{version}-slim-bookworm AS build"), "scratch"]);

    let mut copied = Vec::new();
    for (name, rest) in &all {
        if name == "COPY" && !rest.contains("--from") {
            let mut paths: Vec<&str> = rest.split(' ').collect();
            paths.pop();
            copied.extend(paths);
        }
    }
    let sent: Vec<&str> = IGNORED.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(copied, sent, "what is copied, and what .dockerignore lets through");
    assert!(IGNORED.lines().any(|line| line == "*"));
    for path in &copied {
        assert!(here.join(path).exists(), "{path}");
    }
    // What the sources include must be among them, and each target of the manifest must be there.
    for line in include_str!("../../Cargo.toml").lines() {
        if let Some(path) = line.strip_prefix("path = ") {
            let path = path.trim_matches('"');
            assert!(DOCKERFILE.contains(path), "Cargo looks for {path} before it builds anything");
        }
    }
    for source in sources(&here.join("src")) {
        let whole = std::fs::read_to_string(&source).unwrap();
        // Tests, at the foot of a file, are not in the image.
        let text = whole.split("#[cfg(test)]").next().unwrap();
        for part in text.split("include_str!").skip(1) {
            let Some(path) = part.split('"').nth(1).filter(|path| path.starts_with("../")) else {
                continue;
            };
            let whole = source.parent().unwrap().join(path).components().fold(
                std::path::PathBuf::new(),
                |mut whole, part| {
                    if part.as_os_str() == ".." {
                        whole.pop();
                    } else {
                        whole.push(part);
                    }
                    whole
                },
            );
            let below = whole.strip_prefix(here).unwrap();
            assert!(copied.iter().any(|copied| below.starts_with(copied)), "{}", below.display());
        }
    }
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(sources(&entry.path()));
        } else if entry.path().extension().is_some_and(|end| end == "rs") {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn the_image_runs_as_a_number_with_no_shell_and_stops_at_the_signal_that_drains() {
    let program = "/usr/local/bin/outboxd";
    assert_eq!(command_line(), [program, "run"]);
    let copies = instructions().into_iter().filter(|(name, _)| name == "COPY");
    let copies: Vec<String> = copies.map(|(_, rest)| rest).collect();
    let built = "/build/target/release/outboxd";
    assert!(copies.contains(&format!("--from=build {built} {program}")), "{copies:?}");
    let user = super::room::USER;
    assert_eq!(last("USER"), format!("{user}:{user}"));
    assert!(
        copies
            .contains(&format!("--from=build --chown={user}:{user} /build/files /var/lib/outboxd"))
    );
    assert_eq!(last("STOPSIGNAL"), "SIGTERM");
    let (_, health) =
        last("HEALTHCHECK").split_once("CMD ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let health: Vec<String> = serde_json::from_str(&health).expect("without a shell");
    super::arguments::exist(&health);
    assert_eq!(health, [program, "health", "--live"], "unhealthy may mean killed");
    let (variable, file) =
        last("ENV").split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    super::arguments::variable_exists(&variable);
    assert_eq!(file, super::room::CONFIG);
}
