//! The plugin from rules to rows, as a host drives it.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use filter::Filter;
use kasho_plugin_sdk::testing::{
    Fixture, Outcome, TestRow, delete, insert, read, table, truncate, update, update_from,
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

#[test]
fn a_wrong_rule_names_itself() {
    for (rule, want) in [
        (json!("drip"), "\"drop\", \"keep\" or a table"),
        (json!({}), "does nothing"),
        (json!({"kep": {}}), "unknown field `kep`"),
        (json!({"drop_ops": ["upsert"]}), "unknown variant `upsert`"),
        (json!({"drop_ops": ["ddl"]}), "ddl is not of a table"),
        (json!({"keep": {"column": "tenant"}}), "a condition is an expression, or one of"),
        (json!({"keep": {"equals": 1}}), "a condition is an expression, or one of"),
        (
            json!({"keep": {"column": "tenant", "equals": 1, "in": []}}),
            "a condition is an expression, or one of",
        ),
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
fn an_expression_in_error_says_where() {
    let relation = "s.t(id int8 key, name text key, at timestamptz key, u uuid key, j json key, \
                    mood enum(sad|ok) key, paid bool key, born date key, seen timestamp key, \
                    narrow float4 key, wide float8 key, exact numeric key)";
    for (expression, want) in [
        ("", "`keep`, column 1: a column or a value was due, not the end"),
        ("name ==", "`keep`, column 8: a column or a value was due, not the end"),
        ("name == 'a' name", "column 13: `name` where `&&`, `||` or the end was due"),
        ("name & 'a'", "column 6: `&` means nothing in an expression"),
        ("name == 'a", "column 9: the ' is not closed"),
        ("1 < id < 3", "column 8: `<` where `&&`, `||` or the end was due"),
        ("'name' == 'a'", "column 1: this compares two constants"),
        ("name == null", "column 9: nothing compares with NULL: write `is null`"),
        ("name in ()", "column 10: a column or a value was due, not `)`"),
        ("name in ('a', id)", "column 15: a list holds texts"),
        ("name in 'a'", "column 9: `(` was due, not a text"),
        ("name not 'a'", "column 10: `in` was due, not a text"),
        ("name is 1", "column 9: `null` was due, not `1`"),
        ("1 is null", "column 1: only a column can be null"),
        ("!name == 'a'", "column 1: `!` before a comparison"),
        ("id == 1x", "column 7: this is no number"),
        ("id == -name", "column 8: a number was due after `-`, not `name`"),
        ("(id == 1", "column 9: `)` was due, not the end"),
        ("op == 'upsert'", "column 1: there is no op of this name; there are insert, update"),
        ("op > 'insert'", "column 1: `op`, `table` and `schema` are equal to a text, or not"),
        ("table == name", "column 1: `op`, `table` and `schema` compare with a text"),
        ("ünï == 'é' ?", "column 12: `?` means nothing"),
        ("nope == 1", "s.t has no column nope"),
        ("name == 1", "name (text) is compared with a text, in quotes"),
        ("id == 'x'", "id (int8) is compared with a number"),
        ("id == true", "id (int8) is compared with a number"),
        ("name", "name (text) is not true or false: compare it with something"),
        ("id == name", "id (int8) is of another type than name"),
        ("born > '2024-01-01 12:00:00'", "born (date) is compared with a date in quotes, without"),
        ("seen > '2024-01-01 12:00:00+02'", "seen (timestamp) is compared with a date or time"),
        ("narrow == wide", "narrow (float4) and wide are rounded to different lengths"),
        ("wide < narrow", "wide (float8) and narrow are rounded to different lengths"),
        ("exact == narrow", "exact (numeric) and narrow are rounded to different lengths"),
        ("at > 'yesterday'", "at (timestamptz) is compared with a date or time in quotes"),
        ("u == 'x'", "u (uuid) is compared with a UUID"),
        ("j < '{}'", "j (json) has no order that could be told here"),
        ("paid > false", "paid (bool) has no order"),
        ("mood == 'glad'", "mood (enum) is compared with one of its labels"),
    ] {
        let error = run(json!({ "keep": expression }), relation, &[]).unwrap_err().to_string();
        assert!(error.starts_with("s.t: ") && error.contains(want), "{expression}: {error}");
    }
    let deep = format!("{}id == 1{}", "(".repeat(65), ")".repeat(65));
    let error = run(json!({ "keep": deep }), relation, &[]).unwrap_err().to_string();
    assert!(error.contains("more than 64 levels"), "{error}");
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
