//! What kind of server this is, how much memory it uses, and how long a write takes to
//! be durable. Managed servers refuse CONFIG: what INFO says is taken from there.

use std::time::Duration;

use super::{RedisStore, number, text, texts};
use crate::position::Epoch;
use crate::sink::config::Durability;
use crate::sink::id::Lane;
use crate::sink::store::{Server, StoreError, Usage};

/// `proto-max-bulk-len` where CONFIG is refused: Redis's default.
const MAX_BULK_LEN: u64 = 512 << 20;
/// A stream's node cannot grow beyond 1 GiB, whatever the protocol takes.
const MAX_ENTRY: u64 = 1 << 30;
/// Room for the other arguments of an entry.
const ENTRY_ROOM: u64 = 64 << 10;
/// A reply to a wait comes this much after its own timeout at the latest.
const WAIT_SLACK_MS: u64 = 5_000;

/// INFO's `name:value` lines.
struct Info(String);

impl Info {
    fn get(&self, name: &str) -> &str {
        let lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim_end())
    }

    fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(0)
    }
}

impl RedisStore {
    async fn info(&mut self, section: &str) -> Result<Info, StoreError> {
        let mut command = redis::cmd("INFO");
        command.arg(section);
        match self.run(&command).await? {
            redis::Value::VerbatimString { text, .. } => Ok(Info(text)),
            value => Ok(Info(text(&value)?)),
        }
    }

    /// A setting, or none where CONFIG is refused.
    async fn setting(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        match self.run(&command).await {
            Ok(value) => Ok(texts(value)?.into_iter().nth(1)),
            Err(StoreError::Denied(_) | StoreError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn describe(&mut self) -> Result<Server, StoreError> {
        let all = self.info("everything").await?;
        let save = self.setting("save").await?;
        let max_bulk_len = self.setting("proto-max-bulk-len").await?;
        let max_bulk_len = max_bulk_len.and_then(|n| n.parse().ok()).unwrap_or(MAX_BULK_LEN);
        Ok(Server {
            version: all.get("redis_version").to_owned(),
            policy: all.get("maxmemory_policy").to_owned(),
            primary: all.get("role") == "master",
            persistent: all.get("aof_enabled") == "1" || save.is_none_or(|save| !save.is_empty()),
            max_bulk_len: max_bulk_len.min(MAX_ENTRY) - ENTRY_ROOM.min(max_bulk_len / 2),
        })
    }

    pub(super) async fn memory(&mut self, epoch: Epoch) -> Result<Usage, StoreError> {
        let changes = self.keys.stream(epoch, Lane::Changes);
        let bootstrap = self.keys.stream(epoch, Lane::Bootstrap);
        let info = self.info("memory").await?;
        let time = texts(self.run(&redis::cmd("TIME")).await?)?;
        let (seconds, micros) = match &time[..] {
            [seconds, micros] => (seconds.parse().unwrap_or(0), micros.parse().unwrap_or(0)),
            _ => (0_u64, 0_u64),
        };
        let mut length = redis::cmd("XLEN");
        length.arg(&changes);
        Ok(Usage {
            changes: self.memory_usage(&changes).await?,
            bootstrap: self.memory_usage(&bootstrap).await?,
            used: info.number("used_memory"),
            limit: info.number("maxmemory"),
            policy: info.get("maxmemory_policy").to_owned(),
            length: number(&self.run(&length).await?)?,
            now_ms: seconds * 1000 + micros / 1000,
        })
    }

    async fn memory_usage(&mut self, key: &str) -> Result<u64, StoreError> {
        let mut command = redis::cmd("MEMORY");
        command.arg("USAGE").arg(key);
        number(&self.run(&command).await?)
    }

    pub(super) async fn wait_durable(
        &mut self,
        durability: Durability,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match durability {
            Durability::Reply => Ok(()),
            Durability::Replicas(wanted) => {
                let mut command = redis::cmd("WAIT");
                command.arg(wanted).arg(millis(timeout));
                let reached = self.run_within(&command, slack(timeout)).await?;
                enough(number(&reached)?, u64::from(wanted), timeout)
            }
            Durability::Aof => self.wait_aof(timeout).await,
        }
    }

    /// `WAITAOF`; on a server without it, `appendfsync always` means the reply was it.
    async fn wait_aof(&mut self, timeout: Duration) -> Result<(), StoreError> {
        let mut command = redis::cmd("WAITAOF");
        command.arg(1).arg(0).arg(millis(timeout));
        match self.run_within(&command, slack(timeout)).await {
            Ok(value) => {
                let reached = super::array(value)?;
                enough(number(reached.first().unwrap_or(&redis::Value::Nil))?, 1, timeout)
            }
            Err(StoreError::Refused(_)) => {
                let enabled = self.info("persistence").await?.get("aof_enabled") == "1";
                let fsync = self.setting("appendfsync").await?;
                if enabled && fsync.as_deref() == Some("always") {
                    return Ok(());
                }
                Err(StoreError::Unsupported(
                    "redis.durability = \"aof\" needs appendonly yes and either WAITAOF (Redis 7.2, \
                     Valkey) or appendfsync always (and the right to see it by CONFIG GET)"
                        .to_owned(),
                ))
            }
            Err(error) => Err(error),
        }
    }
}

fn millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

fn slack(timeout: Duration) -> Duration {
    timeout + Duration::from_millis(WAIT_SLACK_MS)
}

fn enough(reached: u64, wanted: u64, timeout: Duration) -> Result<(), StoreError> {
    match reached >= wanted {
        true => Ok(()),
        false => Err(StoreError::NotDurable { reached, wanted, timeout_ms: millis(timeout) }),
    }
}
