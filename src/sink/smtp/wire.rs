//! Commands out, replies in: the lowest layer of the mail dialogue (RFC 5321 section 4.2).
//!
//! Why not lettre's connection, whose mails and commands we use: it decodes replies as UTF-8 and
//! wants CRLF and a blank after the code, so a clear "250" in Latin-1 or without text would end
//! in doubt; it reads a line of any length into memory; it keeps bytes that arrived before the TLS
//! handshake and takes them for the first reply after it; and it sends the final dot in a write of
//! its own, after a copy of the mail made byte by byte.

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::transcript::Transcript;
use crate::delivery::{Outcome, Phase};

/// Longest line of a reply that is read, in bytes. RFC 5321 grants 512.
const LINE_MAX: usize = 4096;
/// Most lines of one reply.
const LINES_MAX: usize = 200;

/// How much of a mail goes out together with its final dot, and in one write before that, in bytes.
const TAIL: usize = 16 * 1024;
const BLOCK: usize = 64 * 1024;

/// A connection that speaks in commands and replies.
pub(super) struct Wire<S> {
    stream: BufReader<S>,
    /// Where what is said is written down, if anywhere.
    pub transcript: Option<Transcript>,
}

/// A server's reply, all its lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Three digits, the first 2 to 5.
    pub code: u16,
    /// The lines without code and separator.
    pub lines: Vec<String>,
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection failed.
    Io(io::Error),
    /// The server hung up.
    Closed,
    /// What came is no SMTP.
    Protocol(&'static str),
    /// Nothing came, or nothing was taken, for so long.
    Silent(Duration),
}

/// A server that speaks first is not to be understood.
pub(super) const UNASKED: Fault = Fault::Protocol("the server spoke without being asked");

/// Why a mail's end did not go out.
pub(super) enum Cut {
    /// The relay may not send any more. Nothing of the final dot went out.
    Forbidden(Outcome),
    /// Nothing of the final dot went out.
    Unsent(Fault),
    /// The final dot may have gone out.
    Sent(Fault),
}

fn cut(phase: &Phase, fault: Fault) -> Cut {
    if phase.may_have_arrived() { Cut::Sent(fault) } else { Cut::Unsent(fault) }
}

/// A step that gives up after `limit`.
async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(limit, step).await.unwrap_or(Err(Fault::Silent(limit)))
}

