//! `outboxd export NAME`: a file on demand. It changes nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;

use crate::calendar::Calendar;
use crate::cli::{Answer, Failure, Verdict, say_aside, words};
use crate::config::{Config, CsvConfig, Cut, Profile, Rows, Way};
use crate::hex::hex;
use crate::relay::lines::{Lines, choose};
use crate::sink::csv::{CsvFile, Layout};
use crate::store::inspect::files::{message, message_columns, messages_of_sink};
use crate::store::query::describe;
use crate::store::snapshot::{Asked, QueryError, Snapshot, bounds};
use crate::store::{Link, Target};

/// Longest that messages are read for; a query has a time limit of its own.
const MESSAGES_TIMEOUT: Duration = Duration::from_secs(3600);

#[derive(Args)]
pub(super) struct Pull {
    /// The export or csv sink
    name: String,
    /// From this instant, or from the beginning of this day on the clock that the sink is cut by
    #[arg(long, value_name = "T")]
    from: Bound,
    /// To before this instant or day
    #[arg(long, value_name = "T")]
    to: Bound,
    /// Only rows for which this SQL holds
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// Where to: a file that does not exist yet, or - for stdout
    #[arg(short, long, value_name = "FILE|-")]
    output: PathBuf,
    /// Written as machine, excel or excel-de read it; as the sink's own files where this is left out
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
}

/// One end of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Instant(Timestamp),
    Day(Date),
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Bound, String> {
        let wrong = "write a day like 2026-11-20, or an instant with its offset like \
                     2026-11-20T09:00:00+01:00";
        match words::instant(text) {
            Ok(at) => Ok(Bound::Instant(at)),
            Err(_) if text.len() == 10 => {
                text.parse().map(Bound::Day).map_err(|_| wrong.to_owned())
            }
            Err(_) => Err(wrong.to_owned()),
        }
    }
}

impl Bound {
    fn instant(self, zone: &TimeZone) -> Result<Timestamp, Failure> {
        match self {
            Bound::Instant(at) => Ok(at),
            Bound::Day(day) => match day.to_zoned(zone.clone()) {
                Ok(start) => Ok(start.timestamp()),
                Err(error) => Err(Failure::Usage(format!("{day}: {error}"))),
            },
        }
    }
}

fn profile(text: &str) -> Result<Profile, String> {
    match text {
        "machine" => Ok(Profile::Machine),
        "excel" => Ok(Profile::Excel),
        "excel-de" => Ok(Profile::ExcelDe),
        _ => Err("use machine, excel or excel-de".to_owned()),
    }
}

impl Pull {
    pub async fn run(self, mut config: Config) -> Answer {
        let target = Target::new(&config.database);
        let mut csv = self.csv(&mut config)?;
        if let Some(profile) = self.profile {
            csv.profile = profile;
        }
        let zone = csv.cut.every.as_ref().map_or(TimeZone::UTC, Calendar::zone);
        let (from, to) = (self.from.instant(&zone)?, self.to.instant(&zone)?);
        if from >= to {
            return Err(Failure::Usage(format!("--to must lie after --from: {from} to {to}")));
        }
        let out = Out::open(&self.output)?;
        match &csv.rows {
            Rows::Query(query) => {
                let params = bounds(&from, &to);
                let asked = Asked {
                    sql: &query.sql,
                    params: &params,
                    condition: self.condition.as_deref(),
                };
                let found = describe(&Link::new(Arc::clone(&target)), &query.sql).await?;
                let (columns, sources) = choose(&csv.columns, &found).map_err(Failure::Fault)?;
                let layout = Layout::with_columns(&csv, columns);
                let snapshot = Snapshot::begin(&target, query.timeout).await?;
                let answer = snapshot.rows(&asked, &sources).await?;
                write(out, &layout, Lines::new(answer, |values| layout.row(values))).await
            }
            Rows::Messages => {
                let [from, to] = bounds(&from, &to);
                let params = [from, to, (&self.name as _, Type::TEXT)];
                let sql = messages_of_sink(&target);
                let asked = Asked { sql, params: &params, condition: self.condition.as_deref() };
                let snapshot = Snapshot::begin(&target, MESSAGES_TIMEOUT).await?;
                let layout = Layout::of(&csv);
                let line = |values: &[Option<&str>]| {
                    let message = message(values)?;
                    layout.line(&message).map_err(|e| {
                        format!(
                            "message {0}: {e}; leave it out with --where 'id <> {0}'",
                            message.id
                        )
                    })
                };
                let answer = snapshot.rows(&asked, &message_columns()).await?;
                write(out, &layout, Lines::new(answer, line)).await
            }
        }
    }

