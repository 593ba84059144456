//! The command line: parses the arguments, loads what a command needs, turns its outcome
//! into an exit code. Each command is a file of its own beside this one.
//!
//! Exit codes: 0 done, 1 an error that is told on standard error, 2 wrong usage.

pub mod apply;
pub mod bootstrap;
pub mod check;
mod client;
pub mod config;
pub mod consumers;
pub mod ddl;
pub mod dead;
mod dump;
mod generations;
pub mod plugin;
pub mod reset;
pub mod run;
pub mod setup;
pub mod snapshot;
pub mod status;
pub mod sync;
pub mod transforms;
pub mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{Config, DEFAULT_PATH};

/// A live, private copy of a PostgreSQL database: logical replication through WASM
/// plugins to Redis.
#[derive(Debug, Parser)]
#[command(name = "kasho", version, max_term_width = 100, subcommand_required = true)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, env = "KASHO_CONFIG", default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// What `kasho` can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Look at the configuration file.
    #[command(subcommand)]
    Config(config::Command),
    /// Print, or make with --apply, what Kasho needs in the source database: role, grants,
    /// publication, event triggers.
    Setup(setup::Setup),
    /// Print, or do with --apply, what takes all of that away, with the slot.
    Teardown(setup::Teardown),
    /// Run the service.
    Run(run::Arguments),
    /// Look at configuration, servers and plugins as a start would; change nothing.
    Check,
    /// Say who reads the streams: nothing is trimmed that a consumer has not acknowledged.
    #[command(subcommand)]
    Consumers(consumers::Command),
    /// Rows that plugins failed on and that were set aside: look at them, deliver them.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Say what becomes of a schema change that the stream has halted at.
    #[command(subcommand)]
    Ddl(ddl::Command),
    /// Show what the running engine does.
    Status(status::Arguments),
    /// Load what is in the database already, then stream its changes.
    Bootstrap(bootstrap::Arguments),
    /// Load a dump file: what pg-bootstrap-sync does.
    BootstrapSync(sync::Arguments),
    /// Apply the streams to another PostgreSQL database: what pg-translicator does.
    Apply(apply::Arguments),
    /// Drop the slot and begin anew: back to WAITING.
    Reset(reset::Arguments),
    /// Write a plugin (start it, build it, test it, measure it, look at it), look at those of
    /// the running engine, and confirm new ones.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Look up transforms, take rules over, try them; turn tokens back.
    #[command(subcommand)]
    Transforms(transforms::Command),
    /// Hold an exported snapshot, for a bootstrap by hand.
    Snapshot(snapshot::Arguments),
    /// Compare the target with the source, and look for private values in it.
    ///
    /// Exits with 0 if nothing differs, also if a few rows kept changing and nothing is said of
    /// them; with 1 on a difference or a leak, if something changed too fast to be told, if
    /// nothing was compared, or if it could not be done.
    Verify(verify::Arguments),
}

/// The program under the document's names is one of its commands.
fn by_name(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().map(|name| Path::new(name).file_name().unwrap_or_default());
    let command = match name.and_then(|name| name.to_str()) {
        Some("pg-change-stream") => "run",
        Some("pg-bootstrap-sync") => "bootstrap-sync",
        Some("pg-translicator") => "apply",
        _ => return arguments,
    };
    arguments.insert(1, command.into());
    arguments
}

/// Runs the command that the arguments ask for; the first one is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(by_name(arguments)) {
        Ok(cli) => cli,
        Err(usage) => {
            // `--help` and `--version` come this way too, with another code and output.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let path = cli.config.as_path();
    let outcome = match cli.command {
        Command::Config(command) => config::run(&command, path),
        Command::Setup(arguments) => block_on(setup::setup(&arguments, path)),
        Command::Teardown(arguments) => block_on(setup::teardown(&arguments, path)),
        Command::Run(arguments) => block_on(run::run(&arguments, path)),
        Command::Check => block_on(check::run(path)),
        Command::Consumers(command) => Config::load(path)
            .map_err(Into::into)
            .and_then(|config| block_on(consumers::run(&command, &config))),
        Command::Dead(command) => dead::run(&command, path),
        Command::Ddl(command) => ddl::run(&command, path),
        Command::Status(arguments) => status::run(&arguments, path),
        Command::Bootstrap(arguments) => bootstrap::run(&arguments, path),
        Command::BootstrapSync(arguments) => block_on(sync::run(&arguments, path)),
        Command::Apply(arguments) => block_on(apply::run(&arguments, path)),
        Command::Reset(arguments) => reset::run(&arguments, path),
        Command::Plugin(command) => plugin::run(&command, path),
        Command::Transforms(command) => transforms::run(&command, path),
        Command::Snapshot(arguments) => snapshot::run(&arguments, path),
        Command::Verify(arguments) => block_on(verify::run(&arguments, path)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<Told>() {
                eprintln!("error: {}", whole(&error));
            }
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but those that its own text tells already.
fn whole(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        match (told.is_empty(), told.contains(&cause)) {
            (true, _) => cause,
            (false, true) => told,
            (false, false) => format!("{told}: {cause}"),
        }
    })
}

/// An error that the log has told: a log of JSON lines has no other lines in it.
#[derive(Debug, thiserror::Error)]
#[error("see the log")]
struct Told;

/// Runs a command that talks to servers.
fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new().context("the runtime does not start")?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("in use");
        let own = anyhow::Error::new(cause()).context("cannot listen: in use; is another running?");
        assert_eq!(whole(&own), "cannot listen: in use; is another running?");
        let other = anyhow::Error::new(cause()).context("cannot listen").context("apply");
        assert_eq!(whole(&other), "apply: cannot listen: in use");
    }
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documents_names_are_commands() {
        let parsed = |words: &[&str]| {
            let words = words.iter().map(OsString::from);
            Cli::try_parse_from(by_name(words)).map(|cli| cli.command)
        };
        for words in [&["/usr/bin/pg-change-stream"][..], &["kasho", "run"]] {
            assert!(matches!(parsed(words), Ok(Command::Run(_))), "{words:?}");
        }
        let words = ["/app/bin/pg-translicator", "--until-caught-up"];
        assert!(matches!(parsed(&words), Ok(Command::Apply(_))));
        assert!(parsed(&["kasho", "apply", "--until", "0/1", "--until-loaded"]).is_err());
        let elsewhere = parsed(&["pg-change-stream", "--config", "x.toml", "--accept-gap"]);
        assert!(matches!(elsewhere, Ok(Command::Run(_))));
        assert!(parsed(&["kasho"]).is_err());
    }

    #[test]
    fn a_program_by_its_old_name_takes_the_flags_of_the_original() {
        let parsed = |line: &str| Cli::try_parse_from(by_name(line.split(' ').map(OsString::from)));
        for line in [
            "/app/bin/pg-bootstrap-sync --dump-file=/data/dump.sql --redis-url=redis://redis:6379",
            "pg-bootstrap-sync -d dump.sql -k redis://r -b 500 -m 10 -p 1000 --dry-run -v",
            "pg-bootstrap-sync --kv-url redis://r --dump-file - --config kasho.toml",
            "kasho bootstrap-sync -d x --batch-size 5 --max-rows-per-table 1 --progress-interval 2",
        ] {
            let cli = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(matches!(cli.command, Command::BootstrapSync(_)), "{line}");
        }
        assert!(parsed("pg-bootstrap-sync").is_err() && parsed("kasho --dump-file x").is_err());
    }
}
