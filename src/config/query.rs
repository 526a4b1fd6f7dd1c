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
    if let Some(parameter) = parameter(sql) {
        return Ok((Piece::Other, parameter?));
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

/// How long the parameter is that begins here, if one does.
fn parameter(sql: &str) -> Option<Result<usize, String>> {
    let rest =
        sql.strip_prefix('$').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let known = matches!(&rest[..digits], "1" | "2");
    Some(if known { Ok(1 + digits) } else { Err(format!("has a parameter ${}", &rest[..digits])) })
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
            if !tag.chars().all(|c| c.is_alphanumeric() || c == '_') {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse_in, refuses_each};

    #[test]
    fn a_semicolon_ends_a_statement_unless_it_is_quoted() {
        for sql in [
            "SELECT 1",
            "SELECT ';', 'it''s;' || E'\\';' || e'\\\\'",
            "SELECT \"a;b\" FROM t -- ;",
            "SELECT 1 /* ; /* ; */ ; */ + 2",
            "SELECT $$;$$, $a$ ; $$ ; $b$ $a$, $1, a$b FROM x$y",
            "SELECT name'x' FROM t WHERE é = 'ü;'",
            "SELECT 1 - -1 / 2 * 3, '$3', a$3, $$ $4 $$",
        ] {
            for behind in ["", ";", " ; ", ";-- the end", ";\n/* ; */\n"] {
                let text = format!("{sql}{}{behind}", if sql.contains("--") { "\n" } else { "" });
                let statement = one_statement(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
                assert!(text.starts_with(&statement) && statement.starts_with(sql), "{text}");
                let taken = text[statement.len()..].starts_with(';');
                assert_eq!(taken, behind.trim_start().starts_with(';'), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_single_statement_is_refused() {
        let more = |line| format!("has more after a semicolon, on line {line} of the query");
        for (sql, problem) in [
            ("", "holds no statement".to_owned()),
            (" \n-- x\n/* y */", "holds no statement".to_owned()),
            (";", "holds no statement".to_owned()),
            ("SELECT 1;\nSELECT 2", more(2)),
            ("SELECT 1;;", more(1)),
            ("SELECT E'\\'; DELETE FROM t --", "has a quote that is not closed".to_owned()),
            ("SELECT 'a\\'; DELETE FROM t --'", more(1)),
            ("SELECT $a$;$b$", "has a quote that is not closed".to_owned()),
            ("SELECT $1$; SELECT $1$", more(1)),
            ("SELECT \"a", "has a quote that is not closed".to_owned()),
            ("SELECT $1, $3", "has a parameter $3".to_owned()),
            ("SELECT $1+$12", "has a parameter $12".to_owned()),
            ("SELECT $0", "has a parameter $0".to_owned()),
            ("SELECT /* /* */ 1", "has a comment that is not closed".to_owned()),
            ("SELECT 1 /*", "has a comment that is not closed".to_owned()),
        ] {
            assert_eq!(one_statement(sql), Err(problem), "{sql}");
        }
    }

    #[test]
    fn a_query_may_stand_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.sql"), "SELECT $1, '${NOT_EXPANDED}';\n").unwrap();
        let head = "[schedules.a]\ntype = \"a\"\nevery = \"1h\"\n";
        let text = format!("{head}query_file = \"a.sql\"\n");
        let config = parse_in(directory.path(), &text).unwrap();
        let query = config.schedules.into_values().next().unwrap().query.unwrap();
        assert_eq!(query.sql, "SELECT $1, '${NOT_EXPANDED}'");
    }

    #[test]
    fn faults_of_queries() {
        let good = "type = \"a\"\nevery = \"1h\"\n";
        let remedy = "write one SELECT; $1 and $2 are begin and end of the period";
        refuses_each(
            "[schedules.a]\n",
            "schedules.a",
            good,
            &[
                ("query = \"\"", &format!("4: query: holds no statement; {remedy}")),
                ("query = 1", "4: query: is an integer; write a string"),
                (
                    "query = \"SELECT 1\"\nquery_file = \"a.sql\"",
                    "5: query_file: query is there too; keep one of the two",
                ),
                (
                    "query_file = \"none.sql\"",
                    "4: query_file: \"none.sql\" does not exist; \
                     paths start at the config file's directory",
                ),
            ],
        );
    }
}
