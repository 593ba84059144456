//! The oracle: random workloads against a source, PostgreSQL's own subscription feeding a
//! third database from it, and the question whether two databases hold the same rows. What
//! a seed does follows from the seed alone: its tables, its statements, their order.
//!
//! `make soak SEEDS=500` runs the first 500 seeds, `SEEDS=7-7` one of them; a seed that fails
//! says how it is run again. Seeds that change their schemas, too, no subscription follows:
//! their target is held against the source, by its rows and by what it is made of. Several
//! seeds share servers, and one Kasho, whose course of kills and reloads is that of the first
//! of them.

#[path = "../sim/random.rs"]
mod random;

mod changes;
mod changing;
mod compare;
mod kasho;
mod schema;
mod stage;
mod values;
mod workload;

use std::collections::BTreeSet;
use std::time::Duration;

use changing::Changing;
use compare::difference;
use kasho::Kasho;
use random::Random;
use schema::{IDENTITIES, Schema};
use stage::Stage;
use values::TYPES;
use workload::{Run, play};

/// Statements of a seed.
const STEPS: u64 = 120;
/// Sessions of a seed.
const SESSIONS: usize = 3;
/// Before each statement of a seed, while Kasho is at work.
const PAUSE: Duration = Duration::from_millis(40);
/// Seeds that share servers, and how many such groups play at a time.
const GROUP: usize = 10;
const AT_ONCE: usize = 3;
/// Of those that change their schemas.
const CHANGING: u64 = 12;
const CHANGING_GROUP: usize = 6;

/// Runs nothing, and remembers what it was given.
#[derive(Default)]
struct Written(Vec<String>);

impl Run for Written {
    async fn run(&mut self, session: usize, statement: &str) -> bool {
        self.0.push(format!("{session}: {statement}"));
        // Some fail, so that what follows a failure is seen, too.
        !self.0.len().is_multiple_of(11)
    }
}

async fn written(seed: u64) -> (Schema, Vec<String>) {
    let mut random = Random::new(seed);
    let schema = Schema::new(seed, &mut random);
    let mut written = Written::default();
    play(&schema, &mut random, SESSIONS, STEPS, &mut written).await;
    (schema, written.0)
}