impl Reply {
    /// Whether the server did what was asked.
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether asking again later may help.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Whether the server said no for good.
    pub fn is_refusal(&self) -> bool {
        (500..600).contains(&self.code)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.lines.iter().filter(|l| !l.is_empty()).try_for_each(|line| write!(f, " {line}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(error) => write!(f, "{error}"),
            Fault::Closed => f.write_str("the server closed the connection"),
            Fault::Protocol(what) => f.write_str(what),
            Fault::Silent(limit) => write!(f, "nothing within {} s", limit.as_secs()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S) -> Wire<S> {
        Wire { stream: BufReader::new(stream), transcript: None }
    }

    /// The stream beneath, if nothing was read ahead: bytes a server (or someone between) sent
    /// before a TLS handshake must not pass for its words after it.
    pub fn into_stream(self) -> Result<S, Fault> {
        if !self.stream.buffer().is_empty() {
            return Err(Fault::Protocol("the server spoke before the TLS handshake"));
        }
        Ok(self.stream.into_inner())
    }

    /// Sends one command, which ends in CRLF, and reads its reply. A server that has spoken before
    /// being asked is not asked: its words would be taken for the reply, and so on ever after.
    pub async fn ask(&mut self, command: impl fmt::Display) -> Result<Reply, Fault> {
        if self.has_spoken()? {
            return Err(UNASKED);
        }
        let command = command.to_string();
        self.note(&command);
        self.send(command.as_bytes()).await?;
        self.reply().await
    }

    /// Sends a line that ends in a secret and reads its reply. Of the secret only `mask` is written down.
    pub async fn ask_secret(
        &mut self,
        lead: &str,
        secret: &str,
        mask: &str,
    ) -> Result<Reply, Fault> {
        if self.has_spoken()? {
            return Err(UNASKED);
        }
        if let Some(transcript) = &self.transcript {
            transcript.asked(&format!("{lead}{mask}"));
        }
        self.send(format!("{lead}{secret}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Whether there is something to read already.
    pub fn has_spoken(&mut self) -> Result<bool, Fault> {
        match self.stream.fill_buf().now_or_never() {
            None => Ok(false),
            Some(Ok([])) => Err(Fault::Closed),
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) => Err(Fault::Io(error)),
        }
    }

    /// Sends commands, which must not hold a line end, in one write. A server that has spoken before being
    /// asked is not asked: see [`Wire::ask`].
    pub async fn tell(&mut self, lines: &[String], limit: Duration) -> Result<(), Fault> {
        if self.has_spoken()? {
            return Err(UNASKED);
        }
        let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.len() + 2).sum());
        for line in lines {
            if line.contains(['\r', '\n', '\0']) {
                return Err(Fault::Protocol("a command holds a line end; not sent"));
            }
            self.note(line);
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        within(limit, self.send(&bytes)).await
    }

    fn note(&self, command: &str) {
        if let Some(transcript) = &self.transcript {
            transcript.asked(command);
        }
    }

    /// Reads one whole reply, or gives up after `limit`.
    pub async fn reply_within(&mut self, limit: Duration) -> Result<Reply, Fault> {
        within(limit, self.reply()).await
    }

    /// Sends a mail up to what goes out with its final dot. `limit` is for each block.
    pub async fn send_body(&mut self, mail: &Stuffed, limit: Duration) -> Result<(), Fault> {
        for block in mail.bytes[..mail.tail].chunks(BLOCK) {
            within(limit, self.send(block)).await?;
        }
        Ok(())
    }

    /// Sends the rest of a mail with its final dot in one write. The phase is open exactly from when the
    /// first byte of the dot has been handed to the connection; `doubt` is called at that moment.
    pub async fn send_end(
        &mut self,
        mail: &Stuffed,
        phase: &Phase,
        limit: Duration,
        doubt: impl FnOnce(),
    ) -> Result<(), Cut> {
        let stream = self.stream.get_mut();
        let (mut sent, mut doubt) = (mail.tail, Some(doubt));
        let write = poll_fn(|context| {
            while sent < mail.bytes.len() {
                // Whatever is handed over within this call may be the dot.
                if sent <= mail.dot
                    && let Err(outcome) = phase.begin()
                {
                    return Poll::Ready(Err(Cut::Forbidden(outcome)));
                }
                let written = Pin::new(&mut *stream).poll_write(context, &mail.bytes[sent..]);
                if let Poll::Ready(Ok(count)) = written {
                    sent += count;
                }
                if sent <= mail.dot {
                    phase.end();
                } else if let Some(doubt) = doubt.take() {
                    doubt();
                }
                match written {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(cut(phase, Fault::Closed))),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(cut(phase, Fault::Io(error))));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        });
        match timeout(limit, write).await {
            Ok(end) => end?,
            Err(_) => return Err(cut(phase, Fault::Silent(limit))),
        }
        within(limit, async { stream.flush().await.map_err(Fault::Io) })
            .await
            .map_err(|fault| cut(phase, fault))?;
        if let Some(transcript) = &self.transcript {
            transcript.remark(&format!("the mail, {} bytes, and its final dot", mail.dot));
        }
        Ok(())
    }

    /// Writes bytes in one call.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await.map_err(Fault::Io)?;
        stream.flush().await.map_err(Fault::Io)
    }

    /// Reads one whole reply.
    pub async fn reply(&mut self) -> Result<Reply, Fault> {
        let reply = self.whole_reply().await;
        if let Some(transcript) = &self.transcript {
            transcript.answered(&reply);
        }
        reply
    }

    async fn whole_reply(&mut self) -> Result<Reply, Fault> {
        let mut reply: Option<Reply> = None;
        loop {
            let line = self.line().await?;
            let (code, last, text) = parse_line(&line)?;
            let reply = reply.get_or_insert_with(|| Reply { code, lines: Vec::new() });
            if reply.code != code {
                return Err(Fault::Protocol("a reply changed its code between two lines"));
            }
            if reply.lines.len() == LINES_MAX {
                return Err(Fault::Protocol("a reply has too many lines"));
            }
            reply.lines.push(text);
            if last {
                return Ok(Reply { code, lines: std::mem::take(&mut reply.lines) });
            }
        }
    }

    /// Reads a line, ended by LF with or without a CR before it.
    async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let mut line = Vec::new();
        loop {
            let read = self.stream.fill_buf().await.map_err(Fault::Io)?;
            if read.is_empty() {
                return Err(Fault::Closed);
            }
            let end = read.iter().position(|b| *b == b'\n');
            let taken = end.map_or(read.len(), |at| at + 1);
            line.extend_from_slice(&read[..taken]);
            self.stream.consume(taken);
            if line.len() > LINE_MAX {
                return Err(Fault::Protocol("a line of a reply is too long"));
            }
            if end.is_some() {
                return Ok(line);
            }
        }
    }
}

/// Code, whether it is the last line, text. Text that is not UTF-8 is kept as far as it is.
fn parse_line(line: &[u8]) -> Result<(u16, bool, String), Fault> {
    const NO_REPLY: Fault = Fault::Protocol("the server sent something that is no SMTP reply");
    let line = line.trim_ascii_end();
    let Some((digits, rest)) = line.split_at_checked(3) else { return Err(NO_REPLY) };
    if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
        return Err(NO_REPLY);
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let (last, text) = match rest.split_first() {
        None => (true, rest),
        Some((b' ', text)) => (true, text),
        Some((b'-', text)) => (false, text),
        Some(_) => return Err(NO_REPLY),
    };
    Ok((code, last, String::from_utf8_lossy(text).into_owned()))
}

/// A mail as it goes over the wire: dots doubled, and ended by one (RFC 5321 section 4.5.2).
pub(super) struct Stuffed {
    bytes: Vec<u8>,
    /// Where the final dot stands.
    dot: usize,
    /// From where on it goes out in one write with the dot.
    tail: usize,
}

impl Stuffed {
    /// Of parts that have CRLF line ends only; the last one ends in one.
    pub fn new(parts: &[&[u8]]) -> Stuffed {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(length + length / 64 + 8);
        for line in parts.iter().flat_map(|part| part.split_inclusive(|b| *b == b'\n')) {
            if line.starts_with(b".") {
                bytes.push(b'.');
            }
            bytes.extend_from_slice(line);
        }
        let dot = bytes.len();
        bytes.extend_from_slice(b".\r\n");
        Stuffed { tail: bytes.len().saturating_sub(TAIL), dot, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Reply, Fault> {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        server.write_all(bytes).await.unwrap();
        drop(server);
        Wire::new(client).reply().await
    }

    fn reply(code: u16, lines: &[&str]) -> Reply {
        Reply { code, lines: lines.iter().map(|&l| l.to_owned()).collect() }
    }

    #[tokio::test]
    async fn replies_are_read_as_servers_write_them() {
        assert_eq!(read(b"250 2.0.0 Ok\r\n").await.unwrap(), reply(250, &["2.0.0 Ok"]));
        assert_eq!(read(b"250\r\n").await.unwrap(), reply(250, &[""]));
        assert_eq!(read(b"250 ok\n").await.unwrap(), reply(250, &["ok"]));
        assert_eq!(read(b"250-a\r\n250-b\r\n250 c\r\n").await.unwrap().to_string(), "250 a b c");
        let latin = read(b"550 Empf\xe4nger unbekannt\r\n").await.unwrap();
        assert_eq!((latin.code, latin.is_refusal()), (550, true));
    }

    #[tokio::test]
    async fn what_is_no_reply_is_a_fault() {
        assert!(matches!(read(b"").await, Err(Fault::Closed)));
        assert!(matches!(read(b"250-first\r\n").await, Err(Fault::Closed)));
        assert!(matches!(read(b"250 no end").await, Err(Fault::Closed)));
        for bad in
            ["hello\r\n", "25\r\n", "150 x\r\n", "650 x\r\n", "250x\r\n", "250-a\r\n550 b\r\n"]
        {
            assert!(matches!(read(bad.as_bytes()).await, Err(Fault::Protocol(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn endless_replies_end() {
        let line = [b'2'].repeat(LINE_MAX + 1);
        assert!(matches!(read(&line).await, Err(Fault::Protocol(_))));
        let lines = b"250-more\r\n".repeat(LINES_MAX + 1);
        assert!(matches!(read(&lines).await, Err(Fault::Protocol(_))));
    }

    #[tokio::test]
    async fn a_server_that_speaks_first_is_not_asked() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(client);
        assert!(!wire.has_spoken().unwrap());
        server.write_all(b"250 ok\r\n250 ok\r\n").await.unwrap();
        wire.reply().await.unwrap();
        assert!(matches!(wire.ask("NOOP\r\n").await, Err(Fault::Protocol(_))));
        drop(server);
        wire.reply().await.unwrap();
        assert!(matches!(wire.ask("NOOP\r\n").await, Err(Fault::Closed)));
    }

    #[test]
    fn dots_are_doubled_at_line_starts_only() {
        let stuffed = Stuffed::new(&[b".a.\r\n", b"..\r\nb\r\n"]);
        assert_eq!(stuffed.bytes, b"..a.\r\n...\r\nb\r\n.\r\n");
        assert_eq!(&stuffed.bytes[stuffed.dot..], b".\r\n");
        assert_eq!(Stuffed::new(&[b"\r\n"]).bytes, b"\r\n.\r\n");
    }

    /// A connection that takes so many bytes at each call, then does what the last entry says.
    struct Taking {
        counts: Vec<usize>,
        then: fn() -> Poll<io::Result<usize>>,
    }

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.counts.pop() {
                Some(count) => Poll::Ready(Ok(count.min(bytes.len()))),
                None => (self.then)(),
            }
        }

        fn poll_flush(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Taking {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// The window of doubt opens with the first byte of the dot: a connection that takes all before it and
    /// then fails, or stalls until the time is up, has sent nothing.
    #[tokio::test(start_paused = true)]
    async fn in_doubt_from_the_first_byte_of_the_dot() {
        let mail = Stuffed::new(&[b"a\r\nb\r\n"]);
        let before = mail.dot;
        let broken = || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        let stalled = || Poll::Pending;
        for then in [broken as fn() -> _, stalled] {
            for (counts, is_sent) in [
                (vec![], false),
                (vec![before - 1], false),
                (vec![before], false),
                (vec![1, before - 1], false),
                (vec![before + 1], true),
                (vec![1, before], true),
                (vec![before + 2], true),
            ] {
                let mut wire = Wire::new(Taking { counts: counts.clone(), then });
                let (phase, mut doubted) = (Phase::default(), false);
                let limit = Duration::from_secs(9);
                let end = wire.send_end(&mail, &phase, limit, || doubted = true).await;
                assert_eq!(matches!(end, Err(Cut::Sent(_))), is_sent, "{counts:?}");
                assert_eq!(phase.may_have_arrived(), is_sent, "{counts:?}");
                assert_eq!(doubted, is_sent, "{counts:?}");
            }
        }
        let mut wire = Wire::new(Taking { counts: vec![99], then: broken });
        let forbidden = Phase::guarded(|| false, crate::recipients::Recipients::default());
        let end = wire.send_end(&mail, &forbidden, LIMIT, || panic!("nothing was sent")).await;
        assert!(matches!(end, Err(Cut::Forbidden(_))));
    }

    const LIMIT: Duration = Duration::from_secs(9);

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let (client, _server) = tokio::io::duplex(99);
        let end = Wire::new(client).reply_within(LIMIT).await;
        assert_eq!(end.unwrap_err().to_string(), "nothing within 9 s");
    }

    #[tokio::test]
    async fn no_command_holds_a_line_end() {
        let (client, mut server) = tokio::io::duplex(99);
        let mut wire = Wire::new(client);
        for bad in ["RCPT TO:<a@b>\r\nDATA", "RCPT TO:<a@b\n>", "NOOP\0"] {
            let told = wire.tell(&["NOOP".to_owned(), bad.to_owned()], LIMIT).await;
            assert!(matches!(told, Err(Fault::Protocol(_))), "{bad:?}");
        }
        drop(wire);
        let mut sent = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut server, &mut sent).await.unwrap();
        assert_eq!(sent, b"");
    }
}
