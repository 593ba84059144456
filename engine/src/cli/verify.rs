//! `kasho verify`: compares the target with the source, and says which rows differ.
//!
//! Keys of rows are values of rows. They are printed on a terminal, and anywhere else only if
//! `--show-keys` says so: what goes into a file or a job's log is read by more people than
//! the one who asked. Private values themselves are never printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use secrecy::{ExposeSecret, SecretString};

use crate::config::Config;
use crate::source::conninfo::Conninfo;
use crate::source::wal::conninfo;
use crate::verify::{Difference, How, Kind, Leak, Leaks, Options, Progress, Report, Table, verify};

/// Rows of a table that are told one by one.
const TOLD: usize = 20;
/// And leaks of one column in one place.
const TOLD_OF_ONE: usize = 5;

/// Arguments of `kasho verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The target, if apply.target of the configuration is not the one: a libpq connection URL.
    #[arg(long, value_name = "URL", env = "KASHO_TARGET", hide_env_values = true)]
    target: Option<SecretString>,
    /// Compare about so many rows of each table, other ones each time; row counts are those of
    /// all rows.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Look for private values in the target, too.
    #[arg(long)]
    leaks: bool,
    /// With --leaks: so many values of each masked column are looked for, and of all columns
    /// together 500000 at most.
    #[arg(long, value_name = "VALUES", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=500_000))]
    leak_values: u64,
    /// Seconds that the target may take to reach the source's position.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
    /// Print keys of rows although standard output is no terminal. They are row values.
    #[arg(long)]
    show_keys: bool,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// Compares.
///
/// # Errors
/// A difference, a leak, a table that could not be compared; or whatever keeps it from being
/// found out.
pub async fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path).map_err(|errors| anyhow!("{errors}"))?;
    let source = conninfo(&config.source)?;
    let target = target(arguments, &config)?;
    let options = Options {
        sample: arguments.sample,
        leaks: arguments.leaks.then_some(arguments.leak_values),
        wait: Duration::from_secs(arguments.wait),
    };
    let bar = Bar::new();
    let report = verify(&config, (&source, &target), options, &bar).await;
    bar.0.finish_and_clear();
    let mut report = report?;
    let keys = arguments.show_keys || std::io::stdout().is_terminal();
    if !keys {
        withhold(&mut report);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report, keys));
    }
    verdict(&report)
}

fn target(arguments: &Arguments, config: &Config) -> anyhow::Result<Conninfo> {
    let (name, url) = match (&arguments.target, &config.apply.target) {
        (Some(url), _) => ("--target", url),
        (None, Some(url)) => ("apply.target", url),
        (None, None) => bail!("no target: set apply.target, or give --target"),
    };
    Conninfo::parse(url.expose_secret()).map_err(|error| anyhow!("{name}: {error}"))
}

/// Takes the keys out.
fn withhold(report: &mut Report) {
    let hide = |key: &mut Vec<(String, String)>| {
        key.iter_mut().for_each(|(_, value)| "withheld".clone_into(value));
    };
    for table in &mut report.tables {
        table.differences.iter_mut().for_each(|difference| hide(&mut difference.key));
    }
    for leak in report.leaks.iter_mut().flat_map(|leaks| &mut leaks.found) {
        hide(&mut leak.row);
    }
}

fn verdict(report: &Report) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    if report.compared() == 0 {
        let text = "nothing was compared at all: no published table leaves and is in the target";
        wrong.push(text.to_owned());
    }
    match report.differing() {
        0 => {}
        n => wrong.push(format!("{n} of {} tables differ", report.tables.len())),
    }
    match report.leaks() {
        0 => {}
        n => wrong.push(format!("{n} private values stand in the target")),
    }
    match report.unjudged() {
        0 => {}
        n => wrong.push(format!(
            "{n} values may be private and stand in rows that changed too fast to be judged: \
             verify again when less is written"
        )),
    }
    if report.leaks.as_ref().is_some_and(|leaks| leaks.more) {
        let text = "more values may be private than are judged: see to those that are named, and \
                    verify again";
        wrong.push(text.to_owned());
    }
    match report.unfinished() {
        0 => {}
        n => wrong.push(format!(
            "{n} tables changed too fast to be compared: verify again when less is written, or \
             with --sample"
        )),
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("{}", wrong.join("; ")),
    }
}

