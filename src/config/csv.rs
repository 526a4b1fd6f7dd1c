//! `kind = "csv"`: where the files go, what stands in them and when they are cut.

use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};

use super::item::Item;
use super::read::Section;
use super::sink::Kinds;
use super::{Column, CsvConfig, Cut, Empty, Formulas, Profile};
use super::{LATE_AFTER, LATE_AFTER_RANGE, calendar, column, mailing};

const ROWS_MAX: usize = 10_000_000;
const PERIOD: &str = "{{ period }}";

const PROFILES: [(&str, Profile); 3] =
    [("machine", Profile::Machine), ("excel", Profile::Excel), ("excel-de", Profile::ExcelDe)];
const FORMULAS: [(&str, Formulas); 3] =
    [("guard", Formulas::Guard), ("keep", Formulas::Keep), ("refuse", Formulas::Refuse)];
const EMPTIES: [(&str, Empty); 2] = [("header", Empty::Header), ("skip", Empty::Skip)];

impl CsvConfig {
    /// Directory and file name with the period left open: equal for sinks that would write the
    /// same files.
    pub(super) fn path(&self) -> PathBuf {
        let path = self.directory.join(format!("{}{PERIOD}{}", self.name_head, self.name_tail));
        path.components().filter(|step| *step != Component::CurDir).collect()
    }
}

const PATH_REMEDY: &str = "write path = \"exports/orders-{{ period }}.csv\"";

/// Reads the csv part of a sink.
pub(super) fn read(section: &mut Section, name: &str, kinds: &Kinds) -> Option<CsvConfig> {
    let columns = section
        .need("columns", "write columns = [{ name = \"order_id\", value = \"payload.order_id\" }]")
        .and_then(|item| column::of_messages(&item));
    let cut = cut(section);
    files(section, name, kinds, columns, cut)
}

/// Reads what the files of messages and those of queries have in common.
pub(super) fn files(
    section: &mut Section,
    name: &str,
    kinds: &Kinds,
    columns: Option<Vec<Column>>,
    cut: Option<Cut>,
) -> Option<CsvConfig> {
    let path = section.need("path", PATH_REMEDY).and_then(|item| path(&item));
    let profile = section.get("profile").and_then(|item| item.choice(&PROFILES));
    let formulas = section.get("formulas").and_then(|item| item.choice(&FORMULAS));
    let empty = section.get("empty").and_then(|item| item.choice(&EMPTIES));
    let sidecar = section.get("sidecar").and_then(|item| item.boolean());
    let late_after = section.duration("late_after", LATE_AFTER, LATE_AFTER_RANGE);
    let mail = section.get("mail").and_then(|item| mailing::read(&item, name, kinds));
    let (directory, name_head, name_tail) = path?;
    let plain = CsvConfig::new(directory, (&name_head, &name_tail), columns?, cut?);
    Some(CsvConfig {
        profile: profile.unwrap_or(plain.profile),
        formulas: formulas.unwrap_or(plain.formulas),
        empty: empty.unwrap_or(plain.empty),
        sidecar: sidecar.unwrap_or(plain.sidecar),
        late_after,
        mail,
        ..plain
    })
}

/// Directory, and the file's name before and after the period.
fn path(item: &Item) -> Option<(PathBuf, String, String)> {
    let text = item.text()?;
    let form = "write it like exports/orders-{{ period }}.csv";
    // `{{period}}` with more or fewer blanks is the same.
    let mut spaced = String::new();
    for (index, part) in text.split("{{").enumerate() {
        match part.split_once("}}") {
            Some((inner, after)) if index > 0 && inner.trim() == "period" => {
                spaced.push_str(PERIOD);
                spaced.push_str(after);
            }
            _ if index == 0 => spaced.push_str(part),
            _ => {
                item.fault("knows no placeholder but {{ period }}", form);
                return None;
            }
        }
    }
    let whole = Path::new(&spaced);
    let (directory, name) = match (whole.parent(), whole.file_name()) {
        (Some(directory), Some(name)) if !spaced.ends_with('/') => (directory, name),
        _ => {
            item.fault("names no file", form);
            return None;
        }
    };
    let name = name.to_string_lossy();
    let parts: Vec<&str> = name.split(PERIOD).collect();
    let [head, tail] = parts[..] else {
        let count = parts.len() - 1;
        item.fault(format!("has {{{{ period }}}} {count} times in its file name"), "once is right");
        return None;
    };
    if directory.to_string_lossy().contains(PERIOD) {
        item.fault("has {{ period }} in its directory", "it stands in the file name only");
        return None;
    }
    Some((item.source.directory.join(directory), head.to_owned(), tail.to_owned()))
}

