//! Other people's programs. One that is missing fails the tests that need it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

/// A program named by an environment variable or on the path.
pub fn program(variable: &str, name: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file());
    named
        .or_else(on_path)
        .or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|p| p.is_file()))
        .unwrap_or_else(|| {
            panic!(
                "there is no {name} on the path and {variable} is not set; run integration/run.sh"
            )
        })
}

/// Runs a Python program on a file; gives the JSON it prints.
pub async fn python(source: &str, file: &Path) -> serde_json::Value {
    let mut command = Command::new(program("OUTBOXD_PYTHON", "python3"));
    let output = command.args(["-c", source]).arg(file).output().await.expect("start python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Runs a program to its end, which must be a good one and come soon; gives what it says on stdout.
pub async fn run(command: &mut Command) -> String {
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(300), command.output()).await;
    let what = command.as_std();
    let output = output.unwrap_or_else(|_| panic!("it does not end: {what:?}"));
    let output = output.unwrap_or_else(|error| panic!("{error}: {what:?}; run integration/run.sh"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}
