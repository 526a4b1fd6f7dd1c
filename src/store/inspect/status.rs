//! The state of everything, on one screen and at a fixed price: counts stop at
//! [`Count::LIMIT`], and every look goes through an index.

use std::fmt;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::lanes;
use super::pause::{PausedAll, PausedRoute};
use crate::alert::Alert;
use crate::store::error::StoreError;
use crate::store::flow::Flow;
use crate::store::link::Link;
use crate::store::watch;

/// A number that was counted up to a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many were counted.
    pub number: u64,
    /// Whether there are more.
    pub more: bool,
}

/// Everything `status` shows.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The name the database holds.
    pub installation: String,
    /// Every sink there is a row or an open delivery of.
    pub sinks: Vec<SinkStatus>,
    /// The schedules of live relays, of all relays where none lives.
    pub schedules: Vec<ScheduleStatus>,
    /// Mails of files that are held or dead, the oldest first; no more than [`MAILS_MAX`].
    pub mails: Vec<MailStatus>,
    /// The living first.
    pub relays: Vec<RelayStatus>,
    /// Types without a route, and how many messages wait for one; exact up to the limit.
    pub unrouted: Vec<(String, u64)>,
    /// Messages written past the trigger.
    pub unseen: Count,
    /// The hash of the routes in force.
    pub routes_hash: Option<String>,
    /// What is in trouble, as the relays noted it.
    pub alerts: Vec<Alert>,
    /// The sinks that alerts are routed to; an empty name where they go nowhere on purpose.
    pub told: Vec<String>,
    /// Whether everything is paused.
    pub paused: PausedAll,
    /// The routes that operators paused.
    pub paused_routes: Vec<PausedRoute>,
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// None where no relay ever entered it.
    pub kind: Option<String>,
    /// The id of the relay that works it.
    pub owner: Option<String>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Deliveries that could start now.
    pub due: Count,
    /// Deliveries that wait for time.
    pub later: Count,
    /// Seconds since the oldest fell due.
    pub oldest_due: Option<i64>,
    /// Given up.
    pub dead: Count,
    /// In doubt.
    pub held: Count,
    /// What its owner says it does; none if it said nothing for 90 s.
    pub flow: Option<Flow>,
    /// Keys whose head cannot be delivered now, as far as its owner knows them.
    pub parked: i32,
    /// Seconds since its breaker opened, and why; none while it is closed.
    pub open: Option<(i64, String)>,
    /// Seconds until it takes anything again, and what it waits for.
    pub waits: Option<(i64, String)>,
    /// Of a sink whose files are cut by the calendar: seconds until the next cut, negative where it is
    /// over; none where it is not known.
    pub next_cut: Option<i64>,
    /// Of a csv sink or an export: the last file.
    pub export: Option<ExportStatus>,
    /// The period of a file that cannot be written, and why.
    pub stuck: Option<(String, String)>,
}

/// The last file of a csv sink or an export.
#[derive(Clone, Debug)]
pub struct ExportStatus {
    /// Its period.
    pub period: String,
    /// Counted from 1 within the period.
    pub part: i32,
    /// open, closed, built, published or empty.
    pub state: String,
    /// Rows in its set.
    pub rows: i64,
    /// The state of the mail it goes out with; none before one is planned.
    pub mail: Option<String>,
}

/// One schedule.
#[derive(Clone, Debug, Default)]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// When it runs, in words.
    pub rule: String,
    /// Seconds until the next run, negative where it is overdue; none where nothing comes.
    pub next: Option<i64>,
    /// The last period that ran or was passed over.
    pub last: Option<RunStatus>,
}

/// The last run of a schedule.
#[derive(Clone, Debug)]
pub struct RunStatus {
    /// Its period.
    pub period: String,
    /// ran or missed.
    pub state: String,
    /// How many messages it wrote.
    pub messages: i64,
    /// Seconds since.
    pub age: i64,
}

/// A mail of files that waits for an operator.
#[derive(Clone, Debug)]
pub struct MailStatus {
    /// Whose files it carries.
    pub sink: String,
    /// Of the last of them.
    pub period: String,
    /// Whether it is in doubt that it arrived; else it was given up.
    pub is_held: bool,
    /// Why.
    pub reason: String,
}

/// Mails that are read at most.
pub const MAILS_MAX: usize = 100;

impl MailStatus {
    /// As commands take it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.sink, self.period)
    }
}

/// One relay.
#[derive(Clone, Debug, Default)]
pub struct RelayStatus {
    /// Random, new for every start.
    pub id: String,
    /// A label.
    pub host: String,
    /// Of the process.
    pub pid: i32,
    /// Of outboxd.
    pub version: String,
    /// Of the routes in its config.
    pub routes_hash: String,
    /// The sinks its config knows.
    pub sinks: Vec<String>,
    /// Whether it is stopping.
    pub draining: bool,
    /// Whether it only pretends to send.
    pub captures: bool,
    /// Seconds since its last heartbeat.
    pub heartbeat_age: i64,
    /// Whether its lease runs.
    pub alive: bool,
}

impl Count {
    /// Counts are exact up to here.
    pub const LIMIT: u64 = 10_000;
    /// What a statement counts to, to know whether there are more.
    pub(in crate::store) const COUNTED: i64 = 10_001;

    /// A number that may have stopped anywhere above the limit.
    #[must_use]
    pub fn new(counted: i64) -> Count {
        let counted = u64::try_from(counted).unwrap_or(0);
        Count { number: counted.min(Self::LIMIT), more: counted > Self::LIMIT }
    }

