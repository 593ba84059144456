//! Everything that is wrong with a configuration, at once, each with its place.
//!
//! A problem never quotes a text of the file: it may be a password misplaced.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key, as `redis.budget.changes` or `transform[0].plugin`; empty for the whole.
    pub key: String,
    /// What is wrong and what mends it.
    pub message: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// It stands nowhere.
    Nowhere,
    /// In the file: line and column, from 1; columns count characters.
    File {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// In a variable of the environment.
    Env(&'static str),
}

/// The problems of one file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    /// The file.
    pub file: PathBuf,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match &problem.place {
                Place::Nowhere => write!(f, "{}: ", self.file.display())?,
                Place::File { line, column } => {
                    write!(f, "{}:{line}:{column}: ", self.file.display())?;
                }
                Place::Env(name) => write!(f, "environment variable {name}: ")?,
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}
