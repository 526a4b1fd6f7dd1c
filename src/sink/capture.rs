//! Capture, for development: what would be sent becomes a file, and counts as delivered.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::delivery::{Cause, Outcome, clean_text};

/// The folder that one sink's mails or requests go to.
#[derive(Clone, Debug)]
pub struct Capture {
    folder: PathBuf,
}

impl Capture {
    /// A folder for this sink within `directory`, made if it is missing: for nobody else to read, as what
    /// is captured holds addresses and signatures.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(directory: &Path, sink: &str) -> io::Result<Capture> {
        let folder = directory.join(sink);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Capture { folder })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps what would be sent, whole or not at all, under a name that is the same for every attempt: a
    /// repeat is seen by the file's time only, as a receiver that keeps ids takes it once.
    pub(super) async fn keep(&self, name: &str, bytes: &[u8]) -> Outcome {
        let (hidden, path) = (self.folder.join(format!(".{name}")), self.folder.join(name));
        let kept = async {
            tokio::fs::write(&hidden, bytes).await?;
            tokio::fs::rename(&hidden, &path).await
        };
        match kept.await {
            Ok(()) => {
                Outcome::Delivered { receipt: clean_text(&format!("captured, not sent: {name}")) }
            }
            Err(error) => {
                let reason =
                    clean_text(&format!("cannot capture into {}: {error}", self.folder.display()));
                Outcome::Transient { cause: Cause::Unreachable, reason, wait: None }
            }
        }
    }
}
