//! `kasho snapshot`: makes a temporary slot with an exported snapshot and holds both, for
//! a bootstrap by hand; with `--hold` the process that keeps the engine's own snapshot.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::io::BufReader;
use tokio::net::unix::pipe;

use super::Told;
use super::client::block_on;
use crate::config::Config;
use crate::log;
use crate::source::snapshot::{hold, hold_temporary};
use crate::source::wal::{SlotName, conninfo};

/// Arguments of `kasho snapshot`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the temporary slot.
    #[arg(long, default_value = "kasho_temp_slot")]
    slot: String,
    /// Keep the engine's snapshot: its task comes on standard input.
    #[arg(long, hide = true)]
    hold: bool,
    /// With --hold: how lines of the log look.
    #[arg(long, hide = true, default_value = "text")]
    log_format: log::Format,
}

/// Holds a snapshot.
///
/// # Errors
/// The slot could not be made, or a session was lost.
pub fn run(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    if arguments.hold {
        leave_the_session();
        let format = arguments.log_format;
        let _log = log::init(&log::Config { format, ..log::Config::default() });
        let held = block_on(async {
            let no_pipe = "--hold is for the engine, which speaks through pipes";
            let input = std::io::stdin().as_fd().try_clone_to_owned()?;
            let output = std::io::stdout().as_fd().try_clone_to_owned()?;
            let input = pipe::Receiver::from_owned_fd(input).context(no_pipe)?;
            let output = pipe::Sender::from_owned_fd(output).context(no_pipe)?;
            Ok(hold(BufReader::new(input), output).await?)
        });
        return match held {
            Err(error) if format == log::Format::Json => {
                tracing::error!(error = %format_args!("{error:#}"), "the holder has ended");
                Err(Told.into())
            }
            held => held,
        };
    }
    let config = Config::load(config).map_err(|errors| anyhow!("{errors}"))?;
    let info = conninfo(&config.source)?;
    let slot = SlotName::new(&arguments.slot)?;
    block_on(async {
        let held = hold_temporary(&info, &slot, |lsn, snapshot| {
            println!("start_lsn:     {lsn}");
            println!("snapshot_name: {snapshot}");
            println!("Held until this program ends (Ctrl-C).");
        });
        tokio::select! {
            error = held => Err(error.into()),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

/// Makes this process the leader of a session of its own: what ends the engine's session
/// (a terminal that is closed, Ctrl-C) does not end it.
#[expect(unsafe_code, reason = "setsid has no safe wrapper here; it takes no argument")]
fn leave_the_session() {
    // SAFETY: setsid only changes this process's session. It fails if the process leads
    // its group already, and then nothing has to be done.
    unsafe { libc::setsid() };
}
