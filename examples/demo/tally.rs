//! The reconciliation: what was sold against what arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::harness::http::Received;
use crate::receivers::Counts;
use crate::shop::{Books, Order};

/// Everything that arrived, in the order it did.
#[derive(Default)]
pub struct Found {
    pub mails: Vec<Arrival>,
    pub requests: Vec<Arrival>,
    pub rows: Vec<Arrival>,
    /// Requests that were answered 503 at first.
    pub put_off: usize,
    /// Requests whose signature was wrong.
    pub forged: usize,
}

/// One order that arrived somewhere.
pub struct Arrival {
    /// `webhook-id`, the first part of `Message-ID`, or the message's id in a file.
    pub id: String,
    number: i64,
    order: Order,
    content: Vec<u8>,
}

impl Found {
    /// Adds the rows of the files.
    pub fn with_files(mut self, rows: Vec<Arrival>) -> Found {
        self.rows = rows;
        self
    }
}

impl Arrival {
    /// Reads a mail of the demonstration.
    pub fn of_mail(data: &[u8]) -> anyhow::Result<Arrival> {
        let text = std::str::from_utf8(data).context("a mail is not UTF-8")?;
        let after = |start: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(start));
            line.with_context(|| format!("a mail has no line {start}"))
        };
        let id = after("Message-ID: <")?.split('@').next().unwrap_or_default();
        let customer = after("To: ")?.split('@').next().unwrap_or_default();
        let total = after("Total: ")?.trim_end_matches(" EUR");
        Ok(Arrival {
            id: id.to_owned(),
            number: after("Subject: Your order ")?.parse()?,
            order: Order { customer: customer.to_owned(), total: total.to_owned() },
            content: data.to_owned(),
        })
    }

    /// Reads a request of the demonstration.
    pub fn of_request(request: &Received) -> anyhow::Result<Arrival> {
        let body: serde_json::Value = serde_json::from_slice(&request.body)?;
        let email = body["email"].as_str().unwrap_or_default();
        let customer = email.split('@').next().unwrap_or_default().to_owned();
        // A number of serde_json keeps its digits here, 19.90 stays 19.90.
        let order = Order { customer, total: body["total"].to_string() };
        Ok(Arrival {
            id: request.header("webhook-id").unwrap_or_default().to_owned(),
            number: body["order_id"].as_i64().context("a request has no order_id")?,
            order,
            content: request.body.clone(),
        })
    }
}

/// The rows of all published files, oldest file first.
pub fn read_files(folder: &Path) -> anyhow::Result<Vec<Arrival>> {
    let files = fs::read_dir(folder.join("exports"))?;
    let mut files = files.map(|file| Ok(file?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "csv"));
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        for record in csv::Reader::from_path(&file)?.records() {
            let record = record?;
            let field = |index: usize| record.get(index).unwrap_or_default().to_owned();
            rows.push(Arrival {
                id: field(0),
                number: field(1).parse()?,
                order: Order { customer: field(2), total: field(3) },
                content: record.as_slice().into(),
            });
        }
    }
    Ok(rows)
}

/// One sink's sums.
#[derive(Default)]
struct Sums {
    delivered: usize,
    recorded: usize,
    lost: usize,
    phantom: usize,
    doubled: usize,
    wrong: usize,
    out_of_order: usize,
    repeated: usize,
    repeated_otherwise: usize,
}

impl Sums {
    /// Holds what arrived against the books. `mark` is how much had arrived when the relay was
    /// killed: what is repeated arrived once before it and once after.
    fn of(books: &Books, arrivals: &[Arrival], mark: usize) -> Sums {
        let mut sums = Sums::default();
        let mut first: BTreeMap<&str, (usize, &Arrival)> = BTreeMap::new();
        let mut orders = BTreeSet::new();
        let mut last_of = BTreeMap::new();
        for (place, arrival) in arrivals.iter().enumerate() {
            if let Some((earlier, same)) = first.get(arrival.id.as_str()) {
                sums.repeated += 1;
                sums.repeated_otherwise += usize::from(*earlier >= mark || place < mark);
                sums.wrong += usize::from(same.content != arrival.content);
                continue;
            }
            first.insert(&arrival.id, (place, arrival));
            sums.doubled += usize::from(!orders.insert(arrival.number));
            match books.committed.get(&arrival.number) {
                None => sums.phantom += 1,
                Some(order) => sums.wrong += usize::from(*order != arrival.order),
            }
            let last = last_of.insert(&arrival.order.customer, arrival.number);
            sums.out_of_order += usize::from(last.is_some_and(|last| last > arrival.number));
        }
        sums.delivered = orders.iter().filter(|n| books.committed.contains_key(n)).count();
        sums.lost = books.committed.len() - sums.delivered;
        sums
    }
}

/// Prints the sums side by side; whether all is as it should be.
pub fn print(
    books: &Books,
    found: &Found,
    mark: Counts,
    recorded: &BTreeMap<String, usize>,
) -> bool {
    let sinks = [
        ("mail", &found.mails, mark.mails),
        ("crm", &found.requests, mark.requests),
        ("orders", &found.rows, usize::MAX),
    ];
    let sums = sinks.map(|(name, arrivals, mark)| Sums {
        recorded: recorded.get(name).copied().unwrap_or_default(),
        ..Sums::of(books, arrivals, mark)
    });
    let committed = books.committed.len();
    let rolled_back = books.rolled_back.len();
    println!("\n{committed} orders committed, {rolled_back} rolled back\n");
    println!("{:<44}{:>8}{:>9}{:>8}", "", "mail", "webhook", "csv");
    let mut adds_up = true;
    let mut row = |label: &str, value: fn(&Sums) -> usize, wanted: Option<usize>| {
        let [mail, webhook, csv] = [0, 1, 2].map(|sink| value(&sums[sink]));
        let good = wanted.is_none_or(|wanted| [mail, webhook, csv] == [wanted; 3]);
        adds_up &= good;
        let remark = if good { "" } else { "  <- WRONG" };
        println!("{label:<44}{mail:>8}{webhook:>9}{csv:>8}{remark}");
    };
    row("committed orders delivered", |s| s.delivered, Some(committed));
    row("recorded as closed in outbox.ledger", |s| s.recorded, Some(committed));
    row("lost", |s| s.lost, Some(0));
    row("phantom: rolled back, and yet delivered", |s| s.phantom, Some(0));
    row("delivered again under another id", |s| s.doubled, Some(0));
    row("other content than the order's, or at a repeat", |s| s.wrong, Some(0));
    row("before an earlier order of its customer", |s| s.out_of_order, Some(0));
    row("repeated under the same id, for the SIGKILL", |s| s.repeated, None);
    row("repeated for another reason", |s| s.repeated_otherwise, Some(0));
    println!(
        "\nsignatures verified: {}, wrong: {}; answered 503 at first, then accepted: {}",
        found.requests.len() + found.put_off,
        found.forged,
        found.put_off
    );
    print_repeats(found);
    adds_up && found.forged == 0
}

/// Names the ids that came twice: a receiver that keeps them does the work once.
fn print_repeats(found: &Found) {
    for (what, arrivals) in [("Message-ID", &found.mails), ("webhook-id", &found.requests)] {
        let mut seen = BTreeSet::new();
        let repeats: Vec<&str> =
            arrivals.iter().map(|a| a.id.as_str()).filter(|id| !seen.insert(*id)).collect();
        if !repeats.is_empty() {
            let more = if repeats.len() > 3 { ", …" } else { "" };
            println!("repeated {what}: {}{more}", repeats[..repeats.len().min(3)].join(", "));
        }
    }
}
