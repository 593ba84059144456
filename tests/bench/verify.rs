//! `kasho verify`, with and without `--leaks`, against reading both tables once: two `pg_dump
//! --data-only > /dev/null`, at once as `verify` reads them. With a key of numbers and one of
//! texts, whose order no two servers share; and a quarter of the rows against all of them,
//! for a comparison that is not linear is none of a large table.
//!
//! The target is a copy whose private columns SQL has replaced. At the end a value is planted
//! in a text and one in a document of it, and a row is taken away: all of that has to be found.

use std::process::Stdio;
use std::time::Instant;

use tokio::process::Command;

use crate::amount;
use crate::harness::{Engine, Postgres, Redis};
use crate::memory::{TARGET, ended, peak_mib};
use crate::table::{Spread, Table};

/// Name, type and value of the key.
const KEYS: [(&str, &str, &str); 2] =
    [("a key of numbers", "bigint", "n"), ("a key of texts", "text", "md5(n::text) || '-' || n")];

const RULES: &str = r#"
    [keys]
    k1 = { env = "VERIFY_KEY" }
    [[transform]]
    name = "mask"
    plugin = "anonymize.wasm"
    tables = ["public.people"]
    deadline_ms = 5000
    [transform.rules]
    "public.people.email" = "fake_email"
    "public.people.name" = "fake_name"
    "public.people.*" = "pass"
"#;

const KEY: &str = "3b9ac2f05d7e184660c1a98f2e5d7b3490f1c8a26e4d5b7719ac30fe82d46b05";

pub(crate) async fn run(table: &mut Table) {
    let rows: u64 = amount(4_000, 400_000, 5_000_000);
    for (what, kind, value) in KEYS {
        let (source, target, redis) =
            tokio::join!(server(kind, value), server(kind, value), Redis::start());
        source.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
        let builder = Engine::builder().plugin("anonymize").env("VERIFY_KEY", KEY);
        let text = format!(
            "[source]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n{RULES}",
            source.url(),
            redis.url()
        );
        let engine = builder.config(&text).build();
        let both = Both { source, target, engine };
        both.fill(1, rows / 4).await;
        let few = both.rounds().await;
        both.fill(rows / 4 + 1, rows).await;
        let all = both.rounds().await;
        both.tell(table, (what, rows), &few, &all);
        both.planted(value).await;
    }
}

async fn server(kind: &str, value: &str) -> Postgres {
    let server = Postgres::builder().setting("max_wal_size", "4GB").start().await;
    server
        .sql(&format!(
            "CREATE TABLE people (id {kind} PRIMARY KEY, email text, name text, memo text,
                 balance numeric(14,2), created timestamptz, doc jsonb);
             CREATE PROCEDURE fill(low bigint, high bigint, own bool) LANGUAGE sql AS $$
                 INSERT INTO people SELECT {value},
                     CASE WHEN own THEN 'user' || n || '@customers.example'
                         ELSE 'x' || md5(n::text) || '@example.org' END,
                     CASE WHEN own THEN 'First' || n % 9999 || ' Last' || n
                         ELSE 'Fake' || md5(n::text) END,
                     md5(n::text) || ' ' || md5((n + 1)::text), n / 100.0,
                     '2026-01-01'::timestamptz + n * interval '1 s',
                     jsonb_build_object('n', n, 'tag', 'a tag')
                 FROM generate_series(low, high) n $$"
        ))
        .await;
    server
}

struct Both {
    source: Postgres,
    target: Postgres,
    engine: Engine,
}

/// Seconds of each round, and the highest peak in MiB.
#[derive(Default)]
struct Figures {
    dumps: Vec<f64>,
    compares: Vec<f64>,
    leaks: Vec<f64>,
    peak: f64,
}

impl Both {
    /// Adds rows to both.
    async fn fill(&self, low: u64, high: u64) {
        let call = |own: bool| format!("CALL fill({low}, {high}, {own})");
        let (own, other) = (call(true), call(false));
        tokio::join!(self.source.sql(&own), self.target.sql(&other));
        tokio::join!(self.source.sql("VACUUM ANALYZE"), self.target.sql("VACUUM ANALYZE"));
    }

