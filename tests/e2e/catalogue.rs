//! The transforms of `anonymize` on real tables: what arrives at a target is of its type,
//! stays unique where it was, refers where it referred, and is nobody's.

use crate::harness::{Engine, Postgres, Redis, eventually, logs, python};
use crate::world::{World, config};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE patients (
        id int8 PRIMARY KEY, uid uuid UNIQUE, ssn char(11) UNIQUE, mail text NOT NULL UNIQUE,
        card text UNIQUE, login text UNIQUE, phones text[], codes int4[], doc jsonb,
        born date, seen timestamptz, weight numeric(5,2), level int2, height float8, flag bool,
        mood mood, bio varchar(60), secret text);
    CREATE TABLE visits (id int4 PRIMARY KEY, patient int8 REFERENCES patients (id), uid uuid);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

const KEY: &str = "52a0c63b9e1f7d48a5c2e90b7f1d3846c8e2a7b05d94f16e3a7c0b9d58e2f461";

const RULES: &str = r#"
    [keys]
    k1 = { env = "CATALOGUE_KEY" }
    [[transform]]
    name = "mask"
    plugin = "anonymize.wasm"
    tables = ["public.patients", "public.visits"]
    deadline_ms = 5000
    [transform.rules]
    "public.patients.id" = "digits"
    "public.patients.uid" = "uuid"
    "public.patients.ssn" = { transform = "fake_ssn", unique = true }
    "public.patients.mail" = { transform = "FakeEmail", unique = true }
    "public.patients.card" = { transform = "fake_credit_card_num", unique = true }
    "public.patients.login" = { transform = "template", template = "user-{{.id}}" }
    "public.patients.phones" = "fake_phone"
    "public.patients.codes" = "digits"
    "public.patients.born" = { transform = "shift_date", by = "row" }
    "public.patients.seen" = { transform = "shift_date", by = "row", days = 5 }
    "public.patients.weight" = { transform = "noise", by = "row", ratio = 0.5 }
    "public.patients.level" = { transform = "fake_month_num", by = "row" }
    "public.patients.height" = "fake_latitude"
    "public.patients.flag" = { transform = "bool", by = "row" }
    "public.patients.mood" = { transform = "choice", values = ["sad", "happy"], by = "row" }
    "public.patients.bio" = { transform = "fake_paragraph", max_length = 60 }
    "public.patients.secret" = { transform = "password_bcrypt", cleartext = "test", cost = 4 }
    "public.visits.id" = "pass"
    "public.visits.patient" = "digits"
    "public.visits.uid" = "uuid"
    [transform.rules."public.patients.doc"]
    transform = "json"
    paths = { "name" = "fake_name", "age" = "noise", "tags[*]" = "hash", "plan" = "pass" }
"#;

async fn fill(pg: &Postgres, secret: &str, from: u32, to: u32) {
    pg.sql(&format!(
        "INSERT INTO patients SELECT n, md5(n::text)::uuid,
             to_char(n, 'FM000') || '-45-' || to_char(n % 10000, 'FM0000'),
             '{secret}' || n || '@x', '4111-1111-1111-' || to_char(n, 'FM0000'), '{secret}' || n,
             ARRAY['{secret}', NULL, '+1 (415) 555-' || to_char(n, 'FM0000')], ARRAY[[n, -n], [0, NULL]],
             jsonb_build_object('name', '{secret}', 'age', n, 'tags', jsonb_build_array('{secret}', 1),
                                'plan', 'gold', '{secret}', '{secret}'),
             date '1950-01-01' + n, now() - n * interval '1 day', 999.99, n % 7, n / 3.0, true,
             'ok', '{secret}', '{secret}' FROM generate_series({from}, {to}) n;
         INSERT INTO visits SELECT n, n, md5(n::text)::uuid FROM generate_series({from}, {to}) n"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_tables_land_whole_and_nobodys() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let secret = logs::planted_unique("secret-patient");
    pg.sql(TABLES).await;
    fill(&pg, &secret, 1, 400).await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), RULES);
    let builder = builder.plugin("anonymize").env("CATALOGUE_KEY", KEY);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    fill(&world.pg, &secret, 401, 600).await;
    world
        .pg
        .sql(&format!(
            "UPDATE patients SET mail = '{secret}' || id || '@y', flag = false WHERE id % 3 = 0;
             DELETE FROM visits WHERE id % 5 = 0;
             DELETE FROM patients WHERE id % 5 = 0;
             UPDATE visits SET id = id + 10000 WHERE id % 7 = 0"
        ))
        .await;
    let lsn: u64 =
        world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await.parse().unwrap();
    fill(&world.pg, &secret, 601, 601).await;
    eventually("the stream", async || (world.newest().await?.0 > lsn).then_some(())).await;
    // Of two rows the first one may be seen alone: a transaction of one comes behind them.
    let lsn: u64 =
        world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await.parse().unwrap();
    world.pg.sql("DELETE FROM visits WHERE id = 601").await;
    eventually("the end", async || (world.newest().await?.0 > lsn).then_some(())).await;
    let url = world.redis.url();
    let arguments = [url.as_str(), "1", "public.patients=id", "public.visits=id"];
    let landed = python(include_str!("catalogue.py"), &arguments).await.success().stdout;
    assert!(!landed.contains(&secret), "an original has left");
    compare(&world.pg, &landed).await;
}

/// Puts what arrived into tables of the same types and keys, and asks PostgreSQL.
async fn compare(pg: &Postgres, landed: &str) {
    let client = pg.client().await;
    let made = "CREATE TEMP TABLE landed_patients (LIKE patients INCLUDING ALL);
         CREATE TEMP TABLE landed_visits (LIKE visits INCLUDING ALL);";
    client.batch_execute(made).await.expect("tables");
    client.batch_execute(landed).await.expect("what arrived is of its types and stays unique");
    for (question, want) in [
        ("SELECT (SELECT count(*) FROM patients) - (SELECT count(*) FROM landed_patients)", 0),
        ("SELECT (SELECT count(*) FROM visits) - (SELECT count(*) FROM landed_visits)", 0),
        (
            "SELECT count(*) FROM landed_visits v LEFT JOIN landed_patients p
             ON p.id = v.patient AND p.uid = v.uid WHERE p.id IS NULL",
            0,
        ),
        ("SELECT count(*) FROM landed_patients JOIN patients USING (uid)", 0),
        ("SELECT count(*) FROM landed_patients WHERE login <> 'user-' || id", 0),
        (
            "SELECT count(*) FROM landed_patients WHERE doc - '{name,age,tags,plan}'::text[] <> '{}'",
            0,
        ),
        (
            "SELECT count(*) FROM landed_patients WHERE doc ->> 'plan' <> 'gold' OR doc ->> 'age' IS NULL",
            0,
        ),
        (
            "SELECT count(*) FROM landed_patients WHERE phones[2] IS NOT NULL OR phones[3] !~ '^\\+\\d'",
            0,
        ),
        ("SELECT count(*) FROM landed_patients WHERE array_dims(codes) <> '[1:2][1:2]'", 0),
        ("SELECT count(*) FROM landed_patients WHERE mood = 'ok' OR level > 12 OR level < 1", 0),
        ("SELECT count(DISTINCT flag) FROM landed_patients", 2),
        ("SELECT count(DISTINCT secret) FROM landed_patients", 1),
    ] {
        let row = client.query_one(question, &[]).await.expect(question);
        assert_eq!(row.get::<_, i64>(0), want, "{question}");
    }
}
