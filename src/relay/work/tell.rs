//! What is done once a second: telling what the sink does, and looking for strays.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{Desk, FLOW_AT_LEAST, Worker};
use crate::delivery::Settlement;
use crate::relay::settle::Decided;
use crate::store::flow::{Flow, write_flow};

impl Worker {
    /// Once a second.
    pub(super) async fn tick(&mut self, desk: &mut Desk) {
        self.show(desk).await;
        let holds = |place: &(i64, String)| desk.hand.holds(place);
        match desk.admission.strays(holds).await {
            Ok(strays) => {
                for row in strays {
                    warn!(
                        message_id = row.message_id,
                        sink = self.sink(),
                        target = row.target,
                        "its intent was committed and its attempt never began; put back"
                    );
                    let delay = Duration::ZERO;
                    let reason = "its attempt never began".to_owned();
                    let settlement = Settlement::Release { delay, reason };
                    desk.flight.unsettled += 1;
                    let decided = Decided { row, settlement, content_hash: None };
                    let _ = desk.decided.send(decided).await;
                }
            }
            Err(error) => {
                warn!(sink = self.sink(), %error, "cannot look for intents; trying again");
            }
        }
    }

    /// Writes the flow row, if it changed.
    pub(super) async fn show(&mut self, desk: &mut Desk) {
        let (now, gate) = (Instant::now(), &self.deliverer.gate);
        let (delivered_minute, failed_minute) = desk.flight.minute.sums();
        let small = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let flow = Flow {
            in_flight: small(desk.flight.attempts.len()),
            delivered_minute,
            failed_minute,
            hidden: i64::try_from(desk.hand.hidden()).unwrap_or(i64::MAX),
            gone: desk.gone,
            parked: small(desk.hand.parked()),
            open: gate.opened().map(|opened| (now - opened.since, opened.reason)),
            waits: gate.waits(now).map(|waits| (waits.until - now, waits.reason)),
            horizon: self.horizon,
        };
        let known = |(shown, at): &(Flow, Instant)| *shown == flow && at.elapsed() < FLOW_AT_LEAST;
        if desk.shown.as_ref().is_some_and(known) {
            return;
        }
        if write_flow(&self.settle, self.sink(), self.epoch, &flow).await.is_ok() {
            desk.shown = Some((flow, now));
        }
    }
}
