//! No refusal without its line in `golden/refusals`: every sentence that the sources below
//! can say stands there, in the message of some case.
//!
//! The tables are made by the tests of each crate, from what is really refused. Here the
//! sources are read as text: a sentence is a literal of three words or more, and what is put
//! into it fits anything.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// What refuses candidates, rules and replies, by file or folder.
const SOURCES: [&str; 40] = [
    "engine/src/transform/archive.rs",
    "engine/src/transform/called.rs",
    "engine/src/transform/chain.rs",
    "engine/src/transform/check.rs",
    "engine/src/transform/config.rs",
    "engine/src/transform/coverage.rs",
    "engine/src/transform/ddl.rs",
    "engine/src/transform/description.rs",
    "engine/src/transform/draft.rs",
    "engine/src/transform/error.rs",
    "engine/src/transform/exchange.rs",
    "engine/src/transform/generation.rs",
    "engine/src/transform/imports.rs",
    "engine/src/transform/instance.rs",
    "engine/src/transform/keys.rs",
    "engine/src/transform/load.rs",
    "engine/src/transform/loosen.rs",
    "engine/src/transform/outcome.rs",
    "engine/src/transform/plan.rs",
    "engine/src/transform/probe.rs",
    "engine/src/transform/rename.rs",
    "engine/src/transform/rows.rs",
    "engine/src/transform/seal.rs",
    "engine/src/transform/store.rs",
    "plugin-sdk/src/batch.rs",
    "plugin-sdk/src/batch/reply.rs",
    "plugin-sdk/src/pattern.rs",
    "plugin-sdk/src/plugin",
    "plugin-sdk/src/plugin.rs",
    "plugin-sdk/src/session.rs",
    "plugins/anonymize/src/check",
    "plugins/anonymize/src/check.rs",
    "plugins/anonymize/src/lib.rs",
    "plugins/anonymize/src/make",
    "plugins/anonymize/src/make.rs",
    "plugins/anonymize/src/paths.rs",
    "plugins/anonymize/src/rules",
    "plugins/anonymize/src/rules.rs",
    "plugins/filter/src",
    "plugins/tokenize/src",
];

/// Sentences that refuse nothing, or that nobody can be made to say; each with the reason.
const OTHERS: [(&str, &str); 36] = [
    // Warnings, notes and log lines.
    ("{table}: column {column} passes, by new_columns = \"pass\"", WARNING),
    ("{error} (of messages whose content is no text: the first one stops the stream)", WARNING),
    (
        "{table}.{name}: rows that left before {are}, until the table is loaded again (`kasho \
         bootstrap --table {table}`)",
        WARNING,
    ),
    ("are not masked", WARNING),
    ("carry the old mapping", WARNING),
    ("{at}: {was}; it leaves from now on", WARNING),
    (
        "{table}: of {rows} recent rows that it was tried on, {is} were dropped ({was} before), \
         {errors} more were in error",
        WARNING,
    ),
    ("plugin logs too much; the rest of this second is lost", WARNING),
    ("compiled code is not kept: {e}", WARNING),
    ("compiled code is not kept: {e:#}", WARNING),
    ("compiled code is damaged; compiling anew", WARNING),
    (
        "with `unique = true`, two of a million values have one fake with odds of 1 : 2 × 10¹²",
        WARNING,
    ),
    (
        "the rule has fewer than 1,000 results and goes by the value, so that counting them tells \
         which value is which: give it by = \"row\" or a column",
        WARNING,
    ),
    ("the rule hashes a password for each row, and all that its algorithm costs with it", WARNING),
    // Errors of single rows, which a plugin declares.
    (
        "the condition reads a value that PostgreSQL did not send (unchanged, out of line): ALTER \
         TABLE … REPLICA IDENTITY FULL",
        ROW,
    ),
    ("the condition reads a value that is none of its column's type", ROW),
    ("the token is longer than the column: keep only short values in it, or make it text", ROW),
    // Traps of which the host tells something else, with figures.
    ("more memory than it may have", "told as the memory that it wants and may have"),
    ("the plugin failed", "told as what it says itself"),
    // What no guest, rule or reply can bring about.
    (
        "its init answers otherwise than when it was loaded: it must not depend on anything but \
         the rules",
        "a fresh guest has nothing else to depend on",
    ),
    ("it could not be started", "an instance is there, or another error was told"),
    ("the batch is too large", "calls are cut long before 4 GiB"),
    (
        "a batch cannot exceed 4 GiB, 2^31 rows or 65,535 columns: send fewer rows",
        "calls are cut long before that",
    ),
    ("an export is missing (ABI.md, Exports)", "the file was checked for it"),
    ("behind its header", "all of a reply is told by its header or a patch"),
    ("the batch has no rows", HOST),
    ("an operation that does not exist", HOST),
    ("cannot read the host's init call: {e}", HOST),
    ("cannot read the host's relation call: {e}", HOST),
    ("announcement of the relation", HOST),
    ("`{name}` is too large", "only where a length has 32 bits, and its range is below"),
    ("scrypt does not take these `n`, `r` and `p`", "it takes all within their ranges"),
    ("this system has no random numbers to seal its key with", "a system that has none"),
    ("transform: {0} (a bug in the engine)", "bugs only"),
    (
        "belongs to another user: name a folder of this service's own",
        "root alone can give a folder away: the store's own test does, where it is root",
    ),
    ("runs only code whose MAC says that this store wrote it", "a lint's reason"),
];

