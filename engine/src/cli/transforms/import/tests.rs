//! The original's file, taken over, and what is told of it.

use super::*;

const FILE: &str = r##"
major_version: 0
version: v1
tables:
  public.users:
    name: FakeName
    email: {type: Template, template: '{{lower .name}}@example.com'}
    phone:
      type: Regex
      pattern: '[0-9]'
      replacement: "#"
    password: {type: PasswordBcrypt, cleartext: "test", cost: 12, use_salt: false}
    "Odd Name": FakeSSN
  Billing.Cards:
    number: {type: FakeCreditCardNum}
"##;

#[test]
fn a_file_becomes_a_configuration() {
    let imported = import(FILE).unwrap();
    assert!(imported.lost.is_empty(), "{:?}", imported.lost);
    assert_eq!(imported.notes.len(), 1);
    assert_eq!(imported.notes[0].0, 9, "{:?}", imported.notes);
    let text = toml(&imported, Path::new("transforms.yml"));
    let parsed: crate::transform::Config =
        toml::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let binding = &parsed.transform[0];
    assert_eq!(binding.tables, ["public.users", "\"Billing\".\"Cards\""]);
    let rules = binding.rules_json();
    assert_eq!(rules["public.users.name"], "fake_name");
    assert_eq!(rules["public.users.\"Odd Name\""], "fake_ssn");
    assert_eq!(rules["\"Billing\".\"Cards\".number"], "fake_credit_card_num");
    let email =
        serde_json::json!({"transform": "template", "template": "{{lower .name}}@example.com"});
    assert_eq!(rules["public.users.email"], email);
    let phone = serde_json::json!({"transform": "regex", "pattern": "[0-9]", "replacement": "#"});
    assert_eq!(rules["public.users.phone"], phone);
    let password = serde_json::json!(
        {"transform": "password_bcrypt", "cleartext": "test", "cost": 12, "use_salt": false}
    );
    assert_eq!(rules["public.users.password"], password);
    assert_eq!(rules.as_object().unwrap().len(), 6);
}

#[test]
fn what_cannot_be_carried_over_is_told_with_its_line() {
    let text = "major_version: 1\nother: x\ntables:\n  users:\n    a: FakeName\n  public.t:\n    \
                a: fakename\n    b: Fake\n    c: Regex\n    d: {type: FakeName, seed: 1}\n    \
                e: {pattern: x}\n    f: [1]\n    g: {type: Template, template: '{{if .a}}x{{end}}'}\n    \
                h: {type: Regex, pattern: [x], replacement: y}\n    i: FakeWord\n  public.u: 7\n";
    let imported = import(text).unwrap();
    let told: Vec<String> =
        imported.lost.iter().map(|(line, text)| format!("{line}: {text}")).collect();
    assert_eq!(
        told,
        [
            "1: `major_version` is of another product",
            "2: `other` means nothing here",
            "4: `users` is no schema.table: name the schema",
            "7: public.t.a: there is no type `fakename`; did you mean `FakeName`?",
            "8: public.t.b: there is no type `Fake`",
            "9: public.t.c: `Regex` needs options: pattern, replacement",
            "10: public.t.d: `FakeName` has no option `seed`",
            "11: public.t.e: the rule has no `type`",
            "12: public.t.f: a rule is a type, or a mapping with `type`",
            "13: public.t.g: the template says `if`, which is left out here: there are .column, index, \
             lower, upper, slugify, before and after",
            "14: public.t.h: `pattern` is no plain value",
            "16: public.u has no columns",
        ]
    );
    let rules = &imported.tables[0].1;
    assert_eq!(rules[..], [("\"public.t.i\"".to_owned(), "\"fake_word\"".to_owned())]);
}

#[test]
fn what_is_no_such_file_is_refused() {
    for (text, want) in [
        ("", "it is empty"),
        ("a: 1\n---\nb: 2\n", "several documents"),
        ("- a\n", "it holds no mapping with `tables`"),
        ("major_version: 0\n", "it has no `tables`"),
        ("tables:\n  a: {b\n", "no YAML: line "),
        ("tables:\n\ta: b\n", "no YAML: line 2"),
    ] {
        let told = import(text).unwrap_err();
        assert!(told.contains(want), "{text:?}: {told}");
    }
}
