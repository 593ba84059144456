//! `pg-bootstrap-sync`, also `kasho bootstrap-sync`: loads a dump file into the bootstrap
//! stream. Its flags are those of the original.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::status::bytes;
use crate::config::DEFAULT_PATH;
use crate::log;
use crate::sink::status::Status;
use crate::source::dump::{Input, Options, Policy, Report, TableCount};
use crate::sync::{self, Figures, Job, Outcome, Recipe};

/// How often the progress is shown on a terminal.
const SHOW: Duration = Duration::from_millis(200);
/// How often it is logged without one.
const SAY: Duration = Duration::from_secs(10);

/// Arguments of `pg-bootstrap-sync`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What pg_dump wrote: a plain file (also compressed with gzip, zstd or lz4), an archive
    /// (-Fc, -Ft), a folder (-Fd), or - for standard input.
    #[arg(long, short = 'd', value_name = "FILE")]
    dump_file: PathBuf,
    /// redis://[user[:password]@]host[:port][/db]; without it, the configuration's.
    #[arg(long, short = 'k', alias = "kv-url", value_name = "URL")]
    redis_url: Option<SecretString>,
    /// Rows published at once, at most.
    #[arg(long, short, value_name = "ROWS", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_size: u32,
    /// Load only so many rows of each table, 0 = all; the epoch counts as incomplete then.
    #[arg(long, short, value_name = "ROWS", default_value_t = 0)]
    max_rows_per_table: u64,
    /// Say how far it is after so many rows; without it, every ten seconds.
    #[arg(long, short, value_name = "ROWS")]
    progress_interval: Option<u64>,
    /// Read everything and pass it through the plugins, publish nothing.
    #[arg(long)]
    dry_run: bool,
    /// Say more.
    #[arg(long, short)]
    verbose: bool,
    /// Load tables that the publication does not carry, too.
    #[arg(long)]
    all_tables: bool,
    /// What statements do that are not understood.
    #[arg(long, value_enum, default_value_t = OnOther::Halt)]
    unknown: OnOther,
    /// What large objects do, which no table holds.
    #[arg(long, value_enum, default_value_t = OnOther::Halt)]
    large_objects: OnOther,
    /// Programs that read an archive of -Fd at once.
    #[arg(long, short, default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// The pg_restore that reads archives; by default the one on PATH.
    #[arg(long, value_name = "PROGRAM")]
    pg_restore: Option<PathBuf>,
}

/// A choice about what is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnOther {
    /// End with an error that names the line.
    Halt,
    /// Count it and go on.
    Pass,
}

impl From<OnOther> for Policy {
    fn from(choice: OnOther) -> Policy {
        match choice {
            OnOther::Halt => Policy::Halt,
            OnOther::Pass => Policy::Pass,
        }
    }
}

/// Loads a dump.
///
/// # Errors
/// See [`sync::SyncError`].
pub async fn run(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let level = match (arguments.verbose, terminal) {
        (true, _) => "debug",
        (false, true) => "warn",
        (false, false) => "info",
    };
    let _log = log::init(&log::Config { level: level.to_owned(), ..log::Config::default() })?;
    let stop = stop_on_signals()?;
    let job = job(arguments, config);
    let how = Show { every: arguments.progress_interval };
    let (outcome, figures) = load(&job, &how, &stop).await?;
    if matches!(outcome, Outcome::Stopped) {
        bail!("ended before the dump was loaded; the same command goes on where it is now");
    }
    told(&outcome, &figures).iter().for_each(|line| println!("{line}"));
    if matches!(outcome, Outcome::Loaded(_)) {
        println!(
            "Go on with `kasho bootstrap --yes`, or\n  grpcurl -plaintext pg-change-stream:50051 \
             kasho.ChangeStreamService/CompleteBootstrap"
        );
    }
    Ok(())
}

/// Cancelled by SIGINT or SIGTERM.
pub(super) fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        asked.cancel();
    });
    Ok(stop)
}

fn job(arguments: &Arguments, config: &Path) -> Job {
    let input = match arguments.dump_file.to_str() {
        Some("-") => Input::Stdin,
        _ => Input::File(arguments.dump_file.clone()),
    };
    let rows = arguments.max_rows_per_table;
    let options = Options {
        all_tables: arguments.all_tables,
        max_rows: (rows > 0).then_some(rows),
        unknown: arguments.unknown.into(),
        large_objects: arguments.large_objects.into(),
        batch_rows: arguments.batch_size as usize,
        jobs: usize::from(arguments.jobs),
        pg_restore: arguments.pg_restore.clone(),
        ..Options::default()
    };
    let there = config != Path::new(DEFAULT_PATH) || config.exists();
    let recipe = Recipe {
        path: there.then(|| config.to_owned()),
        redis_url: arguments.redis_url.clone(),
        command: command(arguments),
    };
    Job { recipe, input, options, dry_run: arguments.dry_run, status: Status::default() }
}

/// The command with a configuration added, without the password of Redis.
fn command(arguments: &Arguments) -> String {
    let mut text = format!(
        "pg-bootstrap-sync --config=KASHO.TOML --dump-file={}",
        arguments.dump_file.display()
    );
    if let Some(url) = &arguments.redis_url {
        text.push_str(&format!(" --redis-url={}", without_password(url.expose_secret())));
    }
    text
}

/// A URL for people.
fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, place)) => format!("{scheme}://…@{place}"),
            None => url.to_owned(),
        },
        None => "…".to_owned(),
    }
}

/// How the progress is shown: as a bar on a terminal, in lines of the log without one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Show {
    /// A line after so many rows.
    pub(super) every: Option<u64>,
}

