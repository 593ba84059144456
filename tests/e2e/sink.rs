//! The sink on real servers: the contract that its fake keeps too, and what only a real
//! Redis, or the wire to it, can do.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kasho::error::Class;
use kasho::position::{Epoch, Lsn, Position};
use kasho::sink::config::{Config as RedisConfig, Durability, Encoding, Retention};
use kasho::sink::contract::sample::{self, Part};
use kasho::sink::contract::{self, Rig};
use kasho::sink::id::{Id, Keys, Lane};
use kasho::sink::publisher::{
    Claim, Description, NewEpoch, Opened, Opening, Publisher, WriterToken, begin_epoch,
};
use kasho::sink::redis::{RedisConnector, RedisStore};
use kasho::sink::status::Status;
use kasho::sink::store::{
    Answer, Connect, Dead, Feed, Guard, Load, Most, NewEntry, Registry, Store, StoreError, Trim,
};
use kasho::sink::{Sink, SinkError};

use crate::harness::{Certificates, Fault, Proxy, Redis, eventually, free_port};

struct Real {
    redis: Redis,
    count: AtomicU32,
    /// Another user than the first one.
    user: Option<&'static str>,
}

impl Real {
    async fn start() -> Real {
        Real { redis: Redis::start().await, count: AtomicU32::new(0), user: None }
    }

    /// How often this command was done, as the server counts.
    async fn done(&self, command: &str) -> u64 {
        let stats = self.redis.cli(&["INFO", "commandstats"]).await;
        let calls = stats.split(&format!("cmdstat_{command}:calls=")).nth(1).unwrap_or("0,");
        calls.split(',').next().unwrap().parse().unwrap()
    }
}

fn config(redis: &Redis) -> RedisConfig {
    let url = Some(redis.url().into());
    RedisConfig { url, connect_timeout_ms: 60_000, ..RedisConfig::default() }
}

/// Through a wire that can be spoiled, with no more patience than a busy machine needs.
fn config_through(redis: &Redis, proxy: &Proxy) -> RedisConfig {
    RedisConfig {
        url: Some(redis.url_through(proxy.port()).into()),
        connect_timeout_ms: 60_000,
        response_timeout_ms: 5_000,
        ..RedisConfig::default()
    }
}

impl Rig for Real {
    type Connect = RedisConnector;

    fn fresh(&self) -> (RedisConnector, Keys) {
        let prefix = format!("k{}", self.count.fetch_add(1, Ordering::Relaxed));
        let keys = Keys::new(&prefix);
        let url = self.redis.url();
        let url = match self.user {
            Some(user) => url.replacen("redis://:", &format!("redis://{user}:"), 1),
            None => url,
        };
        let config = RedisConfig { url: Some(url.into()), prefix, ..RedisConfig::default() };
        (RedisConnector::new(&config), keys)
    }

    async fn occupy(&self, key: &str, there: bool) {
        let aside = format!("{key}:aside");
        if there {
            // What is there under this name steps aside.
            let _ = self.redis.try_command::<String>(&["RENAME", key, &aside]).await;
            self.redis.command::<i64>(&["ZADD", key, "1", "member"]).await;
        } else {
            self.redis.command::<i64>(&["DEL", key]).await;
            let _ = self.redis.try_command::<String>(&["RENAME", &aside, key]).await;
        }
    }

    async fn fill(&self, full: bool) {
        let limit = if full { "1" } else { "0" };
        self.redis.command::<String>(&["CONFIG", "SET", "maxmemory", limit]).await;
    }
}

async fn connect(config: &RedisConfig) -> Result<RedisStore, StoreError> {
    RedisConnector::new(config).connect().await
}

async fn begin(config: &RedisConfig) -> Epoch {
    let description =
        Description { options: "o".into(), chain: "c".into(), key_fingerprint: "k".into() };
    let new = NewEpoch {
        encoding: Encoding::Msgpack,
        load_rows: 500,
        slot: "kasho_slot",
        system_id: "7000",
        timeline: 1,
        start_lsn: Lsn(100),
        description,
        generation: 1,
        state: None,
        catalog: None,
    };
    begin_epoch(&mut connect(config).await.unwrap(), &new).await.unwrap()
}

