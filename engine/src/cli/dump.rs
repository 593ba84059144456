//! `kasho bootstrap --dump`: the initial data by way of a file that pg_dump writes, at the
//! engine's own snapshot, through the chain, and away with it.
//!
//! The file holds unmasked rows: it lies in a folder of its own that nobody else may enter,
//! and goes whatever happens, unless `--keep-dump` says otherwise. As long as the snapshot
//! is held, another pg_dump writes the same bytes again: so a load that was interrupted
//! goes on in the new file where it stopped in the one that is gone.
//!
//! What can go wrong: no pg_dump or one that is too old, no room, a snapshot that is gone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::ProgressBar;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::status::bytes;
use super::sync;
use crate::config::Config;
use crate::quote::identifier;
use crate::sink::status::Status;
use crate::source::catalog::Catalog;
use crate::source::conninfo::{Conninfo, FOREIGN_VARIABLES, sql_connect};
use crate::source::dump::{Input, Options};
use crate::source::wal::conninfo;
use crate::sync::{Job, Outcome, Recipe};

/// pg_dump is ended when less than this is left on its disk: a full one hurts others.
const RESERVE: u64 = 64 << 20;
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Patterns on a command line, at most; beyond it everything is dumped, and what is not
/// published is passed over.
const ARGUMENTS: usize = 1 << 20;

/// Arguments of `kasho bootstrap` about a dump.
#[derive(Debug, Args)]
pub(super) struct ByDump {
    /// Load by way of a dump file, written by pg_dump at the same snapshot.
    #[arg(long, conflicts_with_all = ["direct", "external", "no_initial_data"])]
    pub(super) dump: bool,
    /// Compress the dump: a level, or what pg_dump's -Z takes.
    #[arg(long, requires = "dump", value_name = "LEVEL", num_args = 0..=1)]
    #[arg(default_missing_value = "6", require_equals = true)]
    compress: Option<String>,
    /// Dump and read several tables at once (pg_dump -Fd).
    #[arg(long, requires = "dump", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Leave the dump where it is. It holds unmasked rows.
    #[arg(long, requires = "dump")]
    keep_dump: bool,
    /// Where the dump is written; by default bootstrap.state_dir.
    #[arg(long, requires = "dump", value_name = "FOLDER")]
    dump_dir: Option<PathBuf>,
    /// The pg_dump to use; by default the one on PATH.
    #[arg(long, requires = "dump", value_name = "PROGRAM")]
    pg_dump: Option<PathBuf>,
}

/// All that is needed for a dump, checked before anything is begun.
pub(super) struct Plan {
    info: Conninfo,
    program: PathBuf,
    /// The program knows `--restrict-key`: without it two plain dumps are never alike.
    restrict_key: bool,
    /// Folder of the dump folders, and how those of this slot begin.
    base: PathBuf,
    prefix: String,
    tables: Vec<String>,
    compress: Option<String>,
    jobs: Option<u16>,
    keep: bool,
    database_bytes: u64,
    config: PathBuf,
}

impl Plan {
    /// Looks at everything and changes nothing.
    pub(super) async fn new(arguments: &ByDump, path: &Path) -> anyhow::Result<Plan> {
        let config = Config::load(path).map_err(|errors| anyhow!("{errors}"))?;
        let info = conninfo(&config.source)?;
        let client = sql_connect(&info, "kasho bootstrap").await?;
        let row = client
            .query_one(
                "SELECT current_setting('server_version_num')::int4 / 10000, \
                        pg_database_size(current_database())",
                &[],
            )
            .await
            .context("asking for the server's version and the database's size")?;
        let (server, size): (i32, i64) = (row.get(0), row.get(1));
        let catalog = Catalog::read(&client, &config.source.publications).await?;
        if let Some(filtered) = catalog.tables.iter().find(|table| table.filter.is_some()) {
            bail!(
                "the publication carries only some rows of {} (a row filter), which a dump cannot \
                 tell: load without one (kasho bootstrap --direct)",
                filtered.qualified()
            );
        }
        let program = arguments.pg_dump.clone().unwrap_or_else(|| "pg_dump".into());
        let restrict_key = check_program(&program, server)?;
        let base = arguments.dump_dir.clone().unwrap_or(config.bootstrap.state_dir);
        Ok(Plan {
            info,
            program,
            restrict_key,
            base: std::path::absolute(base)?,
            prefix: format!("kasho-dump-{}-e", config.source.slot),
            tables: patterns(&catalog),
            compress: arguments.compress.clone(),
            jobs: arguments.jobs,
            keep: arguments.keep_dump,
            database_bytes: u64::try_from(size).unwrap_or(0),
            config: path.to_owned(),
        })
    }

    fn folder(&self, epoch: u64) -> PathBuf {
        self.base.join(format!("{}{epoch}", self.prefix))
    }

