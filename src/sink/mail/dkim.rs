//! DKIM: signatures over headers and body (RFC 6376), `relaxed/relaxed`.
//!
//! No `l=`, so that nothing can be added to a body, and no `t=`, so that each attempt sends the same bytes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};

use crate::config::DkimConfig;

/// Signed once more often than they are there, so that whoever adds one breaks the signature: they say who
/// writes to whom, about what, and how the body is read.
const SEALED: [&str; 10] = [
    "From",
    "Subject",
    "Date",
    "To",
    "Cc",
    "Reply-To",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// The same where they are there at all: a mailing list that passes a mail on adds its own.
const SEALED_IF_THERE: [&str; 2] = ["List-Unsubscribe", "List-Unsubscribe-Post"];
/// Signed as often as they are there.
const SIGNED: [&str; 5] = ["Auto-Submitted", "In-Reply-To", "References", "List-Id", "Feedback-ID"];

/// Longest line of a signature, in bytes; a domain alone can be longer.
const LINE_MAX: usize = 76;
/// Bytes of canonical text that are hashed at a time.
const PIECE: usize = 16 * 1024;

/// A `DKIM-Signature` header for each key. `data` has a header at least and CRLF line ends only.
pub(super) fn signatures(keys: &[DkimConfig], data: &[u8]) -> Result<Vec<u8>, String> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (headers, body) = parts(data);
    let names = names(&headers);
    let hash = body_hash(body);
    let mut out = Vec::new();
    for key in keys {
        let mut signature = unsigned(key, &names, &hash);
        let signed = signed_text(&headers, &names, signature.as_bytes());
        let bytes = key.key.sign(&signed).map_err(|problem| format!("dkim: the key {problem}"))?;
        fold(&mut signature, &STANDARD.encode(bytes), |_| true);
        out.extend_from_slice(signature.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    Ok(out)
}

/// The headers with their folds and line ends, and the body behind the empty line.
fn parts(data: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut headers: Vec<&[u8]> = Vec::new();
    let (mut rest, mut start) = (data, 0);
    for line in data.split_inclusive(|b| *b == b'\n') {
        if line == b"\r\n" {
            rest = &data[start..];
            break;
        }
        let end = start + line.len();
        match headers.last_mut() {
            Some(last) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                *last = &data[start - last.len()..end];
            }
            _ => headers.push(line),
        }
        start = end;
        rest = &data[end..];
    }
    (headers, rest.strip_prefix(b"\r\n").unwrap_or_default())
}

fn name(header: &[u8]) -> &[u8] {
    let name = header.split(|b| *b == b':').next().unwrap_or_default();
    &name[..name.iter().rposition(|b| !is_blank(*b)).map_or(0, |at| at + 1)]
}

/// What `h=` lists: each name as often as it is signed.
fn names(headers: &[&[u8]]) -> Vec<&'static str> {
    let there = |wanted: &str| {
        headers.iter().filter(|h| name(h).eq_ignore_ascii_case(wanted.as_bytes())).count()
    };
    let sealed = SEALED.iter().map(|name| (*name, there(name) + 1));
    let if_there = SEALED_IF_THERE.iter().map(|name| (*name, there(name)));
    let if_there = if_there.map(|(name, count)| (name, if count == 0 { 0 } else { count + 1 }));
    let signed = SIGNED.iter().map(|name| (*name, there(name)));
    let all = sealed.chain(if_there).chain(signed);
    all.flat_map(|(name, count)| std::iter::repeat_n(name, count)).collect()
}

/// The header as it is signed: all but the signature itself.
fn unsigned(key: &DkimConfig, names: &[&str], body_hash: &[u8]) -> String {
    let mut out = String::from("DKIM-Signature: v=1; ");
    let _ = write!(out, "a={}; c=relaxed/relaxed;\r\n d={};", key.key.algorithm(), key.domain);
    let _ = write!(out, "\r\n s={};\r\n h=", key.selector);
    fold(&mut out, &names.join(":"), |before| before == ':');
    let _ = write!(out, ";\r\n bh={};\r\n b=", STANDARD.encode(body_hash));
    out
}

