//! The gRPC listener, spoken to by a client that shares no code with it: Python's grpcio,
//! which learns everything from server reflection, as grpcurl does.

use std::net::SocketAddr;

use bytes::Bytes;
use kasho::batch::{Batch, Cell, Piece, Row, Span};
use kasho::bootstrap::{self, Command, Facts, Phase, State};
use kasho::control::Config as GrpcConfig;
use kasho::control::{Accepted, Answer, Call, Control, RetryOutcome, Shared, Status};
use kasho::position::{Epoch, Lsn, Position};
use kasho::sink::config::{Config, Encoding};
use kasho::sink::load::LoadWriter;
use kasho::sink::publisher::{Description, NewEpoch, WriterToken, begin_epoch};
use kasho::sink::redis::RedisConnector;
use kasho::sink::store::{Connect, Registry};
use kasho_plugin_sdk::{Column, Identity, Op, Relation};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::harness::{Output, Redis, python};

/// A listener over a phase that nobody acts upon.
struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Listener {
    async fn start(config: GrpcConfig, redis: &Config) -> Listener {
        let control = Control::bind(&config).await.unwrap();
        let address = control.address();
        let stop = CancellationToken::new();
        let (mailbox, calls) = mpsc::channel(1);
        let status = Status {
            state: Some(State::Waiting),
            slot: "kasho_slot".into(),
            last_error: "none yet".into(),
            retained_wal_bytes: 1 << 40,
            ..Status::default()
        };
        let connector = RedisConnector::new(redis);
        tokio::spawn(answer(calls));
        tokio::spawn(control.serve(Shared::new(status), mailbox, connector, stop.clone()));
        Listener { address, stop }
    }

    async fn call(&self, method: &str, request: &Value, more: &[&str]) -> Output {
        let (address, request) = (self.address.to_string(), request.to_string());
        let arguments = [&[address.as_str(), method, &request], more].concat();
        python(include_str!("grpcurl.py"), &arguments).await
    }
}

/// Decides as the engine does, and does nothing.
async fn answer(mut calls: mpsc::Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        let (command, reply) = match call {
            Call::Start { request, reply } => (Command::Start(request), reply),
            Call::Complete { force, reply } => (Command::Complete { force }, reply),
            Call::Abort { force, reply } => (Command::Abort { force }, reply),
            Call::Accept { digest, reply } => {
                let told = "accepted".to_owned();
                let _ = reply.send(Ok(Accepted { digest, told }));
                continue;
            }
            Call::DecideDdl { position, reply, .. } => {
                let _ = reply.send(Ok(format!("decided at {position}")));
                continue;
            }
            Call::LoadAgain { tables, reply } => {
                let nonce = "word".to_owned();
                (Command::Reload { tables, nonce, planned: [].into() }, reply)
            }
            Call::Retry { ids, reply } => {
                let told = |id| RetryOutcome { id, outcome: "gone".into(), detail: String::new() };
                let _ = reply.send(Ok(ids.into_iter().map(told).collect()));
                continue;
            }
        };
        let answer = Answer {
            previous: State::Waiting,
            current: State::Accumulating,
            accumulated_changes: 0,
            ready_to_stream: false,
            epoch: Some(Epoch(1)),
            start_lsn: Some(Lsn(0x16_0000_00FF)),
            snapshot_name: Some("00000003-00000002-1".into()),
        };
        let decided = bootstrap::on(&Phase::default(), command, &Facts::default());
        let _ = reply.send(decided.map(|_| answer));
    }
}

