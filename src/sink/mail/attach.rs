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
    let (mut files, mut left) = (Vec::new(), BYTES_MAX);
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
                if size > left {
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
        left = left.checked_sub(content.len() as u64).ok_or_else(too_large)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::template::Template;

    fn template(source: &str) -> Template {
        Template::parse(source).unwrap()
    }

    fn attachment(name: &str, source: AttachmentSource) -> AttachmentConfig {
        AttachmentConfig { name: template(name), media_type: None, source, content_id: None }
    }

    fn of_file(file: &str) -> AttachmentConfig {
        attachment("a.bin", AttachmentSource::File(template(file)))
    }

    fn of_text(base64: &str) -> AttachmentConfig {
        attachment("a.txt", AttachmentSource::Base64(template(base64)))
    }

    fn view() -> View {
        View::of_values([("up".to_owned(), "..".into())].into())
    }

    fn read_one(config: AttachmentConfig, root: Option<&Path>) -> Result<Attachment, NoMail> {
        read(&[config], root, &view()).map(|mut all| all.remove(0))
    }

    #[track_caller]
    fn assert_never(read: Result<Attachment, NoMail>, part: &str) {
        let Err(NoMail::Never(reason)) = read else { panic!("no fault for good: {part}") };
        assert!(reason.contains(part), "{reason}");
    }

    #[test]
    fn base64_is_read_as_it_is_met() {
        for text in ["R3LDvMOfZQ==", "R3LDvMOfZQ", "R3LD\nvMOf\r\n ZQ==\n"] {
            let read = read_one(of_text(text), None).unwrap();
            assert_eq!(str::from_utf8(&read.content).unwrap(), "Gr\u{fc}\u{df}e", "{text}");
            assert_eq!(read.media_type, "text/plain; charset=utf-8");
        }
        assert_eq!(read_one(of_text("/w=="), None).unwrap().media_type, "text/plain");
        for (text, reason) in [
            ("", "attachments[0].base64: it is empty"),
            ("R3L-", "attachments[0].base64: it is not base64"),
            ("data:text/plain;base64,R3Lh", "attachments[0].base64: it is not base64"),
            ("{{ nothing }}", "attachments[0].base64: the message lacks"),
        ] {
            assert_never(read_one(of_text(text), None), reason);
        }
        assert_never(read_one(attachment(" ", of_text("YQ==").source), None), "name: it is empty");
        let long = "x".repeat(256);
        assert_never(read_one(attachment(&long, of_text("YQ==").source), None), "longer than 255");
    }

    #[test]
    fn a_media_type_is_known_by_the_names_ending() {
        for (name, expected) in [
            ("a.PDF", "application/pdf"),
            ("a.b.png", "image/png"),
            ("a.csv", "text/csv; charset=utf-8"),
            ("a", "application/octet-stream"),
            ("pdf", "application/octet-stream"),
            ("a.exe", "application/octet-stream"),
        ] {
            assert_eq!(media_type(None, name, b"x"), expected, "{name}");
        }
        assert_eq!(media_type(Some("text/x-own"), "a.pdf", b"x"), "text/x-own");
    }

    /// A root with a file, a directory, links that stay and links that leave, beside a secret.
    fn rooms() -> (tempfile::TempDir, std::path::PathBuf) {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("root");
        fs::create_dir_all(root.join("in")).unwrap();
        fs::write(root.join("in/a"), "good").unwrap();
        fs::write(above.path().join("secret"), "secret").unwrap();
        symlink("in/a", root.join("stays")).unwrap();
        symlink("../secret", root.join("leaves")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink(above.path().join("secret"), root.join("absolute")).unwrap();
        (above, root)
    }

    #[test]
    fn files_are_read_below_the_root_alone() {
        let (_above, root) = rooms();
        for name in ["in/a", "./in/./a", "stays"] {
            assert_eq!(read_one(of_file(name), Some(&root)).unwrap().content, b"good", "{name}");
        }
        assert_eq!(weigh(&[of_file("in/a"), of_file("stays")], Some(&root), &view()), Ok(8));
        for name in ["leaves", "up/secret", "absolute"] {
            assert_never(read_one(of_file(name), Some(&root)), "behind a symbolic link");
        }
        for name in ["../secret", "{{ up }}/secret", "in/../../secret", "/etc/passwd", ".."] {
            assert_never(read_one(of_file(name), Some(&root)), "leads out of the sink's files");
        }
        assert_never(read_one(of_file("in"), Some(&root)), "is a directory");
        assert_never(read_one(of_file(" "), Some(&root)), "it is empty");
        assert_never(read_one(of_file("a\nb"), Some(&root)), "a line break");
        assert_never(read_one(of_file("a"), None), "the sink has no files");
    }

    /// Where the kernel does not see to it.
    #[test]
    fn step_by_step_no_link_is_followed() {
        let (_above, root) = rooms();
        let open = |name: &str| {
            let root = rustix::fs::openat(CWD, &root, PASS, Mode::empty()).unwrap();
            step_by_step(root, Path::new(name))
        };
        let mut text = String::new();
        open("./in/a").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "good");
        for name in ["stays", "leaves", "up/secret", "absolute"] {
            assert_eq!(open(name).err(), Some(Errno::LOOP), "{name}");
        }
        assert_eq!(open("in/b").err(), Some(Errno::NOENT));
    }

    #[test]
    fn a_pipe_is_no_file_and_nobody_waits_for_it() {
        let (_above, root) = rooms();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        assert_never(read_one(of_file("pipe"), Some(&root)), "something else that is no file");
    }

    #[test]
    fn a_file_that_is_not_there_may_come() {
        let (_above, root) = rooms();
        for name in ["in/b", "none/b"] {
            let Err(NoMail::NotNow(reason)) = read_one(of_file(name), Some(&root)) else {
                panic!("{name}")
            };
            assert!(reason.contains("next attempt"), "{reason}");
            assert!(!reason.contains(name), "{reason}");
        }
        let gone = Some(root.join("none"));
        let read = read_one(of_file("a"), gone.as_deref());
        assert!(matches!(read, Err(NoMail::NotNow(_))));
    }

    #[test]
    fn attachments_have_a_limit_together() {
        let (_above, root) = rooms();
        let half = fs::File::create(root.join("half")).unwrap();
        half.set_len(BYTES_MAX / 2).unwrap();
        let all = read(&[of_file("half"), of_file("half")], Some(&root), &view()).unwrap();
        assert_eq!(all.len(), 2);
        let one_more = [of_file("half"), of_text("YQ=="), of_file("half")];
        let Err(NoMail::Never(reason)) = read(&one_more, Some(&root), &view()) else { panic!() };
        assert!(reason.starts_with("the attachments are too large: more than 32 MB"), "{reason}");
    }
}