/// Appends a text, folded to short lines where it may be.
fn fold(out: &mut String, text: &str, may_fold_after: impl Fn(char) -> bool) {
    let line_start = out.rfind('\n').map_or(0, |at| at + 1);
    let mut room = LINE_MAX.saturating_sub(out.len() - line_start);
    for word in text.split_inclusive(may_fold_after) {
        if word.len() > room {
            out.push_str("\r\n  ");
            room = LINE_MAX - 2;
        }
        out.push_str(word);
        room = room.saturating_sub(word.len());
    }
}

/// What is hashed and signed (RFC 6376 section 3.7): of each name the headers from the last to the first,
/// nothing where there are no more, and in the end the signature's own.
fn signed_text(headers: &[&[u8]], names: &[&str], signature: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut taken = vec![false; headers.len()];
    for wanted in names {
        let is_it =
            |at: &usize| !taken[*at] && name(headers[*at]).eq_ignore_ascii_case(wanted.as_bytes());
        if let Some(at) = (0..headers.len()).rev().find(is_it) {
            taken[at] = true;
            relaxed_header(headers[at], &mut out);
            out.extend_from_slice(b"\r\n");
        }
    }
    relaxed_header(signature, &mut out);
    out
}

/// A header in the form that is signed, without a line end (RFC 6376 section 3.4.2).
fn relaxed_header(header: &[u8], out: &mut Vec<u8>) {
    let name = name(header);
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let colon = header.iter().position(|b| *b == b':').map_or(header.len(), |at| at + 1);
    let unfolded = header[colon..].iter().filter(|b| !matches!(b, b'\r' | b'\n'));
    let value: Vec<u8> = unfolded.skip_while(|b| is_blank(**b)).copied().collect();
    relaxed_line(&value, out);
}

fn body_hash(body: &[u8]) -> Vec<u8> {
    let mut hash = Context::new(&SHA256);
    relaxed_body(body, |piece| hash.update(piece));
    hash.finish().as_ref().to_vec()
}

/// A body in the form that is hashed, piece by piece (RFC 6376 section 3.4.4): a large one is not copied.
fn relaxed_body(body: &[u8], mut piece: impl FnMut(&[u8])) {
    let (mut out, mut empty) = (Vec::with_capacity(2 * PIECE), 0);
    for line in body.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        // Empty lines at the end do not count, so they wait for one that is not.
        if line.iter().all(|b| is_blank(*b)) {
            empty += 1;
            continue;
        }
        out.extend(std::iter::repeat_n(*b"\r\n", std::mem::take(&mut empty)).flatten());
        relaxed_line(line, &mut out);
        out.extend_from_slice(b"\r\n");
        if out.len() >= PIECE {
            piece(&out);
            out.clear();
        }
    }
    piece(&out);
}

