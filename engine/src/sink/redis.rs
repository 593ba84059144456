//! The real server: one plain connection, every step one script or command.
//!
//! Nothing here reconnects and nothing is sent twice. After a failure that leaves the
//! outcome open (the connection ended, a reply did not come in time) the store is spent
//! and says so to every later call. Redis's error texts can quote arguments, that is row
//! data: only their codes leave this module.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::task::JoinSet;

use self::script::Script;
use self::sizes::Sizes;
use super::id::{Id, Keys, Lane};
use super::store::{Answer, Connect, StoreError};
use crate::position::Epoch;
use crate::sink::config::Config;

mod bulk;
mod changes;
mod connect;
mod feed;
mod registry;
mod script;
mod server;
mod sizes;
mod tap;
mod write;

/// Makes connections to the configured server.
#[derive(Clone, Debug)]
pub struct RedisConnector {
    config: Config,
}

impl RedisConnector {
    /// For the server that `config` names.
    #[must_use]
    pub fn new(config: &Config) -> RedisConnector {
        RedisConnector { config: config.clone() }
    }
}

impl Connect for RedisConnector {
    type Store = RedisStore;

    async fn connect(&self) -> Result<RedisStore, StoreError> {
        connect::connect(&self.config).await
    }
}

/// A connection to Redis, with the scripts loaded.
pub struct RedisStore {
    connection: MultiplexedConnection,
    keys: Keys,
    tag: String,
    response_timeout: Duration,
    /// Keeps replies from the driver, if it may.
    tap: Option<tap::Tap>,
    /// Moves what is sent and read, where the driver does not see to that; ends with this.
    _driver: JoinSet<()>,
    /// Entries that are read, as far as their sizes are known.
    known: Option<Known>,
    /// Changes that are written.
    noted: Option<changes::Noted>,
    /// So many steps of the load go by script: others have written meanwhile.
    disturbed: u32,
    /// Whether transactions are allowed, once that was tried.
    transacts: Option<bool>,
    /// Why nothing more can be asked of it.
    dead: Option<String>,
}

/// The sizes of a stream's entries.
#[derive(Clone, Debug)]
struct Known {
    epoch: Epoch,
    lane: Lane,
    sizes: Sizes,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("keys", &self.keys).field("dead", &self.dead).finish()
    }
}

impl RedisStore {
    /// One command, one reply.
    async fn run(&mut self, command: &Cmd) -> Result<Value, StoreError> {
        self.run_within(command, self.response_timeout).await
    }

