//! `kasho dead`: rows that plugins failed on and that were set aside. `list`, `show` and
//! `forget` talk to Redis only, so they work while the engine is down; `retry` is the
//! engine's work, for a row is published in the order of the stream.
//!
//! What can go wrong: the key does not open a letter. No command but `show` prints a key.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};

use super::client::{Server, block_on, told};
use crate::config::Config;
use crate::control::proto::kasho::{RetryDeadLettersRequest, RetryOutcome};
use crate::sink::dead::{StoredLetter, list};
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::store::{Connect, Registry, Store};
use crate::transform::{DeadKey, KeySource, RowKey};

/// Commands on rows that were set aside.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the letters, without the rows' keys.
    List {
        /// Only those of this table, named as the list names it.
        #[arg(long)]
        table: Option<String>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print a letter with its row's key, unsealed.
    Show {
        /// The letter.
        id: String,
        /// The key file, if dead_letter_key in the configuration is not the one.
        #[arg(long, value_name = "FILE")]
        key: Option<std::path::PathBuf>,
    },
    /// Read the rows as they are now in the source, pass them through the chain, and
    /// publish them.
    Retry(Retry),
    /// Close letters without delivering them.
    Forget {
        /// The letters.
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Arguments of `kasho dead retry`.
#[derive(Debug, Args)]
pub struct Retry {
    /// The letters.
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    server: Server,
}

/// Runs the command.
///
/// # Errors
/// The servers', or a letter that is not there.
pub fn run(command: &Command, path: &Path) -> anyhow::Result<()> {
    block_on(async {
        match command {
            Command::Retry(retry) => again(retry, path).await,
            Command::List { table, json } => {
                let (mut store, _) = open(path).await?;
                print!("{}", table_of(&letters(&mut store).await?, table.as_deref(), *json)?);
                Ok(())
            }
            Command::Show { id, key } => {
                let (mut store, config) = open(path).await?;
                let letter = find(&letters(&mut store).await?, id)?;
                let file = key.clone().map(KeySource::File).or(config.dead_letter_key);
                print!("{}", shown(&letter, file.as_ref())?);
                Ok(())
            }
            Command::Forget { ids } => {
                let (mut store, _) = open(path).await?;
                let all = letters(&mut store).await?;
                let found: Result<Vec<_>, _> = ids.iter().map(|id| find(&all, id)).collect();
                let found: Vec<_> = found?.iter().map(|letter| letter.id).collect();
                let closed = store.forget(&found).await?;
                println!("{closed} closed; their rows stay out until a change of theirs comes");
                Ok(())
            }
        }
    })
}

async fn open(path: &Path) -> anyhow::Result<(RedisStore, Config)> {
    let config = Config::load(path)?;
    let store = RedisConnector::new(&config.redis).connect().await.context("cannot use Redis")?;
    Ok((store, config))
}

async fn letters<S: Registry + Store>(store: &mut S) -> anyhow::Result<Vec<StoredLetter>> {
    // A key of another application under our names is told by name.
    store.inspect().await?;
    Ok(list(store).await?)
}

fn find(all: &[StoredLetter], id: &str) -> anyhow::Result<StoredLetter> {
    let found = all.iter().find(|letter| letter.id.to_string() == id);
    found.cloned().ok_or_else(|| anyhow!("there is no letter {id}: see `kasho dead list`"))
}

fn table_of(all: &[StoredLetter], table: Option<&str>, json: bool) -> anyhow::Result<String> {
    let mut text = String::new();
    let asked = all.iter().filter(|letter| table.is_none_or(|table| letter.table == table));
    for letter in asked {
        if json {
            let mut object = serde_json::to_value(letter)?;
            object["id"] = letter.id.to_string().into();
            // Sealed, and no use to whoever reads a list.
            object.as_object_mut().map(|fields| fields.remove("key"));
            let _ = writeln!(text, "{object}");
            continue;
        }
        let StoredLetter { id, position, op, table, binding, reason, .. } = letter;
        let _ = writeln!(text, "{id:<18} {op:<7} {table} at {position}, `{binding}`: {reason}");
    }
    if text.is_empty() && !json {
        text = "there are no dead letters\n".to_owned();
    }
    Ok(text)
}

fn shown(letter: &StoredLetter, key: Option<&KeySource>) -> anyhow::Result<String> {
    let key = key.ok_or_else(|| {
        anyhow!("there is no dead_letter_key in the configuration file: name it with --key FILE")
    })?;
    let key = DeadKey::read(key)?;
    let opened = letter.sealed().and_then(|sealed| key.open(&letter.table, &sealed));
    let Some(RowKey { columns, new, old }) = opened else {
        bail!("this key does not open letter {}: it was sealed under another one", letter.id);
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("letter", &letter.id.to_string());
    line("table", &letter.table);
    line("operation", &letter.op);
    line("position", &letter.position);
    line("transform", &letter.binding);
    line("plugin", &format!("{} {}", letter.plugin, letter.sha256));
    line("reason", &letter.reason);
    if let Some(before) = &letter.again {
        line("replaces", before);
    }
    for (name, values) in [("key", new), ("old key", old)] {
        let Some(values) = values else { continue };
        let pairs = columns.iter().zip(&values).map(|(column, value)| match value {
            Some(value) => format!("{column} = {value}"),
            None => format!("{column} is NULL"),
        });
        line(name, &pairs.collect::<Vec<_>>().join(", "));
    }
    Ok(text)
}

async fn again(retry: &Retry, path: &Path) -> anyhow::Result<()> {
    let (mut client, _) = retry.server.connect(path).await?;
    let request = RetryDeadLettersRequest { ids: retry.ids.clone() };
    let answer = client.retry_dead_letters(request).await.map_err(|e| told(&e))?;
    let outcomes = answer.into_inner().outcomes;
    for RetryOutcome { id, outcome, detail } in &outcomes {
        println!("{id:<18} {outcome:<9} {detail}");
    }
    let open = outcomes.iter().filter(|o| !["published", "gone"].contains(&o.outcome.as_str()));
    match (open.count(), outcomes.len()) {
        (0, 0) => println!("there are no dead letters"),
        (0, _) => {}
        (open, all) => bail!("{open} of {all} letters were not delivered"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_everything_but_the_key() {
        let letter: StoredLetter = serde_json::from_value(serde_json::json!({
            "position": "e1:0/A:2", "op": "update", "oid": 7, "table": "public.t",
            "binding": "mask", "plugin": "mask.wasm", "sha256": "00", "reason": "no date",
            "key": "00ff",
        }))
        .unwrap();
        let all = [letter];
        let text = table_of(&all, None, false).unwrap();
        assert!(text.contains("public.t at e1:0/A:2, `mask`: no date"), "{text}");
        let json = table_of(&all, Some("public.t"), true).unwrap();
        assert!(json.contains("\"id\":\"0-0\"") && !json.contains("00ff"), "{json}");
        assert_eq!(table_of(&all, Some("public.u"), true).unwrap(), "");
        assert_eq!(table_of(&[], None, false).unwrap(), "there are no dead letters\n");
        assert!(shown(&all[0], None).unwrap_err().to_string().contains("--key"));
    }
}
