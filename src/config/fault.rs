//! What is wrong with a config: every fault at once, each with file, line, key and remedy.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with a config file, in the order of its lines.
///
/// It prints one fault a line, and never the value of a secret: database URL, password, signing
/// secret, webhook URL. What `${VAR}` stands for is not shown where a value is quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The config file.
    pub file: PathBuf,
    /// At least one, sorted by line.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line in the config file, counted from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// The key with its path, such as `sinks.crm.url`; empty when no key is meant.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right; empty when the problem already says it.
    pub remedy: String,
}

/// A problem whose place the caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub problem: String,
    pub remedy: String,
}

impl Wrong {
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Wrong {
        Wrong { problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if fault.line > 0 {
                write!(f, "{}:", fault.line)?;
            }
            write!(f, " {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, key: &str, problem: &str, remedy: &str) -> Fault {
        let [key, problem, remedy] = [key, problem, remedy].map(str::to_owned);
        Fault { line, key, problem, remedy }
    }

    #[test]
    fn faults_print_one_a_line_and_leave_out_what_they_lack() {
        let faults = vec![
            fault(0, "", "there is no such file", "write one with: outboxd init"),
            fault(3, "relay.lease", "is missing", ""),
        ];
        let error = ConfigError { file: "outboxd.toml".into(), faults };
        assert_eq!(
            error.to_string(),
            "outboxd.toml: there is no such file; write one with: outboxd init\n\
             outboxd.toml:3: relay.lease: is missing"
        );
    }
}
