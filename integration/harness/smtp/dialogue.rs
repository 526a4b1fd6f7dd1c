//! What the scripted mail server says, connection by connection.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Arrived, Counted, Fate, Say, Settings, State, Step, lock};

/// Between the pieces of a reply, so that they do not come together.
const PIECE_EVERY: Duration = Duration::from_millis(3);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and with it all connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let counted = Counted::new(&state);
        connections.spawn(async move {
            let _ = talk(stream, &counted).await;
        });
    }
}

async fn talk(stream: TcpStream, counted: &Counted) -> io::Result<()> {
    let Counted(state, connection) = counted;
    let socket = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    let stream: Box<dyn Stream> = match &state.settings.tls {
        Some(tls) if state.settings.implicit_tls => {
            Box::new(tokio_rustls::TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?)
        }
        _ => Box::new(stream),
    };
    let mut dialogue = Dialogue {
        stream: BufReader::new(stream),
        socket,
        state,
        connection: *connection,
        encrypted: state.settings.implicit_tls,
        from: None,
        to: Vec::new(),
        mails: 0,
        together: String::new(),
        unsent: Vec::new(),
    };
    if dialogue.say(Step::Greeting, "220 peer.example ESMTP").await?.is_some() {
        while dialogue.step().await? {}
    }
    dialogue.note_together();
    dialogue.send().await
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum Last {
    Cut,
    Reset,
    Hang,
}

struct Dialogue<'a> {
    stream: BufReader<Box<dyn Stream>>,
    /// Beneath the stream.
    socket: std::net::TcpStream,
    state: &'a State,
    connection: usize,
    encrypted: bool,
    /// The sender, once MAIL was taken.
    from: Option<String>,
    to: Vec<String>,
    /// How many arrived over this connection.
    mails: usize,
    /// The commands that came together so far.
    together: String,
    /// Replies that are kept back.
    unsent: Vec<u8>,
}

