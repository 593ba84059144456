//! The rules of the repository that no linter knows: sizes, imports, what stands where.
//!
//! They are checked on the text as rustfmt leaves it, which is enough and needs no
//! parser: a function ends at the first line that closes its own indentation.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 500;

/// What may stand in the root, beside dot-files and cargo's output.
const ROOT: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "config",
    "engine",
    "plugin-sdk",
    "plugins",
    "tests",
];

/// Modules that are functions of their arguments: no I/O, no clock.
const PURE: [&str; 7] = ["ack", "batch", "bootstrap", "copy", "lexer", "pgoutput", "position"];
const IMPURE: [&str; 6] = ["tokio", "std::net", "std::fs", "std::io", "Instant", "SystemTime"];

/// Stations that only the pipeline brings together.
const STATIONS: [&str; 3] = ["source", "transform", "sink"];

/// A source file, split where its own tests begin.
struct File {
    path: PathBuf,
    /// All of it.
    text: String,
    /// Without comments and without its tests.
    code: String,
}

impl File {
    fn new(path: PathBuf, text: String) -> File {
        let code = text.split("\n#[cfg(test)]\n").next().unwrap_or("");
        let code = code.lines().map(|line| line.split("//").next().unwrap_or(""));
        let code = code.collect::<Vec<_>>().join("\n");
        File { path, text, code }
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests") || self.path.ends_with("tests.rs")
    }