fn text(report: &Report, keys: bool) -> String {
    let mut out = format!("source at {}", report.source_lsn);
    match &report.target_position {
        Some(position) => out += &format!(", target at {position}\n"),
        None => out += ", target as it is: no applier keeps its progress there\n",
    }
    out += &format!("rules {}\n", report.rules);
    report.tables.iter().for_each(|one| table(&mut out, one, keys));
    if let Some(found) = &report.leaks {
        leaks(&mut out, found, keys);
    }
    if !keys && (report.differing() > 0 || report.leaks() > 0) {
        out += "Keys of rows are withheld, for this is no terminal (--show-keys prints them).\n";
    }
    out
}

/// Writing to a String cannot fail.
fn table(out: &mut String, table: &Table, keys: bool) {
    let name = match table.target == table.table || table.target.is_empty() {
        true => table.table.clone(),
        false => format!("{} as {}", table.table, table.target),
    };
    if let Some(reason) = table.not_compared.as_ref().filter(|_| table.stands) {
        let _ = writeln!(out, "{name}: DIFFERS, {reason}, and the target has some");
        return;
    }
    if let Some(reason) = &table.not_compared {
        let _ = writeln!(out, "{name}: not compared, {reason}");
        return;
    }
    if let Some(lacks) = &table.lacks {
        let _ = writeln!(out, "{name}: DIFFERS, the target lacks {lacks}");
        return;
    }
    let verdict = match (table.differs(), table.unfinished, table.unsettled) {
        (true, ..) => "DIFFERS".to_owned(),
        (false, true, _) => "UNDECIDED".to_owned(),
        (false, false, 0) => "equal".to_owned(),
        (false, false, n) => format!("equal but for {n} rows that kept changing"),
    };
    let rows = match table.source_rows == table.target_rows {
        true => format!("{} rows", table.source_rows),
        false => format!("{} rows, {} in the target", table.source_rows, table.target_rows),
    };
    let compared = match table.compared_rows < table.source_rows {
        true => format!(", {} of them compared", table.compared_rows),
        false => String::new(),
    };
    let _ = writeln!(out, "{name}: {verdict}, {rows}{compared}");
    if table.filtered {
        out.push_str("  rules remove rows of it: those that are in the target were compared\n");
    }
    for skipped in &table.skipped {
        let _ = writeln!(out, "  {} is not compared: {}", skipped.column, skipped.reason);
    }
    if table.counts_differ {
        out.push_str("  the numbers of rows differ\n");
    }
    for difference in table.differences.iter().take(TOLD) {
        let _ = writeln!(out, "  {}", told(difference, keys));
    }
    if table.differences.len() > TOLD {
        let _ = writeln!(out, "  and {} more", table.differences.len() - TOLD);
    }
    if table.more {
        out.push_str("  there are more: looking ended here\n");
    }
    if table.unsettled > 0 {
        let _ = writeln!(
            out,
            "  nothing is said of {} rows, which kept changing: verify again when less is written",
            table.unsettled
        );
    }
}

fn told(difference: &Difference, keys: bool) -> String {
    let what = match difference.kind {
        Kind::Missing => "missing in the target",
        Kind::Extra => "only in the target",
        Kind::Changed => "changed",
    };
    let mut line = format!("{what}: {}", row(&difference.key, keys));
    if let Some((source, target)) = difference.copies {
        let named = match difference.key.as_slice() {
            [] => "a row without key".to_owned(),
            key => row(key, keys),
        };
        line = format!("{what}: {named}, {source} in the source, {target} in the target");
    }
    if !difference.columns.is_empty() {
        line += &format!(" in {}", difference.columns.join(", "));
    }
    line
}

/// A key, for one line of a terminal.
fn row(key: &[(String, String)], keys: bool) -> String {
    let value = |value: &String| match keys {
        true => format!("{value:?}"),
        false => "«withheld»".to_owned(),
    };
    let all = key.iter().map(|(name, text)| format!("{name} = {}", value(text)));
    all.collect::<Vec<_>>().join(", ")
}

