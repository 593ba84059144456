//! A client of the original, written against nothing but its wire format, does not notice
//! whom it talks to: under both names of the service it gets everything once, through
//! reconnects and a killed engine, every value in the form that it knows.

use crate::harness::{Output, Postgres, Redis, python};
use crate::world::{World, Writer};

const KINDS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE TABLE kinds (id bigint PRIMARY KEY, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
        nan float8, inf float8, yes bool, no bool, tz timestamptz, never timestamptz,
        ts timestamp, d date, n numeric, t text, empty text, nothing text, j jsonb, u uuid,
        b bytea, a int[], m mood, big text);
    ALTER TABLE kinds ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE whole (id bigint PRIMARY KEY, v text);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE done (id bigint PRIMARY KEY);
    INSERT INTO whole VALUES (1, NULL);";

fn kind(id: u32) -> String {
    format!(
        "INSERT INTO kinds VALUES ({id}, -32768, 2147483647, 9223372036854775807, 1.5, -0.1,
            'NaN', 'Infinity', true, false, '2026-11-22 23:00:01.5+00', 'infinity',
            '2026-11-22 23:00:01.5', '2026-11-22', 12345678901234567890.1230,
            E'zażółć\\n\"\\\\', '', NULL, '{{\"a\": [1, null]}}',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff', '{{1,NULL,3}}', 'sad',
            repeat('x', 20000));"
    )
}

/// The names that the service has had.
const NAMES: [(&str, &str); 2] =
    [("kasho", "ChangeStreamService"), ("change_stream", "ChangeStream")];

async fn client(address: String, name: (&'static str, &'static str), action: &[&str]) -> Output {
    let (package, service) = name;
    let proto = include_str!("original.proto");
    let arguments = [&[proto, address.as_str(), package, service], action].concat();
    python(include_str!("compat.py"), &arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_original_gets_everything_once_under_both_names() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let mut world = World::with(pg, redis, 2_000, "").await;
    world.pg.sql(KINDS).await;
    world.pg.sql(&kind(1)).await;
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let writer = Writer::start(&world.pg, 2_000).await;
    // Both come before there is anything, as the original's may.
    let [old, new] = [(NAMES[0], "97"), (NAMES[1], "331")].map(|(name, leap)| {
        let address = address.clone();
        tokio::spawn(async move { client(address, name, &["read", leap]).await })
    });
    let started = client(address.clone(), NAMES[1], &["bootstrap"]).await;
    assert_eq!(started.code, 0, "{}{}", started.stdout, started.stderr);
    writer.more(500).await;
    world.pg.sql(&kind(2)).await;
    for statement in [
        "UPDATE kinds SET i4 = 5 WHERE id = 1",
        "UPDATE kinds SET id = 7 WHERE id = 2",
        "DELETE FROM kinds WHERE id = 7",
        "UPDATE whole SET v = 'x'",
        "TRUNCATE kinds",
    ] {
        world.pg.sql(statement).await;
    }
    world.engine.kill9().await;
    writer.more(200).await;
    world.engine.start_again();
    world.until_state("STREAMING").await;
    writer.more(500).await;
    let last = writer.finish().await;
    world.pg.sql("INSERT INTO done VALUES (1)").await;
    for reading in [old, new] {
        let output = reading.await.expect("client");
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let expected = format!("last {last}, ");
        assert!(output.stdout.contains(&expected), "{expected}\n{}", output.stdout);
    }
}