async fn try_open(
    config: &RedisConfig,
    token: u64,
) -> Result<(Publisher<RedisStore>, Opened), SinkError> {
    let opening = Opening {
        slot: "kasho_slot".into(),
        system_id: "7000".into(),
        timeline: 1,
        history: Vec::new(),
        confirmed_flush: Lsn(100),
        token: WriterToken(token),
        accept_gap: false,
    };
    let claim = Claim::new(connect(config).await?).await?;
    Publisher::open(claim, config, &opening, Status::default()).await
}

async fn open(config: &RedisConfig, token: u64) -> (Publisher<RedisStore>, Opened) {
    try_open(config, token).await.unwrap()
}

async fn publish(sink: &mut Publisher<RedisStore>, parts: &[Part]) -> Result<(), SinkError> {
    let mut batch = sample::batch(parts);
    batch.skip_through(sink.position());
    sink.publish(batch, 1, Lsn(100)).await
}

/// The ids of the changes, as `redis-cli` sees them.
async fn ids(redis: &Redis) -> Vec<String> {
    let text = redis.cli(&["--raw", "XRANGE", "{kasho}:1:changes", "-", "+"]).await;
    let id = |line: &&str| {
        line.split_once('-').is_some_and(|(lsn, ordinal)| {
            lsn.parse::<u64>().is_ok() && ordinal.parse::<u64>().is_ok()
        })
    };
    text.lines().filter(id).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_real_redis_keeps_the_contract() {
    let real = Real::start().await;
    contract::check(&real).await;
    assert!(real.done("exec").await > 0, "rows of a load go past the scripts");
}

#[tokio::test]
async fn it_is_kept_where_transactions_are_forbidden() {
    let mut real = Real::start().await;
    let password = format!(">{}", real.redis.password());
    let user = ["ACL", "SETUSER", "bare", "on", &password, "~*", "&*", "+@all", "-@transaction"];
    real.redis.command::<String>(&user).await;
    real.user = Some("bare");
    contract::check(&real).await;
    assert_eq!(real.done("exec").await, 0);
}

/// What is watched for a transaction changes all the time: then the script does it.
#[tokio::test]
async fn rows_of_a_load_arrive_once_while_others_write() {
    let redis = Redis::start().await;
    let config = config(&redis);
    let epoch = begin(&config).await;
    let mut loader = connect(&config).await.unwrap();
    loader.lease(epoch, "o", "w", Duration::from_secs(60)).await.unwrap();
    let data = vec![b'x'; 60_000];
    let writing = async {
        for n in 0..200_u64 {
            let last = if n == 0 { Id::ZERO } else { Id { high: n, low: 1 } };
            let id = Id { high: n + 1, low: 1 };
            let entry = NewEntry { id, op: "read", table: "public.t", data: &data, last: false };
            let (lease, dead) = (Duration::from_secs(60), Dead::default());
            let progress = vec![("range".to_owned(), Some(n.to_string()))];
            let load = Load { generation: 1, entries: vec![entry], progress, lease, dead };
            let guard = Guard { epoch, writer: "w".to_owned(), last };
            assert_eq!(loader.load(&guard, &load).await, Ok(Answer::Done), "entry {id}");
        }
    };
    let disturbing = async {
        loop {
            redis.command::<i64>(&["HSET", "{kasho}:checkpoint", "chain", "c"]).await;
        }
    };
    tokio::select! {
        () = writing => {}
        () = disturbing => {}
    }
    let ids = read_load(&mut connect(&config).await.unwrap(), epoch).await;
    assert_eq!(ids, (1..=200).collect::<Vec<u64>>());
    let stored = loader.progress(epoch).await.unwrap();
    assert_eq!(stored.get("range").map(String::as_str), Some("199"));
}

/// Publishes so many transactions of a row each, the first at this place.
async fn rows(sink: &mut Publisher<RedisStore>, first: u64, rows: u64, padding: &str) {
    let parts: Vec<Part> = (first..first + rows).map(|lsn| Part::whole(lsn, 1)).collect();
    for some in parts.chunks(100) {
        sink.publish(sample::batch_padded(some, padding), 1, Lsn(100)).await.unwrap();
    }
}

/// What a script is asked for is copied there, and hashed byte by byte.
#[tokio::test]
async fn a_backlog_of_changes_is_read_past_the_scripts() {
    let real = Real::start().await;
    let config = config(&real.redis);
    let epoch = begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    rows(&mut sink, 200, 5_000, "").await;
    let mut reader = connect(&config).await.unwrap();
    let before = real.done("evalsha").await;
    let (mut after, mut read, mut pages) = (Id::ZERO, Vec::new(), 0);
    loop {
        let page = reader.page(epoch, Lane::Changes, after, Most { entries: 100, bytes: 1 << 20 });
        let page = page.await.unwrap().entries;
        let Some(newest) = page.last() else { break };
        (after, pages) = (newest.id, pages + 1);
        read.extend(page.iter().map(|entry| entry.id.high));
    }
    assert_eq!(read, (200..5_200).collect::<Vec<u64>>());
    let scripts = real.done("evalsha").await - before;
    // The first one, what was not noted yet, and that there is no more.
    assert!(pages >= 50 && scripts <= 5, "{scripts} scripts for {pages} pages");
}

/// Where entries become larger, a page ends.
#[tokio::test]
async fn a_ceiling_cuts_on_where_a_page_ends_early() {
    let redis = Redis::start().await;
    let retention = Retention { max_length: 10, ..Retention::default() };
    let config = RedisConfig { retention, ..config(&redis) };
    begin(&config).await;
    connect(&config).await.unwrap().add_consumer("slow").await.unwrap();
    let (mut sink, _) = open(&config, 1).await;
    let large = "x".repeat(2_000);
    rows(&mut sink, 200, 300, "").await;
    rows(&mut sink, 500, 9, &large).await;
    for (more, first) in [(0, 499), (300, 799)] {
        rows(&mut sink, 509, more, &large).await;
        let cut = async || {
            sink.confirm(Lsn(1), Lsn(100)).await.unwrap();
            let ids = ids(&redis).await;
            (ids.len() == 10).then(|| ids.into_iter().next().unwrap())
        };
        assert_eq!(eventually("the ceiling to cut", cut).await, format!("{first}-1"));
    }
}

async fn read_load(store: &mut RedisStore, epoch: Epoch) -> Vec<u64> {
    let (mut after, mut read) = (Id::ZERO, Vec::new());
    loop {
        let page = store.page(epoch, Lane::Bootstrap, after, Most { entries: 99, bytes: 1 << 20 });
        let page = page.await.unwrap().entries;
        let Some(newest) = page.last() else { return read };
        after = newest.id;
        read.extend(page.iter().map(|entry| entry.id.high));
    }
}

#[tokio::test]
async fn a_writer_frozen_and_thawed_after_a_take_over_changes_nothing() {
    let redis = Redis::start().await;
    let config = config(&redis);
    begin(&config).await;
    let (mut stale, _) = open(&config, 1).await;
    publish(&mut stale, &[Part::whole(200, 2)]).await.unwrap();
    let (mut rightful, opened) = open(&config, 2).await;
    assert_eq!(opened.published, Position::after(Lsn(200)));
    // What it had in memory comes before the rightful writer's, between, and after.
    let error = publish(&mut stale, &[Part::whole(300, 1)]).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    assert_eq!(error.class(), Class::Halt);
    publish(&mut rightful, &[Part::whole(300, 1)]).await.unwrap();
    assert_eq!(publish(&mut stale, &[Part::whole(400, 1)]).await, Err(SinkError::Spent));
    publish(&mut rightful, &[Part::whole(500, 1)]).await.unwrap();
    assert_eq!(ids(&redis).await, ["200-1", "200-2", "300-1", "500-1"]);
    let position = redis.cli(&["HGET", "{kasho}:checkpoint", "position"]).await;
    assert_eq!(position, Position::after(Lsn(500)).to_string());
}

#[tokio::test]
async fn a_swallowed_reply_is_never_answered_by_sending_again() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let config = config_through(&redis, &proxy);
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    publish(&mut sink, &[Part::whole(200, 3)]).await.unwrap();
    proxy.set(Fault::SwallowReplies);
    let error = publish(&mut sink, &[Part::whole(300, 3)]).await.unwrap_err();
    assert!(matches!(error, SinkError::Store(StoreError::Unknown(_))), "{error}");
    assert_eq!(error.class(), Class::Retry);
    // It was done, and nobody heard.
    eventually("the swallowed batch", async || (ids(&redis).await.len() == 6).then_some(())).await;
    proxy.cut();
    proxy.set(Fault::None);
    assert_eq!(sink.flush().await, Err(SinkError::Spent));
    let (mut sink, opened) = open(&config, 2).await;
    assert_eq!(opened.published, Position::after(Lsn(300)));
    publish(&mut sink, &[Part::whole(200, 3), Part::whole(300, 3), Part::whole(400, 1)])
        .await
        .unwrap();
    let expected = ["200-1", "200-2", "200-3", "300-1", "300-2", "300-3", "400-1"];
    assert_eq!(ids(&redis).await, expected);
    // A request that never arrived is the same to this side.
    proxy.set(Fault::Silence);
    let error = publish(&mut sink, &[Part::whole(500, 1)]).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry, "{error}");
    proxy.cut();
    proxy.set(Fault::None);
    let (mut sink, _) = open(&config, 3).await;
    publish(&mut sink, &[Part::whole(500, 1)]).await.unwrap();
    assert_eq!(ids(&redis).await.len(), 8);
}

