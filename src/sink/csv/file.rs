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

/// A file that is whole and on disk, but not visible yet. Dropping it removes it. All calls block.
pub struct Finished {
    /// None if it has its own name already.
    hidden: Option<Hidden>,
    path: PathBuf,
    content: Content,
}

/// What is in a file, as far as it takes to know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
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
        let path = path(config, period);
        CsvFile::create(hidden(&path, export_id), path)
    }

    /// Opens a file that is hidden under one name until it gets the other; both in one directory.
    pub(super) fn create(hidden: PathBuf, path: PathBuf) -> io::Result<CsvFile> {
        // Removed rather than truncated: it may be a second name of a published file.
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).open(&hidden)?;
        let hidden = Hidden { path: hidden, node: node(&file.metadata()?) };
        let out = BufWriter::with_capacity(1 << 16, file);
        Ok(CsvFile { out, hidden, path, bytes: 0, hash: Sha256::new() })
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

    /// Forces the bytes to disk. From then on the file's hash is known and only its name is missing.
    ///
    /// # Errors
    /// When the disk is full or fails; the file is then of no more use.
    pub fn finish(mut self) -> Result<Finished, PublishError> {
        let path = std::mem::take(&mut self.path);
        self.out.flush().map_err(failed("write", &path))?;
        self.out.get_ref().sync_all().map_err(failed("force to disk", &path))?;
        let content = Content { bytes: self.bytes, sha256: self.hash.finalize().into() };
        Ok(Finished { hidden: Some(self.hidden), path, content })
    }
}

impl Finished {
    /// What a crash left of a file that was finished: under its hidden name, or already under its own.
    /// None where neither holds that content, as on another relay's disk.
    ///
    /// # Errors
    /// When what is there cannot be read.
    pub fn again(
        config: &CsvConfig,
        period: &str,
        export_id: i64,
        content: Content,
    ) -> io::Result<Option<Finished>> {
        let path = path(config, period);
        let hidden = hidden(&path, export_id);
        if holds(&hidden, &content)? {
            let node = node(&fs::symlink_metadata(&hidden)?);
            let hidden = Some(Hidden { path: hidden, node });
            return Ok(Some(Finished { hidden, path, content }));
        }
        Ok(holds(&path, &content)?.then_some(Finished { hidden: None, path, content }))
    }

    /// Leaves what could not be published where it is, for [`Finished::again`].
    pub fn leave(self) {
        if let Some(hidden) = self.hidden {
            std::mem::forget(hidden);
        }
    }

    /// Where the file will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size and hash.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Makes the file visible under its name. If a file of that name and the same content is there
    /// already, it is ours from before a crash, and that is success.
    ///
    /// # Errors
    /// As [`PublishError`] tells apart.
    pub fn publish(&self) -> Result<(), PublishError> {
        let Finished { hidden, path, content } = self;
        if let Some(hidden) = hidden {
            hidden.check().map_err(failed("publish", path))?;
            match give_name(&hidden.path, path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !holds(path, content).map_err(failed("read", path))? {
                        return Err(PublishError::Taken { path: path.clone() });
                    }
                }
                Err(error) => return Err(failed("publish", path)(error)),
            }
        }
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|source| PublishError::Unsure { path: path.clone(), source })
    }
}

/// Where the file of a period is, once it is published.
#[must_use]
pub fn path(config: &CsvConfig, period: &str) -> PathBuf {
    config.directory.join(format!("{}{period}{}", config.name_head, config.name_tail))
}

/// What a file is called until it is published: after its own name as well, for another installation that
/// writes into the same directory counts its exports from 1 too.
pub(super) fn hidden(path: &Path, export_id: i64) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.outboxd-{export_id}.tmp"))
}

pub(super) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> PublishError + use<> {
    let path = path.to_owned();
    move |source| PublishError::Failed { action, path, source }
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

/// Whether there is a file with that content.
fn holds(path: &Path, content: &Content) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if file.metadata()?.len() != content.bytes {
        return Ok(false);
    }
    let (mut file, mut hash, mut piece) = (BufReader::new(file), Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(<[u8; 32]>::from(hash.finalize()) == content.sha256);
        }
        hash.update(&piece[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cut;

    fn config(directory: &Path) -> CsvConfig {
        let cut = Cut { every: None, max_rows: None };
        CsvConfig::new(directory.to_owned(), ("orders-", ".csv"), Vec::new(), cut)
    }

    fn write(directory: &Path, export_id: i64, content: &str) -> CsvFile {
        let mut file = CsvFile::begin(&config(directory), "2026-11-20", export_id).unwrap();
        file.append(content.as_bytes()).unwrap();
        file
    }

    fn publish(file: CsvFile) -> Result<PathBuf, PublishError> {
        let finished = file.finish()?;
        let path = finished.path().to_owned();
        finished.publish().map(|()| path)
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
        assert_eq!(names(directory.path()), [".orders-2026-11-20.csv.outboxd-1.tmp"]);
        let finished = file.finish().unwrap();
        let (path, content) = (finished.path().to_owned(), *finished.content());
        assert_eq!(names(directory.path()), [".orders-2026-11-20.csv.outboxd-1.tmp"]);
        finished.publish().unwrap();
        assert_eq!(names(directory.path()), ["orders-2026-11-20.csv"]);
        assert_eq!(fs::read(&path).unwrap(), b"a,b\r\n");
        assert_eq!(content.bytes, 5);
        assert_eq!(content.sha256, <[u8; 32]>::from(Sha256::digest(b"a,b\r\n")));
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
        let published = publish(write(directory.path(), 1, "whole")).unwrap();
        assert_eq!(fs::read(&published).unwrap(), b"whole");
        // Published before the crash, but not known to be.
        let again = publish(write(directory.path(), 1, "whole")).unwrap();
        assert_eq!(again, published);
        assert_eq!(names(directory.path()), ["orders-2026-11-20.csv"]);
    }

    #[test]
    fn a_finished_file_is_known_again_under_either_name_and_by_its_content_alone() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let finished = write(directory.path(), 1, "whole").finish().unwrap();
        let content = *finished.content();
        std::mem::forget(finished);
        let again = || Finished::again(&config, "2026-11-20", 1, content).unwrap();
        again().unwrap().publish().unwrap();
        assert_eq!(names(directory.path()), ["orders-2026-11-20.csv"]);
        again().unwrap().publish().unwrap();
        fs::write(directory.path().join("orders-2026-11-20.csv"), "other").unwrap();
        assert!(again().is_none());
    }

    #[test]
    fn a_leftover_second_name_of_the_published_file_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let published = publish(write(directory.path(), 1, "whole")).unwrap();
        fs::hard_link(&published, directory.path().join(".orders-2026-11-20.csv.outboxd-1.tmp"))
            .unwrap();
        drop(write(directory.path(), 1, "x"));
        assert_eq!(fs::read(&published).unwrap(), b"whole");
    }

    #[test]
    fn another_file_of_that_name_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let theirs = directory.path().join("orders-2026-11-20.csv");
        fs::write(&theirs, "other").unwrap();
        let error = publish(write(directory.path(), 1, "whole")).unwrap_err();
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
        assert!(matches!(publish(old), Err(PublishError::Failed { .. })));
        let published = publish(new).unwrap();
        assert_eq!(fs::read(published).unwrap(), b"new");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none");
        assert!(CsvFile::begin(&config(&missing), "2026-11-20", 1).is_err());
    }
}
