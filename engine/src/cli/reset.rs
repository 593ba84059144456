//! `kasho reset`: drops the slot and ends the epoch, after asking.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::bail;
use clap::Args;

use super::client::{Server, block_on, told};
use crate::control::proto::kasho::{AbortBootstrapRequest, StatusRequest};

/// Arguments of `kasho reset`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    server: Server,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Resets to WAITING.
///
/// # Errors
/// The engine refuses, or nobody agreed.
pub fn run(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    block_on(async {
        let (mut client, address) = arguments.server.connect(config).await?;
        let status = client.get_status(StatusRequest {}).await.map_err(|e| told(&e))?.into_inner();
        println!(
            "{address} is {} (epoch {}); a reset drops the replication slot {:?}: consumers have \
             to begin again with a new bootstrap.",
            status.state, status.epoch, status.slot
        );
        if !arguments.yes && !agreed()? {
            bail!("nothing was changed");
        }
        let request = AbortBootstrapRequest { force: true };
        let answer = client.abort_bootstrap(request).await.map_err(|e| told(&e))?.into_inner();
        println!("state: {}", answer.current_state);
        Ok(())
    })
}

fn agreed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask: say --yes");
    }
    print!("Type \"reset\" to go on: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "reset")
}
