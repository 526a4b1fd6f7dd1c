//! Other people's programs. One that is missing fails the tests that need it.

use std::path::{Path, PathBuf};

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
