//! `kasho bootstrap`: starts the bootstrap of the running engine, watches the load, and
//! completes it. The engine does all of it; this may be stopped and typed again at any
//! time and goes on watching.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use clap::builder::FalseyValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Server, told};
use super::status::bytes;
use super::{dump, sync};
use crate::control::proto::kasho::start_bootstrap_request::Load;
use crate::control::proto::kasho::{
    CompleteBootstrapRequest, LoadProgress, StartBootstrapRequest, StatusRequest, StatusResponse,
};

/// How often the engine is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `kasho bootstrap`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    server: Server,
    /// The engine copies the tables itself, from a snapshot (the default).
    #[arg(long, conflicts_with_all = ["external", "no_initial_data"])]
    direct: bool,
    /// Somebody else loads the rows: make slot and snapshot, and wait for them.
    #[arg(long, conflicts_with = "no_initial_data")]
    external: bool,
    /// The targets are filled by other means: load nothing.
    #[arg(long)]
    no_initial_data: bool,
    /// Load this table again, or for the first time if it joined the publication later, in
    /// ACCUMULATING or STREAMING; may be given several times. Readers empty it first.
    #[arg(long = "table", value_name = "SCHEMA.TABLE",
        conflicts_with_all = ["direct", "external", "no_initial_data", "discard"])]
    tables: Vec<String>,
    #[command(flatten)]
    by_dump: dump::ByDump,
    /// Go on to STREAMING without asking.
    #[arg(long, short, env = "WAIT_FOR_BOOTSTRAP", value_parser = FalseyValueParser::new())]
    yes: bool,
    /// Drop a left-over slot of our name first.
    #[arg(long)]
    discard: bool,
    /// With --discard: also end the session that reads that slot.
    #[arg(long, requires = "discard")]
    force: bool,
}

/// Bootstraps.
///
/// # Errors
/// What the engine refuses, or says as it gives up.
pub fn run(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    super::block_on(bootstrap(arguments, config))
}

async fn bootstrap(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    let (mut client, address) = arguments.server.connect(config).await?;
    if !arguments.tables.is_empty() {
        return load_again(&mut client, &arguments.tables).await;
    }
    let mut status = ask(&mut client).await?;
    if status.state == "STREAMING" {
        println!("state: STREAMING; this bootstrap is complete already");
        return Ok(());
    }
    // A dump has to be taken away before this ends; otherwise a signal just ends it.
    let stop = match arguments.by_dump.dump {
        true => sync::stop_on_signals()?,
        false => CancellationToken::new(),
    };
    // Everything that can be refused is refused before anything is begun.
    let plan = match arguments.by_dump.dump {
        true => Some(dump::Plan::new(&arguments.by_dump, config).await?),
        false => None,
    };
    let begun = status.state == "ACCUMULATING";
    if let Some(plan) = &plan {
        plan.room(begun.then_some(status.epoch))?;
    }
    if begun {
        println!("state: ACCUMULATING; going on with epoch {}", status.epoch);
    } else {
        println!("step 1 of 6: a replication slot with a consistent snapshot");
        unless(&stop, start(&mut client, arguments)).await?;
        println!("step 2 of 6: changes accumulate from there on");
        status = ask(&mut client).await?;
    }
    if let Some(plan) = &plan {
        by_dump(plan, &status, &stop).await?;
    } else if !arguments.external && !arguments.no_initial_data {
        println!("step 3 of 6: the tables are read at the snapshot, without a dump file");
        println!("step 4 of 6: their rows go through the plugin chain to the bootstrap stream");
    }
    unless(&stop, watch(&mut client)).await?;
    println!("loaded: {}", describe(&ask(&mut client).await?.load.unwrap_or_default(), ""));
    if plan.is_none() {
        println!("step 5 of 6: clean up: the snapshot and its locks are let go");
    }
    unless(&stop, complete(&mut client, arguments, &address)).await
}

/// The engine goes on with what it was asked for; this ends.
async fn unless<T>(
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        () = stop.cancelled() => bail!("interrupted; the same command goes on where it is now"),
        done = work => done,
    }
}

/// Dump and load, unless that is done or is somebody else's.
async fn by_dump(
    plan: &dump::Plan,
    status: &StatusResponse,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let load = status.load.clone().unwrap_or_default();
    if load.mode != "external" {
        bail!(
            "the bootstrap under way (epoch {}) loads in another way ({}): let it finish (kasho \
             bootstrap), or `kasho reset` first",
            status.epoch,
            load.mode
        );
    }
    if load.finished {
        println!("the dump is loaded already");
        return Ok(());
    }
    println!(
        "step 3 of 6: a dump of the published tables at the snapshot {}",
        status.snapshot_name
    );
    plan.load(status.epoch, &status.snapshot_name, stop).await
}

async fn complete(client: &mut Client, arguments: &Arguments, address: &str) -> anyhow::Result<()> {
    println!("step 6 of 6: to STREAMING");
    if !arguments.yes && !asked().await? {
        println!(
            "state: ACCUMULATING; complete it with `kasho bootstrap --yes`, or\n  {}",
            complete_line(address)
        );
        return Ok(());
    }
    let request = CompleteBootstrapRequest { force: false };
    let answer = client.complete_bootstrap(request).await.map_err(|e| told(&e))?.into_inner();
    let changes = answer.accumulated_changes;
    println!("state: {} ({changes} changes had accumulated)", answer.current_state);
    Ok(())
}

