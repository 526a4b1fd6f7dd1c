//! What is done once a second: telling what the sink does, and looking for strays.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{Desk, FLOW_AT_LEAST, Worker};
use crate::delivery::Settlement;
use crate::metrics::Standing;
use crate::relay::admit::Stray;
use crate::relay::hand::Place;
use crate::relay::settle::Decided;
use crate::store::flow::{Flow, write_flow};

impl Worker {
    /// Once a second.
    pub(super) async fn tick(&mut self, desk: &mut Desk) {
        self.stand(desk);
        self.show(desk).await;
        self.end_strays(desk).await;
    }

    /// Tells the metrics how the sink stands.
    fn stand(&self, desk: &mut Desk) {
        let second = self.deliverer.sink.on_second();
        if second.is_some() != desk.on_second {
            desk.on_second = second.is_some();
            self.tell_of_second(second.as_ref().map(|(_, why)| why.as_str()));
        }
        let gate = &self.deliverer.gate;
        self.metrics.stands(&Standing {
            is_open: gate.opened().is_some(),
            on_second: desk.on_second,
            waits: gate.waits(Instant::now()).map(|waits| waits.why),
            parked: desk.hand.parked(),
            is_full: self.wants(desk) == 0,
        });
    }

    /// Mails go out, so nothing else tells that the first server needs somebody.
    fn tell_of_second(&self, why: Option<&str>) {
        let sink = self.sink();
        match why {
            Some(reason) => warn!(
                sink,
                reason, "the mail server is in trouble; mails go through the fallback server"
            ),
            None => info!(sink, "the mail server takes mails again; the fallback server rests"),
        }
    }

    /// Settles intents that no attempt belongs to: back without an attempt where it is known that none
    /// began, held where it is not.
    pub(super) async fn end_strays(&mut self, desk: &mut Desk) {
        let holds = |place: &Place| desk.hand.holds(place);
        let strays = match desk.admission.strays(holds).await {
            Ok(strays) => strays,
            Err(error) => {
                warn!(sink = self.sink(), %error, "cannot look for intents; trying again");
                return;
            }
        };
        for Stray { row, again } in strays {
            let (message_id, target, sink) = (row.message_id, row.target.clone(), self.sink());
            let settlement = if again {
                warn!(
                    message_id,
                    sink, target, "its intent was committed and its attempt never began; put back"
                );
                let reason = "its attempt never began".to_owned();
                Settlement::Release { delay: Duration::ZERO, reason }
            } else {
                error!(
                    message_id,
                    sink,
                    target,
                    outcome = "held",
                    "the database forgot how its attempt ended; find out whether it arrived, then \
                     run: outboxd resolve {message_id}/{sink}"
                );
                let reason = "in doubt: the database forgot how its attempt ended".to_owned();
                Settlement::Held { reason, attempted: true }
            };
            desk.hand.hold(&row);
            desk.flight.unsettled += 1;
            let decided =
                Decided { row, settlement, content_hash: None, recipients: None, is_urgent: true };
            let _ = desk.decided.send(decided).await;
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