    /// The sink's own config.
    fn csv(&self, config: &mut Config) -> Result<CsvConfig, Failure> {
        let known: Vec<String> = config
            .sinks
            .values()
            .filter(|sink| matches!(sink.way, Way::Csv(_)))
            .map(|sink| sink.name.to_string())
            .collect();
        let name = config.sinks.keys().find(|name| name.as_str() == self.name).cloned();
        match name.and_then(|name| config.sinks.remove(&name)).map(|sink| sink.way) {
            Some(Way::Csv(csv)) => Ok(*csv),
            _ => {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let name = words::plain(&self.name);
                let words = format!("this config has no export or csv sink {name}; it has {known}");
                Err(Failure::Fault(words))
            }
        }
    }
}

/// Where the lines go.
enum Out {
    Stdout { hash: Sha256, bytes: u64 },
    File(CsvFile),
}

impl Out {
    fn open(path: &Path) -> Result<Out, Failure> {
        if path == Path::new("-") {
            return Ok(Out::Stdout { hash: Sha256::new(), bytes: 0 });
        }
        let shown = path.display();
        // Looked at before the query runs; when the file gets its name it is made sure of.
        if path.symlink_metadata().is_ok() {
            let words = format!("{shown} exists and is not overwritten; name another file");
            return Err(Failure::Fault(words));
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::Usage(format!("{shown} names no file")))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        let cut = Cut { every: None, max_rows: None };
        let like = CsvConfig::new(directory, (name, ""), Vec::new(), cut);
        // Below zero there are no exports.
        let file = CsvFile::begin(&like, "", -i64::from(std::process::id()));
        file.map(Out::File)
            .map_err(|error| Failure::Fault(format!("cannot write {shown}: {error}")))
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let written = match self {
            Out::File(file) => file.append(lines),
            Out::Stdout { hash, bytes } => {
                hash.update(lines);
                *bytes += lines.len() as u64;
                std::io::stdout().lock().write_all(lines)
            }
        };
        written.map_err(|error| Failure::Fault(format!("cannot write: {error}")))
    }

    /// Size and hash of what was written.
    fn finish(self) -> Result<(u64, String), Failure> {
        let fault = |error: &dyn std::error::Error| match error.source() {
            Some(source) => Failure::Fault(format!("{error}: {source}")),
            None => Failure::Fault(error.to_string()),
        };
        match self {
            Out::Stdout { hash, bytes } => {
                std::io::stdout().lock().flush().map_err(|error| fault(&error))?;
                Ok((bytes, hex(&<[u8; 32]>::from(hash.finalize()))))
            }
            Out::File(file) => {
                let finished = file.finish().map_err(|error| fault(&error))?;
                let content = *finished.content();
                finished.publish().map_err(|error| fault(&error))?;
                Ok((content.bytes, hex(&content.sha256)))
            }
        }
    }
}

async fn write(mut out: Out, layout: &Layout<'_>, mut lines: Lines<'_>) -> Answer {
    out.write(&layout.header())?;
    while let Some(page) = lines.page().await? {
        out.write(&page)?;
    }
    let (bytes, sha256) = out.finish()?;
    let rows = lines.rows();
    let word = if rows == 1 { "row" } else { "rows" };
    say_aside(&format!("{rows} {word}, {bytes} bytes, sha256 {sha256}"));
    Ok(Verdict::Ok)
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Failure {
        Failure::Fault(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_on_the_clock_that_the_sink_is_cut_by() {
        let zone = TimeZone::get("Europe/Vienna").unwrap();
        let at = |text: &str| text.parse::<Bound>().unwrap().instant(&zone).unwrap().to_string();
        assert_eq!(at("2026-11-20"), "2026-11-19T23:00:00Z");
        assert_eq!(at("2026-11-20T01:00:00+02:00"), "2026-11-19T23:00:00Z");
        for wrong in ["2026-11-20T01:00:00", "2026-11-20 01:00", "yesterday", "2026-02-30", ""] {
            let said = wrong.parse::<Bound>().unwrap_err();
            assert!(said.contains("offset"), "{wrong}: {said}");
        }
    }
}
