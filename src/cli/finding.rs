//! What was found of one thing, and how a list of that is told.

use serde_json::{Value, json};

use super::table::Table;
use super::{Verdict, say, say_json};

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub thing: String,
    pub found: Found,
    /// What programs know it by; none where the words are all there is.
    pub cause: Option<&'static str>,
    /// What to do, where that is not part of the words.
    pub remedy: Option<String>,
    /// The same for programs, where there is more to it than words.
    pub detail: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It works.
    Good(String),
    /// It works, but perhaps not as it is meant.
    Doubt(String),
    /// What is wrong, and what to do.
    Wrong(String),
}

impl Finding {
    pub fn new(thing: impl Into<String>, found: Result<String, String>) -> Finding {
        let found = match found {
            Ok(words) => Found::Good(words),
            Err(words) => Found::Wrong(words),
        };
        Finding::of(thing, found)
    }

    pub fn of(thing: impl Into<String>, found: Found) -> Finding {
        Finding { thing: thing.into(), found, cause: None, remedy: None, detail: None }
    }

    fn json(&self) -> Value {
        let (word, words) = self.found.words();
        let mut line = json!({
            "thing": self.thing,
            "ok": word != "FAIL",
            "warning": word == "warn",
            "words": words,
        });
        if let (Some(cause), Some(remedy)) = (self.cause, &self.remedy) {
            line["cause"] = json!(cause);
            line["remedy"] = json!(remedy);
        }
        if let Some(detail) = &self.detail {
            line["detail"] = detail.clone();
        }
        line
    }
}

impl Found {
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Found::Good(words) => ("ok", words),
            Found::Doubt(words) => ("warn", words),
            Found::Wrong(words) => ("FAIL", words),
        }
    }
}

/// Tells them, a line each; wrong if one of them is.
pub(super) fn tell(findings: &[Finding], json: bool) -> Verdict {
    if json {
        say_json(&findings.iter().map(Finding::json).collect());
    } else {
        let mut table = Table::new(&["", "", ""], &[]);
        for finding in findings {
            let (word, words) = finding.found.words();
            let remedy = finding.remedy.iter().map(|remedy| format!("; {remedy}"));
            let words = words.to_owned() + &remedy.collect::<String>();
            table.row([word.to_owned(), finding.thing.clone(), words]);
        }
        say(table.text().trim_start());
    }
    Verdict::wrong_if(findings.iter().any(|finding| matches!(finding.found, Found::Wrong(_))))
}
