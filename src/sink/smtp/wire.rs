//! Commands out, replies in: the lowest layer of the mail dialogue (RFC 5321 section 4.2).
//!
//! Why not lettre's connection, whose mails and commands we use: it decodes replies as UTF-8 and
//! wants CRLF and a blank after the code, so a clear "250" in Latin-1 or without text would end
//! in doubt; it reads a line of any length into memory; it keeps bytes that arrived before the TLS
//! handshake and takes them for the first reply after it; and it sends the final dot in a write of
//! its own, after a copy of the mail made byte by byte.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

/// Longest line of a reply that is read, in bytes. RFC 5321 grants 512.
const LINE_MAX: usize = 4096;
/// Most lines of one reply.
const LINES_MAX: usize = 200;

/// Longest part of a reply that a transcript keeps, and most lines of one, in characters and lines.
const HEARD_MAX: usize = 300;
const TRANSCRIPT_MAX: usize = 60;

/// A connection that speaks in commands and replies.
pub(super) struct Wire<S> {
    stream: BufReader<S>,
    /// Where what is said is written down, if anywhere.
    pub transcript: Option<Transcript>,
}

/// What was said in a dialogue, bounded: the verb of each command, and the replies. Whoever holds it
/// reads it even where the dialogue was cut short.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    fn note(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < TRANSCRIPT_MAX {
            lines.push(line.chars().take(HEARD_MAX).collect());
        }
    }

    /// Everything so far, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
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
            return Err(Fault::Protocol("the server spoke without being asked"));
        }
        let command = command.to_string();
        if let Some(transcript) = &self.transcript {
            // What follows the verb can be an address.
            let verb = command.split([' ', '\r']).next().unwrap_or_default();
            transcript.note(&format!("> {verb}"));
        }
        self.send(command.as_bytes()).await?;
        self.reply().await
    }

    /// Sends a line that ends in a secret and reads its reply. Of the secret only `mask` is written down.
    pub async fn ask_secret(&mut self, lead: &str, secret: &str, mask: &str) -> Result<Reply, Fault> {
        if self.has_spoken()? {
            return Err(Fault::Protocol("the server spoke without being asked"));
        }
        if let Some(transcript) = &self.transcript {
            transcript.note(&format!("> {lead}{mask}"));
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
            match &reply {
                Ok(reply) => transcript.note(&format!("< {reply}")),
                Err(fault) => transcript.note(&format!("< nothing: {fault}")),
            }
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

/// Doubles the dot that begins a line and adds the final one (RFC 5321 section 4.5.2). `data` has
/// CRLF line ends only and ends in one.
pub(super) fn dot_stuffed(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 64 + 8);
    for line in data.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
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
        assert_eq!(dot_stuffed(b".a.\r\n..\r\nb\r\n"), b"..a.\r\n...\r\nb\r\n.\r\n");
        assert_eq!(dot_stuffed(b"\r\n"), b"\r\n.\r\n");
    }
}