impl Dialogue<'_> {
    /// Answers a step; gives the reply, or nothing if the connection is over.
    async fn say(&mut self, step: Step, usual: &str) -> io::Result<Option<String>> {
        let answer = self.state.answer(step, usual);
        self.perform(answer, |_| ()).await
    }

    /// Does what the answer says; `before` sees a reply before it is written.
    async fn perform(
        &mut self,
        answer: Say,
        before: impl FnOnce(&str),
    ) -> io::Result<Option<String>> {
        let (mut answer, mut last) = (answer, None);
        loop {
            answer = match answer {
                Say::Gated(gate, then) => {
                    self.send().await?;
                    gate.passed().await;
                    *then
                }
                Say::After(delay, then) => {
                    self.send().await?;
                    tokio::time::sleep(delay).await;
                    *then
                }
                Say::ThenCut(then) => {
                    last = Some(Last::Cut);
                    *then
                }
                Say::ThenReset(then) => {
                    last = Some(Last::Reset);
                    *then
                }
                Say::ThenHang(then) => {
                    last = Some(Last::Hang);
                    *then
                }
                Say::Cut => return self.end(Last::Cut).await,
                Say::Reset => return self.end(Last::Reset).await,
                Say::Hang => return self.end(Last::Hang).await,
                Say::Stall => {
                    self.send().await?;
                    // Until the server itself ends.
                    return std::future::pending().await;
                }
                Say::Text(text) => {
                    before(&text);
                    self.write(&text).await?;
                    return self.said(text, last).await;
                }
                Say::Bytes(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    before(&text);
                    self.unsent.extend(bytes);
                    self.send().await?;
                    return self.said(text, last).await;
                }
                Say::Pieces(pieces) => {
                    let text = pieces.concat();
                    before(&text);
                    self.send().await?;
                    for piece in pieces {
                        self.unsent.extend(piece.as_bytes());
                        self.send().await?;
                        tokio::time::sleep(PIECE_EVERY).await;
                    }
                    self.write("").await?;
                    return self.said(text, last).await;
                }
            };
        }
    }

    /// What was answered, if the connection goes on.
    async fn said(&mut self, text: String, last: Option<Last>) -> io::Result<Option<String>> {
        match last {
            None => Ok(Some(text)),
            Some(last) => self.end(last).await,
        }
    }

    /// The last there is of this connection.
    async fn end(&mut self, last: Last) -> io::Result<Option<String>> {
        self.send().await?;
        match last {
            Last::Cut => {}
            Last::Reset => TcpStream::from_std(self.socket.try_clone()?)?.set_zero_linger()?,
            Last::Hang => {
                // Until the other side hangs up.
                tokio::io::copy_buf(&mut self.stream, &mut tokio::io::sink()).await?;
            }
        }
        Ok(None)
    }

    /// Answers, at once or together with what is to be answered next.
    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.unsent.extend(text.as_bytes());
        self.unsent.extend(b"\r\n");
        if self.state.settings.glued && self.stream.buffer().contains(&b'\n') {
            return Ok(());
        }
        self.send().await
    }

    async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.unsent).await?;
        self.unsent.clear();
        self.stream.flush().await
    }

    /// What came together has been heard.
    fn note_together(&mut self) {
        let together = std::mem::take(&mut self.together);
        if !together.is_empty() {
            lock(&self.state.reads).push(together);
        }
    }

    /// Writes down a command.
    fn note(&mut self, word: &str, line: &str) {
        if self.state.record.load(Ordering::SeqCst) {
            if !self.together.is_empty() {
                self.together.push(' ');
            }
            self.together.push_str(word);
            lock(&self.state.lines).push(line.to_owned());
            lock(&self.state.commands).push(word.to_owned());
            self.state.changed.send_replace(());
        }
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }

    /// One command; whether there may be another.
    async fn step(&mut self) -> io::Result<bool> {
        if self.stream.buffer().is_empty() {
            self.note_together();
        }
        let Some(line) = self.line().await? else { return Ok(false) };
        let word = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        self.note(&word, &line);
        match word.as_str() {
            "EHLO" | "HELO" => {
                let offers = self.offers();
                Ok(self.say(Step::Ehlo, &offers).await?.is_some())
            }
            "STARTTLS" => self.start_tls().await,
            "AUTH" => self.log_in(&line).await,
            "MAIL" => self.begin(&line).await,
            "RCPT" | "DATA" if self.from.is_none() => {
                self.write("503 5.5.1 MAIL first").await?;
                Ok(true)
            }
            "RCPT" => {
                let address = address_in(&line);
                let answer = self.state.recipient(&address, self.to.len());
                let said = self.perform(answer, |_| ()).await?;
                if said.as_ref().is_some_and(|s| s.starts_with('2')) {
                    self.to.push(address);
                }
                Ok(said.is_some())
            }
            "DATA" => self.data().await,
            "RSET" => {
                self.forget();
                self.write("250 2.0.0 Ok").await?;
                Ok(true)
            }
            "QUIT" => {
                self.write("221 2.0.0 Bye").await?;
                Ok(false)
            }
            "NOOP" => {
                self.write("250 2.0.0 Ok").await?;
                Ok(true)
            }
            _ => {
                self.write("500 5.5.2 unknown").await?;
                Ok(true)
            }
        }
    }

    async fn begin(&mut self, line: &str) -> io::Result<bool> {
        if self.from.is_some() {
            self.write("503 5.5.1 nested MAIL").await?;
            return Ok(true);
        }
        let said = self.say(Step::Mail, "250 2.1.0 Ok").await?;
        if said.as_ref().is_some_and(|s| s.starts_with('2')) {
            self.from = Some(address_in(line));
        }
        Ok(said.is_some())
    }

    async fn data(&mut self) -> io::Result<bool> {
        let nobody = self.to.is_empty() && !self.state.settings.data_for_nobody;
        let usual = if nobody { "554 5.5.1 no valid recipients" } else { "354 go on" };
        match self.say(Step::Data, usual).await? {
            Some(said) if said.starts_with('3') => {
                self.note_together();
                self.take_mail().await
            }
            said => Ok(said.is_some()),
        }
    }

    fn forget(&mut self) {
        self.from = None;
        self.to.clear();
    }

    fn offers(&self) -> String {
        let mut offers = vec!["peer.example"];
        let settings = &self.state.settings;
        offers.extend(&settings.offers);
        if settings.tls.is_some() && !self.encrypted {
            offers.push("STARTTLS");
        }
        match settings {
            Settings { login: None, .. } => {}
            Settings { tokens: true, .. } => offers.push("AUTH XOAUTH2"),
            Settings { login_only: true, .. } => offers.push("AUTH LOGIN"),
            Settings { .. } => offers.push("AUTH PLAIN LOGIN"),
        }
        let last = offers.pop().unwrap_or_default();
        offers.iter().fold(String::new(), |lines, o| lines + "250-" + o + "\r\n") + "250 " + last
    }

    async fn start_tls(&mut self) -> io::Result<bool> {
        let Some(said) = self.say(Step::StartTls, "220 2.0.0 go on").await? else {
            return Ok(false);
        };
        let Some(tls) = self.state.settings.tls.clone().filter(|_| said.starts_with('2')) else {
            return Ok(true);
        };
        let nothing: Box<dyn Stream> = Box::new(tokio::io::empty());
        let bare = std::mem::replace(&mut self.stream, BufReader::new(nothing)).into_inner();
        let stream = tokio_rustls::TlsAcceptor::from(tls).accept(bare).await?;
        self.stream = BufReader::new(Box::new(stream));
        self.encrypted = true;
        Ok(true)
    }

    async fn log_in(&mut self, line: &str) -> io::Result<bool> {
        let decode = |text: &str| {
            String::from_utf8_lossy(&STANDARD.decode(text).unwrap_or_default()).into_owned()
        };
        let given = if let Some(token) = line.strip_prefix("AUTH PLAIN ") {
            let token = decode(token);
            let mut parts = token.split('\0').skip(1).map(str::to_owned);
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
        } else if let Some(token) = line.strip_prefix("AUTH XOAUTH2 ") {
            let token = decode(token);
            let inner = token.strip_prefix("user=").and_then(|t| t.strip_suffix("\x01\x01"));
            let parts = inner.and_then(|inner| inner.split_once("\x01auth=Bearer "));
            parts.map(|(user, token)| (user.to_owned(), token.to_owned())).unwrap_or_default()
        } else {
            self.write("334 VXNlcm5hbWU6").await?;
            let Some(user) = self.line().await? else { return Ok(false) };
            self.write("334 UGFzc3dvcmQ6").await?;
            let Some(password) = self.line().await? else { return Ok(false) };
            (decode(&user), decode(&password))
        };
        let right = lock(&self.state.login).as_ref() == Some(&given);
        if self.state.settings.tokens && !right {
            // Why not, in JSON; the client has nothing to say to that.
            self.write("334 eyJzdGF0dXMiOiI0MDEifQ==").await?;
            if self.line().await?.is_none_or(|line| !line.is_empty()) {
                return Ok(false);
            }
        }
        let usual = if right { "235 2.7.0 welcome" } else { "535 5.7.8 no" };
        Ok(self.say(Step::Auth, usual).await?.is_some())
    }

    async fn take_mail(&mut self) -> io::Result<bool> {
        let (mut data, mut line) = (Vec::new(), Vec::new());
        let mut early = None;
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(false);
            }
            if line == b".\r\n" {
                break;
            }
            if data.is_empty()
                && let Some(answer) = self.state.scripted(Step::Body)
            {
                early = self.perform(answer, |_| ()).await?;
                if early.is_none() {
                    return Ok(false);
                }
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        self.mails += 1;
        let mail = Arrived {
            from: self.from.take().unwrap_or_default(),
            to: std::mem::take(&mut self.to),
            data,
            fate: Fate::Unanswered,
            connection: self.connection,
            encrypted: self.encrypted,
        };
        // Noted before the answer, so that whoever has the answer finds the mail here.
        let state = self.state;
        let decide = lock(&state.decide).clone();
        let decided = decide.map(|decide| decide(&mail));
        let nobody = mail.to.is_empty();
        let place = state.note(mail);
        if let Some(early) = early {
            state.settle(place, &early);
            return Ok(true);
        }
        let usual =
            if nobody { "554 5.5.1 no valid recipients" } else { "250 2.0.0 Ok: queued as PEER1" };
        let answer = decided.unwrap_or_else(|| state.answer(Step::Dot, usual));
        let goes_on = self.perform(answer, |text| state.settle(place, text)).await?.is_some();
        Ok(goes_on && state.settings.mails_max.is_none_or(|most| self.mails < most))
    }
}

/// What stands between the angle brackets.
fn address_in(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or_else(|| line.to_owned(), |(address, _)| address.to_owned())
}
