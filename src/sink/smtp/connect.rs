//! The connection to a name: every address of it, and none that is dead keeps the others waiting.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

/// How long an address is waited for before the next one is tried beside it (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address of a name that takes it.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    race(in_turns(lookup_host((host, port)).await?), TcpStream::connect).await
}

/// IPv6 and IPv4 by turns, in the order in which the system prefers them: of a network in which one of
/// the two leads nowhere, the second address is one of the other.
fn in_turns(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let all: Vec<SocketAddr> = addresses.collect();
    let first = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == first);
    let mut turns = VecDeque::new();
    while let Some(address) = one.pop_front() {
        turns.push_back(address);
        turns.extend(other.pop_front());
    }
    turns.extend(other);
    turns
}

/// The first of all attempts that succeeds. Each begins when the one before it failed, or has had its
/// head start.
async fn race<T, F: Future<Output = io::Result<T>>>(
    mut addresses: VecDeque<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let (count, mut fault) = (addresses.len(), None);
    let mut attempts = FuturesUnordered::new();
    while let Some(address) = addresses.pop_front() {
        attempts.push(connect(address));
        let head_start = sleep(HEAD_START);
        tokio::pin!(head_start);
        let (mut waits, is_last) = (true, addresses.is_empty());
        while waits {
            tokio::select! {
                biased;
                ended = attempts.next() => match ended {
                    Some(Ok(connected)) => return Ok(connected),
                    Some(Err(error)) => (fault, waits) = (Some(error), is_last),
                    None => waits = false,
                },
                () = &mut head_start, if !is_last => waits = false,
            }
        }
    }
    Err(match fault {
        None => io::Error::other("the name has no address"),
        Some(error) if count == 1 => error,
        Some(error) => {
            io::Error::new(error.kind(), format!("none of its {count} addresses: {error}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn addresses(all: &[&str]) -> VecDeque<SocketAddr> {
        all.iter().map(|address| format!("{address}:25").parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        for (given, turns) in [
            (
                &["[::1]", "[::2]", "[::3]", "10.0.0.1"] as &[&str],
                &["[::1]", "10.0.0.1", "[::2]", "[::3]"] as &[&str],
            ),
            (&["10.0.0.1", "10.0.0.2", "[::1]"], &["10.0.0.1", "[::1]", "10.0.0.2"]),
            (&[], &[]),
        ] {
            assert_eq!(in_turns(addresses(given).into_iter()), addresses(turns));
        }
    }

    /// An address ending in 9 is dead, one ending in 8 refuses, all others take the connection.
    async fn answer(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.ip().to_string().chars().last() {
            Some('9') => std::future::pending().await,
            Some('8') => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(address),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_costs_its_head_start_and_one_that_refuses_nothing() {
        for (all, wins, milliseconds) in [
            (&["10.0.0.1", "10.0.0.2"] as &[&str], "10.0.0.1", 0),
            (&["10.0.0.9", "10.0.0.2"], "10.0.0.2", 250),
            (&["10.0.0.9", "10.0.0.19", "10.0.0.2"], "10.0.0.2", 500),
            (&["10.0.0.8", "10.0.0.18", "10.0.0.2"], "10.0.0.2", 0),
            (&["10.0.0.9", "10.0.0.8", "10.0.0.2"], "10.0.0.2", 250),
        ] {
            let begun = Instant::now();
            let won = race(addresses(all), answer).await.unwrap();
            assert_eq!(won.ip().to_string(), wins, "{all:?}");
            // Timers are exact to a millisecond.
            let took = begun.elapsed().as_millis();
            assert!((milliseconds..milliseconds + 5).contains(&took), "{all:?}: {took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_fails_when_all_have_failed() {
        let refused =
            |all| async move { race(addresses(all), answer).await.unwrap_err().to_string() };
        assert_eq!(refused(&["10.0.0.8"]).await, "connection refused");
        let both = refused(&["10.0.0.8", "10.0.0.18"]).await;
        assert_eq!(both, "none of its 2 addresses: connection refused");
        assert_eq!(refused(&[]).await, "the name has no address");
        let dead = race(addresses(&["10.0.0.8", "10.0.0.9"]), answer);
        let limit = Duration::from_secs(3_600);
        assert!(tokio::time::timeout(limit, dead).await.is_err(), "one may still take it");
    }
}
