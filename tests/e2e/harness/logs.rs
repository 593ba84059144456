//! The register of everything the engine said during the run, and the search of it for
//! planted secrets and row values. What PostgreSQL and Redis log for themselves is not
//! in it: they may log rows, the engine may not.
//!
//! A canary has to be planted before it goes anywhere, and must be unmistakable.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// One line that somebody said.
struct Line {
    who: String,
    text: String,
}

static REGISTER: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static CANARIES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Registers a secret or a row's value that must never be seen in any output of the
/// engine, and hands it back for use.
pub(crate) fn planted(text: impl Into<String>) -> String {
    let text = text.into();
    assert!(text.len() >= 8, "a canary needs eight characters to be unmistakable: {text:?}");
    CANARIES.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone());
    text
}

/// A canary with a random tail: `planted_unique("email")`.
pub(crate) fn planted_unique(hint: &str) -> String {
    planted(format!("{hint}-{}", super::unique()))
}

/// Adds output to the register. [`verify`] searches it.
pub(crate) fn record(who: &str, text: &str) {
    let mut register = REGISTER.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = text.lines().map(|line| Line { who: who.to_owned(), text: line.to_owned() });
    register.extend(lines);
}

/// Fails the test if a canary was planted anywhere and shows in what `who` said.
pub(crate) fn verify(who: &str) {
    let leaks = leaks(who);
    // A second panic while the first unwinds would abort the whole run.
    if leaks.is_empty() || std::thread::panicking() {
        return;
    }
    panic!("{who} said what must stay secret:\n{}", leaks.join("\n"));
}

/// The lines of `who` in which a canary shows, in any of the forms that a careless
/// `Debug` gives it.
pub(crate) fn leaks(who: &str) -> Vec<String> {
    let canaries = CANARIES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let forms: Vec<[String; 4]> = canaries.iter().map(|canary| forms(canary)).collect();
    let register = REGISTER.lock().unwrap_or_else(PoisonError::into_inner);
    let leaky = |text: &str| forms.iter().flatten().any(|form| text.contains(form.as_str()));
    let said = register.iter().filter(|line| line.who == who);
    said.filter(|line| leaky(&line.text)).map(|line| line.text.clone()).collect()
}

/// As it is, in hexadecimal, as a list of bytes, and with quotes escaped.
fn forms(canary: &str) -> [String; 4] {
    let mut hex = String::new();
    for byte in canary.bytes() {
        let _ = write!(hex, "{byte:02x}");
    }
    let bytes = format!("{:?}", canary.as_bytes());
    let bytes = bytes.trim_matches(['[', ']']).to_owned();
    [canary.to_owned(), hex, bytes, canary.escape_debug().to_string()]
}
