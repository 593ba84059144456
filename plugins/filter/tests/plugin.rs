//! The plugin from rules to rows, as a host drives it.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use filter::Filter;
use kasho_plugin_sdk::testing::{
    Fixture, Outcome, TestRow, delete, insert, read, table, truncate, update, update_from,
};
use kasho_plugin_sdk::{Op, Result, Value};
use serde_json::{Value as Json, json};

fn run(rule: Json, relation: &str, rows: &[TestRow]) -> Result<Vec<Outcome>> {
    let relation = table(relation);
    let mut fixture = Fixture::<Filter>::new(json!({ "s.t": rule }))?;
    fixture.relation(&relation)?;
    Ok(fixture.run(&relation, rows))
}

/// `-` dropped, `!` in error, else the operation.
fn fates(rule: Json, relation: &str, rows: &[TestRow]) -> String {
    let fate = |outcome: &Outcome| match (outcome.dropped(), outcome.error()) {
        (true, _) => '-',
        (_, Some(_)) => '!',
        _ => outcome.op().name().chars().next().unwrap(),
    };
    run(rule, relation, rows).unwrap().iter().map(fate).collect()
}

const KEYED: &str = "s.t(id int8 key, tenant text key, amount numeric)";

fn all_ops(tenant: Option<&'static str>) -> [TestRow; 5] {
    let row = [("id", Some("1")), ("tenant", tenant)];
    [insert(row), update(row), delete(row), read(row), truncate()]
}

#[test]
fn tables_and_operations() {
    assert_eq!(fates(json!("drop"), KEYED, &all_ops(Some("a"))), "-----");
    assert_eq!(fates(json!("keep"), KEYED, &all_ops(Some("a"))), "iudrt");
    let rule = json!({"drop_ops": ["delete", "truncate"]});
    assert_eq!(fates(rule, KEYED, &all_ops(Some("a"))), "iu-r-");
    assert_eq!(fates(json!({"insert_only": true}), KEYED, &all_ops(Some("a"))), "i--r-");
}

#[test]
fn conditions_have_three_values() {
    let is_a = json!({"column": "tenant", "equals": "a"});
    let a_or_b = json!({"column": "tenant", "in": ["a", "b"]});
    let is_null = json!({"column": "tenant", "is_null": true});
    for (rule, a, b, nothing) in [
        (json!({"keep": is_a}), "iudrt", "----t", "----t"),
        (json!({"drop": is_a}), "----t", "iudrt", "iudrt"),
        (json!({"keep": {"not": is_a}}), "----t", "iudrt", "----t"),
        (json!({"keep": {"column": "tenant", "not_in": ["a"]}}), "----t", "iudrt", "----t"),
        (json!({"keep": a_or_b}), "iudrt", "iudrt", "----t"),
        (json!({"keep": is_null}), "----t", "----t", "iudrt"),
        (json!({"keep": {"column": "tenant", "is_null": false}}), "iudrt", "iudrt", "----t"),
        (json!({"keep": {"any": [is_a, is_null]}}), "iudrt", "----t", "iudrt"),
        (json!({"keep": {"all": [a_or_b, {"not": is_a}]}}), "----t", "iudrt", "----t"),
        (json!({"drop": {"all": [is_a, a_or_b]}, "drop_ops": ["read"]}), "----t", "iud-t", "iud-t"),
    ] {
        for (tenant, want) in [(Some("a"), a), (Some("b"), b), (None, nothing)] {
            assert_eq!(fates(rule.clone(), KEYED, &all_ops(tenant)), want, "{rule} {tenant:?}");
        }
    }
}

#[test]
fn an_update_across_the_border_is_an_insert_or_a_delete() {
    let rule = json!({"keep": {"column": "tenant", "equals": "in"}});
    let moved = |old: &'static str, new: &'static str| {
        update_from([("id", "1"), ("tenant", old)], [("id", "1"), ("tenant", new)])
    };
    let rows = [moved("in", "in"), moved("in", "out"), moved("out", "in"), moved("out", "out")];
    assert_eq!(fates(rule.clone(), KEYED, &rows), "udi-");
    let out = run(rule, KEYED, &rows).unwrap();
    assert_eq!((out[1].op(), out[1].before("tenant")), (Op::Delete, Value::Text("in")));
    assert_eq!((out[2].op(), out[2].after("tenant")), (Op::Insert, Value::Text("in")));
    assert_eq!(out[2].before("tenant"), Value::Absent);
}