    /// Refuses where the dump may not fit. One that is there already takes nothing more.
    pub(super) fn room(&self, epoch: Option<u64>) -> anyhow::Result<()> {
        if epoch.is_some_and(|epoch| self.folder(epoch).join(COMPLETE).exists()) {
            return Ok(());
        }
        let free = free(&self.base)?;
        let need = self.database_bytes + RESERVE;
        if free < need {
            bail!(
                "{} has {} free, and the database takes {}: a dump of it may not fit. Name another \
                 place with --dump-dir, or load without a file (kasho bootstrap --direct)",
                self.base.display(),
                bytes(free),
                bytes(self.database_bytes)
            );
        }
        Ok(())
    }

    /// Dumps at the snapshot and loads the dump. Whatever it comes to, the dump is gone then
    /// unless it is to be kept.
    pub(super) async fn load(
        &self,
        epoch: u64,
        snapshot: &str,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        self.remove_old(epoch);
        let folder = Folder::open(&self.folder(epoch), self.keep)?;
        let file = folder.path.join(COMPLETE);
        if file.exists() {
            println!("  the dump of epoch {epoch} is there already: {}", file.display());
        } else {
            self.dump(&folder.path, snapshot, stop).await?;
            println!("  {}: {}", file.display(), bytes(size(&file)));
        }
        println!("step 4 of 6: its rows go through the plugin chain to the bootstrap stream");
        self.convert(&file, stop).await?;
        println!("step 5 of 6: clean up");
        match self.keep {
            true => println!("  the dump stays (unmasked rows!): {}", file.display()),
            false => println!("  the dump is removed"),
        }
        Ok(())
    }

