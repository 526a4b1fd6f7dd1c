//! What the system says of this process, under the names that every client library uses.

use std::fs;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::catalogue::Described;

/// Reads `/proc` at each scrape; without one its metrics are absent.
#[derive(Debug)]
pub(super) struct ProcessCollector;

const CPU: (&str, &str) =
    ("process_cpu_seconds", "Processor time this process has taken, in user and system mode");
const RESIDENT: (&str, &str) = ("process_resident_memory_bytes", "Memory this process has in RAM");
const VIRTUAL: (&str, &str) = ("process_virtual_memory_bytes", "Address space of this process");
const OPEN: (&str, &str) = ("process_open_fds", "Files and sockets that are open");
const MAX: (&str, &str) = ("process_max_fds", "How many files and sockets may be open");
const STARTED: (&str, &str) =
    ("process_start_time_seconds", "When this process started, as Unix time");
const THREADS: (&str, &str) = ("process_threads", "Threads of this process");

/// The rows of the catalogue.
pub(super) fn described() -> Vec<Described> {
    let gauge = |(name, help): (&str, &'static str)| Described {
        name: name.to_owned(),
        kind: "gauge",
        labels: &[],
        help,
    };
    let mut list: Vec<Described> =
        [RESIDENT, VIRTUAL, OPEN, MAX, STARTED, THREADS].into_iter().map(gauge).collect();
    let name = format!("{}_total", CPU.0);
    list.push(Described { name, kind: "counter", labels: &[], help: CPU.1 });
    list
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Some(stat) = Stat::read() {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            let metric = encoder.encode_descriptor(
                CPU.0,
                &format!("{}.", CPU.1),
                None,
                cpu.metric_type(),
            )?;
            cpu.encode(metric)?;
            for ((name, help), value) in [
                (RESIDENT, stat.resident_bytes),
                (VIRTUAL, stat.virtual_bytes),
                (THREADS, stat.threads),
            ] {
                gauge(&mut encoder, (name, help), value)?;
            }
            if let Some(started_at) = stat.started_at {
                gauge(&mut encoder, STARTED, started_at)?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The folder itself is open while it is read.
            gauge(&mut encoder, OPEN, count(open.count().saturating_sub(1)))?;
        }
        if let Some(max) = max_fds() {
            gauge(&mut encoder, MAX, max)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    (name, help): (&'static str, &'static str),
    value: f64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    let metric = encoder.encode_descriptor(name, &format!("{help}."), None, gauge.metric_type())?;
    gauge.encode(metric)
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    threads: f64,
    /// Unknown where `/proc` shows processes alone.
    started_at: Option<f64>,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let (page, ticks) = (rustix::param::page_size(), rustix::param::clock_ticks_per_second());
        let ticks = count(usize::try_from(ticks).ok()?);
        Stat::parse(&text, boot, (count(page), ticks))
    }

    /// Fields 14, 15, 20, 22, 23 and 24 of proc(5), counted from 1; the name in brackets may hold anything.
    fn parse(text: &str, boot: Option<f64>, (page, ticks): (f64, f64)) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Stat {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started_at: boot.zip(field(22)).map(|(boot, after)| boot + after / ticks),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
        })
    }
}

fn max_fds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn count(number: usize) -> f64 {
    Duration::from_secs(u64::try_from(number).unwrap_or(u64::MAX)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_proc_is_read_whatever_the_program_is_called() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 11 0 4000 1000000 250 \
                    18446744073709551615";
        let stat = Stat::parse(text, Some(1_000.0), (4096.0, 100.0)).unwrap();
        let figures = [
            stat.cpu_seconds,
            stat.threads,
            stat.started_at.unwrap(),
            stat.virtual_bytes,
            stat.resident_bytes,
        ];
        assert_eq!(
            figures.map(|figure| figure.to_string()),
            ["2", "11", "1040", "1000000", "1024000"]
        );
        let unknown = Stat::parse(text, None, (4096.0, 100.0)).unwrap();
        assert!(unknown.started_at.is_none(), "and the others are there");
    }
}
