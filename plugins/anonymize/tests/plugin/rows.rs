//! Rules that see more of a row than their column.

use anonymize::Anonymize;
use kasho_plugin_sdk::Value::{Null, Text, Unchanged};
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::testing::{Fixture, TestRow, insert, table, update, update_from};
use serde_json::{Value as Json, json};

use super::run;

#[test]
fn a_result_by_the_row_does_not_tell_the_value() {
    let rules = json!({
        "s.t.id": "pass", "s.t.flag": {"transform": "bool", "by": "row"},
        "s.t.other": {"transform": "bool", "by": "row"},
        "s.t.born": {"transform": "shift_date", "by": "who", "days": 1000},
        "s.t.died": {"transform": "shift_date", "by": "who", "days": 1000},
        "s.t.who": "pass",
    });
    let mut fixture = Fixture::<Anonymize>::new(rules).unwrap();
    let relation = table("s.t(id int8 key, flag bool, other bool, born date, died date, who text)");
    let wanted = fixture.relation(&relation).unwrap().unwrap();
    let id = wanted.columns.iter().find(|c| c.name == "id").unwrap();
    assert!(id.usage == Use::Read && id.passes, "{id:?}");
    let row = |id: &str, who: &'static str| {
        let id: &'static str = Box::leak(id.to_owned().into_boxed_str());
        insert([
            ("id", id),
            ("flag", "t"),
            ("other", "t"),
            ("born", "1815-12-10"),
            ("died", "1815-12-20"),
            ("who", who),
        ])
    };
    let rows: Vec<TestRow> = (0..40).map(|n| row(&n.to_string(), "ada")).collect();
    let out = fixture.run(&relation, &rows);
    let all = |column: &str| -> Vec<String> {
        out.iter()
            .map(|out| match out.after(column) {
                Text(text) => text.to_owned(),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let flags = all("flag");
    assert!(flags.iter().any(|f| f == "t") && flags.iter().any(|f| f == "f"), "{flags:?}");
    assert_ne!(flags, all("other"));
    let (born, died) = (all("born"), all("died"));
    assert!(born.iter().all(|b| *b == born[0]) && born[0] != "1815-12-10");
    assert!(died.iter().all(|d| *d == died[0]) && died[0] != "1815-12-20");
    // The same row has the same result, whatever happens to it and wherever it is.
    let updated = fixture.run(
        &relation,
        &[update([("id", Text("3")), ("flag", Text("f")), ("who", Unchanged), ("born", Null)])],
    );
    assert_eq!(updated[0].after("flag"), Text(&flags[3]));
    let moved = fixture.run(
        &relation,
        &[update([("id", Text("3")), ("born", Text("1815-12-10")), ("who", Unchanged)])],
    );
    assert_eq!(moved[0].error_column(), Some("born"));
}

#[test]
fn a_template_sees_what_the_other_rules_made() {
    let rules = json!({
        "s.t.id": "pass", "s.t.first": "fake_first_name",
        "s.t.mail": {"transform": "template", "template": "{{.login}}@example.com"},
        "s.t.login": {"transform": "template", "template": "{{.first | lower}}{{.id}}"},
        "s.t.own": {"transform": "template", "template": "x{{.own | before \"@\"}}"},
        "s.t.short": {"transform": "template", "template": "{{.first}}{{.first}}{{.first}}"},
        "s.t.none": {"transform": "template", "template": "<{{.void}}>"},
        "s.t.void": "pass",
    });
    let relation = "s.t(id int8 key, first text, mail text, login text, own text, \
                    short varchar(3), none text, void text) full";
    let row = insert([
        ("id", Some("7")),
        ("first", Some("Ada")),
        ("mail", Some("a")),
        ("login", Some("b")),
        ("own", Some("ada@lovelace.org")),
        ("none", Some("c")),
    ]);
    let out = run(rules.clone(), relation, &[row]).unwrap();
    let Text(first) = out[0].after("first") else { panic!() };
    let login = format!("{}7", first.to_lowercase());
    assert_eq!(out[0].after("login"), Text(&login));
    assert_eq!(out[0].after("mail"), Text(&format!("{login}@example.com")));
    assert_eq!(out[0].after("own"), Text("xada"));
    assert_eq!(out[0].after("none"), Text("<>"));
    let old = [("id", "7"), ("first", "Ada"), ("mail", "a"), ("login", "b")];
    let out = run(
        rules.clone(),
        relation,
        &[update_from(old, [("id", "8"), ("first", "Ada"), ("login", "b")])],
    );
    let out = out.unwrap();
    assert_eq!(out[0].before("login"), Text(&login));
    assert_eq!(out[0].after("login"), Text(&login.replace('7', "8")));
    let out = run(rules.clone(), relation, &[insert([("first", "Ada"), ("short", "a")])]).unwrap();
    assert!(out[0].error().unwrap().contains("too long"));
    let row = update([("first", Unchanged), ("id", Text("7")), ("login", Text("x"))]);
    let out = run(rules, relation, &[row]).unwrap();
    assert!(out[0].error().unwrap().contains("not in the row"));
    let ring = json!({
        "s.t.a": {"transform": "template", "template": "{{.b}}"},
        "s.t.b": {"transform": "template", "template": "{{.a}}"},
    });
    let error = run(ring, "s.t(a text, b text)", &[]).unwrap_err().to_string();
    assert!(error.contains("the templates of a, b are made of one another"), "{error}");
}

#[test]
fn a_password_has_a_salt_of_its_cleartext() {
    let rule = |more: Json| {
        let mut rule =
            json!({"transform": "password_pbkdf2", "cleartext": "pw-{{.id}}", "iterations": 2});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"s.t.a": rule, "s.t.id": "pass"})
    };
    let of = |rules: Json| -> Vec<String> {
        let rows =
            [("1", "x"), ("1", "y"), ("2", "x")].map(|(id, a)| insert([("id", id), ("a", a)]));
        let out = run(rules, "s.t(id int8 key, a text)", &rows).unwrap();
        out.iter()
            .map(|out| match out.after("a") {
                Text(text) => text.to_owned(),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let salt = |text: &str| text.split('$').next().unwrap().to_owned();
    let plain = of(rule(json!({})));
    assert!(plain[0] == plain[1] && salt(&plain[0]) != salt(&plain[2]), "{plain:?}");
    let one = of(rule(json!({"use_salt": false})));
    assert!(salt(&one[0]) == salt(&one[2]) && one[0] != one[2], "{one:?}");
    let each = of(rule(json!({"salt_per_value": true})));
    assert!(salt(&each[0]) != salt(&each[1]) && salt(&each[0]) == salt(&each[2]), "{each:?}");
}