#[test]
fn values_compare_as_their_types_do() {
    for (column, value, rule, want) in [
        ("a numeric", "1.00", json!(1), "i"),
        ("a numeric", "10", json!(1), "-"),
        ("a int8", "42", json!("42"), "i"),
        ("a float8", "1e+20", json!("100000000000000000000"), "i"),
        ("a bpchar(4)", "ab  ", json!("ab"), "i"),
        ("a citext", "AB", json!("ab"), "i"),
        ("a text", "AB", json!("ab"), "-"),
        ("a bool", "t", json!(true), "i"),
        ("a bool", "f", json!(true), "-"),
    ] {
        let rule = json!({"keep": {"column": "a", "equals": rule}});
        assert_eq!(
            fates(rule, &format!("s.t({column} key)"), &[insert([("a", value)])]),
            want,
            "{column}"
        );
    }
}

#[test]
fn only_what_the_old_row_has_may_be_read() {
    let rule = || json!({"keep": {"column": "Amount", "equals": 1}});
    for (identity, why) in [("", "not part of"), ("nothing", "has no replica identity")] {
        let relation = format!("s.t(id int8 key, Amount numeric) {identity}");
        let error = run(rule(), &relation, &[]).unwrap_err().to_string();
        for part in
            ["s.t: ", "\"Amount\"", why, "ALTER TABLE s.t REPLICA IDENTITY FULL", "insert_only"]
        {
            assert!(error.contains(part), "{error}");
        }
    }
    let relation = "s.t(id int8 key, Amount numeric) full";
    let moved = update_from([("id", "1"), ("Amount", "1")], [("id", "1"), ("Amount", "2")]);
    assert_eq!(fates(rule(), relation, &[moved, delete([("Amount", "1.0")])]), "dd");
    let mut rule = rule();
    rule["insert_only"] = json!(true);
    let rows = [insert([("Amount", "1")]), insert([("Amount", "2")]), delete([("id", "1")])];
    assert_eq!(fates(rule, "s.t(id int8 key, Amount numeric)", &rows), "i--");
}

#[test]
fn a_value_that_was_not_sent_is_an_error() {
    let rule = json!({"keep": {"any": [{"column": "id", "equals": 1}, {"column": "tenant", "equals": "a"}]}});
    let rows = [update([("id", Value::Text("1")), ("tenant", Value::Unchanged)])];
    assert_eq!(fates(rule, KEYED, &rows), "!");
}

#[test]
fn a_wrong_rule_names_itself() {
    for (rule, want) in [
        (json!("drip"), "\"drop\", \"keep\" or a table"),
        (json!({}), "does nothing"),
        (json!({"kep": {}}), "unknown field `kep`"),
        (json!({"drop_ops": ["upsert"]}), "unknown variant `upsert`"),
        (json!({"drop_ops": ["ddl"]}), "ddl is not of a table"),
        (json!({"keep": "amount > 100"}), "expressions are not there yet"),
        (json!({"keep": {"column": "tenant"}}), "a condition is one of"),
        (json!({"keep": {"equals": 1}}), "a condition is one of"),
        (json!({"keep": {"column": "tenant", "equals": 1, "in": []}}), "a condition is one of"),
        (json!({"keep": {"all": []}}), "need a condition"),
        (json!({"keep": {"column": "tenant", "equals": [1]}}), "text, number or boolean"),
        (json!({"keep": {"column": "tenant", "in": [null]}}), "use `is_null`"),
        (json!({"keep": {"column": "nope", "equals": 1}}), "s.t has no column nope"),
        (
            json!({"keep": {"not": {"column": "id", "equals": 1}}, "drop": {}}),
            "either `keep` or `drop`",
        ),
    ] {
        let error = run(rule, KEYED, &[]).unwrap_err().to_string();
        assert!(error.starts_with("s.t: ") && error.contains(want), "{error}");
    }
}

#[test]
fn the_exact_rule_wins_and_rows_are_accounted_for() {
    let rules = json!({"s.*": "drop", "s.t": {"drop_ops": ["delete"]}});
    let mut fixture = Fixture::<Filter>::new(rules).unwrap();
    let (t, u) = (table("s.t(id int8 key)"), table("s.u(id int8 key)"));
    let wanted = fixture.relation(&t).unwrap().unwrap();
    assert_eq!(wanted.rows.as_deref(), Some("filter/1;{\"drop_ops\":[\"delete\"]}"));
    assert!(!wanted.drop, "only some rows are dropped");
    let wanted = fixture.relation(&u).unwrap().unwrap();
    assert_eq!(wanted.rows.as_deref(), Some("filter/1;\"drop\""));
    assert!(wanted.drop);
    let row = || [insert([("id", "1")]), delete([("id", "1")])];
    let dropped = |out: Vec<Outcome>| out.iter().map(Outcome::dropped).collect::<Vec<_>>();
    assert_eq!(dropped(fixture.run(&t, &row())), [false, true]);
    assert_eq!(dropped(fixture.run(&u, &row())), [true, true]);
    let mut torn = Fixture::<Filter>::new(json!({"\"s\".t": "drop", "s.t": "keep"})).unwrap();
    assert!(torn.relation(&t).unwrap_err().to_string().contains("one must name it more exactly"));
}
