//! The door: arguments in, library call out.

fn main() -> std::process::ExitCode {
    outboxd::cli::main()
}
