//! Ping: a monitor elsewhere hears of the relay as long as it gets on. When the pings stop, whatever the
//! cause, the monitor raises the alarm: the one alert that needs nobody here.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::admin::progress::Progress;
use super::{Life, Process};
use crate::sink::ping::Monitor;

/// Pings until dropped, from the time that the relay has entered, as long as the process would say at
/// `/readyz` that it is ready.
pub async fn ping(monitor: Monitor, every: Duration, process: Arc<Process>, life: Life) {
    life.entered.cancelled().await;
    let mut times = tokio::time::interval(every);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What was said last: each change is worth a line, and no more.
    let mut trouble: Option<String> = None;
    loop {
        times.tick().await;
        Arc::clone(&process).look().await;
        let said = match Progress::of(&process.metrics, false).stuck() {
            Some(reason) => Some(format!("not pinged, as the relay does not get on: {reason}")),
            None => {
                monitor.ping().await.err().map(|error| format!("the ping did not arrive: {error}"))
            }
        };
        match (&trouble, &said) {
            (_, Some(new)) if trouble.as_ref() != Some(new) => {
                warn!("[relay] ping_url: {new}; trying again");
            }
            (Some(_), None) => info!("[relay] ping_url: pinged again"),
            _ => {}
        }
        trouble = said;
    }
}