    /// The parts of the path below `engine/src`, without `.rs`.
    fn modules(&self) -> Vec<String> {
        let below = self.path.strip_prefix("engine/src").map(|path| path.with_extension(""));
        let below = below.unwrap_or_default();
        below.iter().map(|part| part.to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn every_file_says_its_role() {
    let silent = |file: &File| !file.text.starts_with("//! ");
    none(
        rust_files().iter().filter(|file| silent(file)).map(|file| tell(file, "opens without //!")),
    );
}

#[test]
fn files_and_functions_stay_readable() {
    none(rust_files().iter().flat_map(too_long));
}

fn too_long(file: &File) -> Vec<String> {
    let functions = functions(&file.code).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
    let mut found: Vec<String> = functions
        .map(|(name, lines)| tell(file, &format!("fn {name} has {lines} lines")))
        .collect();
    let lines = file.code.lines().count();
    if !file.is_test() && lines > FILE_LINES {
        found.push(tell(file, &format!("has {lines} lines without its tests")));
    }
    found
}

/// Names and lengths.
fn functions(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indentation = &line[..line.len() - line.trim_start().len()];
        let rest = lines.iter().skip(start);
        // The signature's last line tells whether there is a body, and one of many lines.
        let opens = rest.clone().position(|line| line.trim_end().ends_with(['{', ';', '}']));
        let opens = opens.filter(|at| lines[start + at].trim_end().ends_with('{'));
        if opens.is_none() {
            continue;
        }
        let closing = format!("{indentation}}}");
        let end = rest.clone().position(|line| line.trim_end() == closing);
        found.push((name.to_owned(), end.map_or(lines.len() - start, |end| end + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let known = ["pub", "async", "const", "unsafe", "extern", "\"C\""];
    let prefix = |word: &str| known.contains(&word) || word.starts_with("pub(");
    let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (before.split_whitespace().all(prefix) && !name.is_empty()).then_some(name)
}

#[test]
fn stations_do_not_know_one_another() {
    none(rust_files().iter().flat_map(|file| {
        let station = file.modules().first().cloned().unwrap_or_default();
        let others = STATIONS.into_iter().filter(|other| *other != station);
        let strange = others.filter(|other| {
            STATIONS.contains(&station.as_str())
                && from_crate(&file.code).any(|name| name == *other)
        });
        strange.map(|other| tell(file, &format!("imports crate::{other}"))).collect::<Vec<_>>()
    }));
}

/// The modules that a file takes from its crate: `crate::a`, `crate::{a, b::c}`.
fn from_crate(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).flat_map(|rest| {
        let identifier = |c: char| c.is_alphanumeric() || c == '_';
        let group =
            rest.strip_prefix('{').map(|rest| &rest[..rest.find(';').unwrap_or(rest.len())]);
        let words = group.unwrap_or(&rest[..rest.find(|c| !identifier(c)).unwrap_or(rest.len())]);
        words.split(move |c| !identifier(c)).filter(|word| !word.is_empty())
    })
}

#[test]
fn what_is_a_function_does_no_io_and_reads_no_clock() {
    none(rust_files().iter().flat_map(|file| {
        let modules = file.modules();
        // A command is named after what it asks for.
        let pure = modules.first().is_none_or(|first| first != "cli")
            && modules.iter().any(|module| PURE.contains(&module.as_str()));
        let used =
            IMPURE.into_iter().filter(|word| pure && !file.is_test() && has_word(&file.code, word));
        used.map(|word| tell(file, &format!("uses {word}"))).collect::<Vec<_>>()
    }));
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !part(code[..at].chars().next_back()) && !part(code[at + word.len()..].chars().next())
    })
}

#[test]
fn statements_are_quoted_in_one_place() {
    let doubled = [r#"replace('"', "\"\"")"#, r#"replace('\'', "''")"#];
    let strays = rust_files()
        .into_iter()
        .filter(|file| file.path.starts_with("engine/src") && file.modules() != ["quote"]);
    none(strays.flat_map(|file| {
        let found = doubled.into_iter().filter(|text| file.code.contains(text));
        found.map(|text| tell(&file, &format!("has {text}: use crate::quote"))).collect::<Vec<_>>()
    }));
}

#[test]
fn nothing_stands_where_it_does_not_belong() {
    let mut wrong: Vec<String> = Vec::new();
    for entry in fs::read_dir(root()).expect("root").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_output(&name) && !name.starts_with('.') && !ROOT.contains(&name.as_str()) {
            wrong.push(format!("{name} does not belong in the root"));
        }
    }
    let files = rust_files();
    let modules = files.iter().filter(|file| file.path.ends_with("mod.rs"));
    wrong.extend(modules.map(|file| tell(file, "is called mod.rs: put foo.rs beside foo/")));
    none(wrong.into_iter());
}

#[test]
fn no_test_is_left_out() {
    let ignore = concat!("#[ign", "ore");
    let skipping = |file: &&File| file.text.contains(ignore);
    none(rust_files().iter().filter(skipping).map(|file| tell(file, "ignores a test")));
}

#[test]
fn files_speak_of_the_project_alone() {
    // Split, so that this file does not find itself.
    let foreign = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "k/"),
        concat!("/ro", "ot/"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("tick", "et #"),
    ];
    none(all_files().into_iter().flat_map(|path| {
        // In what a compiler made, too.
        let bytes = fs::read(root().join(&path)).expect("file");
        let text = String::from_utf8_lossy(&bytes);
        let found = foreign.into_iter().filter(|words| text.contains(words));
        found.map(|words| format!("{}: speaks of {words}", path.display())).collect::<Vec<_>>()
    }));
}

#[test]
fn the_checks_find_what_they_look_for() {
    let long = format!(
        "impl X {{\n    pub(crate) async fn f(\n        a: u8,\n    ) {{\n{}    }}\n}}\nfn g() {{}}\n",
        "        x;\n".repeat(70)
    );
    assert_eq!(functions(&long), [("f".to_owned(), 74)]);
    let file = File::new("engine/src/a.rs".into(), format!("//! A.\n{long}"));
    assert_eq!(too_long(&file).len(), 1);
    let tests = File::new(
        "engine/src/a.rs".into(),
        format!("//! A.\n#[cfg(test)]\nmod tests {{\n{long}}}"),
    );
    assert!(too_long(&tests).is_empty());
    let huge = File::new("engine/src/a.rs".into(), "//! A.\n".repeat(502));
    assert_eq!(too_long(&huge).len(), 1);
    let taken: Vec<&str> =
        from_crate("use crate::{\n    a::B,\n    c,\n};\ncrate::d::e();").collect();
    assert_eq!(taken, ["a", "B", "c", "d"]);
    assert!(has_word("use tokio::x;", "tokio") && !has_word("tokio_postgres", "tokio"));
    assert!(std::panic::catch_unwind(|| none(["x".to_owned()].into_iter())).is_err());
}

fn tell(file: &File, what: &str) -> String {
    format!("{}: {what}", file.path.display())
}

/// Fails with all findings at once.
fn none(findings: impl Iterator<Item = String>) {
    let findings: Vec<String> = findings.collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the root")
}

fn is_output(name: &str) -> bool {
    name == "target" || name.starts_with("target-")
}

fn rust_files() -> Vec<File> {
    let all = all_files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let files: Vec<File> = all
        .map(|path| (fs::read_to_string(root().join(&path)).expect("UTF-8"), path))
        .map(|(text, path)| File::new(path, text))
        .collect();
    assert!(files.len() > 10, "the tree was not found");
    files
}

/// Every file of the repository, relative to its root.
fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if is_output(&name) || name == ".git" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root()).expect("below").to_owned());
            }
        }
    }
    found.sort();
    found
}
