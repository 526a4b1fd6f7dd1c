//! What holds for whatever a server says: for the tests here, and for the fuzzer in `integration/fuzz/`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::transcript::{HEARD_MAX, LINES_MAX as TRANSCRIPT_MAX, Transcript};
use super::super::verdict::{self, Sender, Step, Verdict};
use super::{Fault, LINE_MAX, LINES_MAX, Reply, Wire};

/// What is read ahead of a line's end, at most.
const AHEAD: usize = 8 * 1024;
/// U+FFFD takes so many bytes in the place of one.
const WIDER: usize = 3;

/// Longest wait that is believed.
const DAY: Duration = Duration::from_secs(24 * 3600);
const STEPS: [Step; 7] = [
    Step::Greeting,
    Step::Hello,
    Step::Login,
    Step::Mail,
    Step::Recipient,
    Step::Data,
    Step::Content,
];

/// A server whose bytes arrive in pieces, and that hangs up behind the last.
struct Speaking<'a> {
    bytes: &'a [u8],
    /// How long the pieces are, over and over; all at once if there are none.
    pieces: &'a [u8],
    next: usize,
}

impl AsyncRead for Speaking<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wanted = match self.pieces {
            [] => usize::MAX,
            pieces => usize::from(pieces[self.next % pieces.len()]) + 1,
        };
        let (piece, rest) =
            self.bytes.split_at(wanted.min(buffer.remaining()).min(self.bytes.len()));
        buffer.put_slice(piece);
        self.bytes = rest;
        self.next += 1;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Speaking<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads replies until there is none; panics where something does not hold. The first byte says how many of
/// the next are lengths of pieces, all others are the server's.
pub fn check(data: &[u8]) {
    let Some((count, data)) = data.split_first() else { return };
    let (pieces, bytes) = data.split_at((usize::from(*count) % 9).min(data.len()));
    let (replies, end) = read_all(bytes, pieces);
    let (at_once, same_end) = read_all(bytes, &[]);
    assert_eq!((&replies, &end), (&at_once, &same_end), "the pieces make a difference");
    replies.iter().for_each(holds);
}

/// The replies, and what the fault behind the last says.
fn read_all(bytes: &[u8], pieces: &[u8]) -> (Vec<Reply>, String) {
    let mut wire = Wire::new(Speaking { bytes, pieces, next: 0 });
    let transcript = Transcript::default();
    wire.transcript = Some(transcript.clone());
    let (mut replies, mut before) = (Vec::new(), 0);
    let end = loop {
        let read = wire.reply().now_or_never().expect("the bytes are there");
        let unread = wire.stream.get_ref().bytes.len() + wire.stream.buffer().len();
        let taken = &bytes[before..bytes.len() - unread];
        before += taken.len();
        assert!(taken.len() <= (LINE_MAX + AHEAD) + LINES_MAX * LINE_MAX, "{} bytes", taken.len());
        match read {
            Ok(reply) => {
                is_all_of(&reply, taken);
                replies.push(reply);
            }
            Err(fault) => {
                assert!(matches!(fault, Fault::Closed | Fault::Protocol(_)), "{fault}");
                break fault.to_string();
            }
        }
    };
    let text = transcript.text();
    assert!(text.chars().count() <= TRANSCRIPT_MAX * (HEARD_MAX + 1), "{}", text.len());
    (replies, end)
}

/// The bytes that were taken are those of the reply: whole lines, as many as it has, and none behind the
/// first that is a last one.
fn is_all_of(reply: &Reply, taken: &[u8]) {
    assert!(taken.ends_with(b"\n"), "{reply:?}");
    let lines: Vec<&[u8]> = taken.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), reply.lines.len(), "{reply:?}");
    for (at, line) in lines.iter().enumerate() {
        assert!(line.starts_with(reply.code.to_string().as_bytes()), "{reply:?}");
        assert_eq!(line.get(3) == Some(&b'-'), at + 1 < lines.len(), "{reply:?}");
    }
}

