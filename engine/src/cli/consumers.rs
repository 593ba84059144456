//! `kasho consumers`: who has to have read a change before it may be trimmed. Talks to
//! Redis only, so it works while the engine is down.

use std::fmt::Write as _;

use anyhow::Context;
use clap::Subcommand;

use crate::config::Config;
use crate::sink::consumers::{self, Added, Lag};
use crate::sink::redis::RedisConnector;
use crate::sink::store::{Backend, Connect};

/// Commands on the registered consumers.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a consumer: from now on nothing is trimmed that it has not acknowledged.
    Add {
        /// Its name; also the name of its Redis consumer group.
        name: String,
    },
    /// List the consumers and how far each is behind.
    List,
    /// Forget a consumer: nothing is kept for it any more.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Runs the command against the Redis that `config` names.
///
/// # Errors
/// The server's, or a name that cannot be used.
pub async fn run(command: &Command, config: &Config) -> anyhow::Result<()> {
    let connect = RedisConnector::new(&config.redis);
    let mut store = connect.connect().await.context("cannot use Redis")?;
    print!("{}", answer(&mut store, command).await?);
    Ok(())
}

async fn answer<S: Backend>(store: &mut S, command: &Command) -> anyhow::Result<String> {
    // A key of another application under our names is told by name.
    let epoch = store.inspect().await?.checkpoint.map(|checkpoint| checkpoint.epoch);
    match command {
        Command::Add { name } => Ok(match consumers::add(store, name).await? {
            Added { new: false, .. } => format!("consumer {name} was registered already\n"),
            Added { behind: None, .. } => format!("consumer {name} is registered\n"),
            Added { behind: Some(position), .. } => format!(
                "consumer {name} is registered, but begins behind a gap: everything through \
                 {position} was trimmed before. Fill its target by other means up to there, or \
                 bootstrap again (`kasho reset`, then `kasho bootstrap`)\n"
            ),
        }),
        Command::Remove { name } => {
            consumers::remove(store, name).await?;
            Ok(format!("consumer {name} is forgotten: nothing is kept for it any more\n"))
        }
        Command::List => {
            let now_ms = match epoch {
                Some(epoch) => store.usage(epoch).await?.now_ms,
                None => 0,
            };
            Ok(table(&consumers::list(store).await?, now_ms))
        }
    }
}

/// One line a consumer.
fn table(all: &[Lag], now_ms: u64) -> String {
    if all.is_empty() {
        return "no consumer is registered, so nothing is ever trimmed (`kasho consumers add \
                NAME`)\n"
            .to_owned();
    }
    let mut text =
        format!("{:<24} {:<28} {:>22} {}\n", "CONSUMER", "ACKNOWLEDGED", "BEHIND", "LAST ACK");
    for lag in all {
        let behind = match lag.wal_bytes {
            Some(bytes) => format!("{bytes} bytes of WAL"),
            None => format!("{} rows of the load", lag.load_entries),
        };
        let seen = match lag.consumer.seen_ms {
            Some(at) => format!("{} s ago", now_ms.saturating_sub(at) / 1000),
            None => "by its group, or never".to_owned(),
        };
        let position = lag.position.to_string();
        let _ = writeln!(text, "{:<24} {position:<28} {behind:>22} {seen}", lag.consumer.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::memory::MemoryServer;

    #[tokio::test(start_paused = true)]
    async fn consumers_come_and_go() {
        let mut store = MemoryServer::default().connect().await.unwrap();
        let name = || "applier-1".to_owned();
        let mut say = async |command| match answer(&mut store, &command).await {
            Ok(text) => text,
            Err(error) => format!("error: {error:#}"),
        };
        assert!(say(Command::List).await.starts_with("no consumer is registered"));
        assert!(say(Command::Add { name: name() }).await.ends_with("is registered\n"));
        assert!(say(Command::Add { name: name() }).await.ends_with("registered already\n"));
        let list = say(Command::List).await;
        assert!(list.contains("applier-1") && list.contains("bootstrap:0"), "{list}");
        assert!(say(Command::Remove { name: name() }).await.contains("forgotten"));
        assert!(say(Command::Remove { name: name() }).await.starts_with("error: no consumer"));
        let bad = say(Command::Add { name: "a b".to_owned() }).await;
        assert!(bad.contains("cannot be a consumer's name"), "{bad}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_begins_behind_a_gap_is_told_so() {
        use crate::position::Epoch;
        use crate::sink::contract;
        use crate::sink::id::{Id, Lane};
        use crate::sink::store::{Append, Begin, Dead, Guard, NewEntry, Registry, Store, Trim};
        let mut store = MemoryServer::default().connect().await.unwrap();
        let fields = contract::checkpoint(Epoch(1)).fields();
        let begin = Begin { epoch: Epoch(1), before: None, fields, state: None, catalog: None };
        store.begin(&begin).await.unwrap();
        let add = |name: &str| Command::Add { name: name.to_owned() };
        let said = answer(&mut store, &add("first")).await.unwrap();
        assert_eq!(said, "consumer first is registered\n");
        let guard = Guard { epoch: Epoch(1), writer: "0-0".to_owned(), last: Id::ZERO };
        let entry = |high| {
            let id = Id { high, low: 1 };
            NewEntry { id, op: "insert", table: "t", data: b"x", last: true }
        };
        let entries = vec![entry(200), entry(300)];
        let append = Append { generation: 1, entries, fields: Vec::new(), dead: Dead::default() };
        store.append(&guard, &append).await.unwrap();
        let through = Id { high: 200, low: 1 };
        store.acknowledge("first", Epoch(1), Lane::Changes, through).await.unwrap();
        store.trim(Trim { epoch: Epoch(1), ceiling: None, pressed: false }).await.unwrap();
        let said = answer(&mut store, &add("second")).await.unwrap();
        assert!(said.contains("begins behind a gap: everything through 0/C8:1"), "{said}");
        let said = answer(&mut store, &add("first")).await.unwrap();
        assert_eq!(said, "consumer first was registered already\n");
    }
}
