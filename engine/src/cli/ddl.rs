//! `kasho ddl`: says what becomes of a schema change that the stream stands before, because
//! the policy does not let it out. What can go wrong: the engine does not answer, or it does
//! not stand there.

use std::path::Path;

use clap::{Args, Subcommand};

use super::client::{Server, block_on, told};
use crate::control::proto::kasho::DecideDdlRequest;
use crate::position::EpochPosition;

/// Decides about the schema change at which the stream has halted.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Leave it out: the targets do without it.
    Skip(Arguments),
    /// The targets have been changed by hand: readers are told that it happened, not its text.
    Done(Arguments),
}

/// Which one.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where it stands, as `kasho status` and the log say: 16/B374D848:3, or 16/B374D848 for
    /// the one of that transaction that the stream waits for.
    position: EpochPosition,
    #[command(flatten)]
    server: Server,
}

/// Decides.
///
/// # Errors
/// The engine does not answer, or waits for another one.
pub fn run(command: &Command, config: &Path) -> anyhow::Result<()> {
    let (arguments, done) = match command {
        Command::Skip(arguments) => (arguments, false),
        Command::Done(arguments) => (arguments, true),
    };
    block_on(async {
        let (mut client, _) = arguments.server.connect(config).await?;
        let request = DecideDdlRequest { position: arguments.position.to_string(), done };
        let answer = client.decide_ddl(request).await.map_err(|e| told(&e))?.into_inner();
        println!("{}", answer.told);
        Ok(())
    })
}