fn lines(output: &Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn loopback() -> GrpcConfig {
    GrpcConfig { listen: "127.0.0.1:0".parse().unwrap(), ..GrpcConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_services_answer_through_reflection() {
    let redis = Config::default();
    let listener = Listener::start(loopback(), &redis).await;
    let names = listener.call("list", &json!({}), &[]).await.success();
    for name in ["kasho.ChangeStreamService", "change_stream.ChangeStream", "grpc.health.v1.Health"]
    {
        assert!(names.stdout.contains(name), "{}", names.stdout);
    }
    let service = "kasho.ChangeStreamService";
    let status = listener.call(&format!("{service}/GetStatus"), &json!({}), &[]).await.success();
    let status = &lines(&status)[0];
    assert_eq!(status["state"], "WAITING");
    assert_eq!(status["retainedWalBytes"], "1099511627776");
    let status = listener.call("change_stream.ChangeStream/GetStatus", &json!({}), &[]).await;
    assert_eq!(lines(&status.success())[0]["lastError"], "none yet");
    let health =
        listener.call("grpc.health.v1.Health/Check", &json!({"service": service}), &[]).await;
    assert_eq!(lines(&health.success())[0]["status"], "SERVING");
    let refused = listener.call(&format!("{service}/CompleteBootstrap"), &json!({}), &[]).await;
    assert_eq!(refused.code, 1);
    let told = "FAILED_PRECONDITION: CompleteBootstrap refused in state WAITING";
    assert!(refused.stdout.starts_with(told), "{}", refused.stdout);
    // The seed's field names, and those of the original's later releases.
    let bad =
        listener.call(&format!("{service}/StartBootstrap"), &json!({"start_lsn": "x"}), &[]).await;
    assert!(bad.stdout.starts_with("INVALID_ARGUMENT: start_lsn"));
    let half = json!({"start_lsn": "16/FF", "snapshot_name": "s"});
    let started = listener.call(&format!("{service}/StartBootstrap"), &half, &[]).await.success();
    assert_eq!(lines(&started)[0]["status"], "started");
    assert_eq!(lines(&started)[0]["startLsn"], "16/FF");
    let later = json!({"start_position": "16/FF", "snapshot_name": "s"});
    let started = listener.call("change_stream.ChangeStream/StartBootstrap", &later, &[]).await;
    assert_eq!(lines(&started.success())[0]["currentState"], "ACCUMULATING");
    listener.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_scopes() {
    let config = GrpcConfig {
        read_token: Some("reader-token".to_owned().into()),
        admin_token: Some("admin-token".to_owned().into()),
        ..loopback()
    };
    let listener = Listener::start(config, &Config::default()).await;
    let (status, complete) =
        ("kasho.ChangeStreamService/GetStatus", "kasho.ChangeStreamService/CompleteBootstrap");
    for (method, token, expected) in [
        (status, "", "UNAUTHENTICATED"),
        (status, "wrong", "UNAUTHENTICATED"),
        (status, "reader-token", "{"),
        (complete, "reader-token", "PERMISSION_DENIED"),
        (complete, "admin-token", "FAILED_PRECONDITION"),
    ] {
        let output = listener.call(method, &json!({}), &["0", token]).await;
        assert!(output.stdout.starts_with(expected), "{method} {token}: {}", output.stdout);
    }
}

fn relation() -> Relation {
    let column = |name: &str, type_name: &str, oid| Column {
        name: name.into(),
        type_name: type_name.into(),
        oid,
        base: type_name.into(),
        typmod: -1,
        key: name == "id",
        not_null: false,
        unique: false,
        toastable: false,
        elem: None,
        labels: None,
    };
    Relation {
        id: 1,
        version: 1,
        schema: "public".into(),
        table: "users".into(),
        identity: Identity::Default,
        columns: vec![column("id", "int4", 23), column("name", "text", 25)],
    }
}

/// Rows of the load: ids from 1, every second name NULL.
fn rows(count: u32) -> Batch {
    let mut batch = Batch::default();
    let relation = batch.relation_index(&relation().into());
    for id in 1..=count {
        let text = format!("{id}name");
        let digits = u32::try_from(id.to_string().len()).unwrap();
        let segment = batch.push_segment(Bytes::from(text));
        let name = match id % 2 {
            0 => Cell::Null,
            _ => Cell::Text(Span { segment, start: digits, len: 4 }),
        };
        let id = Cell::Text(Span { segment, start: 0, len: digits });
        let new = Some(batch.push_image([id, name]));
        let (op, position) = (Op::Read, Position::START);
        batch.rows.push(Row {
            position,
            op,
            relation,
            new,
            old: None,
            detail: None,
            dropped: false,
        });
    }
    let rows = 0..batch.rows.len();
    batch.pieces.push(Piece {
        xid: 0,
        commit_lsn: Lsn(100),
        commit_us: 0,
        rows,
        first: true,
        end_lsn: None,
    });
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_load_are_streamed_from_redis() {
    let redis = Redis::start().await;
    let config = Config { url: Some(redis.url().into()), ..Config::default() };
    let listener = Listener::start(loopback(), &config).await;
    let connector = RedisConnector::new(&config);
    let mut store = connector.connect().await.unwrap();
    let description = Description {
        options: String::new(),
        chain: String::new(),
        key_fingerprint: String::new(),
    };
    let new = NewEpoch {
        encoding: Encoding::Msgpack,
        load_rows: 500,
        slot: "kasho_slot",
        system_id: "1",
        timeline: 1,
        start_lsn: Lsn(100),
        description,
        generation: 1,
        state: None,
        catalog: None,
    };
    begin_epoch(&mut store, &new).await.unwrap();
    let lease = connector.connect().await.unwrap();
    let status = kasho::sink::status::Status::default();
    let opened = LoadWriter::open(lease, &config, Epoch(1), "me", WriterToken(1), status).await;
    let (mut writer, _) = opened.unwrap();
    writer.append(&rows(40), 3, vec![]).await.unwrap();

    let method = "kasho.ChangeStreamService/Stream";
    let all = listener.call(method, &json!({"position": "bootstrap"}), &["40"]).await.success();
    let all = lines(&all);
    assert_eq!(all.len(), 40);
    assert_eq!(all[0]["position"], "e1:bootstrap:1");
    assert_eq!(all[0]["type"], "dml");
    let dml = &all[0]["dml"];
    assert_eq!((&dml["table"], &dml["kind"]), (&json!("public.users"), &json!("insert")));
    assert_eq!(dml["columnNames"], json!(["id", "name"]));
    assert_eq!(dml["columnValues"], json!([{"intValue": "1"}, {"stringValue": "name"}]));
    assert_eq!(all[1]["dml"]["columnValues"], json!([{"intValue": "2"}, {}]));

    // On from a position, as a named consumer, without loss.
    let request = json!({"position": "e1:bootstrap:38", "consumer": "one", "raw": true});
    let rest = lines(&listener.call(method, &request, &["2"]).await.success());
    let positions: Vec<_> = rest.iter().map(|change| &change["position"]).collect();
    assert_eq!(positions, ["e1:bootstrap:39", "e1:bootstrap:40"]);
    assert_eq!(rest[1]["raw"]["newValues"], json!([{"text": "40"}, {"state": "NULL"}]));
    assert_eq!(rest[1]["raw"]["generation"], "3");
    let method = "change_stream.ChangeStream/Stream";
    let request = json!({"last_position": "e1:bootstrap:39"});
    let rest = lines(&listener.call(method, &request, &["1"]).await.success());
    assert_eq!(rest[0]["position"], "e1:bootstrap:40");

    let ack = "kasho.ChangeStreamService/Ack";
    let request = json!({"consumer": "one", "position": "e1:bootstrap:40"});
    listener.call(ack, &request, &[]).await.success();
    let consumers = store.consumers().await.unwrap();
    assert_eq!((consumers[0].name.as_str(), consumers[0].bootstrap.high), ("one", 40));
    let stranger = json!({"consumer": "stranger", "position": "e1:bootstrap:40"});
    let refused = listener.call(ack, &stranger, &[]).await;
    assert!(refused.stdout.contains("no consumer \"stranger\""), "{}", refused.stdout);
    let other = json!({"position": "e7:bootstrap:1"});
    let method = "kasho.ChangeStreamService/Stream";
    let refused = listener.call(method, &other, &["1"]).await;
    assert!(refused.stdout.starts_with("FAILED_PRECONDITION: epoch e7"), "{}", refused.stdout);
}