#[tokio::test]
async fn a_seed_is_one_workload_and_fifty_seeds_do_everything() {
    let (mut identities, mut types, mut words) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for seed in 1..=50 {
        let (schema, statements) = written(seed).await;
        let (again, repeated) = written(seed).await;
        assert_eq!((&schema.ddl, &statements), (&again.ddl, &repeated), "seed {seed}");
        for table in &schema.tables {
            identities.insert(table.identity);
            types.extend(table.columns.iter().map(|(_, of)| of.sql));
        }
        words += &statements.join("\n");
        words.push('\n');
    }
    assert_ne!(written(1).await.1, written(2).await.1);
    let missing: Vec<_> = IDENTITIES.iter().filter(|id| !identities.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let missing: Vec<_> = TYPES.iter().filter(|of| !types.contains(of.sql)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for part in [
        "SAVEPOINT s2",
        "ROLLBACK TO s1",
        "RELEASE s1",
        "ROLLBACK\n",
        "COMMIT\n",
        "SET k = k + 100",
        "SET k = -1",
        "SET u = u + 1",
        "SET u = (SELECT max(u)",
        "TRUNCATE",
        "RESTART IDENTITY",
        "generate_series(1, 2500)",
        "repeat('out of line",
        "DELETE FROM",
    ] {
        assert!(words.contains(part), "no seed does {part}");
    }
}

async fn written_changes(seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    let schema = Schema::new(seed, &mut random);
    let mut written = Written::default();
    Changing::new(&schema, SESSIONS).play(&mut random, STEPS, &mut written).await;
    written.0
}

#[tokio::test]
async fn seeds_that_change_their_schemas_make_every_kind_of_change() {
    // As of the others, fifty; `make test` plays the first of them, `make soak` as many as asked.
    let mut words = String::new();
    for seed in 1..=50 {
        let statements = written_changes(seed).await;
        assert_eq!(statements, written_changes(seed).await, "seed {seed}");
        words += &statements.join("\n");
        words.push('\n');
    }
    let parts = [
        "ADD COLUMN",
        "DROP COLUMN",
        " RENAME \"",
        " TYPE text",
        " TYPE timestamptz",
        "SET DEFAULT",
        "DROP DEFAULT",
        "SET NOT NULL",
        "DROP NOT NULL",
        "gen_random_uuid()",
        "GENERATED ALWAYS AS (k",
        "FOREIGN KEY",
        "EXCLUDE",
        "CHECK",
        "VALIDATE CONSTRAINT",
        "DROP CONSTRAINT",
        "CREATE INDEX",
        "DROP INDEX",
        "ALTER INDEX",
        "INCLUDING ALL",
        " INTO ",
        "WITH NO DATA",
        " AS SELECT ",
        "DROP TABLE",
        "RENAME TO passing",
        "SET SCHEMA",
        "ADD VALUE",
        "RENAME VALUE",
        "ALTER DOMAIN",
        "CREATE SCHEMA",
        "DROP SCHEMA",
        "ALTER SCHEMA",
        "; ALTER SCHEMA",
        "CREATE OR REPLACE VIEW",
        "CREATE MATERIALIZED VIEW",
        "CREATE SEQUENCE",
        "REPLICA IDENTITY FULL",
        "CREATE TRIGGER",
        "DO $do$",
        "EXECUTE",
        "CREATE FUNCTION",
        "CREATE TEMP TABLE",
        "ROLLBACK TO s1",
    ];
    let missing: Vec<_> = parts.iter().filter(|part| !words.contains(**part)).collect();
    assert!(missing.is_empty(), "no seed does {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_follows_every_workload_and_what_differs_is_found() {
    let mut stage = Stage::set(&[101, 102, 103, 104, 105, 106], STEPS).await;
    let playing = stage.play();
    playing.await;
    stage.settle().await;
    let (source, third) = (stage.source().await, stage.third().await);
    println!("{}", stage.count.assert_most_succeed());
    for schema in &stage.schemas {
        let differs = difference(schema, ("source", "third"), (&source, &third)).await;
        assert!(differs.is_empty(), "{}\n{differs}", stage.again(schema));
    }
    // A row less, a row more, a value that differs in its last place: in every table that has
    // a row, and nowhere else.
    for schema in &stage.schemas {
        for table in &schema.tables {
            let one = format!("(SELECT ctid FROM {} LIMIT 1)", table.name);
            let whole = format!("{} WHERE ctid = {one}", table.name);
            for change in [
                format!("DELETE FROM {whole}"),
                format!(
                    "UPDATE {} SET pad = coalesce(pad, '') || ' ' WHERE ctid = {one}",
                    table.name
                ),
                format!("UPDATE {} SET pad = nullif('x', pad) WHERE ctid = {one}", table.name),
            ] {
                third
                    .batch_execute("BEGIN; SET LOCAL session_replication_role = replica")
                    .await
                    .expect("BEGIN");
                let changed = third.execute(&change, &[]).await.expect("change");
                let told = difference(schema, ("source", "third"), (&source, &third)).await;
                third.batch_execute("ROLLBACK").await.expect("ROLLBACK");
                assert_eq!(told.is_empty(), changed == 0, "{change}: {told}");
                assert!(changed == 0 || told.starts_with(&table.name), "{change}: {told}");
            }
        }
    }
}

/// Seeds by a text: `50` are the first 50, `51-80` and `7,9` are those.
fn chosen(text: &str) -> Vec<u64> {
    let number =
        |text: &str| text.trim().parse::<u64>().unwrap_or_else(|_| panic!("SEEDS={text}?"));
    match (text.split_once('-'), text.contains(',')) {
        (Some((low, high)), _) => (number(low)..=number(high)).collect(),
        (None, true) => text.split(',').map(number).collect(),
        (None, false) => (1..=number(text)).collect(),
    }
}

#[test]
fn seeds_are_chosen_by_number_range_or_list() {
    assert_eq!(chosen("3"), [1, 2, 3]);
    assert_eq!(chosen("7-8"), [7, 8]);
    assert_eq!(chosen("7-7"), [7]);
    assert_eq!(chosen("9, 4"), [9, 4]);
}

/// What a stage plays to its end, suffering as this seed says.
async fn played(stage: &mut Stage, seed: u64) -> Kasho {
    let mut random = Random::new(seed);
    let mut kasho = Kasho::start(stage, random.fork()).await;
    stage.gate.send_replace(1);
    stage.pause = PAUSE;
    // Ends with whoever waits for it: what seeds say whose stage has fallen is no news.
    let mut playing = tokio::task::JoinSet::new();
    playing.spawn(stage.play());
    kasho.suffer(stage).await;
    playing.join_next().await.expect("one").expect("the seeds play");
    kasho
}

/// A group plays while Kasho suffers; at the end the target and the third database are held
/// against one another.
async fn group(seeds: Vec<u64>, steps: u64) {
    let mut stage = Stage::set(&seeds, steps).await;
    let mut kasho = played(&mut stage, seeds[0]).await;
    stage.settle().await;
    kasho.settle(&stage).await;
    let (target, third) = (stage.target().await, stage.third().await);
    let mut wrong = String::new();
    for schema in &stage.schemas {
        let differs = difference(schema, ("the target", "the third"), (&target, &third)).await;
        if !differs.is_empty() {
            wrong += &format!("{}\n{differs}", stage.again(schema));
        }
    }
    assert!(wrong.is_empty(), "{}", kasho.told(&wrong));
    // Our own comparison says the same, of source and target.
    let verified = kasho.verify().await;
    assert_eq!(verified.code, 0, "{}", kasho.told(&format!("{verified:?}")));
    let (changes, course) = (stage.count.assert_most_succeed(), kasho.course.join("\n"));
    println!("seeds {seeds:?}, {changes}: the target is as the third database after\n{course}");
}

/// A group whose seeds change their schemas plays while Kasho suffers; PostgreSQL's own
/// subscription would not follow it, so the target is held against the source.
async fn changing_group(seeds: Vec<u64>, steps: u64) {
    let mut stage = Stage::set_for_changes(&seeds, steps).await;
    let mut kasho = played(&mut stage, seeds[0]).await;
    kasho.settle(&stage).await;
    kasho.settle_loads(&stage).await;
    let differs = stage.differences().await;
    let again: String = stage.schemas.iter().map(|schema| stage.again(schema) + "\n").collect();
    assert!(differs.is_empty(), "{}", kasho.told(&format!("{again}{differs}")));
    let verified = kasho.verify().await;
    assert_eq!(verified.code, 0, "{}", kasho.told(&format!("{again}{verified:?}")));
    let (changes, course) = (stage.count.assert_many_succeed(), kasho.course.join("\n"));
    println!("seeds {seeds:?}, {changes}: the target is as the source after\n{course}");
}

/// What the environment asks for, or so many seeds.
fn asked(most: &str) -> (Vec<u64>, u64) {
    let seeds = chosen(&std::env::var("ORACLE_SEEDS").unwrap_or_else(|_| most.to_owned()));
    let steps = std::env::var("ORACLE_STEPS").ok();
    (seeds, steps.map_or(STEPS, |text| text.parse().expect("a number")))
}

/// Plays seeds in groups of so many, some of them at a time.
async fn in_groups<F: Future<Output = ()> + 'static>(
    (seeds, steps): (Vec<u64>, u64),
    (size, at_once): (usize, usize),
    group: impl Fn(Vec<u64>, u64) -> F + Send + Copy + 'static,
) {
    let mut groups = seeds.chunks(size).map(<[u64]>::to_vec);
    let mut playing = tokio::task::JoinSet::new();
    let mut played = 0;
    loop {
        while playing.len() < at_once
            && let Some(seeds) = groups.next()
        {
            // On a thread of its own: what a test waits with does not move between threads.
            playing.spawn_blocking(move || {
                tokio::runtime::Handle::current().block_on(group(seeds, steps));
            });
        }
        let Some(done) = playing.join_next().await else { break };
        match done {
            Ok(()) => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        played += 1;
    }
    assert_eq!(played, seeds.len().div_ceil(size));
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_arrive_as_by_postgresqls_own_subscription() {
    in_groups(asked("50"), (GROUP, AT_ONCE), group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_that_change_their_schemas_arrive_whole() {
    in_groups(asked(&CHANGING.to_string()), (CHANGING_GROUP, AT_ONCE), changing_group).await;
}