    /// What earlier bootstraps left when they were killed.
    fn remove_old(&self, epoch: u64) {
        let own = self.folder(epoch);
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(&self.prefix).and_then(|n| n.parse::<u64>().ok());
            if number.is_some() && entry.path() != own && !entry.path().join(KEPT).exists() {
                println!("  removing the dump of an earlier bootstrap: {}", entry.path().display());
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    async fn dump(
        &self,
        folder: &Path,
        snapshot: &str,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let part = folder.join("part");
        remove(&part)?;
        if self.jobs.is_none() {
            let private =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
            private.with_context(|| format!("making {}", part.display()))?;
        }
        let mut child = self
            .pg_dump(&part, snapshot)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let watched = self.watch(&mut child, &part, stop).await;
        if watched.is_err() {
            // Waited for, so that nothing writes any more when the folder goes.
            let _ = child.kill().await;
        }
        watched?;
        Ok(fs::rename(&part, folder.join(COMPLETE))?)
    }

    fn pg_dump(&self, file: &Path, snapshot: &str) -> Command {
        // The shell only sets the mask under which pg_dump makes the files of a folder.
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(&self.program);
        command.args(["--no-password", "--data-only", "--no-owner", "--no-privileges"]);
        command.arg(format!("--snapshot={snapshot}")).arg("--file").arg(file);
        if let Some(jobs) = self.jobs {
            command.args(["--format=directory", &format!("--jobs={jobs}")]);
        } else if self.restrict_key {
            command.arg("--restrict-key=kasho");
        }
        if let Some(level) = &self.compress {
            command.arg(format!("--compress={level}"));
        } else if self.jobs.is_some() {
            command.arg("--compress=0");
        }
        command.args(&self.tables);
        for name in FOREIGN_VARIABLES {
            command.env_remove(name);
        }
        command.envs(self.info.libpq_env("kasho dump"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Waits for pg_dump, with an eye on the disk.
    async fn watch(
        &self,
        child: &mut Child,
        file: &Path,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut said = String::new();
        let mut errors = child.stderr.take().context("pg_dump's errors")?;
        let reading = tokio::spawn(async move {
            let _ = errors.read_to_string(&mut said).await;
            said
        });
        let bar = ProgressBar::new_spinner();
        let mut look = tokio::time::interval(LOOK);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = stop.cancelled() => bail!("interrupted while the dump was being taken"),
                _ = look.tick() => {
                    bar.set_message(format!("dumping: {}", bytes(size(file))));
                    let free = free(file)?;
                    if free < RESERVE {
                        bail!(
                            "the disk of {} is nearly full ({} left): the dump was given up. Name \
                             another place with --dump-dir, compress it (--compress), or load \
                             without a file (kasho bootstrap --direct)",
                            self.base.display(), bytes(free)
                        );
                    }
                }
            }
        };
        bar.finish_and_clear();
        let said = reading.await.unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        bail!("pg_dump failed ({status}): {}{}", words(&said), remedy(&said))
    }

    async fn convert(&self, file: &Path, stop: &CancellationToken) -> anyhow::Result<()> {
        let command = format!("kasho bootstrap --dump --config {}", self.config.display());
        let recipe = Recipe { path: Some(self.config.clone()), redis_url: None, command };
        let jobs = self.jobs.map_or(1, usize::from);
        let options = Options { jobs, pg_restore: self.pg_restore(), ..Options::default() };
        let input = Input::File(file.to_owned());
        let job = Job { recipe, input, options, dry_run: false, status: Status::default() };
        match sync::load(&job, &sync::Show::default(), stop).await? {
            (Outcome::Stopped, _) => bail!(
                "interrupted while the dump was being loaded; `kasho bootstrap --dump` goes on"
            ),
            (outcome, figures) => {
                for line in sync::told(&outcome, &figures) {
                    println!("  {line}");
                }
                Ok(())
            }
        }
    }

    /// The one beside the pg_dump that was named.
    fn pg_restore(&self) -> Option<PathBuf> {
        let beside = self.program.with_file_name("pg_restore");
        (self.program.parent() != Some(Path::new("")) && beside.exists()).then_some(beside)
    }
}

/// Name of a dump that is whole.
const COMPLETE: &str = "dump";
/// Beside a dump that somebody wants to keep.
const KEPT: &str = "kept";

/// The private folder, and that it goes.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn open(path: &Path, keep: bool) -> anyhow::Result<Folder> {
        let making = || format!("making the private folder {}", path.display());
        if let Some(base) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(base).with_context(making)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let meta = fs::symlink_metadata(path).with_context(making)?;
                if !meta.is_dir() || meta.mode() & 0o077 != 0 {
                    bail!(
                        "{} is there already and is no folder closed to others: remove it, or name \
                         another place with --dump-dir",
                        path.display()
                    );
                }
            }
            made => made.with_context(making)?,
        }
        if keep {
            fs::write(path.join(KEPT), "").with_context(making)?;
        }
        Ok(Folder { path: path.to_owned(), keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("the dump is still there, remove it: {} ({error})", self.path.display());
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes of a file or a flat folder.
fn size(path: &Path) -> u64 {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let files = fs::read_dir(path).into_iter().flatten().flatten();
            files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
        }
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

/// Bytes that are free where `path` is or will be.
fn free(path: &Path) -> anyhow::Result<u64> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there)
        .with_context(|| format!("asking how much is free at {}", there.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// `--table` for each table that is published.
fn patterns(catalog: &Catalog) -> Vec<String> {
    let tables = catalog.tables.iter();
    let patterns: Vec<String> = tables
        .map(|table| format!("--table={}.{}", identifier(&table.schema), identifier(&table.table)))
        .collect();
    match patterns.iter().map(String::len).sum::<usize>() {
        0..=ARGUMENTS => patterns,
        _ => Vec::new(),
    }
}

/// Refuses a pg_dump that cannot read the server; answers whether it takes
/// `--restrict-key`.
fn check_program(program: &Path, server: i32) -> anyhow::Result<bool> {
    let say = |argument: &str| std::process::Command::new(program).arg(argument).output();
    let name = program.display();
    let remedy = format!(
        "install PostgreSQL's client programs of version {server} or later (Debian: \
         postgresql-client-{server}), name another with --pg-dump, or load without it (kasho \
         bootstrap --direct)"
    );
    let output = say("--version").map_err(|error| anyhow!("{name}: {error}; {remedy}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "pg_dump (PostgreSQL) 15.18 (Debian …)", "… 19devel".
    let version = text.split_once(") ").map_or("", |(_, rest)| rest);
    let digits = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    let Ok(version) = digits.parse::<i32>() else {
        bail!("{name} --version says {:?}, which is no pg_dump's answer; {remedy}", text.trim());
    };
    if version < server {
        bail!("{name} is of version {version}, and the server of version {server}: {remedy}");
    }
    let help = say("--help").map(|output| output.stdout).unwrap_or_default();
    Ok(String::from_utf8_lossy(&help).contains("--restrict-key"))
}

/// What pg_dump says, without the lines that may quote a row.
fn words(said: &str) -> String {
    let quotes = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["detail:", "context:"].iter().any(|word| line.contains(word))
    };
    let lines = said.lines().filter(|line| !quotes(line) && !line.trim().is_empty());
    lines.take(5).map(|line| line.trim()).collect::<Vec<_>>().join("; ")
}

fn remedy(said: &str) -> &'static str {
    match said {
        said if said.contains("snapshot") => {
            ". The snapshot of this bootstrap is gone: `kasho reset`, then `kasho bootstrap --dump`"
        }
        said if said.contains("permission denied") => {
            ". Give the role SELECT on the published tables (config/sql/setup.sql)"
        }
        _ => ". `kasho bootstrap --dump` tries again",
    }
}