#[tokio::test]
async fn a_full_redis_is_back_pressure_and_then_goes_on() {
    let redis = Redis::start().await;
    let config = config(&redis);
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    redis.command::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let status = sink.status();
    let relief = async {
        let reason = eventually("a reason for waiting", async || status.get().paused).await;
        assert_eq!(ids(&redis).await, ["200-1"]);
        redis.command::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
        reason
    };
    let parts = [Part::whole(300, 2)];
    let (published, reason) = tokio::join!(publish(&mut sink, &parts), relief);
    assert_eq!(published, Ok(()));
    assert!(reason.contains("OOM") || reason.contains("full"), "{reason}");
    assert_eq!((ids(&redis).await.len(), status.get().paused), (3, None));
}

#[tokio::test]
async fn a_redis_without_its_data_halts_with_the_two_ways_on() {
    let mut redis = Redis::start().await;
    let config = config(&redis);
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    redis.kill9().await;
    let error = publish(&mut sink, &[Part::whole(300, 1)]).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry, "{error}");
    let error = try_open(&config, 2).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry, "while it is down: {error}");
    redis.start_again().await;
    let error = try_open(&config, 2).await.unwrap_err();
    assert!(matches!(error, SinkError::LostData { .. }), "{error}");
    assert!(error.to_string().starts_with("Redis lost data (or was swapped)"), "{error}");
    // Only the stream is gone: what FLUSHDB of a neighbour or a bad restore leaves.
    begin(&config).await;
    let (mut sink, _) = open(&config, 3).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    redis.command::<i64>(&["DEL", "{kasho}:1:changes"]).await;
    let error = publish(&mut sink, &[Part::whole(300, 1)]).await.unwrap_err();
    assert!(matches!(error, SinkError::Moved { .. }), "{error}");
    let error = try_open(&config, 4).await.unwrap_err();
    assert!(error.to_string().contains("ends at 0-0, its checkpoint at 200-1"), "{error}");
}

