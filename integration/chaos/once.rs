//! At most once: what an operator does about what is held, and a run of kills by the hundred.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Client;

use super::faults::Struck;
use super::journal::{Answered, Noted, Token};
use super::plan::{Fault, Point};
use super::receivers::ONCE;
use super::stage::Stage;
use crate::harness::plane::until_count;

/// What is held: its token and its sink.
type Held = (Token, String);

/// Does what an operator does who asks the receivers: what arrived is delivered, what did not is sent
/// once the relay that fell silent is certainly done. Answers what was held.
pub async fn resolve(stage: &Stage, limit: Duration) -> Vec<Held> {
    let client = stage.client().await;
    let mut all = BTreeSet::new();
    // Again, for what a relay on a busy machine was in doubt about meanwhile.
    for _ in 0..5 {
        let held = held(&client).await;
        if held.is_empty() {
            break;
        }
        let may_be_under_way = "SELECT count(*) FROM outbox.delivery
             WHERE state = 'held' AND hold_until > clock_timestamp()";
        until_count(&client, "no former owner sends", may_be_under_way, 0).await;
        let arrived = arrived(&stage.journal.noted());
        for sink in ONCE {
            let (there, lost): (Vec<&Held>, Vec<&Held>) =
                held.iter().filter(|(_, name)| name == sink).partition(|one| arrived.contains(one));
            for (delivered, ones) in [(true, there), (false, lost)] {
                let tokens: Vec<i64> = ones.iter().map(|(token, _)| token.cast_signed()).collect();
                client.query(RESOLVE, &[sink, &tokens, &delivered]).await.expect("resolve");
            }
        }
        all.extend(held);
        stage.until_drained(limit).await;
    }
    all.into_iter().collect()
}

/// Kills relays over and over while they work, each started again at once, as a supervisor would.
pub async fn kills(stage: &Stage, count: usize, seed: u64) -> Vec<Struck> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut struck = Vec::with_capacity(count);
    for _ in 0..count {
        tokio::time::sleep(Duration::from_millis(random.u64(300..600))).await;
        // Half of them in the middle of it.
        let sink = ONCE[random.usize(..ONCE.len())];
        let victim =
            if random.bool() { stage.owner_of(sink).await } else { random.usize(..stage.slots()) };
        let from = Timestamp::now();
        stage.kill(victim);
        stage.revive(victim);
        let fault = Fault::Kill(Point::Anywhere);
        struck.push(Struck { fault, from, until: Timestamp::now() });
    }
    struck
}

/// As the command `outboxd resolve` does it.
const RESOLVE: &str = "SELECT count(r.*)
       FROM outbox.message m CROSS JOIN LATERAL outbox.resolve(m.id, $1, NULL, $3) r
      WHERE (m.payload ->> 'token')::bigint = ANY ($2::bigint[])";

async fn held(client: &Client) -> Vec<Held> {
    let sql = "SELECT (m.payload ->> 'token')::bigint, d.sink
                 FROM outbox.delivery d JOIN outbox.message m ON m.id = d.message_id
                WHERE d.state = 'held' ORDER BY 1";
    let rows = client.query(sql, &[]).await.expect("what is held");
    rows.iter().map(|row| (row.get::<_, i64>(0).cast_unsigned(), row.get(1))).collect()
}

/// What a receiver has, or may have: it did not ask for it to come later.
fn arrived(noted: &Noted) -> BTreeSet<Held> {
    let here = noted.arrived.iter().filter(|arrival| arrival.answered != Answered::Later);
    here.map(|arrival| (arrival.token, arrival.sink.to_owned())).collect()
}