fn cut(section: &mut Section) -> Option<Cut> {
    let every = section.get("every");
    let max_rows = section.get("max_rows");
    if every.is_none() && max_rows.is_none() {
        section.missing("every", "write every = \"1h\" or max_rows = 10000, or both");
        return None;
    }
    if let Some(mail) = section.get("mail") {
        let problem = "goes out once for each period, and a file that is cut by rows has none";
        if every.is_none() {
            mail.fault(problem, "write every = \"24h\" or { at = …, time_zone = … }");
        }
        if let Some(rows) = &max_rows {
            rows.fault(
                "does not go with a mail, which is sent once for a period",
                "write every alone",
            );
        }
    }
    let every = every.and_then(|item| calendar::read(&item));
    let max_rows = max_rows.and_then(|item| item.count(1..=ROWS_MAX)).and_then(NonZeroUsize::new);
    Some(Cut { every, max_rows })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::calendar::Calendar;
    use crate::config::sink::PACE_KEYS;
    use crate::config::testing::{parse_in, refuses, refuses_each};
    use crate::config::{Way, policy};

    const HEAD: &str = "kind = \"csv\"\npath = \"out/f-{{ period }}.csv\"\n\
                        columns = [{ name = \"id\", value = \"id\" }]\nevery = \"1h\"\n";

    fn one(text: &str) -> CsvConfig {
        let text = format!("[sinks.a]\n{text}");
        let config = parse_in(Path::new("/etc/outboxd"), &text).unwrap();
        let Way::Csv(csv) = config.sinks.into_values().next().unwrap().way else {
            panic!("not csv")
        };
        *csv
    }

    #[test]
    fn the_path_is_split_at_the_period() {
        for (path, directory, head, tail) in [
            ("out/f-{{ period }}.csv", "/etc/outboxd/out", "f-", ".csv"),
            ("{{period}}", "/etc/outboxd/", "", ""),
            ("/srv/x/{{  period }}.csv", "/srv/x", "", ".csv"),
        ] {
            let csv = one(&HEAD.replace("out/f-{{ period }}.csv", path));
            assert_eq!(csv.directory, Path::new(directory), "{path}");
            assert_eq!((&*csv.name_head, &*csv.name_tail), (head, tail), "{path}");
        }
    }

    #[test]
    fn a_file_is_cut_by_time_by_rows_or_by_both() {
        let hour = Some(Calendar::Span(Duration::from_secs(3600)));
        let rows = NonZeroUsize::new(500);
        assert_eq!(one(HEAD).cut, Cut { every: hour.clone(), max_rows: None });
        let both = format!("{HEAD}max_rows = 500\n");
        assert_eq!(one(&both).cut, Cut { every: hour, max_rows: rows });
        let only = both.replace("every = \"1h\"\n", "");
        assert_eq!(one(&only).cut, Cut { every: None, max_rows: rows });
    }

    #[test]
    fn how_a_file_is_written_has_defaults() {
        let plain = one(HEAD);
        assert_eq!((plain.profile, plain.formulas), (Profile::Machine, Formulas::Guard));
        assert_eq!((plain.empty, plain.sidecar), (Empty::Skip, false));
        assert_eq!((plain.late_after, plain.mail.is_none()), (Duration::from_secs(3600), true));
        let daily = "every = { at = \"01:00\", time_zone = \"Europe/Vienna\" }";
        assert_eq!(one(&HEAD.replace("every = \"1h\"", daily)).empty, Empty::Header);
        let other = one(&format!(
            "{HEAD}profile = \"excel-de\"\nformulas = \"keep\"\nempty = \"header\"\n\
             sidecar = true\nlate_after = \"3h\"\n"
        ));
        assert_eq!((other.profile, other.formulas), (Profile::ExcelDe, Formulas::Keep));
        assert_eq!((other.empty, other.sidecar), (Empty::Header, true));
        assert_eq!(other.late_after, Duration::from_secs(3 * 3600));
    }

    #[test]
    fn two_sinks_never_write_the_same_files() {
        let other = HEAD.replace("out/f-{{ period }}", "./out/f-{{period}}");
        refuses(
            &format!("[sinks.b]\n{HEAD}[sinks.a]\n{other}"),
            &["outboxd.toml:8: sinks.a.path: sinks.b writes the same files; \
               give each csv sink and export a path of its own"],
        );
    }

    fn check(changes: &[(&str, &str)]) {
        refuses_each("[sinks.a]\n", "sinks.a", HEAD, changes);
    }

    #[test]
    fn faults_of_the_path_and_of_the_cut() {
        let form = "write it like exports/orders-{{ period }}.csv";
        let divide = "use e.g. \"1m\", \"15m\", \"1h\" or \"24h\"";
        check(&[
            ("path", "1: path: is missing; write path = \"exports/orders-{{ period }}.csv\""),
            (
                "path = \"a.csv\"",
                "5: path: has {{ period }} 0 times in its file name; once is right",
            ),
            (
                "path = \"{{ period }}-{{ period }}\"",
                "5: path: has {{ period }} 2 times in its file name; once is right",
            ),
            (
                "path = \"{{ period }}/{{ period }}\"",
                "5: path: has {{ period }} in its directory; it stands in the file name only",
            ),
            (
                "path = \"{{ day }}.csv\"",
                &format!("5: path: knows no placeholder but {{{{ period }}}}; {form}"),
            ),
            ("path = \"a/{{ period }}/\"", &format!("5: path: names no file; {form}")),
            ("every", "1: every: is missing; write every = \"1h\" or max_rows = 10000, or both"),
            (
                "every = \"7m\"",
                &format!(
                    "5: every: \"7m\" does not divide a day; spans count from midnight: {divide}"
                ),
            ),
            ("every = \"2d\"", "5: every: \"2d\" is out of range; 1s to 1d"),
            ("max_rows = 0", "6: max_rows: 0 is out of range; 1 to 10000000"),
            ("concurrency = 1", "6: concurrency: does nothing for a csv sink; remove it"),
            ("timeout = \"1s\"", "6: timeout: does nothing for a csv sink; remove it"),
        ]);
        for key in policy::KEYS.into_iter().chain(PACE_KEYS) {
            let line = format!("{key} = 1");
            check(&[(&line, &format!("6: {key}: does nothing for a csv sink; remove it"))]);
        }
    }
}
