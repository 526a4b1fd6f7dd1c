//! The demonstration: a small shop, a mail catcher, a webhook receiver and the real relay, which is
//! killed in the middle. At the end everything is counted. `examples/demo.sh` builds and runs it.

#[allow(dead_code, reason = "the tests' harness; we need a part of it")]
#[path = "../../integration/harness/mod.rs"]
mod harness;

mod receivers;
mod relay;
mod shop;
mod tally;
mod watch;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use harness::postgres::Cluster;
use receivers::Receivers;
use relay::Program;
use shop::Shop;
use watch::Watch;

const DATABASE: &str = "shop";
/// The relay is killed once so many orders are committed.
const KILL_AT: usize = 1_000;
/// Beyond this something hangs.
const LIMIT: Duration = Duration::from_secs(110);

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(LIMIT, demonstrate()) => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted");
            return ExitCode::from(130);
        }
    };
    match outcome {
        Ok(Ok(true)) => return ExitCode::SUCCESS,
        Ok(Ok(false)) => eprintln!("FAILED: it does not add up"),
        Ok(Err(error)) => eprintln!("FAILED: {error:#}"),
        Err(_) => eprintln!("FAILED: not done within {LIMIT:?}; the relay's log tells more"),
    }
    ExitCode::FAILURE
}

/// Whether everything adds up.
async fn demonstrate() -> anyhow::Result<bool> {
    let folder = folder()?;
    say("starting a private PostgreSQL, a mail catcher and a webhook receiver");
    let cluster = tokio::task::spawn_blocking(Cluster::start).await?;
    cluster.connect("postgres").await.batch_execute("CREATE DATABASE shop").await?;
    let receivers = Receivers::start().await?;
    let program = Program::new(&cluster, &receivers, &folder)?;
    say("outboxd migrate");
    program.migrate().await?;
    let shop = Shop::build(&cluster).await?;
    say("outboxd run");
    let mut relay = program.run()?;
    let watch = Watch::new(&cluster, &receivers, &folder).await;
    watch.until_routed().await?;

    say(&format!("{} sellers commit orders, and roll every tenth back", shop::SELLERS));
    let start = Instant::now();
    let sales = shop.open_doors();
    let mut mark = None;
    Watch::head();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seen = watch.look(start, &sales).await?;
        if mark.is_none() && sales.committed() >= KILL_AT {
            receivers.next_request().await;
            relay.kill().await?;
            say("the relay was killed (SIGKILL) with a webhook in flight, and is started again");
            // What it had sent is still under way to the receivers.
            tokio::time::sleep(Duration::from_millis(300)).await;
            mark = Some(receivers.counts());
            relay = program.run()?;
        }
        relay.still_runs()?;
        if sales.is_over() && seen.is_done() {
            break;
        }
    }
    let mark = mark.context("the relay was never killed")?;
    say("all sold, all closed, the last file published; the relay is told to end (SIGTERM)");
    relay.terminate().await?;

    let books = sales.close_books(&cluster).await?;
    let recorded = watch.recorded().await?;
    let found = receivers.write_down(&folder)?.with_files(tally::read_files(&folder)?);
    let adds_up = tally::print(&books, &found, mark, &recorded);
    println!(
        "\nto be looked at, in {}:\n  mails/     the mails, .eml\n  requests/  the webhooks, headers \
         and body\n  exports/   the CSV files\n  relay.log  what the relay said",
        folder.display()
    );
    println!("\ntook {} s", start.elapsed().as_secs());
    Ok(adds_up)
}

/// A fresh folder that is kept.
fn folder() -> anyhow::Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("outboxd-demo-").tempdir()?.keep();
    for inner in ["mails", "requests", "exports"] {
        fs::create_dir(folder.join(inner))?;
    }
    Ok(folder)
}

fn say(what: &str) {
    println!("* {what}");
}
