//! The sink on real servers: the contract that its fake keeps too, and what only a real
//! Redis can do to it.

use std::sync::atomic::{AtomicU32, Ordering};

use kasho::sink::config::Config;
use kasho::sink::contract::{self, Rig};
use kasho::sink::id::Keys;
use kasho::sink::redis::RedisConnector;

use crate::harness::Redis;

struct Real {
    redis: Redis,
    count: AtomicU32,
}

impl Real {
    fn config(&self, prefix: &str) -> Config {
        config(&self.redis, prefix)
    }
}

fn config(redis: &Redis, prefix: &str) -> Config {
    let url = Some(redis.url().into());
    Config { url, prefix: prefix.to_owned(), ..Config::default() }
}

impl Rig for Real {
    type Connect = RedisConnector;

    fn fresh(&self) -> (RedisConnector, Keys) {
        let prefix = format!("k{}", self.count.fetch_add(1, Ordering::Relaxed));
        (RedisConnector::new(&self.config(&prefix)), Keys::new(&prefix))
    }

    async fn occupy(&self, key: &str, there: bool) {
        if there {
            // What is there under this name steps aside.
            let _ = self.redis.try_command::<String>(&["RENAME", key, &aside(key)]).await;
            self.redis.command::<i64>(&["ZADD", key, "1", "kasho:changes"]).await;
        } else {
            self.redis.command::<i64>(&["DEL", key]).await;
            let _ = self.redis.try_command::<String>(&["RENAME", &aside(key), key]).await;
        }
    }

    async fn fill(&self, full: bool) {
        let limit = if full { "1" } else { "0" };
        self.redis.command::<String>(&["CONFIG", "SET", "maxmemory", limit]).await;
    }
}

fn aside(key: &str) -> String {
    format!("{key}:aside")
}

#[tokio::test]
async fn a_real_redis_keeps_the_contract() {
    let redis = Redis::start().await;
    contract::check(&Real { redis, count: AtomicU32::new(0) }).await;
}