#[tokio::test]
async fn a_redis_with_its_append_only_file_goes_on() {
    let mut redis = Redis::builder().append_only("always").start().await;
    let config = RedisConfig { durability: Durability::Aof, ..config(&redis) };
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    assert_eq!(sink.status().get().warning, None);
    publish(&mut sink, &[Part::whole(200, 2)]).await.unwrap();
    sink.flush().await.unwrap();
    redis.kill9().await;
    redis.start_again().await;
    let (mut sink, opened) = open(&config, 2).await;
    assert_eq!(opened.published, Position::after(Lsn(200)));
    publish(&mut sink, &[Part::whole(200, 2), Part::whole(300, 1)]).await.unwrap();
    assert_eq!(ids(&redis).await, ["200-1", "200-2", "300-1"]);
}

#[tokio::test]
async fn aof_waits_for_the_disk_where_the_server_can_say_so() {
    let mut redis = Redis::builder().append_only("everysec").start().await;
    let config = RedisConfig { durability: Durability::Aof, ..config(&redis) };
    begin(&config).await;
    let info: Vec<redis::Value> = redis.command(&["COMMAND", "INFO", "WAITAOF"]).await;
    if info == [redis::Value::Nil] {
        // Redis 7.0: that a reply means nothing yet is an error, not a smaller promise.
        let error = try_open(&config, 1).await.unwrap_err();
        assert!(error.to_string().contains("WAITAOF (Redis 7.2"), "{error}");
        assert_eq!(error.class(), Class::Halt);
        return;
    }
    let (mut sink, _) = open(&config, 1).await;
    for lsn in [200, 300, 400] {
        publish(&mut sink, &[Part::whole(lsn, 2)]).await.unwrap();
        sink.flush().await.unwrap();
    }
    let asked = redis.cli(&["INFO", "commandstats"]).await;
    assert!(asked.contains("cmdstat_waitaof"), "{asked}");
    // No second of everysec lies between the answer and the end.
    redis.kill9().await;
    redis.start_again().await;
    let (_, opened) = open(&config, 2).await;
    assert_eq!(opened.published, Position::after(Lsn(400)));
}

