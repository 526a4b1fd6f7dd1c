//! `outboxd init`: a config to start from.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use super::{Answer, Failure, Verdict, say};
use crate::config::Config;

/// Writes the config, never over another one.
pub(super) fn init(file: &Path) -> Answer {
    let shown = file.display();
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::Usage(format!(
            "{shown} exists and is not overwritten; move it away, or name another with --config FILE"
        )),
        _ => Failure::Fault(format!("cannot write {shown}: {error}")),
    };
    let mut out = File::options().write(true).create_new(true).open(file).map_err(cannot)?;
    out.write_all(Config::INIT.as_bytes()).map_err(cannot)?;
    say(&format!(
        "wrote {shown}\n\
         next: set DATABASE_URL, look the file over, then\n  \
         outboxd migrate   make the schema\n  \
         outboxd check     touch everything once, send nothing\n  \
         outboxd run       deliver"
    ));
    Ok(Verdict::Ok)
}
