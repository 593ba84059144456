//! A committed table of refusals: what was done, and the exact words that it was refused
//! with. Whoever changes a message reads it there as an operator will.
//!
//! What can go wrong: the table in the file is another one, which fails the test.

use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};

/// Lines of a difference that are shown.
const SHOWN: usize = 40;

/// A table of refusals that is made anew by a test, and held to the one in a file.
///
/// With `BLESS=1` in the environment the file is written instead.
///
/// ```no_run
/// use kasho_plugin_sdk::testing::Refusals;
/// # fn refusal(_rule: &str) -> String { String::new() }
///
/// let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/refusals.txt");
/// let mut table = Refusals::new(file, "Rules that the plugin refuses.");
/// table.section("Options");
/// table.case("`upper` with an option", refusal("{ transform = \"upper\", salt = 1 }"));
/// table.finish();
/// ```
#[derive(Clone, Debug)]
pub struct Refusals {
    file: PathBuf,
    text: String,
    cases: Vec<String>,
}

impl Refusals {
    /// An empty table for this file; `about` is its first line.
    #[must_use]
    pub fn new(file: impl AsRef<Path>, about: &str) -> Refusals {
        let text = format!("# {about}\n# Written by the tests; `BLESS=1` writes it anew.\n");
        Refusals { file: file.as_ref().to_owned(), text, cases: Vec::new() }
    }

    /// Begins a part of the table.
    pub fn section(&mut self, title: &str) {
        let _ = write!(self.text, "\n\n## {title}\n");
    }

    /// What was done, in one line, and the message it was refused with.
    ///
    /// # Panics
    /// If the same was done before, or there is no message.
    pub fn case(&mut self, done: impl Into<String>, message: impl Display) {
        let (done, message) = (done.into(), message.to_string());
        assert!(!message.trim().is_empty(), "{done}: refused without a word");
        assert!(!self.cases.contains(&done), "{done}: stands in the table already");
        let _ = write!(self.text, "\n{done}\n");
        for line in message.lines() {
            let _ = writeln!(self.text, "    {line}");
        }
        self.cases.push(done);
    }

    /// Holds the table to its file, or writes it.
    ///
    /// # Panics
    /// If they differ, with the lines that do; or if the file cannot be read or written.
    pub fn finish(self) {
        let file = self.file.display();
        if std::env::var_os("BLESS").is_some() {
            let written = std::fs::write(&self.file, &self.text);
            return written.unwrap_or_else(|e| panic!("{file}: {e}"));
        }
        let is = std::fs::read_to_string(&self.file);
        let is = is.unwrap_or_else(|e| panic!("{file}: {e}; BLESS=1 writes it"));
        let told = difference(&is, &self.text);
        assert!(
            told.is_empty(),
            "{file} is not what is refused now; BLESS=1 writes it anew\n{told}"
        );
    }
}

/// The lines from the first that differs to the last.
fn difference(is: &str, want: &str) -> String {
    let (is, want): (Vec<&str>, Vec<&str>) = (is.lines().collect(), want.lines().collect());
    let same = is.iter().zip(&want).take_while(|(a, b)| a == b).count();
    let (is, want) = (&is[same..], &want[same..]);
    let end = is.iter().rev().zip(want.iter().rev()).take_while(|(a, b)| a == b).count();
    let (is, want) = (&is[..is.len() - end], &want[..want.len() - end]);
    let lines = is.iter().map(|line| ('-', line)).chain(want.iter().map(|line| ('+', line)));
    let mut told = String::new();
    for (sign, line) in lines.take(SHOWN) {
        let _ = writeln!(told, "{sign} {line}");
    }
    if !told.is_empty() {
        told.insert_str(0, &format!("from line {}:\n", same + 1));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_the_lines_that_differ_and_no_others() {
        assert_eq!(difference("a\nb\nc\n", "a\nb\nc\n"), "");
        assert_eq!(difference("a\nb\nc\n", "a\nx\ny\nc\n"), "from line 2:\n- b\n+ x\n+ y\n");
        assert_eq!(difference("a\n", "a\nb\n"), "from line 2:\n+ b\n");
    }

    #[test]
    #[should_panic(expected = "stands in the table already")]
    fn one_thing_stands_there_once() {
        let mut table = Refusals::new("none", "None.");
        table.case("a", "b");
        table.case("a", "c");
    }

    #[test]
    #[should_panic(expected = "+     refused otherwise")]
    fn another_message_fails() {
        let file = std::env::temp_dir().join(format!("kasho-refusals-{}", std::process::id()));
        let mut table = Refusals::new(&file, "None.");
        table.case("a", "refused");
        std::fs::write(&file, &table.text).unwrap_or_else(|e| panic!("{e}"));
        table.clone().finish();
        let mut other = Refusals::new(&file, "None.");
        other.case("a", "refused otherwise");
        other.finish();
    }
}