    async fn rounds(&self) -> Figures {
        let mut figures = Figures::default();
        for round in 0..=amount(1, 2, 3) {
            let dumped = self.dump().await;
            let compared = self.verify(&[], &mut figures.peak).await;
            let searched = self.verify(&["--leaks"], &mut figures.peak).await;
            // The first round warms the caches of the file system.
            if round > 0 {
                figures.dumps.push(dumped);
                figures.compares.push(compared);
                figures.leaks.push(searched);
            }
        }
        figures
    }

    /// Seconds.
    async fn dump(&self) -> f64 {
        let begun = Instant::now();
        let dump = |server: &Postgres| {
            let mut dump = Command::from(server.tool("pg_dump"));
            dump.args(["--data-only", "-t", "people"]).arg(server.url()).stdout(Stdio::null());
            async move { assert!(dump.status().await.expect("pg_dump").success()) }
        };
        tokio::join!(dump(&self.source), dump(&self.target));
        begun.elapsed().as_secs_f64()
    }

    /// Seconds of a comparison that finds nothing.
    async fn verify(&self, more: &[&str], peak: &mut f64) -> f64 {
        let url = self.target.url();
        let begun = Instant::now();
        let process = self.engine.spawn(&[&["verify", "--target", &url], more].concat());
        // The mark is gone with the process.
        ended(&process, |pid| *peak = peak.max(peak_mib(pid))).await;
        begun.elapsed().as_secs_f64()
    }

    fn tell(&self, table: &mut Table, (what, rows): (&str, u64), few: &Figures, all: &Figures) {
        let median = |of: &[f64]| Spread::of(of.iter().copied()).median;
        let dumped = median(&all.dumps);
        let parts = [
            ("verify", &few.compares, &all.compares, 4.0),
            ("verify --leaks", &few.leaks, &all.leaks, 12.0),
        ];
        for (command, few, all_rounds, most) in parts {
            let took = median(all_rounds);
            let absolute = format!(
                "{took:.1} s against {dumped:.1} s, {:.0}k rows/s",
                rows as f64 / took / 1e3
            );
            let name = format!("{command} : two pg_dump at once, {rows} rows, {what}");
            table.at_most(&name, &Spread::ratio(all_rounds, &all.dumps), most, &absolute);
            let name = format!("{command}, {rows} rows : a quarter of them, {what}");
            let absolute = format!("{took:.1} s against {:.1} s", median(few));
            table.at_most(&name, &Spread::ratio(all_rounds, few), 5.0, &absolute);
        }
        let name = format!("MiB at the peak of verify --leaks, {rows} rows, {what}");
        table.at_most(&name, &Spread::of([all.peak]), TARGET, "");
    }

    /// What is wrong is found, whatever it costs.
    async fn planted(&self, value: &str) {
        let id = |n: u64| format!("(SELECT {value} FROM (SELECT {n}::bigint AS n) one)");
        for statement in [
            format!("UPDATE people SET memo = 'ask user7@customers.example' WHERE id = {}", id(3)),
            format!(
                "UPDATE people SET doc = '{{\"to\": \"user8@customers.example\"}}' WHERE id = {}",
                id(5)
            ),
            format!("UPDATE people SET email = 'user9@customers.example' WHERE id = {}", id(9)),
            format!("DELETE FROM people WHERE id = {}", id(11)),
        ] {
            self.target.sql(&statement).await;
        }
        let url = self.target.url();
        let arguments =
            ["verify", "--target", &url, "--json", "--leaks", "--leak-values", "250000"];
        let output = self.engine.run(&arguments).await;
        let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        let differences = report["tables"][0]["differences"].as_array().expect("a list");
        assert_eq!(differences.len(), 3, "{report}");
        let found = report["leaks"]["found"].as_array().expect("a list");
        assert!(found.iter().any(|leak| leak["how"] == "own"), "{report}");
    }
}
