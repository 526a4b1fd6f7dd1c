//! What the files of one sink are counted in.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use super::Names;
use super::catalogue::{Catalogue, Counters};
use super::sink::{SINK, and, of};
use super::words::MailEnd;

/// The metrics of sinks and exports that make files.
pub(super) struct FileFamilies {
    cut: Counters,
    published: Counters,
    rows: Counters,
    errors: Counters,
    mails: Counters,
}

impl FileFamilies {
    pub fn new(c: &mut Catalogue) -> FileFamilies {
        FileFamilies {
            cut: c.counters("outboxd_files_cut", SINK, "Files that were opened by a cut"),
            published: c.counters("outboxd_files_published", SINK, "Files that have their name"),
            rows: c.counters("outboxd_file_rows", SINK, "Rows in published files"),
            errors: c.counters(
                "outboxd_file_errors",
                SINK,
                "Times a file could not be cut or written; its rows are safe",
            ),
            mails: c.counters(
                "outboxd_file_mails",
                &["sink", "end"],
                "Dialogues and refusals of the mails of files, by how they ended",
            ),
        }
    }

    /// Creates what is missing, and takes away what no name stands for any more.
    pub fn stand_for(&self, known: &Names, names: &Names) {
        for gone in known.files.iter().filter(|file| !names.files.contains(file)) {
            for family in [&self.cut, &self.published, &self.rows, &self.errors] {
                family.remove(&of(gone));
            }
            for end in MailEnd::ALL {
                self.mails.remove(&and(gone, "end", end.word()));
            }
        }
        for file in &names.files {
            drop(self.of(file));
        }
    }

    pub fn of(&self, sink: &str) -> FileMetrics {
        let counter = |family: &Counters| family.get_or_create_owned(&of(sink));
        let mail = |end: &MailEnd| self.mails.get_or_create_owned(&and(sink, "end", end.word()));
        FileMetrics(Arc::new(FileHandles {
            cut: counter(&self.cut),
            published: counter(&self.published),
            rows: counter(&self.rows),
            errors: counter(&self.errors),
            mails: MailEnd::ALL.iter().map(mail).collect(),
        }))
    }
}

/// What the files of one sink are counted in. Clones count in the same.
#[derive(Clone)]
pub struct FileMetrics(Arc<FileHandles>);

struct FileHandles {
    cut: Counter,
    published: Counter,
    rows: Counter,
    errors: Counter,
    mails: Vec<Counter>,
}

impl FileMetrics {
    /// A file was opened by a cut.
    pub fn cut(&self) {
        self.0.cut.inc();
    }

    /// A file has its name.
    pub fn published(&self, rows: i64) {
        self.0.published.inc();
        self.0.rows.inc_by(u64::try_from(rows).unwrap_or_default());
    }

    /// A file could not be cut or written.
    pub fn failed(&self) {
        self.0.errors.inc();
    }

    /// Mails of files ended so.
    pub fn mailed(&self, end: MailEnd) {
        self.0.mails[end as usize].inc();
    }
}