/// Loads, and shows how far it is.
pub(super) async fn load(
    job: &Job,
    how: &Show,
    stop: &CancellationToken,
) -> Result<(Outcome, Figures), sync::SyncError> {
    let (figures, seen) = watch::channel(Figures::default());
    let last = seen.clone();
    let shown = show(seen, job.status.clone(), *how);
    let outcome = tokio::select! {
        biased;
        outcome = sync::run(job, &figures, stop) => outcome?,
        () = shown => return Err(sync::SyncError::Internal("the progress display ended")),
    };
    let figures = last.borrow().clone();
    Ok((outcome, figures))
}

/// Shows the figures until it is dropped.
async fn show(mut seen: watch::Receiver<Figures>, status: Status, how: Show) {
    let terminal = std::io::stderr().is_terminal();
    let bar = Arc::new(ProgressBar::hidden());
    if terminal {
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    }
    let _clear = Clear(Arc::clone(&bar));
    let known = "{bar:30} {percent:>3}% {msg} {elapsed}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(known) {
        bar.set_style(style);
    }
    let mut clock = tokio::time::interval(if terminal { SHOW } else { SAY });
    clock.tick().await;
    let mut said = 0;
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            Ok(()) = seen.changed(), if how.every.is_some() => {
                let rows = seen.borrow().rows;
                if rows / how.every.unwrap_or(1).max(1) == said {
                    continue;
                }
                said = rows / how.every.unwrap_or(1).max(1);
            }
        }
        let figures = seen.borrow().clone();
        let line = line(&figures, status.get().paused.as_deref());
        if terminal {
            bar.set_length(figures.total.max(figures.bytes).max(1));
            bar.set_position(figures.bytes);
            bar.set_message(line);
        } else {
            tracing::info!("{line}");
        }
    }
}

/// Takes the bar away whatever ends it.
struct Clear(Arc<ProgressBar>);

impl Drop for Clear {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn line(figures: &Figures, paused: Option<&str>) -> String {
    let Figures { rows, bytes: read, total, table, .. } = figures;
    let of = match total {
        0 => bytes(*read),
        total => format!("{} of {} ({} %)", bytes(*read), bytes(*total), percent(*read, *total)),
    };
    let paused = paused.map(|why| format!("; paused: {why}")).unwrap_or_default();
    format!("{rows} rows, {of}, {table}{paused}")
}

pub(super) fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(100).min(100)
}

/// What a person reads at the end.
pub(super) fn told(outcome: &Outcome, figures: &Figures) -> Vec<String> {
    let (report, verb) = match outcome {
        Outcome::Loaded(report) => (report, "loaded"),
        Outcome::Dry(report) => (report, "dry run, nothing was published"),
        Outcome::Already(stored) => {
            return vec![format!(
                "loaded already: {} rows of this dump; nothing was done",
                stored.rows
            )];
        }
        Outcome::Stopped => return Vec::new(),
    };
    let Figures { rows, entries, resumed, .. } = figures;
    let behind = resumed.map(|n| format!(" ({n} of them by earlier runs)")).unwrap_or_default();
    let mut lines = vec![format!(
        "{verb}: {rows} rows{behind} of {} tables; {entries} passed the chain",
        report.tables.len()
    )];
    lines.extend(left_out(report, figures));
    lines
}

/// Everything in the dump that became no entry, in words.
fn left_out(report: &Report, figures: &Figures) -> Vec<String> {
    let mut lines = Vec::new();
    let mut tables = |what: &str, tables: &BTreeMap<String, TableCount>| {
        if !tables.is_empty() {
            let rows: u64 = tables.values().map(|count| count.rows).sum();
            let names: Vec<&str> = tables.keys().take(10).map(String::as_str).collect();
            let more = if tables.len() > 10 { ", …" } else { "" };
            lines.push(format!("{what}: {rows} rows of {}{more}", names.join(", ")));
        }
    };
    tables("left out, not published (--all-tables loads them)", &report.skipped);
    tables("left out by -m, so the load is incomplete", &report.beyond_limit);
    let mut count = |n: u64, what: &str| {
        if n > 0 {
            lines.push(format!("left out: {n} {what}"));
        }
    };
    count(figures.ddl, "schema statements: make the target's schema by pg_dump --schema-only");
    count(figures.sequences, "positions of sequences: set them on the target once it is filled");
    count(report.large_objects, "large objects");
    for unknown in &report.unknown {
        let what = format!("× {}, not understood (first in line {})", unknown.kind, unknown.line);
        count(unknown.count, &what);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told() {
        let count = |rows| TableCount { rows, bytes: 0 };
        let report = Report {
            tables: [("public.a".to_owned(), count(3))].into(),
            skipped: [("public.log".to_owned(), count(9))].into(),
            sequences: 2,
            ..Report::default()
        };
        let figures = Figures {
            rows: 5,
            entries: 4,
            resumed: Some(2),
            ddl: 1,
            sequences: 2,
            ..Figures::default()
        };
        let lines = told(&Outcome::Loaded(report), &figures);
        assert_eq!(
            lines[0],
            "loaded: 5 rows (2 of them by earlier runs) of 1 tables; 4 passed the chain"
        );
        let rest = lines[1..].join("\n");
        for words in ["--all-tables loads them): 9 rows of public.log", "1 schema", "2 positions"] {
            assert!(rest.contains(words), "no {words:?} in {rest}");
        }
        assert_eq!(lines.len(), 4, "{lines:?}");
    }

    #[test]
    fn no_password_is_repeated() {
        for (url, told) in [
            ("redis://:s3c@ret@h:1/0", "redis://…@h:1/0"),
            ("redis://redis:6379", "redis://redis:6379"),
            ("s3cret", "…"),
        ] {
            assert_eq!(without_password(url), told);
        }
    }
}