#[tokio::test]
async fn durability_that_cannot_be_had_is_an_error() {
    let redis = Redis::start().await;
    let plain = config(&redis);
    begin(&plain).await;
    let (sink, _) = open(&plain, 1).await;
    let warning = sink.status().get().warning;
    assert!(warning.is_some_and(|text| text.contains("nothing on disk")));
    let aof = RedisConfig { durability: Durability::Aof, ..plain.clone() };
    let error = try_open(&aof, 2).await.unwrap_err();
    assert!(error.to_string().contains("needs appendonly yes"), "{error}");
    assert_eq!(error.class(), Class::Halt);
    let replicas = RedisConfig {
        durability: Durability::Replicas(1),
        durability_timeout_ms: 300,
        ..plain.clone()
    };
    let error = try_open(&replicas, 3).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains("0 of 1 copies"), "{error}");

    let replica = Redis::builder()
        .setting("replicaof", &format!("127.0.0.1 {}", redis.port()))
        .setting("masterauth", redis.password())
        .start()
        .await;
    let patient = RedisConfig { durability_timeout_ms: 60_000, ..replicas };
    let (mut sink, _) = open(&patient, 4).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(ids(&replica).await, ["200-1"]);
    let error = try_open(&config(&replica), 5).await.unwrap_err();
    assert_eq!(error, SinkError::Store(StoreError::ReadOnly));
}

#[tokio::test]
async fn evicting_foreign_and_forbidden_servers_are_told_apart() {
    let redis = Redis::start().await;
    let config = config(&redis);
    begin(&config).await;
    redis.command::<String>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let error = try_open(&config, 1).await.unwrap_err();
    assert_eq!(error, SinkError::Evicting { policy: "allkeys-lru".into() });
    assert!(error.to_string().contains("CONFIG SET maxmemory-policy noeviction"));
    redis.command::<String>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    // The original's key has no braces: it is in nobody's way.
    redis.command::<i64>(&["ZADD", "kasho:changes", "1", "left behind"]).await;
    open(&config, 1).await;
    redis.command::<i64>(&["DEL", "{kasho}:state"]).await;
    redis.command::<i64>(&["ZADD", "{kasho}:state", "1", "x"]).await;
    let error = try_open(&config, 2).await.unwrap_err();
    assert!(
        error.to_string().contains("\"{kasho}:state\" is a zset, expected a string"),
        "{error}"
    );
    assert_eq!(error.class(), Class::Halt);

    let nobody = RedisConfig {
        url: Some(format!("redis://:wrong@127.0.0.1:{}", redis.port()).into()),
        ..RedisConfig::default()
    };
    let error = connect(&nobody).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error}");
    assert!(!error.to_string().contains("wrong@"), "{error}");
}

#[tokio::test]
async fn a_user_with_only_the_rights_it_needs_can_do_everything() {
    let redis = Redis::start().await;
    let rules = [
        "ACL",
        "SETUSER",
        "kasho",
        "on",
        ">pass-of-kasho",
        "~{kasho}:*",
        "-@all",
        "+@read",
        "+@write",
        "+@connection",
        "+@scripting",
        "+@transaction",
        "+@stream",
        "+@blocking",
        "+info",
        "+time",
        "+wait",
        "+memory|usage",
        "-@dangerous",
        "+info",
    ];
    redis.command::<String>(&rules).await;
    let url = format!("redis://kasho:pass-of-kasho@127.0.0.1:{}", redis.port());
    let config = RedisConfig { url: Some(url.into()), ..RedisConfig::default() };
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    sink.confirm(Lsn(400), Lsn(300)).await.unwrap();
    sink.flush().await.unwrap();
    let mut store = connect(&config).await.unwrap();
    assert_eq!(store.add_consumer("c").await, Ok(true));
    store.wait(Epoch(1), Lane::Changes, Id::ZERO, Duration::from_secs(1)).await.unwrap();
    let page = store.page(Epoch(1), Lane::Changes, Id::ZERO, 10).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    let other = RedisConfig { prefix: "other".into(), ..config };
    let error = connect(&other).await.unwrap().inspect().await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
}

