//! Mails as files.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{All, Made};
use crate::cli::{Failure, words};
use crate::name::Name;

/// How much of a file is looked at to see whether it is a preview, in bytes.
const HEAD_MAX: u64 = 64 * 1024;
/// Recipients that are named in the line of a mail.
const SHOWN_MAX: usize = 5;

/// What became of one delivery.
pub(super) struct Entry<'a> {
    delivery: &'a str,
    became: Result<(Option<PathBuf>, &'a Made), &'a str>,
}

impl Entry<'_> {
    /// In words; none of a mail that went to stdout itself.
    pub fn text(&self) -> Option<String> {
        let name = self.delivery;
        match &self.became {
            Err(reason) => Some(format!("{name} cannot be made: {reason}")),
            Ok((Some(path), Made::Mail { from, to, data, .. })) => {
                let shown = to.iter().take(SHOWN_MAX).map(|to| words::plain(to));
                let mut to_whom = shown.collect::<Vec<_>>().join(", ");
                if to.len() > SHOWN_MAX {
                    let _ = write!(to_whom, " and {} more", to.len() - SHOWN_MAX);
                }
                let (path, size) = (path.display(), data.len());
                Some(format!("{path}: {name}, from <{from}> to {to_whom}, {size} bytes"))
            }
            Ok(_) => None,
        }
    }

    pub fn json(&self) -> Value {
        match &self.became {
            Err(reason) => json!({ "delivery": self.delivery, "error": reason }),
            Ok((path, Made::Mail { from, to, data, .. })) => json!({
                "delivery": self.delivery,
                "file": path.as_ref().map(|path| path.display().to_string()),
                "from": from,
                "to": to,
                "bytes": data.len(),
            }),
            Ok(_) => Value::Null,
        }
    }
}

/// Writes the mails among what was made, and tells of each what became of it.
pub(super) fn write<'a>(
    path: &Path,
    installation: &Name,
    made: &'a All,
) -> Result<Vec<Entry<'a>>, Failure> {
    let is_mail = |made: &Result<Made, String>| !matches!(made, Ok(made) if !made.is_mail());
    let mails: Vec<_> = made.iter().filter(|(_, made)| is_mail(made)).collect();
    if mails.is_empty() {
        let names: Vec<&str> = made.iter().map(|(name, _)| &**name).collect();
        return Err(Failure::Usage(format!("no mail is among {}", names.join(", "))));
    }
    let directory = path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/');
    if mails.len() > 1 && !directory {
        let names: Vec<&str> = mails.iter().map(|(name, _)| &**name).collect();
        let names = names.join(", ");
        return Err(Failure::Usage(format!(
            "these are several mails, {names}: name one of them, or write --eml DIRECTORY/"
        )));
    }
    if directory {
        make_directory(path)?;
    }
    mails
        .into_iter()
        .map(|(delivery, made)| {
            let became = match made {
                Err(reason) => Err(reason.as_str()),
                Ok(made) => {
                    let path =
                        if directory { path.join(made.file_name()) } else { path.to_owned() };
                    Ok((keep(&path, installation, made.data())?, made))
                }
            };
            Ok(Entry { delivery, became })
        })
        .collect()
}

impl Made {
    fn is_mail(&self) -> bool {
        matches!(self, Made::Mail { .. })
    }

    fn file_name(&self) -> String {
        match self {
            Made::Mail { key, .. } => format!("{key}.eml"),
            Made::Request { .. } | Made::Line { .. } => String::new(),
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Made::Mail { data, .. } => data,
            Made::Request { .. } | Made::Line { .. } => &[],
        }
    }
}

/// For nobody else to read, like the files: mails hold personal data.
fn make_directory(path: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(cannot(path, &error)),
        _ => Ok(()),
    }
}

/// Writes one mail; where to, unless it was stdout.
fn keep(path: &Path, installation: &Name, data: &[u8]) -> Result<Option<PathBuf>, Failure> {
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        // Whoever reads it may have enough before its end, as `head` does.
        let _ = out.write_all(data).and_then(|()| out.flush());
        return Ok(None);
    }
    let to_new =
        |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match to_new(path) {
        Ok(mut file) => file.write_all(data).map_err(|error| cannot(path, &error))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if !is_preview(path, installation).map_err(|error| cannot(path, &error))? {
                let shown = path.display();
                return Err(Failure::Usage(format!(
                    "{shown} exists and is no preview of this installation; name another file, or move \
                     it away"
                )));
            }
            // Whole or not at all: a mail program may be reading it.
            let mut hidden = path.as_os_str().to_owned();
            hidden.push(format!(".{}.part", std::process::id()));
            let hidden = PathBuf::from(hidden);
            to_new(&hidden)
                .and_then(|mut file| file.write_all(data))
                .and_then(|()| std::fs::rename(&hidden, path))
                .map_err(|error| {
                    // Nothing more can be done about it.
                    let _ = std::fs::remove_file(&hidden);
                    cannot(path, &error)
                })?;
        }
        Err(error) => return Err(cannot(path, &error)),
    }
    Ok(Some(path.to_owned()))
}

/// Whether a file is a mail of this installation, by its Message-ID.
fn is_preview(path: &Path, installation: &Name) -> std::io::Result<bool> {
    if !path.metadata()?.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_MAX).read_to_end(&mut head)?;
    let head = String::from_utf8_lossy(&head).replace("\r\n ", " ");
    let headers = head.split("\r\n\r\n").next().unwrap_or_default();
    let own = format!("<msg_{installation}_");
    let mut ids = headers.split("\r\n").filter_map(|line| line.strip_prefix("Message-ID:"));
    Ok(ids.any(|id| id.trim_start().starts_with(&own)))
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Fault(format!("cannot write {}: {error}", path.display()))
}
