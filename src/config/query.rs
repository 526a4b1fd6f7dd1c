//! `query` and `query_file`: one statement of SQL.

use super::read::Section;

/// Whether there is one.
pub(super) fn is_written(section: &Section) -> bool {
    section.has("query") || section.has("query_file")
}

/// Reads `query`, or the file that `query_file` names; none also where neither is written.
pub(super) fn read(section: &mut Section) -> Option<String> {
    let (item, text) = match (section.get("query"), section.get("query_file")) {
        (Some(_), Some(file)) => {
            file.fault("query is there too", "keep one of the two");
            return None;
        }
        (Some(item), None) => (item.clone(), item.text()),
        (None, Some(item)) => (item.clone(), item.file()),
        (None, None) => return None,
    };
    let statement = one_statement(&text?);
    let remedy = "write one SELECT; $1 and $2 are begin and end of the period";
    statement.map_err(|problem| item.fault(problem, remedy)).ok()
}

/// What SQL is made of, as far as it takes to tell a semicolon that ends a statement from one inside a
/// quote or a comment.
#[derive(PartialEq)]
enum Piece {
    /// White space or a comment.
    Blank,
    Semicolon,
    Other,
}

/// The statement without its semicolon.
fn one_statement(sql: &str) -> Result<String, String> {
    let (mut at, mut begun, mut end) = (0, false, None);
    while at < sql.len() {
        let (piece, length) = piece(&sql[at..])?;
        match piece {
            Piece::Blank => {}
            Piece::Semicolon if end.is_none() => end = Some(at),
            _ if end.is_some() => {
                let line = sql[..at].matches('\n').count() + 1;
                return Err(format!("has more after a semicolon, on line {line} of the query"));
            }
            _ => begun = true,
        }
        at += length;
    }
    if !begun {
        return Err("holds no statement".to_owned());
    }
    Ok(sql[..end.unwrap_or(sql.len())].to_owned())
}

/// The first piece of a text that is not empty, and how long it is.
fn piece(sql: &str) -> Result<(Piece, usize), String> {
    let rest = sql.trim_start();
    if rest.len() < sql.len() {
        return Ok((Piece::Blank, sql.len() - rest.len()));
    }
    if sql.starts_with("--") {
        return Ok((Piece::Blank, sql.find('\n').unwrap_or(sql.len())));
    }
    if sql.starts_with("/*") {
        return Ok((Piece::Blank, comment(sql).ok_or("has a comment that is not closed")?));
    }
    if sql.starts_with(';') {
        return Ok((Piece::Semicolon, 1));
    }
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let length = match quoted(sql) {
        Some(length) => length?,
        None => {
            let first = sql.chars().next().map_or(1, char::len_utf8);
            let inside = sql.starts_with(|c| word(c) && c != '$');
            if inside { sql.find(|c| !word(c)).unwrap_or(sql.len()) } else { first }
        }
    };
    Ok((Piece::Other, length))
}

/// How long a comment is, others inside it counted; none where it is not closed.
fn comment(sql: &str) -> Option<usize> {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        let step = at + sql[at..].find(['/', '*'])?;
        let two = sql.get(step..step + 2).unwrap_or_default();
        depth = match two {
            "/*" => depth + 1,
            "*/" => depth - 1,
            _ => depth,
        };
        at = step + if matches!(two, "/*" | "*/") { 2 } else { 1 };
    }
    Some(at)
}

/// How long the quoted text is that begins here, if one does. A quote that is doubled inside reads as two
/// texts, which comes to the same.
fn quoted(sql: &str) -> Option<Result<usize, String>> {
    let first = sql.chars().next()?;
    let end = match first {
        '\'' | '"' => end_of(sql, 1, &sql[..1]),
        'E' | 'e' if sql[1..].starts_with('\'') => end_of_escaped(sql),
        '$' => {
            let tag = sql[1..].split_once('$')?.0;
            let name = tag.chars().all(|c| c.is_alphanumeric() || c == '_');
            if !name || tag.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            end_of(sql, tag.len() + 2, &sql[..tag.len() + 2])
        }
        _ => return None,
    };
    Some(end.ok_or_else(|| "has a quote that is not closed".to_owned()))
}

fn end_of(sql: &str, start: usize, mark: &str) -> Option<usize> {
    sql[start..].find(mark).map(|at| start + at + mark.len())
}

/// The end of `E'…'`, in which a backslash takes its meaning from what follows it.
fn end_of_escaped(sql: &str) -> Option<usize> {
    let mut escaped = false;
    let mut bytes = sql.bytes().enumerate().skip(2);
    let end = bytes.find(|(_, byte)| {
        let ends = !escaped && *byte == b'\'';
        escaped = !escaped && *byte == b'\\';
        ends
    });
    end.map(|(at, _)| at + 1)
}