    async fn run_within(&mut self, command: &Cmd, timeout: Duration) -> Result<Value, StoreError> {
        if let Some(why) = &self.dead {
            return Err(StoreError::Unknown(why.clone()));
        }
        self.connection.set_response_timeout(timeout);
        match self.connection.send_packed_command(command).await {
            Ok(value) => value.extract_error().map_err(|error| self.failed(&error)),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// One script. NOSCRIPT means that it was not run (the cache was flushed), so it may
    /// be loaded and called again.
    async fn call(&mut self, script: &Script, call: Cmd) -> Result<Value, StoreError> {
        match self.run(&call).await {
            Err(StoreError::Refused(code)) if code == "NOSCRIPT" => {
                self.run(&script.load()).await?;
                self.run(&call).await
            }
            reply => reply,
        }
    }

    /// Commands in one round trip, in their order. An error is that of the first that has one.
    async fn pipeline(
        &mut self,
        commands: impl IntoIterator<Item = Cmd>,
    ) -> Result<Vec<Value>, StoreError> {
        if let Some(why) = &self.dead {
            return Err(StoreError::Unknown(why.clone()));
        }
        self.connection.set_response_timeout(self.response_timeout);
        let mut pipe = redis::pipe();
        for command in commands {
            pipe.add_command(command);
        }
        let replies = self.connection.send_packed_commands(&pipe, 0, pipe.len()).await;
        let replies = replies.and_then(|replies| Value::Array(replies).extract_error());
        array(replies.map_err(|error| self.failed(&error))?)
    }

    /// Commands in one step, without a script: what passes Lua is copied there, and hashed byte
    /// by byte. None: a key that was watched has changed, and nothing was done.
    async fn transaction(&mut self, commands: Vec<Cmd>) -> Result<Option<Vec<Value>>, StoreError> {
        let begin = std::iter::once(redis::cmd("MULTI"));
        let commands = begin.chain(commands).chain([redis::cmd("EXEC")]);
        // What was refused before it is the reason why EXEC is.
        match self.pipeline(commands).await?.pop() {
            Some(Value::Array(done)) => Ok(Some(done)),
            Some(Value::Nil) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// Whether there are transactions: a user's ACL may forbid them, a proxy not know them. Tried
    /// with one of nothing, for what comes after a refused MULTI would be done at once.
    async fn transacts(&mut self) -> Result<bool, StoreError> {
        if let Some(known) = self.transacts {
            return Ok(known);
        }
        let known = match self.transaction(Vec::new()).await {
            Ok(_) => true,
            Err(StoreError::Denied(_) | StoreError::Refused(_)) => {
                // Where only EXEC is refused.
                match self.run(&redis::cmd("DISCARD")).await {
                    Err(error @ StoreError::Unknown(_)) => return Err(error),
                    _ => false,
                }
            }
            Err(error) => return Err(error),
        };
        self.transacts = Some(known);
        Ok(known)
    }

    fn failed(&mut self, error: &RedisError) -> StoreError {
        let error = store_error(error);
        if let StoreError::Unknown(why) = &error {
            self.dead = Some(why.clone());
        }
        error
    }
}

/// Redis's error as ours, without its text.
fn store_error(error: &RedisError) -> StoreError {
    match error.kind() {
        ErrorKind::Io => StoreError::Unknown(match error.is_timeout() {
            true => "no reply in time".to_owned(),
            false => error.to_string(),
        }),
        // A reply that cannot be parsed leaves the connection in an unknown place.
        ErrorKind::Parse => StoreError::Unknown("an unreadable reply".to_owned()),
        ErrorKind::AuthenticationFailed => StoreError::Denied("authentication failed".to_owned()),
        ErrorKind::InvalidClientConfig => {
            StoreError::Unsupported("redis.url or the TLS files cannot be used".to_owned())
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => StoreError::ReadOnly,
        _ => by_code(error.code().unwrap_or("an unexpected reply"), error.detail()),
    }
}

fn by_code(code: &str, detail: Option<&str>) -> StoreError {
    match code {
        "OOM" => StoreError::Oom,
        "READONLY" => StoreError::ReadOnly,
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MISCONF"
        | "NOREPLICAS" | "UNBLOCKED" => StoreError::NotNow(code.to_owned()),
        "NOAUTH" | "WRONGPASS" | "NOPERM" => StoreError::Denied(code.to_owned()),
        "WRONGTYPE" => StoreError::Corrupt(
            "a key of ours was replaced by one of another type while Kasho was running".to_owned(),
        ),
        "MOVED" | "ASK" => StoreError::Unsupported(
            "this Redis Cluster node does not hold our slot: name the one that does in redis.url"
                .to_owned(),
        ),
        // Before 7.0 the flags of an OOM error inside a script arrived in a wrapper.
        "ERR" if detail.is_some_and(|text| text.contains("OOM command not allowed")) => {
            StoreError::Oom
        }
        code => StoreError::Refused(code.to_owned()),
    }
}

/// A reply that no version of the script gives.
fn unexpected() -> StoreError {
    StoreError::Refused("an unexpected reply".to_owned())
}

fn text(value: &Value) -> Result<String, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Ok(text.clone()),
        Value::Int(n) => Ok(n.to_string()),
        Value::Okay => Ok("OK".to_owned()),
        _ => Err(unexpected()),
    }
}

fn bytes(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(unexpected()),
    }
}

fn number(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(n) => u64::try_from(*n).map_err(|_| unexpected()),
        Value::Nil => Ok(0),
        other => text(other)?.parse().map_err(|_| unexpected()),
    }
}

fn array(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected()),
    }
}

fn texts(value: Value) -> Result<Vec<String>, StoreError> {
    array(value)?.iter().map(text).collect()
}

fn id(text: &str) -> Result<Id, StoreError> {
    text.parse().map_err(|()| StoreError::Corrupt(format!("{text:?} is no stream id")))
}

/// `field, value, field, value, …`
fn pairs(words: &[String]) -> HashMap<String, String> {
    words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// A loader's own fields among those of its hash.
fn progress(words: &[String]) -> HashMap<String, String> {
    let own =
        |(field, value): (String, String)| Some((field.strip_prefix("p:")?.to_owned(), value));
    pairs(words).into_iter().filter_map(own).collect()
}

/// The reply of a guarded write.
fn answer(value: Value) -> Result<Answer, StoreError> {
    let words = texts(value)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["DONE"] => Ok(Answer::Done),
        ["FULL", there] => Ok(Answer::Full { there: there.parse().map_err(|_| unexpected())? }),
        ["FENCED", writer, epoch] => {
            Ok(Answer::Fenced { writer: writer.to_owned(), epoch: epoch.to_owned() })
        }
        ["MOVED", top, last] => Ok(Answer::Moved { top: top.to_owned(), last: last.to_owned() }),
        _ => Err(unexpected()),
    }
}
