//! The plugin from rules to rows, as a host drives it.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use filter::Filter;
use kasho_plugin_sdk::testing::{
    Fixture, Outcome, Refusals, TestRow, delete, insert, read, table, truncate, update, update_from,
};
use kasho_plugin_sdk::{Op, Result, Value};
use proptest::prelude::*;
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
        ("a citext", "ΟΔΟΣ", json!("οδοσ"), "i"),
        ("a date", "2024-01-01", json!("2024-01-01"), "i"),
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

fn refused(rule: Json, relation: &str) -> String {
    match run(rule.clone(), relation, &[]) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{rule} is taken for {relation}"),
    }
}

#[test]
fn every_refused_rule_stands_in_the_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/refusals/filter.txt");
    let mut told = Refusals::new(file, "Rules that `filter` refuses.");
    told.section("Rules");
    for rule in [
        json!("drip"),
        json!({}),
        json!({"kep": {}}),
        json!({"drop_ops": ["upsert"]}),
        json!({"drop_ops": ["ddl"]}),
        json!({"keep": {"column": "tenant"}}),
        json!({"keep": {"equals": 1}}),
        json!({"keep": {"column": "tenant", "equals": 1, "in": []}}),
        json!({"keep": {"all": []}}),
        json!({"keep": {"column": "tenant", "equals": [1]}}),
        json!({"keep": {"column": "tenant", "in": [null]}}),
        json!({"keep": {"column": "nope", "equals": 1}}),
        json!({"keep": {"not": {"column": "id", "equals": 1}}, "drop": {}}),
    ] {
        told.case(rule.to_string(), refused(rule, KEYED));
    }
    let two = json!({"\"s\".t": "drop", "s.t": "keep"});
    let torn = Fixture::<Filter>::new(two.clone()).unwrap().relation(&table(KEYED)).unwrap_err();
    told.case(two.to_string(), torn);
    told.section("Columns that the old row does not have");
    let rule = json!({"keep": {"column": "Amount", "equals": 1}});
    for identity in ["", " nothing"] {
        let relation = format!("s.t(id int8 key, Amount numeric){identity}");
        told.case(format!("{rule}, of {relation}"), refused(rule.clone(), &relation));
    }
    told.section("Expressions");
    for expression in WRONG {
        told.case(format!("keep = {expression:?}"), refused(json!({"keep": expression}), TYPES));
    }
    let deep = format!("{}id == 1{}", "(".repeat(65), ")".repeat(65));
    told.case("65 levels of parentheses", refused(json!({"keep": deep}), TYPES));
    told.finish();
}

const TYPES: &str = "s.t(id int8 key, name text key, at timestamptz key, u uuid key, j json key, \
                     mood enum(sad|ok) key, paid bool key, born date key, seen timestamp key, \
                     noon time key, narrow float4 key, wide float8 key, exact numeric key)";

const WRONG: [&str; 46] = [
    "",
    "name ==",
    "name == 'a' name",
    "name & 'a'",
    "name == 'a",
    "1 < id < 3",
    "'name' == 'a'",
    "name == null",
    "name in ()",
    "name in ('a', id)",
    "name in 'a'",
    "name not 'a'",
    "name is 1",
    "1 is null",
    "!name == 'a'",
    "id == 1x",
    "id == -name",
    "(id == 1",
    "op == 'upsert'",
    "op > 'insert'",
    "table == name",
    "ünï == 'é' ?",
    "nope == 1",
    "name == 1",
    "id == 'x'",
    "id == true",
    "name",
    "id == name",
    "born > '2024-01-01 12:00:00'",
    "seen > '2024-01-01 12:00:00+02'",
    "narrow == wide",
    "wide < narrow",
    "exact == narrow",
    "at > 'yesterday'",
    "u == 'x'",
    "j < '{}'",
    "paid > false",
    "mood == 'glad'",
    "name = 'a' and and",
    "``  == 1",
    "id == 1 `Odd`",
    "1 in (1)",
    "op",
    "op in (1)",
    "noon > 'noon'",
    "paid == 'x'",
];

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

/// The rows of a table that an expression keeps: one of each, in order.
fn kept(expression: &str, relation: &str, rows: &[TestRow]) -> String {
    fates(json!({ "keep": expression }), relation, rows)
}