const WARNING: &str = "nothing is refused";
const ROW: &str = "a row's error, for which on_error is";
const HOST: &str = "an input block or call that no host makes";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// The messages of all tables, each in one line.
fn messages() -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root().join("tests/golden/refusals")).expect("the tables") {
        let text = fs::read_to_string(entry.expect("a table").path()).expect("a table");
        let mut message = String::new();
        for line in text.lines().chain([""]) {
            match line.strip_prefix("    ") {
                Some(line) => message = message + line + "\n",
                None => all.push(std::mem::take(&mut message)),
            }
        }
    }
    all.retain(|message| !message.is_empty());
    all
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder of sources") {
            files(&entry.expect("a file").path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
        found.push(path.to_owned());
    }
}

/// The string literals of a source, without comments and its own tests.
fn literals(source: &str) -> Vec<String> {
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '\'' => character(rest),
            'r' if rest.starts_with("r#\"") => {
                let end = rest[3..].find("\"#").expect("a raw literal ends");
                found.push(rest[3..3 + end].to_owned());
                end + 5
            }
            '"' => {
                let (text, len) = literal(&rest[1..]);
                found.push(text);
                len + 1
            }
            _ => c.len_utf8(),
        };
        rest = &rest[skip..];
    }
    found
}

/// The length of a character's literal; of a lifetime its quote.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, c))) => {
            let after = at + c.len_utf8();
            rest[after..].find('\'').map_or(1, |end| after + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// A literal's text from behind its quote, and its length with the closing one.
fn literal(rest: &str) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, at + 1),
            '\\' => match chars.next().expect("an escape").1 {
                '\n' => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                'n' => text.push('\n'),
                other => text.push(other),
            },
            _ => text.push(c),
        }
    }
    panic!("a literal does not end");
}

/// What stands between the places of a format string.
fn fragments(literal: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut chars = literal.chars().peekable();
    while let Some(c) = chars.next() {
        let doubled = matches!(c, '{' | '}') && chars.next_if_eq(&c).is_some();
        if c == '{' && !doubled {
            chars.by_ref().find(|c| *c == '}');
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push(c);
        }
    }
    all
}

fn is_sentence(literal: &str) -> bool {
    let fragments = fragments(literal).join("0");
    let word = |word: &&str| word.chars().filter(|c| c.is_alphabetic()).count() > 1;
    fragments.split_whitespace().filter(word).count() >= 3
}

/// Whether a message holds the fragments, one after the other.
fn says(message: &str, fragments: &[String]) -> bool {
    let mut rest = message;
    fragments.iter().all(|fragment| match rest.find(fragment.as_str()) {
        Some(at) => {
            rest = &rest[at + fragment.len()..];
            true
        }
        None => false,
    })
}

#[test]
fn every_sentence_that_refuses_stands_in_a_table() {
    let messages = messages();
    assert!(messages.len() > 300, "{} messages", messages.len());
    let mut paths = Vec::new();
    SOURCES.iter().for_each(|path| files(&root().join(path), &mut paths));
    let (mut missing, mut sentences, mut used) = (Vec::new(), 0, Vec::new());
    for path in paths {
        let source = fs::read_to_string(&path).expect("a source");
        for literal in literals(&source).into_iter().filter(|literal| is_sentence(literal)) {
            sentences += 1;
            let fragments = fragments(&literal);
            let told = |message: &String| message.contains(&literal) || says(message, &fragments);
            if messages.iter().any(told) {
                continue;
            }
            match OTHERS.iter().find(|(other, _)| *other == literal) {
                Some((other, _)) => used.push(*other),
                None => missing.push(format!("{}: {literal}", path.display())),
            }
        }
    }
    assert!(missing.is_empty(), "said by no table:\n{}", missing.join("\n"));
    assert!(sentences > 200, "{sentences} sentences");
    let unused: Vec<_> = OTHERS.iter().filter(|(other, _)| !used.contains(other)).collect();
    assert!(unused.is_empty(), "in a table, or said by nobody: {unused:?}");
}

#[test]
fn literals_and_their_places_are_found() {
    let source = "// \"no\"\nlet a = '\"'; f::<'a>(\"one \\\n    {two} {{x}} \\\"q\\\"\", r#\"raw \"x\"\"#);";
    assert_eq!(literals(source), ["one {two} {{x}} \"q\"", "raw \"x\""]);
    assert_eq!(fragments("one {two} {{x}}"), ["one ", " {x}"]);
    assert!(says("so one 2 {x}", &fragments("one {two} {{x}}")));
    assert!(!says("{x} one", &fragments("one {two} {{x}}")));
}