#[tokio::test]
async fn a_consumer_group_of_redis_itself_holds_back_what_it_has_not_acknowledged() {
    let redis = Redis::start().await;
    let config = config(&redis);
    begin(&config).await;
    let mut store = connect(&config).await.unwrap();
    store.add_consumer("plain").await.unwrap();
    let (mut sink, _) = open(&config, 1).await;
    let parts = [Part::whole(200, 2), Part::whole(300, 2), Part::whole(400, 1)];
    publish(&mut sink, &parts).await.unwrap();
    let stream = "{kasho}:1:changes";
    let trim = Trim { epoch: Epoch(1), ceiling: None, pressed: false };
    let read = ["XREADGROUP", "GROUP", "plain", "me", "COUNT", "4", "STREAMS", stream, ">"];
    redis.command::<redis::Value>(&read).await;
    assert_eq!(store.trim(trim).await, Ok(0), "read is not acknowledged");
    redis.command::<i64>(&["XACK", stream, "plain", "200-2", "300-1", "300-2"]).await;
    assert_eq!(store.trim(trim).await, Ok(0), "the oldest is not");
    redis.command::<i64>(&["XACK", stream, "plain", "200-1"]).await;
    let consumer = store.consumers().await.unwrap().remove(0);
    assert_eq!(consumer.changes, Id { high: 300, low: 2 });
    assert_eq!(store.trim(trim).await, Ok(4));
    assert_eq!(ids(&redis).await, ["400-1"]);
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().trim, Id { high: 300, low: 2 });
    // The stream still ends where the writer left it.
    publish(&mut sink, &[Part::whole(500, 1)]).await.unwrap();
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let redis = Redis::start().await;
    let config = config(&redis);
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    redis.command::<String>(&["SCRIPT", "FLUSH"]).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    assert_eq!(ids(&redis).await, ["200-1"]);
}

#[tokio::test]
async fn a_row_that_redis_cannot_take_is_named_before_it_is_sent() {
    let redis = Redis::start().await;
    redis.command::<String>(&["CONFIG", "SET", "proto-max-bulk-len", "1048576"]).await;
    let config = config(&redis);
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    let padding = "x".repeat(1 << 20);
    let batch = sample::batch_padded(&[Part::whole(200, 1)], &padding);
    let error = sink.publish(batch, 1, Lsn(100)).await.unwrap_err();
    assert!(matches!(error, SinkError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("public.ledger") && !error.to_string().contains("xxx"));
    let (mut sink, _) = open(&config, 2).await;
    // Many rows that fit: several calls, one after the other.
    let batch = sample::batch_padded(&[Part::whole(200, 100)], &"x".repeat(100_000));
    sink.publish(batch, 1, Lsn(100)).await.unwrap();
    assert_eq!(ids(&redis).await.len(), 100);
}

#[tokio::test]
async fn tls_is_verified_and_a_certificate_can_be_asked_for() {
    let certificates = Certificates::make();
    let port = free_port();
    let (path, text) = (|name| certificates.file(name), |name| certificates.path(name));
    let redis = Redis::builder()
        .setting("tls-port", &port.to_string())
        .setting("tls-cert-file", &text("server.pem"))
        .setting("tls-key-file", &text("server.key"))
        .setting("tls-ca-cert-file", &text("ca.pem"))
        .setting("tls-auth-clients", "yes")
        .start()
        .await;
    let url = format!("rediss://:{}@localhost:{port}", redis.password());
    let config = RedisConfig {
        url: Some(url.into()),
        tls_ca: Some(path("ca.pem")),
        tls_cert: Some(path("client.pem")),
        tls_key: Some(path("client.key")),
        ..RedisConfig::default()
    };
    begin(&config).await;
    let (mut sink, _) = open(&config, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)]).await.unwrap();
    assert_eq!(ids(&redis).await, ["200-1"]);

    let nobody = RedisConfig { tls_cert: None, tls_key: None, ..config.clone() };
    assert!(connect(&nobody).await.is_err(), "without the client's certificate");
    let strange = RedisConfig { tls_ca: Some(path("other.pem")), ..config.clone() };
    assert!(connect(&strange).await.is_err(), "a server of another root");
    let by_address = format!("rediss://:{}@127.0.0.1:{port}", redis.password());
    let unnamed = RedisConfig { url: Some(by_address.into()), ..config };
    assert!(connect(&unnamed).await.is_err(), "the certificate is for another name");
}
