//! What a manifest says to the program, held against the program.

use std::process::Command;

use super::image::command_line;

pub const PROGRAM: &str = "/usr/local/bin/outboxd";

fn help(arguments: &[String]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("run outboxd");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// A whole command line: the program where the image has it, and arguments that it takes.
#[track_caller]
pub fn exist(line: &[String]) {
    let (program, arguments) = line.split_first().expect("a command line");
    assert_eq!(program, PROGRAM);
    assert!(!arguments.is_empty(), "without a command it only prints its help");
    let (known, said) = help(arguments);
    assert!(known && said.contains("Usage: outboxd "), "{arguments:?}: {said}");
}

/// Arguments that take the place of the image's own, behind its entry point.
#[track_caller]
pub fn exist_behind_the_entry_point(arguments: &[String]) {
    let image = command_line();
    exist(&[&image[..1], arguments].concat());
}

/// A variable that the program itself reads.
#[track_caller]
pub fn variable_exists(name: &str) {
    let (_, said) = help(&[]);
    assert!(said.contains(&format!("[env: {name}")), "{name} in {said}");
}

/// The check that the others stand on.
#[test]
fn what_the_program_does_not_take_is_noticed() {
    for wrong in [&["runn"][..], &["run", "--fast"], &["--conf", "x", "run"]] {
        let line: Vec<String> = wrong.iter().map(|word| (*word).to_owned()).collect();
        assert!(!help(&line).0, "{line:?}");
    }
}
