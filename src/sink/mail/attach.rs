//! What goes along with a mail: bytes that the payload holds, and files below one directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::part::Attachment;
use super::{NoMail, one_line};
use crate::config::{AttachmentConfig, AttachmentSource};
use crate::template::View;

/// Most bytes of all attachments of one mail together, before they are encoded.
pub(super) const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Longest name of an attachment, in characters.
const NAME_MAX: usize = 255;

/// Media types by a name's ending. Texts get their charset from what is in them.
const MEDIA_TYPES: [(&str, &str); 33] = [
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ics", "text/calendar"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("rtf", "application/rtf"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain"),
    ("vcf", "text/vcard"),
    ("webp", "image/webp"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

/// Base64 as it is met: padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of the files that go along with a mail, as they are now; nothing is read.
pub(super) fn weigh(
    configs: &[AttachmentConfig],
    root: Option<&Path>,
    view: &View,
) -> Result<u64, NoMail> {
    let mut bytes = 0;
    for (index, config) in configs.iter().enumerate() {
        if let AttachmentSource::File(_) = &config.source {
            bytes += open(config, index, root, view)?.1;
        }
    }
    Ok(bytes)
}

/// Everything that goes along, read.
pub(super) fn read(
    configs: &[AttachmentConfig],
    root: Option<&Path>,
    view: &View,
) -> Result<Vec<Attachment>, NoMail> {
    let (mut files, mut room) = (Vec::new(), BYTES_MAX);
    for (index, config) in configs.iter().enumerate() {
        let key = format!("attachments[{index}]");
        let never = |problem: String| NoMail::Never(format!("{key}.{problem}"));
        let name = one_line("name", &config.name, view).map_err(never)?;
        if name.is_empty() || name.chars().count() > NAME_MAX {
            return Err(never(format!("name: it is empty, or longer than {NAME_MAX} characters")));
        }
        let content = match &config.source {
            AttachmentSource::Base64(template) => decode(template, view).map_err(never)?,
            AttachmentSource::File(_) => {
                let (file, size) = open(config, index, root, view)?;
                if size > room {
                    return Err(too_large());
                }
                // No more than it had: somebody may be writing to it.
                let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
                let read = file.take(size).read_to_end(&mut content);
                read.map_err(|error| {
                    NoMail::NotNow(format!("{key}.file: cannot be read: {error}"))
                })?;
                content
            }
        };
        room = room.checked_sub(content.len() as u64).ok_or_else(too_large)?;
        let media_type = media_type(config.media_type.as_deref(), &name, &content);
        files.push(Attachment { name, media_type, content_id: config.content_id.clone(), content });
    }
    Ok(files)
}

fn too_large() -> NoMail {
    let max = BYTES_MAX / 1024 / 1024;
    NoMail::Never(format!(
        "the attachments are too large: more than {max} MB together; send a link in their place, or \
         less of them"
    ))
}

fn decode(template: &crate::template::Template, view: &View) -> Result<Vec<u8>, String> {
    let text = template.render(view).map_err(|e| format!("base64: {e}"))?;
    // PostgreSQL's encode() breaks its lines.
    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if text.is_empty() {
        return Err("base64: it is empty".to_owned());
    }
    BASE64.decode(text).map_err(|_| "base64: it is not base64".to_owned())
}

fn media_type(config: Option<&str>, name: &str, content: &[u8]) -> String {
    if let Some(config) = config {
        return config.to_owned();
    }
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let known = MEDIA_TYPES.iter().find(|(known, _)| ending.as_deref() == Some(*known));
    match known {
        Some((_, text)) if text.starts_with("text/") && str::from_utf8(content).is_ok() => {
            format!("{text}; charset=utf-8")
        }
        Some((_, known)) => (*known).to_owned(),
        None => "application/octet-stream".to_owned(),
    }
}

/// Opens the file that an attachment names, and tells how large it is.
fn open(
    config: &AttachmentConfig,
    index: usize,
    root: Option<&Path>,
    view: &View,
) -> Result<(File, u64), NoMail> {
    let never = |problem: &str| NoMail::Never(format!("attachments[{index}].file: {problem}"));
    let AttachmentSource::File(template) = &config.source else {
        return Err(never("it is no file"));
    };
    let Some(root) = root else { return Err(never("the sink has no files")) };
    let name = one_line("file", template, view)
        .map_err(|problem| NoMail::Never(format!("attachments[{index}].{problem}")))?;
    if name.is_empty() {
        return Err(never("it is empty"));
    }
    let path = Path::new(&name);
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(never("it leads out of the sink's files: no .. and no / at its begin"));
    }
    let not_now = |error: &io::Error| {
        let hint = "looked for again with the next attempt; it must be below files of the sink, on the \
                    machine of each relay";
        NoMail::NotNow(format!("attachments[{index}].file: cannot be opened: {error}; {hint}"))
    };
    let file = below(root, path).map_err(|errno| match errno {
        Errno::XDEV | Errno::LOOP => never("it is behind a symbolic link that leads out of the sink's files, or may not be followed"),
        errno => not_now(&errno.into()),
    })?;
    let about = file.metadata().map_err(|error| not_now(&error))?;
    if !about.is_file() {
        return Err(never("it is a directory, or something else that is no file"));
    }
    Ok((file, about.len()))
}

/// How a file is opened that may be anything: without waiting for the other end of a pipe.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
/// How a directory is opened on the way.
const PASS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);

/// Opens a file below a directory. The kernel sees to it that the way stays below, whatever is renamed or
/// linked meanwhile. Where it cannot (Linux before 5.6, containers that forbid the call, macOS) no
/// symbolic link is followed at all.
fn below(root: &Path, path: &Path) -> Result<File, Errno> {
    let root = rustix::fs::openat(CWD, root, PASS, Mode::empty())?;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: something was renamed meanwhile, and the kernel could not tell where it led.
        for _ in 0..10 {
            match rustix::fs::openat2(&root, path, READ, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => return step_by_step(root, path),
                opened => return opened.map(File::from),
            }
        }
    }
    step_by_step(root, path)
}

/// The same by opening each directory from the one before, without following symbolic links.
fn step_by_step(root: std::os::fd::OwnedFd, path: &Path) -> Result<File, Errno> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir).peekable();
    let mut here = root;
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { PASS } else { READ } | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(&here, part.as_os_str(), flags, Mode::empty());
        here = opened.map_err(|errno| match errno {
            // A directory that is a link answers that it is none.
            Errno::NOTDIR | Errno::LOOP => Errno::LOOP,
            other => other,
        })?;
    }
    Ok(File::from(here))
}