    /// Whether there is none at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.number == 0
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", self.number, if self.more { "+" } else { "" }))
    }
}

/// Reads the state of everything.
///
/// # Errors
/// When the database cannot be asked.
pub async fn status(link: &Link) -> Result<Status, StoreError> {
    let queries = link.queries();
    let limit = [(&Count::COUNTED as _, Type::INT8)];
    let installation = crate::store::own::installation(link).await?.name;
    let names = super::known_sinks(link).await?;
    let sinks = sinks(link, &names).await?;
    let relays = link.rows("look at the relays", &queries.status_relays, &[]).await?;
    let unrouted =
        link.rows_by_index("count unrouted messages", &queries.status_unrouted, &limit).await?;
    let unseen =
        link.rows_by_index("count unseen messages", &queries.status_unseen, &limit).await?;
    let schedules =
        link.rows_by_index("look at the schedules", &queries.status_schedules, &[]).await?;
    let mails_max = i64::try_from(MAILS_MAX).unwrap_or(i64::MAX);
    let mails_max = [(&mails_max as _, Type::INT8)];
    let mails = link.rows_by_index("look at the mails", &queries.status_mails, &mails_max).await?;
    let routes = link.rows("look at the routes", &queries.status_routes, &[]).await?;
    let messages = |row: &Row| u64::try_from(row.get::<_, i64>("messages")).unwrap_or(0);
    Ok(Status {
        installation,
        sinks,
        schedules: schedules.iter().map(schedule).collect(),
        mails: mails.iter().map(mail).collect(),
        relays: relays.iter().map(relay).collect(),
        unrouted: unrouted.iter().map(|row| (row.get("type"), messages(row))).collect(),
        unseen: unseen.first().map_or(Count::default(), |row| Count::new(row.get("messages"))),
        routes_hash: routes.first().map(|row| row.get("hash")),
        alerts: watch::alerts(link).await?,
        told: watch::receivers(link).await?,
        paused: super::pause::paused(link).await?,
        paused_routes: super::pause::paused_routes(link).await?,
    })
}

/// What these sinks have to do.
///
/// # Errors
/// When the database cannot be asked.
pub async fn sinks(link: &Link, names: &[String]) -> Result<Vec<SinkStatus>, StoreError> {
    let lanes = lanes();
    let params = [
        (&names as _, Type::TEXT_ARRAY),
        (&lanes as _, Type::INT2_ARRAY),
        (&Count::COUNTED as _, Type::INT8),
    ];
    let rows =
        link.rows_by_index("look at the sinks", &link.queries().status_sinks, &params).await?;
    Ok(rows.iter().map(sink).collect())
}

fn sink(row: &Row) -> SinkStatus {
    let count = |column| Count::new(row.get(column));
    let told = |span, words| {
        let words: Option<String> = row.get(words);
        row.get::<_, Option<i64>>(span).map(|span| (span, words.unwrap_or_default()))
    };
    SinkStatus {
        name: row.get("name"),
        kind: row.get("kind"),
        owner: row.get("owner"),
        paused: row.get("paused"),
        due: count("due"),
        later: count("later"),
        oldest_due: row.get("oldest_due"),
        dead: count("dead"),
        held: count("held"),
        flow: row.get::<_, Option<i32>>("in_flight").map(|in_flight| Flow {
            in_flight,
            delivered_minute: row.get("delivered_minute"),
            failed_minute: row.get("failed_minute"),
            ..Flow::default()
        }),
        parked: row.get::<_, Option<i32>>("parked").unwrap_or(0),
        open: told("open_for", "open_reason"),
        waits: told("waits", "waits_for"),
        next_cut: row.get("next_cut"),
        export: row.get::<_, Option<String>>("period").map(|period| ExportStatus {
            period,
            part: row.get("part"),
            state: row.get("export_state"),
            rows: row.get("row_count"),
            mail: row.get("mail"),
        }),
        stuck: row
            .get::<_, Option<String>>("stuck_reason")
            .map(|reason| (row.get("stuck_period"), reason)),
    }
}

fn schedule(row: &Row) -> ScheduleStatus {
    ScheduleStatus {
        name: row.get("name"),
        rule: row.get("rule"),
        next: row.get("next_in"),
        last: row.get::<_, Option<String>>("period").map(|period| RunStatus {
            period,
            state: row.get("state"),
            messages: row.get("messages"),
            age: row.get("age"),
        }),
    }
}

fn mail(row: &Row) -> MailStatus {
    MailStatus {
        sink: row.get("sink"),
        period: row.get("period"),
        is_held: row.get::<_, &str>("state") == "held",
        reason: row.get::<_, Option<String>>("reason").unwrap_or_default(),
    }
}

fn relay(row: &Row) -> RelayStatus {
    RelayStatus {
        id: row.get("id"),
        host: row.get("host"),
        pid: row.get("pid"),
        version: row.get("version"),
        routes_hash: row.get("routes_hash"),
        sinks: row.get("sinks"),
        draining: row.get("draining"),
        captures: row.get("captures"),
        heartbeat_age: row.get("heartbeat_age"),
        alive: row.get("alive"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_to_the_limit_and_marked_beyond() {
        for (counted, shown) in
            [(0, "0"), (9_999, "9999"), (10_000, "10000"), (10_001, "10000+"), (30_000, "10000+")]
        {
            assert_eq!(Count::new(counted).to_string(), shown);
        }
        assert_eq!(format!("{:>4}", Count::new(7)), "   7");
        assert!(Count::new(0).is_zero() && !Count::new(1).is_zero());
    }
}
