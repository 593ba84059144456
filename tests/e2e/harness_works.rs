//! The harness itself: that its servers come and go, that it sees what leaks, that its
//! wire breaks when told. A harness that cannot fail proves nothing.

use std::process::Command;
use std::time::Duration;

use crate::harness::process::Voice;
use crate::harness::redis::patient;
use crate::harness::{Fault, Postgres, Process, Proxy, Redis, guest, logs, python, unique};

#[tokio::test]
async fn postgres_decodes_logically_over_both_roads() {
    let server = Postgres::builder().setting("work_mem", "1MB").start().await;
    assert_eq!(server.value("SHOW wal_level").await, "logical");
    assert_eq!(server.value("SHOW work_mem").await, "1MB");
    let tcp = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await;
    assert!(tcp.is_ok(), "{:?}", tcp.err());
    let wrong = server.url_as("postgres", "wrong");
    assert!(tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.is_err());
    assert_eq!(server.psql("SELECT 1, NULL").await, "1|");
}

#[tokio::test]
async fn postgres_restarts_with_its_rows() {
    let mut server = Postgres::start().await;
    let port = server.port();
    server.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (7)").await;
    server.restart("fast").await;
    server.sql("CHECKPOINT").await;
    server.kill9().await;
    server.start_again().await;
    assert_eq!((server.port(), server.value("SELECT id FROM t").await), (port, "7".to_owned()));
    assert!(server.log().contains("was not properly shut down"));
}

#[tokio::test]
async fn dropped_servers_leave_nothing() {
    let (server, redis) = (Postgres::start().await, Redis::start().await);
    let folder = server.folder().to_owned();
    let ports = [server.port(), redis.port()];
    drop((server, redis));
    assert!(!folder.exists());
    for port in ports {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[tokio::test]
async fn redis_keeps_or_loses_its_data_as_told() {
    let mut redis = Redis::builder().append_only("always").start().await;
    redis.command::<()>(&["SET", "k", "v"]).await;
    redis.kill9().await;
    redis.start_again().await;
    assert_eq!(redis.cli(&["GET", "k"]).await, "v");
    redis.shutdown().await;
    redis.start_empty().await;
    assert_eq!(redis.command::<Option<String>>(&["GET", "k"]).await, None);
}

#[tokio::test]
async fn a_leak_is_seen_in_each_form() {
    let canary = logs::planted_unique("canary");
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    let who = unique();
    for said in [canary.clone(), hex, format!("{:?}", canary.as_bytes()), "harmless".to_owned()] {
        let mut echo = Command::new("echo");
        echo.arg(said);
        let mut process = Process::spawn(&who, echo, Voice::Engine).unwrap();
        process.wait_exit().await;
        process.finish();
    }
    assert_eq!(logs::leaks(&who).len(), 3);
    assert!(std::panic::catch_unwind(|| logs::verify(&who)).is_err());
    assert!(logs::leaks("nobody").is_empty());
}

#[tokio::test]
async fn last_words_are_heard_although_somebody_else_holds_the_pipe() {
    for _ in 0..20 {
        let mut chatter = Command::new("sh");
        chatter.args(["-c", "sleep 2 & seq 10000; echo wrong >&2; exit 3"]);
        let process = Process::spawn(&unique(), chatter, Voice::Engine).unwrap();
        assert_eq!(process.wait_exit().await.code(), Some(3));
        let mut lines = process.lines();
        lines.sort_by_key(|line| line.parse().unwrap_or(0));
        let numbers: Vec<String> = (1..=10_000).map(|n: u32| n.to_string()).collect();
        assert_eq!((lines.remove(0).as_str(), lines), ("wrong", numbers));
    }
}

#[tokio::test]
async fn the_wire_breaks_as_told() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let client = redis::Client::open(redis.url_through(proxy.port())).unwrap();
    let connect = async || client.get_multiplexed_async_connection_with_config(&patient()).await;
    let ping = redis::cmd("INCR").arg("n").clone();

    let mut connection = connect().await.unwrap();
    for fault in [Fault::None, Fault::Trickle, Fault::Delay(Duration::from_millis(1))] {
        proxy.set(fault);
        ping.query_async::<()>(&mut connection).await.unwrap();
    }
    proxy.set(Fault::SwallowReplies);
    connection.set_response_timeout(Duration::from_millis(100));
    assert!(ping.query_async::<()>(&mut connection).await.is_err());
    assert_eq!(redis.command::<u64>(&["GET", "n"]).await, 4, "the request itself arrived");
    proxy.set(Fault::None);
    proxy.cut();
    assert!(ping.query_async::<()>(&mut connection).await.is_err());
    assert!(connect().await.is_ok());
    proxy.set(Fault::Refuse);
    assert!(connect().await.is_err());
}

#[test]
fn a_guest_is_a_wasm_module() {
    let bytes = std::fs::read(guest("anonymize")).unwrap();
    assert_eq!(bytes.get(..4), Some(&b"\0asm"[..]));
}

#[tokio::test]
async fn python_has_its_clients() {
    let program = "import grpc, msgpack, redis, sys\n\
                   from grpc_reflection.v1alpha import reflection\n\
                   print(sys.argv[1])";
    assert_eq!(python(program, &["ready"]).await.success().stdout.trim(), "ready");
}