fn leaks(out: &mut String, leaks: &Leaks, keys: bool) {
    let _ = match leaks.columns.len() {
        0 => writeln!(out, "leaks: no column is masked"),
        n => writeln!(out, "leaks: {n} masked columns, {} columns searched", leaks.searched),
    };
    for column in &leaks.columns {
        let _ = writeln!(
            out,
            "  {}: {} rows held against their own, {} values looked for",
            column.column, column.own_rows, column.sampled
        );
        for undecided in &column.undecided {
            let _ = writeln!(out, "    {undecided}");
        }
    }
    let mut places: BTreeMap<(&str, &str, How), Vec<&Leak>> = BTreeMap::new();
    for leak in &leaks.found {
        places.entry((&leak.found, &leak.column, leak.how)).or_default().push(leak);
    }
    for ((place, ..), leaks) in &places {
        for leak in leaks.iter().take(TOLD_OF_ONE) {
            let _ = writeln!(out, "  {}", leaked(leak, keys));
        }
        if leaks.len() > TOLD_OF_ONE {
            let _ = writeln!(out, "  and {} more in {place}", leaks.len() - TOLD_OF_ONE);
        }
    }
    if places.keys().any(|(.., how)| *how == How::Own) {
        out.push_str(
            "  rows that left before a rule carry what it gives once their table is loaded again: \
             kasho bootstrap --table …\n",
        );
    }
    if leaks.more {
        out.push_str("  there may be more: looking ended here\n");
    }
    if leaks.unsettled > 0 {
        let _ = writeln!(
            out,
            "  UNDECIDED: {} values that may be private, in rows that changed all the time",
            leaks.unsettled
        );
    }
}

fn leaked(leak: &Leak, keys: bool) -> String {
    let (column, found, row) = (&leak.column, &leak.found, row(&leak.row, keys));
    match leak.how {
        How::Own => format!("LEAK: {found} holds the original of {column}, row {row}"),
        How::Stray => format!("LEAK: a value of {column} stands in {found}, row {row}"),
        How::Passes => format!(
            "LEAK: a value of {column} stands in {found}, row {row}: it stands in the source's \
             row, too, and nothing rewrites that column"
        ),
    }
}

/// On a terminal, a bar on standard error.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::hidden();
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let template = "{bar:30} {percent:>3}% {msg} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

impl Progress for Bar {
    fn table(&self, name: &str, rows: u64) {
        self.0.set_length(rows.max(1));
        self.0.set_position(0);
        self.0.set_message(name.to_owned());
    }

    fn rows(&self, rows: u64) {
        self.0.inc(rows);
        if self.0.length().is_some_and(|length| length < self.0.position()) {
            self.0.set_length(self.0.position());
        }
    }

    fn waits(&self, told: &str) {
        self.0.set_message(told.to_owned());
        self.0.tick();
    }

    fn settles(&self, rows: usize) {
        self.0.set_message(format!("reading {rows} rows again"));
        self.0.tick();
    }

    fn searches(&self, table: &str) {
        self.0.set_message(format!("searching {table}"));
        self.0.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let difference = Difference {
            kind: Kind::Changed,
            key: vec![("id".to_owned(), "ann@example.com".to_owned())],
            copies: None,
            columns: vec!["note".to_owned()],
        };
        let table = Table {
            table: "public.people".to_owned(),
            target: "crm.people".to_owned(),
            source_rows: 3,
            target_rows: 3,
            compared_rows: 3,
            differences: vec![difference],
            ..Table::default()
        };
        Report { source_lsn: "0/1".to_owned(), tables: vec![table], ..Report::default() }
    }

    #[test]
    fn rows_that_kept_changing_are_not_called_equal() {
        let mut report = report();
        report.tables[0].differences.clear();
        let told = text(&report, true);
        assert!(told.contains("crm.people: equal, 3 rows\n"), "{told}");
        report.tables[0].unsettled = 2;
        let told = text(&report, true);
        let part = "crm.people: equal but for 2 rows that kept changing, 3 rows\n";
        assert!(told.contains(part) && told.contains("nothing is said of 2 rows"), "{told}");
        assert!(verdict(&report).is_ok(), "a busy row is no difference");
        report.tables[0].unfinished = true;
        assert!(text(&report, true).contains("UNDECIDED") && verdict(&report).is_err());
        report.tables[0].unfinished = false;
        report.leaks = Some(Leaks::default());
        assert!(verdict(&report).is_ok());
        report.leaks = Some(Leaks { more: true, ..Leaks::default() });
        assert!(verdict(&report).is_err(), "what was not judged is not called clean");
    }

    #[test]
    fn a_key_is_told_on_a_terminal_alone() {
        let mut report = report();
        let told = text(&report, true);
        assert!(told.contains("public.people as crm.people: DIFFERS, 3 rows\n"), "{told}");
        assert!(told.contains("changed: id = \"ann@example.com\" in note"), "{told}");
        let told = text(&report, false);
        assert!(!told.contains("ann@") && told.contains("--show-keys"), "{told}");
        withhold(&mut report);
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("ann@") && json.contains("withheld"), "{json}");
        assert!(verdict(&report).is_err());
    }
}
