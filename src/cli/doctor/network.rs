//! Names, certificates and disks. The looks touch the outside, what they found is judged without it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};

use super::book::finding;
use super::judge::or_well;
use super::vacuum::bytes;
use crate::certificate::Ends;
use crate::cli::finding::Finding;
use crate::cli::words::age;
use crate::config::{Config, SinkConfig, Way};
use crate::sink::certificate;
use crate::store::doctor::certificate as database;

/// No look-up may take longer.
const NAME_LIMIT: Duration = Duration::from_secs(10);
/// A look-up that takes longer is told of.
const NAME_SLOW: Duration = Duration::from_secs(1);
/// A certificate that ends sooner is told of, and then is a fault.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);
const OVER: SignedDuration = SignedDuration::from_hours(3 * 24);
/// Less is told of, and then is a fault.
const DISK_LOW: u64 = 1 << 30;
const DISK_FULL: u64 = 64 << 20;

/// Looks names up.
pub(super) async fn names(config: &Config) -> Vec<Finding> {
    let of_sinks = config.sinks.values().flat_map(hosts);
    let of_database = database::hosts(&config.database).into_iter().map(|(host, _)| host);
    // An address needs no look-up.
    let is_name = |host: &String| host.parse::<std::net::IpAddr>().is_err();
    let hosts: BTreeSet<String> = of_sinks.chain(of_database).filter(is_name).collect();
    let looked_up = join_all(hosts.iter().map(|host| async move {
        let began = Instant::now();
        let found = match timeout(NAME_LIMIT, tokio::net::lookup_host((host.as_str(), 0))).await {
            Ok(Ok(addresses)) => Ok(addresses.map(|a| a.ip()).collect::<BTreeSet<_>>().len()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", NAME_LIMIT.as_secs())),
        };
        name(host, found, began.elapsed())
    }));
    looked_up.await
}

fn name(host: &str, found: Result<usize, String>, took: Duration) -> Finding {
    let milliseconds = took.as_millis();
    match found {
        Err(error) => finding("name-unknown", &[("host", &host), ("error", &error)]),
        Ok(_) if took > NAME_SLOW => {
            finding("name-slow", &[("host", &host), ("milliseconds", &milliseconds)])
        }
        Ok(addresses) => Finding::new("name", Ok(format!("{host}: addresses: {addresses}"))),
    }
}

fn hosts(sink: &SinkConfig) -> Vec<String> {
    match &sink.way {
        Way::Webhook(way) => {
            let host = way.url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
            host.into_iter().collect()
        }
        Way::Smtp(way) => {
            let servers = std::iter::once(&way.server).chain(way.fallback.as_deref());
            servers.map(|server| server.host.clone()).collect()
        }
        Way::Csv(_) => Vec::new(),
    }
}

/// Looks at the certificates of sinks and of PostgreSQL, also where they are not believed.
pub(super) async fn certificates(config: &Config, now: Timestamp) -> Vec<Finding> {
    let looks = join_all(config.sinks.values().map(certificate::shown));
    let (sinks, databases) = tokio::join!(looks, database::shown(&config.database));
    let is_checked = database::is_checked(&config.database);
    let sinks = sinks.into_iter().flatten().map(|shown| (shown.host, (shown.ends, true)));
    let databases = databases
        .into_iter()
        .map(|(host, ends)| (format!("{host} (database)"), (ends, is_checked)));
    let shown: BTreeSet<(String, (Ends, bool))> = sinks.chain(databases).collect();
    shown.iter().flat_map(|(host, shown)| ending(host, *shown, now)).collect()
}

fn ending(host: &str, (ends, is_checked): (Ends, bool), now: Timestamp) -> Vec<Finding> {
    let (left, words) = until(ends.own, now);
    let places: [(&str, &dyn ToString); 2] = [("host", &host), ("ends", &words)];
    let mut told = Vec::new();
    match left {
        left if left < OVER && is_checked => told.push(finding("certificate-over", &places)),
        left if left < OVER => told.push(finding("certificate-unchecked", &places)),
        left if left < SOON => told.push(finding("certificate-soon", &places)),
        _ => {}
    }
    if let Some((left, words)) = ends.beside.map(|beside| until(beside, now))
        && left < SOON
    {
        told.push(finding("certificate-beside", &[("host", &host), ("ends", &words)]));
    }
    or_well(told, "certificate", || format!("that of {host} {words}"))
}

fn until(ends_at: Timestamp, now: Timestamp) -> (SignedDuration, String) {
    let left = ends_at.duration_since(now);
    let day = ends_at.strftime("%Y-%m-%d");
    let ends = if left.is_negative() {
        format!("expired on {day}, {} ago", age(-left.as_secs()))
    } else {
        format!("expires on {day}, in {}", age(left.as_secs()))
    };
    (left, ends)
}

/// Looks at the room there is for files.
pub(super) fn disks(config: &Config) -> Vec<Finding> {
    let directory = |sink: &SinkConfig| match &sink.way {
        Way::Csv(csv) => Some(csv.directory.clone()),
        Way::Webhook(_) | Way::Smtp(_) => None,
    };
    let directories: BTreeSet<_> = config.sinks.values().filter_map(directory).collect();
    let room = |directory: &std::path::PathBuf| {
        let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        // A directory that is not there is told of with its sink.
        let found = rustix::fs::statvfs(here).ok()?;
        Some(disk(&here.display().to_string(), found.f_bavail.saturating_mul(found.f_frsize)))
    };
    directories.iter().filter_map(room).flatten().collect()
}

fn disk(directory: &str, left: u64) -> Vec<Finding> {
    let free = bytes(left);
    let cause = match left {
        left if left < DISK_FULL => Some("disk-full"),
        left if left < DISK_LOW => Some("disk-low"),
        _ => None,
    };
    let places: [(&str, &dyn ToString); 2] = [("directory", &directory), ("free", &free)];
    let told = cause.map(|cause| finding(cause, &places)).into_iter().collect();
    or_well(told, "disk", || format!("{directory} has {free} left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_before_it_ends() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        for (ends, cause, words) in [
            ("2026-11-20T12:00:00Z", Some("certificate-over"), "expired on 2026-11-20, 6d ago"),
            ("2026-11-29T11:00:00Z", Some("certificate-over"), "expires on 2026-11-29, in 2d23h"),
            ("2026-12-26T11:00:00Z", Some("certificate-soon"), "expires on 2026-12-26, in 29d23h"),
            ("2026-12-26T12:00:00Z", None, "expires on 2026-12-26, in 30d"),
        ] {
            let ends = Ends { own: ends.parse().unwrap(), beside: None };
            let found = &ending("mail.example", (ends, true), now)[0];
            assert_eq!(found.cause, cause, "{found:?}");
            assert_eq!(found.found.words().1, format!("that of mail.example {words}"));
        }
    }

    #[test]
    fn what_nobody_checks_or_may_not_need_is_no_fault() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let (past, far) = ("2026-11-20T12:00:00Z", "2027-11-20T12:00:00Z");
        for (own, beside, is_checked, cause) in [
            (past, far, false, Some("certificate-unchecked")),
            (far, past, true, Some("certificate-beside")),
            (far, far, true, None),
        ] {
            let ends = Ends { own: own.parse().unwrap(), beside: Some(beside.parse().unwrap()) };
            let found = ending("mail.example", (ends, is_checked), now);
            let causes: Vec<_> = found.iter().map(|one| one.cause).collect();
            assert_eq!(causes, [cause], "{found:?}");
        }
    }

    #[test]
    fn names_are_told_of_that_are_unknown_or_slow() {
        let cause = |found, millis| name("x.example", found, Duration::from_millis(millis)).cause;
        assert_eq!(cause(Err("no such name".to_owned()), 1), Some("name-unknown"));
        assert_eq!(cause(Ok(1), 1_001), Some("name-slow"));
        assert_eq!(cause(Ok(2), 1_000), None);
    }

    #[test]
    fn disks_run_full_in_two_steps() {
        let cause = |left| disk("out", left)[0].cause;
        assert_eq!(cause(DISK_FULL - 1), Some("disk-full"));
        assert_eq!(cause(DISK_LOW - 1), Some("disk-low"));
        assert_eq!(cause(DISK_LOW), None);
    }
}