/// Has single tables loaded again, and shows that until it is done.
async fn load_again(client: &mut Client, tables: &[String]) -> anyhow::Result<()> {
    let request =
        StartBootstrapRequest { tables: tables.to_vec(), ..StartBootstrapRequest::default() };
    let answer = client.start_bootstrap(request).await.map_err(|e| told(&e))?.into_inner();
    println!("state: {}; loading {} again", answer.current_state, tables.join(", "));
    watch(client).await?;
    println!("loaded again: {}", tables.join(", "));
    Ok(())
}

/// What completes the bootstrap without this program.
fn complete_line(address: &str) -> String {
    let (flag, host) = match address.split_once("://") {
        Some(("https", host)) => ("", host),
        Some((_, host)) => ("-plaintext ", host),
        None => ("-plaintext ", address),
    };
    format!("grpcurl {flag}{host} kasho.ChangeStreamService/CompleteBootstrap")
}

async fn ask(client: &mut Client) -> anyhow::Result<StatusResponse> {
    Ok(client.get_status(StatusRequest {}).await.map_err(|e| told(&e))?.into_inner())
}

/// Starts, and shows meanwhile whom the slot waits for.
async fn start(client: &mut Client, arguments: &Arguments) -> anyhow::Result<()> {
    let external = arguments.external || arguments.by_dump.dump;
    let load = match (external, arguments.no_initial_data) {
        (true, _) => Load::External,
        (_, true) => Load::None,
        (false, false) => Load::Direct,
    };
    let request = StartBootstrapRequest {
        discard: arguments.discard,
        force: arguments.force,
        load: load.into(),
        ..StartBootstrapRequest::default()
    };
    let mut starter = client.clone();
    let mut starting = std::pin::pin!(starter.start_bootstrap(request));
    let mut look = tokio::time::interval(LOOK);
    let mut shown = String::new();
    let answer = loop {
        tokio::select! {
            answer = &mut starting => break answer.map_err(|e| told(&e))?.into_inner(),
            _ = look.tick() => {
                let blocking = ask(client).await?.load.unwrap_or_default().blocking;
                if blocking != shown && !blocking.is_empty() {
                    println!("the slot waits for {blocking}");
                }
                shown = blocking;
            }
        }
    };
    println!(
        "state: {}; epoch {}, slot at {}",
        answer.current_state, answer.epoch, answer.start_lsn
    );
    if load == Load::External {
        println!("snapshot: {}", answer.snapshot_name);
    }
    Ok(())
}

/// Shows the load until it has finished.
async fn watch(client: &mut Client) -> anyhow::Result<()> {
    let bar = ProgressBar::no_length();
    let terminal = std::io::stderr().is_terminal();
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg} {elapsed}") {
        bar.set_style(style);
    }
    let mut look = tokio::time::interval(LOOK);
    let (mut tables, mut error) = (u32::MAX, String::new());
    loop {
        look.tick().await;
        let status = ask(client).await?;
        let load = status.load.unwrap_or_default();
        match status.state.as_str() {
            "ACCUMULATING" | "STREAMING" => {}
            // It was started again, and has not looked yet.
            _ if status.last_error.starts_with("still connecting") => {}
            state => bail!("the bootstrap has ended, state: {state}. {}", status.last_error),
        }
        if status.last_error != error && !status.last_error.is_empty() {
            bar.suspend(|| eprintln!("{}", status.last_error));
        }
        error = status.last_error;
        if !load.halted.is_empty() {
            bar.finish_and_clear();
            bail!(
                "the load has halted: {}. Nothing that is loaded is lost; once this is mended, \
                 `kasho bootstrap` goes on (a rule is noticed by itself, anything else by \
                 the next start of `kasho run`)",
                load.halted
            );
        }
        let line = describe(&load, &status.paused);
        if terminal {
            bar.set_length(load.rows_estimated.max(load.rows).max(1));
            bar.set_position(load.rows);
            bar.set_message(line);
        } else if load.tables_done != tables {
            println!("{line}");
            tables = load.tables_done;
        }
        if load.finished {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn describe(load: &LoadProgress, paused: &str) -> String {
    let done = format!(
        "{} rows, {}, {} of {} tables",
        load.rows,
        bytes(load.bytes),
        load.tables_done,
        load.tables
    );
    match paused {
        "" => done,
        why => format!("{done}; paused: {why}"),
    }
}

/// As [`agreed`], on a thread that nobody waits for at the end.
async fn asked() -> anyhow::Result<bool> {
    let (say, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(say.send(agreed())));
    answer.await?
}

/// Asks the person, if there is one.
fn agreed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("Switch to STREAMING now? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_completes_it() {
        assert_eq!(
            complete_line("http://127.0.0.1:50051"),
            "grpcurl -plaintext 127.0.0.1:50051 kasho.ChangeStreamService/CompleteBootstrap"
        );
        assert!(complete_line("https://h:1").starts_with("grpcurl h:1 "));
    }
}
