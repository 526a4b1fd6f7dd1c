//! The two ways to write where a PostgreSQL database is, a URL and `key=value` words, read into
//! the same list of parameters as libpq reads them.

use std::collections::BTreeMap;

use super::fault::Wrong;

/// Parameter names and values as libpq has them. The host may be a list, separated by commas.
pub(super) type Parameters = BTreeMap<String, String>;

const SCHEMES: [&str; 3] = ["postgres", "postgresql", "postgis"];
const FORM: &str = "write it like postgres://user:password@host:5432/database";
const PERCENT: &str = "write special characters of a user name or password as %XX";

/// Reads a URL or `key=value` words. Faults never show any of it.
pub(super) fn parse(text: &str) -> Result<Parameters, Wrong> {
    match text.split_once("://") {
        Some((scheme, rest)) if SCHEMES.contains(&scheme) => from_url(rest),
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
            Err(Wrong::new("is no PostgreSQL URL", FORM))
        }
        _ => from_words(text),
    }
}

/// What follows `postgres://`. Passwords often hold an unwritten `@`, host names never do, so the
/// last one before the path ends the credentials.
fn from_url(rest: &str) -> Result<Parameters, Wrong> {
    let mut found = Parameters::new();
    let authority = rest.find('/').unwrap_or(rest.len());
    let mut rest = rest;
    if let Some(at) = rest[..authority].rfind('@') {
        let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
        put(&mut found, "user", decode(user)?);
        put(&mut found, "password", decode(password)?);
        rest = &rest[at + 1..];
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    // Then a / stood in the password, and what looks like names further on is a piece of it.
    if rest[hosts.len()..].contains('@') {
        return Err(Wrong::new("has an @ after the first /", PERCENT));
    }
    read_hosts(hosts, &mut found)?;
    put(&mut found, "dbname", decode(database)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Wrong::new("has a parameter without a value", "write ?name=value"));
        };
        put(&mut found, &decode(key)?, decode(value)?);
    }
    Ok(found)
}

/// `host:port,host:port`, each with or without a port, an IPv6 address in brackets.
fn read_hosts(text: &str, found: &mut Parameters) -> Result<(), Wrong> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for part in text.split(',') {
        let (host, port) = match part.strip_prefix('[').map(|inner| inner.split_once(']')) {
            Some(Some((host, ""))) => (host, ""),
            Some(Some((host, tail))) if tail.starts_with(':') => (host, &tail[1..]),
            Some(_) => return Err(Wrong::new("has a [ without its ]", "write [::1]:5432")),
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    put(found, "host", hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        put(found, "port", ports.join(","));
    }
    Ok(())
}

/// Notes a parameter; an empty one is as good as absent, as in libpq.
fn put(found: &mut Parameters, key: &str, value: String) {
    if !value.is_empty() {
        found.insert(key.to_owned(), value);
    }
}

fn decode(text: &str) -> Result<String, Wrong> {
    let bad = || Wrong::new("has a % that two hexadecimal digits do not follow", PERCENT);
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(bad);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(out).map_err(|_| Wrong::new("has %XX that are not UTF-8", PERCENT))
}

/// `host=/run/postgresql dbname=shop password='it''s'`, with backslashes before special letters.
fn from_words(text: &str) -> Result<Parameters, Wrong> {
    let mut found = Parameters::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return Err(Wrong::new("is neither a URL nor key=value words", FORM));
        };
        let key = key.trim_end();
        if !key.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
            return Err(Wrong::new("is neither a URL nor key=value words", FORM));
        }
        let (value, after) = word(after.trim_start())?;
        put(&mut found, key, value);
        rest = after.trim_start();
    }
    Ok(found)
}

/// One value and what follows it.
fn word(text: &str) -> Result<(String, &str), Wrong> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(Wrong::new("has a ' without its end", "write \\' for one inside a value"));
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_words_become_the_same_parameters() {
        for (text, want) in [
            ("postgres://u:p@h:1/d", "dbname=d host=h password=p port=1 user=u"),
            ("postgresql://u@h", "host=h user=u"),
            ("postgis:///d", "dbname=d"),
            ("postgres://h?sslmode=require", "host=h sslmode=require"),
            ("postgres://u:p%40%2F@h/d", "dbname=d host=h password=p@/ user=u"),
            ("postgres://u:p@w?d@h/d", "dbname=d host=h password=p@w?d user=u"),
            ("postgres://a:1,b/d", "dbname=d host=a,b port=1,"),
            ("postgres://[::1]:6/d", "dbname=d host=::1 port=6"),
            ("postgres://%2Frun%2Fpg/d", "dbname=d host=/run/pg"),
            ("postgres:///d?host=/run/pg&user=u", "dbname=d host=/run/pg user=u"),
            ("postgres://h/d?user=a%40b", "dbname=d host=h user=a@b"),
            ("host=h  dbname = d port=''", "dbname=d host=h"),
            (r"password='a b\'c\\' user=x\ y", r"password=a b'c\ user=x y"),
        ] {
            let found: Vec<String> =
                parse(text).unwrap().iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(found.join(" "), want, "{text}");
        }
    }

    #[test]
    fn faults_name_the_form_and_none_of_the_text() {
        for (text, problem) in [
            ("mysql2://u:sesame@h/d", "is no PostgreSQL URL"),
            ("sesame", "is neither a URL nor key=value words"),
            ("postgres://u:open/se?same=a@h/d", "has an @ after the first /"),
            ("password=open sesame x=y", "is neither a URL nor key=value words"),
            ("postgres://u:sesame%@h/d", "has a % that two hexadecimal digits do not follow"),
            ("postgres://u:sesame%ff@h/d", "has %XX that are not UTF-8"),
            ("postgres://[::1/d", "has a [ without its ]"),
            ("postgres://h/d?sesame", "has a parameter without a value"),
            ("password='sesame", "has a ' without its end"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.problem, problem, "{text}");
            assert!(!wrong.remedy.contains("sesame") && !wrong.remedy.is_empty());
        }
    }
}
