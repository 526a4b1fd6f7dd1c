//! The systemd unit, judged by systemd's own programs.

use std::process::Command;

use crate::harness::program::program;

const UNIT: &str = include_str!("../../deploy/outboxd.service");
/// As `systemd-analyze security` counts: 0.0 is the best, 10.0 the worst.
const EXPOSURE_MAX: f64 = 1.5;

fn analyze(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outboxd.service");
    // It looks whether the programs are there, and ours is where the tests have it.
    let unit = UNIT.replace(super::arguments::PROGRAM, env!("CARGO_BIN_EXE_outboxd"));
    std::fs::write(&file, unit).unwrap();
    let mut command = Command::new(program("OUTBOXD_SYSTEMD_ANALYZE", "systemd-analyze"));
    let output = command.args(arguments).arg(&file).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    // Of the system's own units it may have something to say.
    let said = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("outboxd")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn the_unit_exposes_little() {
    let said = analyze(&["security", "--offline=yes", "--no-pager"]);
    let line = said.lines().find(|line| line.contains("Overall exposure level")).expect(&said);
    let words = line.split(": ").nth(1).unwrap();
    let level: f64 = words.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= EXPOSURE_MAX, "{said}");
}
