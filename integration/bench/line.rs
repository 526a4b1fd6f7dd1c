//! A long line: a proxy that delays each way. Threads, because a timer of the runtime rounds up to the next
//! millisecond, and because what is measured through it must not wait for it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Listens on a free port and forwards to `target`, each byte so much later; the threads end with their
/// connections, and the first with the process.
pub fn long_line(target: SocketAddr, each_way: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a free port");
    let address = listener.local_addr().expect("read the port");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accept");
            // As long as its handshake would take.
            std::thread::spawn(move || {
                std::thread::sleep(2 * each_way);
                let server = TcpStream::connect(target).expect("connect to the target");
                forward(&client, &server, each_way);
                forward(&server, &client, each_way);
            });
        }
    });
    address
}

fn forward(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let (mut from, mut to) = (from.try_clone().expect("clone"), to.try_clone().expect("clone"));
    to.set_nodelay(true).expect("no delay but ours");
    let (sender, chunks) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, chunk) in chunks {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// What an echo through it takes: the median of 20.
pub fn round_trip(each_way: Duration) -> Duration {
    let echo = TcpListener::bind("127.0.0.1:0").expect("bind a free port");
    let line = long_line(echo.local_addr().expect("read the port"), each_way);
    std::thread::spawn(move || {
        let (mut stream, _) = echo.accept().expect("accept");
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let mut client = TcpStream::connect(line).expect("connect");
    client.set_nodelay(true).expect("no delay");
    let mut took: Vec<Duration> = (0..20)
        .map(|_| {
            let begun = Instant::now();
            client.write_all(b"x").expect("ask");
            client.read_exact(&mut [0]).expect("hear");
            begun.elapsed()
        })
        .collect();
    took.sort();
    took[took.len() / 2]
}
