//! Sidecar: a small file beside a published one that tells what must be in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::file::{Content, CsvFile, PublishError, failed, hidden};
use crate::hex::hex;

/// What is told of a file, beside its name, size and hash.
pub struct Sidecar<'a> {
    /// Whose file it is.
    pub sink: &'a str,
    /// What it is named after.
    pub period: &'a str,
    /// Begin of its span, where the cut is by time.
    pub from: Option<Timestamp>,
    /// Its end: what fell due before is in it.
    pub to: Timestamp,
    /// Lines without the header.
    pub rows: i64,
    /// Lowest and highest id of its messages; none where it has none, and for exports.
    pub ids: Option<(i64, i64)>,
    /// Hash of the columns and of how they are written.
    pub layout: &'a str,
}

impl Sidecar<'_> {
    /// The text: a JSON object. It says nothing of when it was written, so that a crash leads to the
    /// same text again.
    #[must_use]
    pub fn text(&self, file: &Path, content: &Content) -> String {
        let mut told = json!({
            "file": file.file_name().unwrap_or_default().to_string_lossy(),
            "sink": self.sink,
            "period": self.period,
            "from": self.from.map(|at| at.to_string()),
            "to": self.to.to_string(),
            "rows": self.rows,
            "bytes": content.bytes,
            "sha256": hex(&content.sha256),
            "layout": self.layout,
        });
        if let Some((first, last)) = self.ids {
            told["first_id"] = json!(first);
            told["last_id"] = json!(last);
        }
        format!("{told:#}\n")
    }

    /// Publishes the text as FILE.json, as whole and as carefully as the file itself. Where it is there
    /// already, that is success. Blocks.
    ///
    /// # Errors
    /// As [`PublishError`] tells apart.
    pub fn publish(file: &Path, export_id: i64, text: &str) -> Result<(), PublishError> {
        let path = beside(file);
        let hidden = hidden(&path, export_id);
        let mut out = CsvFile::create(hidden, path.clone()).map_err(failed("write", &path))?;
        out.append(text.as_bytes()).map_err(failed("write", &path))?;
        out.finish()?.publish()
    }
}

/// The file's whole name with `.json` behind it.
fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".json");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TOLD: Sidecar = Sidecar {
        sink: "orders",
        period: "2026-11-20",
        from: Some(Timestamp::UNIX_EPOCH),
        to: Timestamp::constant(86_400, 0),
        rows: 2,
        ids: Some((7, 9)),
        layout: "c0ffee",
    };

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_tells_what_must_be_in_the_file() {
        let content = Content { bytes: 42, sha256: [0xab; 32] };
        let text = |told: &Sidecar| told.text(Path::new("out/orders-2026-11-20.csv"), &content);
        let told: serde_json::Value = serde_json::from_str(&text(&TOLD)).unwrap();
        let mut expected = json!({
            "file": "orders-2026-11-20.csv", "sink": "orders", "period": "2026-11-20",
            "from": "1970-01-01T00:00:00Z", "to": "1970-01-02T00:00:00Z",
            "rows": 2, "bytes": 42, "sha256": "ab".repeat(32), "layout": "c0ffee",
            "first_id": 7, "last_id": 9,
        });
        assert_eq!(told, expected);
        let told = text(&Sidecar { from: None, ids: None, ..TOLD });
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        expected["from"] = json!(null);
        for key in ["first_id", "last_id"] {
            expected.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(told, expected);
    }

    #[test]
    fn it_is_published_once_and_never_over_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("orders.csv");
        Sidecar::publish(&file, 1, "{}\n").unwrap();
        Sidecar::publish(&file, 1, "{}\n").unwrap();
        let error = Sidecar::publish(&file, 1, "{\"other\": 1}\n").unwrap_err();
        assert!(matches!(error, PublishError::Taken { .. }), "{error:?}");
        assert_eq!(names(directory.path()), ["orders.csv.json"]);
        assert_eq!(fs::read(directory.path().join("orders.csv.json")).unwrap(), b"{}\n");
    }

    #[test]
    fn what_cannot_be_written_says_which_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = Sidecar::publish(&directory.path().join("none/a.csv"), 1, "{}").unwrap_err();
        assert!(error.to_string().contains("none/a.csv.json"), "{error}");
    }
}