fn holds(reply: &Reply) {
    assert!((200..600).contains(&reply.code), "{reply:?}");
    assert!((1..=LINES_MAX).contains(&reply.lines.len()), "{} lines", reply.lines.len());
    for line in &reply.lines {
        assert!(line.len() <= WIDER * LINE_MAX && !line.contains('\n'), "{line:?}");
    }
    let classes = [reply.is_done(), reply.is_transient(), reply.is_refusal()];
    assert!(classes.iter().filter(|is_it| **is_it).count() <= 1, "{reply}");
    // It reads as itself, unless what is no UTF-8 has become wider than a line may be.
    let last = reply.lines.len() - 1;
    let line =
        |(at, text)| format!("{}{}{text}\r\n", reply.code, if at < last { '-' } else { ' ' });
    let written: Vec<String> = reply.lines.iter().enumerate().map(line).collect();
    if written.iter().all(|line| line.len() <= LINE_MAX) {
        let bytes = written.concat().into_bytes();
        let mut again = Wire::new(Speaking { bytes: &bytes, pieces: &[], next: 0 });
        let read = again.reply().now_or_never().expect("the bytes are there");
        assert_eq!(read.ok().as_ref(), Some(reply));
    }
    for step in STEPS {
        for sender in [Sender::Config, Sender::Message] {
            if let Verdict::Deferred { wait: Some(wait), .. } =
                verdict::of(step, reply, sender, None)
            {
                assert!(!wait.is_zero() && wait <= DAY, "{step:?}: {wait:?} for {reply}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that make replies, as long as the codes fit.
    const WHOLE: [&[u8]; 5] = [
        b"250 ok\r\n",
        b"250-first\r\n",
        b"250-\r\n",
        b"250\n",
        b"450 4.7.1 greylisted, try again in 5 minutes\r\n",
    ];
    /// What replies are made of, and what they are not.
    const PIECES: [&[u8]; 24] = [
        b"250",
        b"250-",
        b"250 ",
        b"354 ",
        b"421 4.7.0 ",
        b"450-4.7.1 ",
        b"454 ",
        b"550 5.1.1 ",
        b"452 4.5.3 ",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"-",
        b"2",
        b"\0",
        b"\xe4",
        "\u{20ac}".as_bytes(),
        b"try again in ",
        b"99999999999999999999 ",
        b"300",
        b" seconds",
        b"00:04:59",
        b"rate limit",
    ];

    #[test]
    fn whatever_a_server_says_a_reply_is_itself_and_bounded() {
        let mut random = fastrand::Rng::with_seed(25);
        let mut many = 0;
        for _ in 0..3_000 {
            let mut data: Vec<u8> = (0..9).map(|_| random.u8(..24)).collect();
            for _ in 0..random.usize(..30) {
                match random.u8(..24) {
                    0 => data.push(random.u8(..)),
                    1 => data.extend(std::iter::repeat_n(b'x', random.usize(..2 * LINE_MAX))),
                    2..12 => data.extend_from_slice(WHOLE[random.usize(..WHOLE.len())]),
                    _ => data.extend_from_slice(PIECES[random.usize(..PIECES.len())]),
                }
            }
            check(&data);
            let (replies, _) = read_all(&data[9..], &[]);
            many += replies.len();
        }
        assert!(many > 1_500, "only {many} replies were read");
    }

    /// A transcript ends before the dialogue does: that it is bounded is looked at in each reading.
    #[test]
    fn replies_without_end_are_written_down_up_to_a_bound() {
        let line = format!("250 {}\r\n", "x".repeat(2 * HEARD_MAX));
        let (replies, _) = read_all(line.repeat(2 * TRANSCRIPT_MAX).as_bytes(), &[]);
        assert_eq!(replies.len(), 2 * TRANSCRIPT_MAX);
    }

    #[test]
    fn the_largest_reply_is_read_and_no_larger_one() {
        let line = |mark: &str| format!("250{mark}{}\r\n", "x".repeat(LINE_MAX - 6));
        let largest = line("-").repeat(LINES_MAX - 1) + &line(" ");
        let (replies, end) = read_all(largest.as_bytes(), &[]);
        assert_eq!((replies.len(), end.as_str()), (1, "the server closed the connection"));
        replies.iter().for_each(holds);
        let (replies, end) = read_all((line("-") + &largest).as_bytes(), &[]);
        assert_eq!((replies.len(), end.as_str()), (0, "a reply has too many lines"));
        let (replies, end) = read_all(largest.replacen("250-", "250-x", 1).as_bytes(), &[]);
        assert_eq!((replies.len(), end.as_str()), (0, "a line of a reply is too long"));
    }
}