/// A line whose blanks and tabs are one blank each run, and none at its end.
fn relaxed_line(line: &[u8], out: &mut Vec<u8>) {
    let end = line.iter().rposition(|b| !is_blank(*b)).map_or(0, |at| at + 1);
    for run in line[..end].chunk_by(|a, b| is_blank(*a) == is_blank(*b)) {
        let blank = run.first().is_some_and(|b| is_blank(*b));
        out.extend_from_slice(if blank { b" " } else { run });
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DkimKey;
    use ring::signature::{self, Ed25519KeyPair, UnparsedPublicKey};

    /// RFC 8463 appendix A.3: signed with both algorithms.
    const DINNER: &str = "\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.

";
    /// Its appendix A.2.
    const BRISBANE: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const TEST: &str = "MIGJAoGBAOQeU5CgFPNZGIazlXo2k/eJ1jpaTTxrmqF1HrDLlt04\
        pvaMtCJj8nXoliLRC/H9vJjMI1vdb3XLcW60AIN/PBD8EL97/y4GwJH7LPUvGP48vqUe+owqszesbiGy1P\
        lCO8c70/OjFnJVgvMF87YR4Lcincb7aSvI5MgpP6X8rjDdAgMBAAE=";

    fn decoded(text: &str) -> Vec<u8> {
        STANDARD.decode(text).unwrap()
    }

    fn key(selector: &str, pem: &str) -> DkimConfig {
        let (domain, key) = ("example.com".to_owned(), DkimKey::parse(pem).unwrap());
        DkimConfig { domain, selector: selector.to_owned(), key }
    }

    fn both() -> [DkimConfig; 2] {
        [
            key("2026a", include_str!("../../../integration/keys/rsa.pem")),
            key("2026e", include_str!("../../../integration/keys/ed25519.pem")),
        ]
    }

    fn body(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        relaxed_body(text, |piece| out.extend_from_slice(piece));
        out
    }

    fn header(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        relaxed_header(text, &mut out);
        out
    }

    #[test]
    fn canonical_forms_of_the_standard() {
        // RFC 6376 section 3.4.5.
        assert_eq!(header(b"A: X\r\n"), b"a:X");
        assert_eq!(header(b"B : Y\t\r\n\tZ  \r\n"), b"b:Y Z");
        assert_eq!(body(b" C \r\nD \t E\r\n\r\n\r\n"), b" C\r\nD E\r\n");
        // Section 3.4.4: nothing stays nothing, and a last line is ended.
        assert_eq!(body(b""), b"");
        assert_eq!(body(b"\r\n \r\n\t\r\n"), b"");
        assert_eq!(body(b"\r\n\r\na"), b"\r\n\r\na\r\n");
        assert_eq!(
            STANDARD.encode(body_hash(b"\r\n")),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }

    /// What its tag says, without folds.
    fn tag(signature: &[u8], name: &str) -> String {
        let text = str::from_utf8(signature).unwrap();
        let (_, value) = text.split_once(&format!(" {name}=")).unwrap();
        value.split(';').next().unwrap().split_whitespace().collect()
    }

    #[test]
    fn the_example_of_the_standard_is_signed_as_it_stands_there() {
        let data = DINNER.replace('\n', "\r\n");
        let (headers, body) = parts(data.as_bytes());
        for signature in &headers[..2] {
            let listed = tag(signature, "h");
            let names: Vec<&str> = listed.split(':').collect();
            assert_eq!(STANDARD.encode(body_hash(body)), tag(signature, "bh"));
            let bare = str::from_utf8(signature).unwrap().split_once(" b=").unwrap().0;
            let signed = signed_text(&headers[2..], &names, format!("{bare} b=").as_bytes());
            let made = decoded(&tag(signature, "b"));
            if tag(signature, "s") == "test" {
                let old = &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
                UnparsedPublicKey::new(old, decoded(TEST)).verify(&signed, &made).unwrap();
            } else {
                let pair = Ed25519KeyPair::from_seed_unchecked(&decoded(BRISBANE)).unwrap();
                assert_eq!(DkimKey::Ed25519(pair.into()).sign(&signed).unwrap(), made);
            }
        }
    }

    const MAIL: &str = "From: Shop <shop@example.com>\r\nSubject: Order\r\n 42\r\n\
        Date: Fri, 20 Nov 2026 10:15:30 +0000\r\nTo: a@x.example\r\nX-Ours: 1\r\n\
        List-Unsubscribe: <https://example.com/u>\r\nAuto-Submitted: auto-generated\r\n\
        MIME-Version: 1.0\r\n\r\nhello\r\n";

    #[test]
    fn what_gives_a_mail_its_meaning_is_sealed() {
        let signature = signatures(&both()[..1], MAIL.as_bytes()).unwrap();
        assert_eq!(
            tag(&signature, "h"),
            "From:From:Subject:Subject:Date:Date:To:To:Cc:Reply-To:Message-ID:\
             MIME-Version:MIME-Version:Content-Type:Content-Transfer-Encoding:\
             List-Unsubscribe:List-Unsubscribe:Auto-Submitted"
        );
        assert!(!str::from_utf8(&signature).unwrap().contains(" l="));
    }

    #[test]
    fn of_headers_with_one_name_the_last_is_signed_first() {
        let (headers, _) = parts(b"List-Id: a\r\nTo: b\r\nlist-id: c\r\n\r\n");
        let signed = signed_text(&headers, &["List-Id", "List-Id", "List-Id", "To"], b"X: y");
        assert_eq!(str::from_utf8(&signed).unwrap(), "list-id:c\r\nlist-id:a\r\nto:b\r\nx:y");
    }

    /// Whether our own signature fits: the others' word is in `integration/sink_contract/dkim.rs`.
    fn fits(signature: &[u8], key: &DkimKey, data: &[u8]) -> bool {
        let (headers, body) = parts(data);
        let listed = tag(signature, "h");
        let names: Vec<&str> = listed.split(':').collect();
        let text = str::from_utf8(signature).unwrap();
        let bare = format!("{} b=", text.split_once(" b=").unwrap().0);
        let signed = signed_text(&headers, &names, bare.as_bytes());
        tag(signature, "bh") == STANDARD.encode(body_hash(body))
            && tag(signature, "b") == STANDARD.encode(key.sign(&signed).unwrap())
    }

    #[test]
    fn each_key_signs_the_same_each_time_in_short_lines() {
        let long = "x".repeat(60);
        let mut keys = both();
        keys[1].domain = format!("{long}.{long}.{long}.example");
        let made = signatures(&keys, MAIL.as_bytes()).unwrap();
        assert_eq!(made, signatures(&keys, MAIL.as_bytes()).unwrap());
        assert!(signatures(&[], MAIL.as_bytes()).unwrap().is_empty());
        let (headers, rest) = parts(&made);
        assert_eq!((headers.len(), rest.len()), (2, 0));
        for (signature, key) in headers.iter().zip(&keys) {
            assert_eq!(tag(signature, "a"), key.key.algorithm());
            assert_eq!(tag(signature, "s"), key.selector);
            assert!(fits(signature, &key.key, MAIL.as_bytes()));
            let is_long = |line: &&str| line.len() > LINE_MAX + 1 && !line.contains(&long);
            assert_eq!(str::from_utf8(signature).unwrap().split("\r\n").find(is_long), None);
        }
    }

    /// Blanks may change on the way, nothing else; whatever pieces a mail is made of.
    #[test]
    fn a_mail_keeps_its_signature_through_other_blanks_and_loses_it_with_any_byte() {
        const PIECES: [&str; 9] = ["a", "Z", " ", "  ", "\t", "\r\n", "\r\n\r\n", ".", "\u{e4}"];
        let mut random = fastrand::Rng::with_seed(11);
        let key = &both()[1..];
        for _ in 0..1_000 {
            let mut any = || -> String {
                (0..random.usize(..20)).map(|_| PIECES[random.usize(..PIECES.len())]).collect()
            };
            let (subject, text) = (any().replace("\r\n", "\r\n "), any());
            let mail = |subject: &str, text: &str| {
                format!("From: a@b.example\r\nSubject: x{subject}\r\n\r\n{text}\r\n").into_bytes()
            };
            let data = mail(&subject, &text);
            let signature = signatures(key, &data).unwrap();
            assert!(fits(&signature, &key[0].key, &data));
            let wider = |text: &str| text.replace(' ', " \t ").replace("\r\n", "\t\r\n");
            let blanks = mail(&wider(&subject), &(wider(&text) + " \r\n\r\n"));
            assert!(fits(&signature, &key[0].key, &blanks), "{subject:?} {text:?}");
            let from = "From: a@b.example\r\n".len();
            let visible: Vec<usize> = (0..data.len())
                .filter(|at| data[*at].is_ascii_alphabetic() && !(from..from + 8).contains(at))
                .collect();
            let mut other = data.clone();
            let at = visible[random.usize(5..visible.len())];
            other[at] = if other[at] == b'q' { b'p' } else { b'q' };
            assert!(!fits(&signature, &key[0].key, &other), "{at} {subject:?} {text:?}");
        }
    }

    #[test]
    fn large_bodies_are_hashed_in_pieces() {
        let text = "  word\t and\r\n\r\n".repeat(20_000);
        let (mut pieces, mut largest, mut whole) = (0, 0, Vec::new());
        relaxed_body(text.as_bytes(), |piece| {
            pieces += 1;
            largest = largest.max(piece.len());
            whole.extend_from_slice(piece);
        });
        let expected = " word and\r\n\r\n".repeat(20_000);
        assert_eq!(whole, expected.as_bytes()[..expected.len() - 2]);
        assert!(pieces > 10 && largest < 2 * PIECE, "{pieces} pieces, {largest}");
    }
}