#[test]
fn expressions_decide() {
    let relation = "s.t(id int8 key, tenant text key, amount numeric key, paid bool key, \
                    born date key, mood enum(sad|ok|happy) key, Odd text key)";
    let row = |tenant: &'static str, amount: &'static str| {
        insert([
            ("id", Some("1")),
            ("tenant", Some(tenant)),
            ("amount", Some(amount)),
            ("paid", Some("t")),
            ("born", Some("1990-05-01")),
            ("mood", Some("ok")),
            ("Odd", Some("it's")),
        ])
    };
    let rows = [row("a", "99.99"), row("a", "100.00"), row("b", "1000"), insert([("id", "1")])];
    for (expression, want) in [
        ("tenant == \"a\" && amount > 100", "----"),
        ("tenant == \"a\" && amount >= 100", "-i--"),
        ("tenant = 'a' and 100 <= amount", "-i--"),
        ("tenant == \"a\" || amount > 100", "iii-"),
        ("!(tenant == \"a\") || amount < 100", "i-i-"),
        ("not tenant = 'a'", "--i-"),
        ("tenant <> 'a' or tenant is null", "--ii"),
        ("tenant in ('b', 'c')", "--i-"),
        ("tenant not in ('b', 'c')", "ii--"),
        ("amount in (1e3, 100)", "-ii-"),
        ("amount is not null && amount != 1000.000", "ii--"),
        ("paid", "iii-"),
        ("!paid", "----"),
        ("paid == false || id == 1", "iiii"),
        ("born > '1990-04-30' && born < \"1990-05-02\"", "iii-"),
        ("mood > 'sad' && mood != \"happy\"", "iii-"),
        ("`Odd` == 'it''s'", "iii-"),
        ("amount > id && id < amount", "iii-"),
        ("op == 'insert'", "iiii"),
        ("op in ('read', 'update')", "----"),
        ("table == 't' && schema == \"s\" && id == 1", "iiii"),
        ("table != 't' || amount == 1000", "--i-"),
        ("true && !false", "iiii"),
        ("(id == 1 || tenant == 'a') && tenant == 'b'", "--i-"),
        ("id == 1 || tenant == 'a' && tenant == 'b'", "iiii"),
        ("amount == -1 || amount == 99.99", "i---"),
    ] {
        assert_eq!(kept(expression, relation, &rows), want, "{expression}");
    }
    let dropped = json!({"drop": "amount > 100"});
    assert_eq!(fates(dropped, relation, &rows), "ii-i", "where it is unknown the row stays");
}

#[test]
fn what_is_known_before_any_row_is_decided_before_any_row() {
    let relation = "s.t(id int8 key, amount numeric)";
    // No UPDATE or DELETE reads the column, which their old rows do not have.
    let rule = json!({"keep": "op in ('insert', 'read') && amount > 1 || op == 'delete'"});
    let row = |amount: &'static str| [("id", "1"), ("amount", amount)];
    let rows = [
        insert(row("1")),
        insert(row("2")),
        update(row("2")),
        delete([("id", "1")]),
        read(row("2")),
        truncate(),
    ];
    assert_eq!(fates(rule, relation, &rows), "-i-dr-");
    let error = run(json!({"keep": "op != 'insert' || amount > 1"}), relation, &[]);
    assert!(error.is_ok(), "an UPDATE does not read it");
    let error = run(json!({"keep": "op == 'read' || amount > 1"}), relation, &[]).unwrap_err();
    assert!(error.to_string().contains("ALTER TABLE s.t REPLICA IDENTITY FULL"), "{error}");
    // A whole table, by its name.
    let mut fixture = Fixture::<Filter>::new(json!({"s.*": {"keep": "table != 't'"}})).unwrap();
    let (t, u) = (table(relation), table("s.u(id int8 key)"));
    assert!(fixture.relation(&t).unwrap().unwrap().drop);
    assert!(!fixture.relation(&u).unwrap().unwrap().drop);
    // A column that only some of the tables have is asked only there.
    let rule = json!({"s.*": {"keep": "table != 't' || amount > 1", "insert_only": true}});
    let mut fixture = Fixture::<Filter>::new(rule).unwrap();
    assert!(fixture.relation(&t).is_ok() && fixture.relation(&u).is_ok());
}

#[test]
fn a_value_that_is_none_of_its_type_is_an_error() {
    let rows = [insert([("id", "x"), ("tenant", "a")])];
    assert_eq!(kept("id > 1", KEYED, &rows), "!");
    assert_eq!(kept("id is null || tenant == 'a'", KEYED, &rows), "i");
    let unsent = [update([("id", Value::Text("1")), ("tenant", Value::Unchanged)])];
    assert_eq!(kept("id == 1 || tenant == 'a'", KEYED, &unsent), "!");
    assert_eq!(kept("id != 1 && tenant == 'a'", KEYED, &unsent), "!");
    assert_eq!(kept("tenant is not null", KEYED, &unsent), "u", "it is not NULL, whatever it is");
}

#[test]
fn the_description_is_json_that_names_the_rules() {
    let text = include_str!("../plugin.json");
    let described: Json = serde_json::from_str(text).unwrap();
    assert_eq!(described["name"], "filter");
    for transform in described["transforms"].as_array().unwrap() {
        let rule = transform["example"]["rule"].as_str().unwrap();
        let (table, rule) = rule.split_once(" = ").unwrap();
        assert!(table.starts_with('"') && rule.contains(transform["name"].as_str().unwrap()));
    }
}

proptest! {
    /// Whatever somebody writes is an expression or an error, and never a panic.
    #[test]
    fn no_expression_panics(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "id", "tenant", "==", "=", "<", "!", "(", ")", "&&", "||", "and", "not", "in", "is",
                "null", "'a'", "1", "-", ",", "op", "true", "`x`", "é", "1.", "e", "\"",
            ]),
            0..12,
        ),
        gap in prop::sample::select(vec!["", " "]),
    ) {
        let expression = words.join(gap);
        let _ = run(json!({ "keep": expression }), KEYED, &[insert([("id", "1"), ("tenant", "a")])]);
    }
}
