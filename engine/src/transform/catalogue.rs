//! The transforms of `anonymize` through the real host: what its own tests pin natively
//! comes out of the guest as well.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fmt::Write;
use std::sync::Arc;

use kasho_plugin_sdk::{Op, Relation, testing};

use super::real::setup;
use super::testing::{push, shown, transaction};

const GOLDEN: &str = include_str!("../../../plugins/anonymize/tests/golden.txt");

/// Each line of the golden file is a table of its own: a rule, a column, a value, a result.
#[test]
fn every_transform_makes_the_same_in_a_guest() {
    let lines: Vec<Vec<&str>> = GOLDEN.lines().map(|line| line.split('\t').collect()).collect();
    // A row in error stops the stream; such lines are the native test's.
    let lines: Vec<_> = lines.iter().filter(|line| !line[3].starts_with('!')).collect();
    assert!(lines.len() > 150);
    let mut rules = String::from(
        "[[transform]]\nname = \"all\"\nplugin = \"anonymize.wasm\"\ntables = [\"s.*\"]\n\
         deadline_ms = 10000\n[transform.rules]\n",
    );
    let (mut tables, mut batch, mut want) = (Vec::new(), transaction(), Vec::new());
    for (i, line) in lines.iter().enumerate() {
        let [rule, column, value, made] = line[..] else { panic!("{line:?}") };
        let rule: serde_json::Value = serde_json::from_str(rule).unwrap();
        let rule = toml::Value::try_from(&rule).unwrap();
        writeln!(rules, "\"s.t{i}.a\" = {rule}\n\"s.t{i}.id\" = \"pass\"").unwrap();
        let table = Arc::new(testing::table(&format!("s.t{i}(id int8 key, a {column})")));
        push(&mut batch, &table, Op::Insert, &["7", value], &[]);
        tables.push(table);
        want.push(format!("insert s.t{i} [7 {made}] []"));
    }
    let setup = setup(&rules);
    let tables: Vec<&Arc<Relation>> = tables.iter().collect();
    setup.chain(&tables).apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), want);
}
