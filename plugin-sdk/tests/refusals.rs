//! What the SDK itself refuses of a plugin's declarations, each with its exact message, in a
//! table that is committed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use kasho_plugin_sdk::testing::{Fixture, Refusals, table};
use kasho_plugin_sdk::{Plugin, Result, Row, Setup, Verdict};
use serde_json::{Value as Json, json};

/// Declares what its rules say.
struct Declares;

impl Plugin for Declares {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let rules: Vec<(String, String)> = cx.rules()?;
        for (what, name) in rules {
            match what.as_str() {
                "pass" => cx.pass(&name)?,
                "drop" => cx.drop(&name)?,
                "read" => drop(cx.read(&name)?),
                "mask" => drop(cx.mask(&name)?),
                "rename" => cx.rename(&name, "other")?,
                "many texts" => (0..257).for_each(|n| _ = cx.reason(&format!("{name} {n}"))),
                "many columns" => {
                    for n in 0..65_536 {
                        cx.pass(&format!("{name}{n}"))?;
                    }
                }
                "long text" => _ = cx.reason(&name.repeat(201)),
                "hash" => _ = cx.domain(&name),
                "time" => cx.commit_time(),
                other => panic!("{other}"),
            }
        }
        Ok(Declares)
    }

    fn row(&mut self, _: &mut Row<'_, '_>) -> Verdict {
        Verdict::Keep
    }
}

fn refused(rules: &[(&str, &str)]) -> String {
    let load = || {
        let mut fixture = Fixture::<Declares>::new(json!(rules))?;
        fixture.relation(&table("s.t(id int8 key, a text)")).map(drop)
    };
    load().unwrap_err().to_string()
}

/// By a host that has nothing to offer.
fn refused_without(rules: &[(&str, &str)]) -> String {
    let init = json!({
        "abi": "1.0", "host": "testing", "rules": rules, "features": Json::Array(Vec::new()),
        "limits": { "memory_mib": 64, "deadline_ms": 100 },
    });
    let mut session = kasho_plugin_sdk::session::Session::<Declares>::default();
    let answer = match session.init(init.to_string().as_bytes()) {
        kasho_plugin_sdk::session::Answered::Bytes(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    let answer: Json = serde_json::from_slice(answer).unwrap();
    answer["error"]["text"].as_str().unwrap().to_owned()
}

#[test]
fn every_refused_declaration_stands_in_the_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/refusals/sdk.txt");
    let mut told = Refusals::new(file, "What the SDK refuses of a plugin's declarations.");
    for rules in [
        &[("mask", "s.t.*")][..],
        &[("read", "t.a")],
        &[("rename", "s.*")],
        &[("rename", "s.t.*")],
        &[("pass", "s.*.a"), ("mask", "s.*.a")],
        &[("drop", "s.t.a"), ("read", "s.t.a")],
        &[("many texts", "text")],
        &[("many columns", "s.t.a")],
        &[("long text", "x")],
    ] {
        let words = rules.iter().map(|(what, name)| format!("{what} {name}"));
        told.case(words.collect::<Vec<_>>().join(", "), refused(rules));
    }
    told.section("By a host that offers neither keys nor commit times");
    told.case("hash", refused_without(&[("hash", "email")]));
    told.case("time", refused_without(&[("time", "")]));
    told.finish();
}
