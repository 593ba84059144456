//! The README's programs, taken from its text and run as they stand.

use std::process::Command;

use crate::harness::python::patient_url;
use crate::harness::{Output, python, repository};
use crate::world::World;

/// The fenced block of the README whose opening line is "```{info}".
pub(crate) fn block(info: &str) -> String {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("README.md");
    let opening = format!("```{info}\n");
    let (_, rest) = readme.split_once(&opening).unwrap_or_else(|| panic!("no block {info:?}"));
    rest.split_once("```").expect("the block ends").0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_readers_read() {
    let world = World::start(3).await;
    world.bootstrap().await;
    world.settle(4).await;

    let mut shell = Command::new("bash");
    shell
        .args(["-euc", &block("sh reader")])
        .env("KV_URL", world.redis.url().replace("//:", "//default:"));
    let output = Output::of(shell, "").await.success();
    assert!(output.stdout.contains("public.ledger"), "{}", output.stdout);

    let url = patient_url(&world.redis.url());
    let program = format!("import os; os.environ['KV_URL'] = {url:?}\n");
    let output = python(&(program + &block("python reader")), &[]).await.success();
    let read = |line: &&str| {
        ["read", "rows"].iter().any(|op| line.starts_with(&format!("{op} public.ledger {{'id'")))
    };
    let reads = output.stdout.lines().filter(read).count();
    assert_eq!(reads, 3, "{}", output.stdout);
    assert!(output.stdout.contains("insert public.ledger {'id': '4'"), "{}", output.stdout);
}
