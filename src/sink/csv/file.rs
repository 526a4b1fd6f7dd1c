//! How a file becomes visible: whole, once, and never over another one.
//!
//! It is written under a hidden name in the same directory, forced to disk, and then given its
//! name by an operation that fails if the name is taken. A crash at any point leaves either the
//! whole file or none of that name; the export begins again and comes to the same end.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::config::CsvConfig;

/// A file being written, not yet visible. Dropping it removes it. All calls block.
pub struct CsvFile {
    out: BufWriter<File>,
    hidden: Hidden,
    path: PathBuf,
    bytes: u64,
    hash: Sha256,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// Why a file is not published, or not certainly.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Not published; may be tried again.
    #[error("cannot {action} {path}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Not published: the name is taken by a file of other content. Nothing was overwritten.
    #[error(
        "{path} exists with other content and is not overwritten: move it away, then try again"
    )]
    Taken {
        /// The name.
        path: PathBuf,
    },
    /// Published, but the directory could not be forced to disk: a power cut may undo it.
    #[error("{path} is published, but its directory could not be forced to disk")]
    Unsure {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl CsvFile {
    /// Opens the hidden file of an export; what a crash left of it is removed.
    ///
    /// # Errors
    /// When the directory is missing or not writable.
    pub fn begin(config: &CsvConfig, period: &str, export_id: i64) -> io::Result<CsvFile> {
        let name = format!("{}{period}{}", config.name_head, config.name_tail);
        let hidden = config.directory.join(format!(".outboxd-export-{export_id}.tmp"));
        // Removed rather than truncated: it may be a second name of a published file.
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).open(&hidden)?;
        let hidden = Hidden { path: hidden, node: node(&file.metadata()?) };
        let (path, hash) = (config.directory.join(name), Sha256::new());
        Ok(CsvFile { out: BufWriter::with_capacity(1 << 16, file), hidden, path, bytes: 0, hash })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// When the disk is full or fails; the file is then of no more use.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file visible under its name. If a file of that name and the same content is there
    /// already, it is ours from before a crash, and that is success.
    ///
    /// # Errors
    /// As [`PublishError`] tells apart.
    pub fn publish(mut self) -> Result<Published, PublishError> {
        let path = std::mem::take(&mut self.path);
        let failed = |action| {
            let path = path.clone();
            move |source| PublishError::Failed { action, path, source }
        };
        self.out.flush().map_err(failed("write"))?;
        self.out.get_ref().sync_all().map_err(failed("force to disk"))?;
        let sha256: [u8; 32] = self.hash.clone().finalize().into();
        let published = Published { path: path.clone(), bytes: self.bytes, sha256 };
        self.hidden.check().map_err(failed("publish"))?;
        match give_name(&self.hidden.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !holds(&path, &published).map_err(failed("read"))? {
                    return Err(PublishError::Taken { path });
                }
            }
            Err(error) => return Err(failed("publish")(error)),
        }
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|source| PublishError::Unsure { path: path.clone(), source })?;
        Ok(published)
    }
}

/// The hidden file's name, as long as it is the name of the file we opened. A relay that lost the
/// export and does not know it yet must neither publish nor remove what its successor writes.
struct Hidden {
    path: PathBuf,
    node: (u64, u64),
}

impl Hidden {
    fn check(&self) -> io::Result<()> {
        if node(&fs::symlink_metadata(&self.path)?) == self.node {
            return Ok(());
        }
        Err(io::Error::other("another relay has begun to write the same export"))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // After a rename there is nothing of that name, which is as good.
        if self.check().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn node(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Renames without overwriting. Where the file system cannot, a second name is made, which fails
/// just so if it is taken; the first one is removed when [`Hidden`] is dropped.
fn give_name(hidden: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, hidden, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::hard_link(hidden, path),
        other => Ok(other?),
    }
}

/// Whether the file there has the content of ours.
fn holds(path: &Path, ours: &Published) -> io::Result<bool> {
    let file = File::open(path)?;
    if file.metadata()?.len() != ours.bytes {
        return Ok(false);
    }
    let (mut file, mut hash, mut piece) = (BufReader::new(file), Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(<[u8; 32]>::from(hash.finalize()) == ours.sha256);
        }
        hash.update(&piece[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cut;

    fn config(directory: &Path) -> CsvConfig {
        CsvConfig {
            directory: directory.to_owned(),
            name_head: "orders-".to_owned(),
            name_tail: ".csv".to_owned(),
            columns: Vec::new(),
            cut: Cut { every: None, max_rows: None },
        }
    }

    fn write(directory: &Path, export_id: i64, content: &str) -> CsvFile {
        let mut file = CsvFile::begin(&config(directory), "2026-11-20", export_id).unwrap();
        file.append(content.as_bytes()).unwrap();
        file
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_visible_only_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = write(directory.path(), 1, "a,b\r\n");
        assert_eq!(names(directory.path()), [".outboxd-export-1.tmp"]);
        let published = file.publish().unwrap();
        assert_eq!(names(directory.path()), ["orders-2026-11-20.csv"]);
        assert_eq!(fs::read(&published.path).unwrap(), b"a,b\r\n");
        assert_eq!(published.bytes, 5);
        assert_eq!(published.sha256, <[u8; 32]>::from(Sha256::digest(b"a,b\r\n")));
    }

    #[test]
    fn an_abandoned_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(write(directory.path(), 1, "a"));
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn what_a_crash_left_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        std::mem::forget(write(directory.path(), 1, "half a file that is longer"));
        let published = write(directory.path(), 1, "whole").publish().unwrap();
        assert_eq!(fs::read(&published.path).unwrap(), b"whole");
        // Published before the crash, but not known to be.
        let again = write(directory.path(), 1, "whole").publish().unwrap();
        assert_eq!(again, published);
        assert_eq!(names(directory.path()), ["orders-2026-11-20.csv"]);
    }

    #[test]
    fn a_leftover_second_name_of_the_published_file_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let published = write(directory.path(), 1, "whole").publish().unwrap();
        fs::hard_link(&published.path, directory.path().join(".outboxd-export-1.tmp")).unwrap();
        drop(write(directory.path(), 1, "x"));
        assert_eq!(fs::read(&published.path).unwrap(), b"whole");
    }

    #[test]
    fn another_file_of_that_name_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let theirs = directory.path().join("orders-2026-11-20.csv");
        fs::write(&theirs, "other").unwrap();
        let error = write(directory.path(), 1, "whole").publish().unwrap_err();
        assert!(matches!(error, PublishError::Taken { .. }), "{error:?}");
        assert!(error.to_string().contains("orders-2026-11-20.csv"));
        assert_eq!(fs::read(&theirs).unwrap(), b"other");
        assert_eq!(names(directory.path()), ["orders-2026-11-20.csv"]);
    }

    #[test]
    fn a_relay_that_lost_the_export_publishes_nothing_and_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let old = write(directory.path(), 1, "old");
        let new = write(directory.path(), 1, "new");
        assert!(matches!(old.publish(), Err(PublishError::Failed { .. })));
        let published = new.publish().unwrap();
        assert_eq!(fs::read(published.path).unwrap(), b"new");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none");
        assert!(CsvFile::begin(&config(&missing), "2026-11-20", 1).is_err());
    }
}
