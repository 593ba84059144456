//! The table of transforms, held to what is written down of it: the metadata in the `.wasm`,
//! the README, and what every transform makes of some values, for ever.
//!
//! `BLESS=1 cargo test -p kasho-anonymize --test catalog` writes the three anew. What it
//! changes in `tests/golden.txt` moves the data of everybody who uses that transform.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anonymize::Anonymize;
use anonymize::catalog::{self, Entry};
use kasho_plugin_sdk::Value;
use kasho_plugin_sdk::testing::{Fixture, insert, table};
use serde_json::{Value as Json, json};

/// What each transform is tried on, beside its example.
const VALUES: [&str; 5] = ["", "Ada", "Grüße", "4155550132", "1987-06-05"];

/// The rule of these options, as TOML between braces.
fn rule(name: &str, options: &str) -> Json {
    let rule: toml::Table =
        toml::from_str(&format!("rule = {{ transform = \"{name}\", {options} }}")).unwrap();
    serde_json::to_value(&rule["rule"]).unwrap()
}

/// What a rule makes of a value: its text, `NULL`, or `!` and the row's error.
fn made(rule: &Json, column: &str, value: &str) -> String {
    let rules = json!({"s.t.id": "pass", "s.t.a": rule});
    let relation = table(&format!("s.t(id int8 key, a {column})"));
    // No placeholder, or the engine's test of the same file would be refused it.
    let key = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let mut fixture = Fixture::<Anonymize>::with_key(rules, &key).unwrap();
    fixture.relation(&relation).unwrap();
    let out = fixture.run(&relation, &[insert([("id", "7"), ("a", value)])]);
    match out[0].error() {
        Some(error) => format!("! {error}"),
        None => match out[0].after("a") {
            Value::Text(text) => text.to_owned(),
            Value::Null => "NULL".to_owned(),
            other => panic!("{other:?}"),
        },
    }
}

fn example(entry: &Entry) -> String {
    let catalog::Example { options, column, input } = entry.example;
    made(&rule(entry.name, options), column, input)
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a file to what it should be; writes it where that is asked for.
fn hold(name: &str, want: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(file(name), want).unwrap();
    }
    let is = fs::read_to_string(file(name)).unwrap();
    let differs = is.lines().zip(want.lines()).find(|(is, want)| is != want);
    assert!(is == want, "{name} is not what the table makes; the first line: {differs:#?}");
}

#[test]
fn the_metadata_is_the_table() {
    let transforms: Vec<Json> =
        catalog::entries().map(|entry| entry.json(&example(entry))).collect();
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        "{{\"name\":\"anonymize\",\"version\":\"{version}\",\"language\":\"rust\",\"sdk\":\"{version}\",\
         \"transforms\":["
    );
    for (i, transform) in transforms.iter().enumerate() {
        let _ = write!(text, "{}\n{transform}", if i > 0 { "," } else { "" });
    }
    text += "\n]}\n";
    assert!(serde_json::from_str::<Json>(&text).is_ok());
    hold("transforms.json", &text);
}

#[test]
fn the_readme_has_every_transform() {
    let mut text = String::new();
    let cell = |text: &str| text.replace('|', "\\|");
    for entry in catalog::entries() {
        let options: Vec<String> = entry
            .options()
            .map(|o| match entry.default(o).as_str() {
                "" => format!("`{}`", o.name),
                default => format!("`{} = {default}`", o.name),
            })
            .collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | `{}` |",
            entry.name,
            entry.doc.trim_end_matches('.'),
            options.join(", "),
            entry.makes.name(),
            entry.unique.name(),
            cell(&example(entry)),
        );
    }
    let readme = fs::read_to_string(file("README.md")).unwrap();
    let head =
        "| transform | makes | options | columns | unique | example |\n|---|---|---|---|---|---|\n";
    let (before, after) = readme.split_once(head).unwrap();
    let (_, after) = after.split_once("\n\n").unwrap();
    hold("README.md", &format!("{before}{head}{text}\n{after}"));
}

#[test]
fn what_a_transform_makes_never_changes() {
    let mut text = String::new();
    for entry in catalog::entries() {
        let catalog::Example { options, column, input } = entry.example;
        let rule = rule(entry.name, options);
        let mut line = |column: &str, value: &str| {
            let made = made(&rule, column, value);
            let _ = writeln!(text, "{rule}\t{column}\t{value}\t{made}");
        };
        line(column, input);
        let by_value = entry.keyed.is_some() && !options.contains("by = ") || options.is_empty();
        let of_text = column.starts_with("text") && !options.contains("cleartext");
        if of_text && by_value || entry.name == "mask" {
            VALUES.iter().for_each(|value| line("text", value));
        }
    }
    for (rule, column, value) in MORE {
        let rule: Json = serde_json::from_str(rule).unwrap();
        let made = made(&rule, column, value);
        let _ = writeln!(text, "{rule}\t{column}\t{value}\t{made}");
    }
    hold("tests/golden.txt", &text);
}

/// Rules beside the examples.
const MORE: [(&str, &str, &str); 32] = [
    (r#"{"transform":"digits"}"#, "int4", "2147483647"),
    (r#"{"transform":"digits"}"#, "int8", "-9223372036854775808"),
    (r#"{"transform":"digits"}"#, "text", "DE89 3704 0044 0532 0130 00"),
    (r#"{"transform":"digits"}"#, "int4[]", "{{1,NULL},{22,3}}"),
    (r#"{"transform":"uuid"}"#, "uuid", "00000000-0000-0000-0000-000000000000"),
    (r#"{"transform":"hash"}"#, "uuid", "00000000-0000-0000-0000-000000000000"),
    (r#"{"transform":"token"}"#, "text", "more than one block of sixteen bytes"),
    (r#"{"transform":"fake_phone","domain":"other","unique":true}"#, "text", "+1 (415) 555-0132"),
    (r#"{"transform":"fake_ssn","domain":"other","unique":true}"#, "text", "123-45-6789"),
    (
        r#"{"transform":"fake_credit_card_num","domain":"other","unique":true}"#,
        "text",
        "4111 1111 1111 1111",
    ),
    (r#"{"transform":"fake_credit_card_num"}"#, "text", "378282246310005"),
    (r#"{"transform":"fake_date_of_birth"}"#, "timestamptz", "1987-06-05 00:00:00+00"),
    (r#"{"transform":"shift_date"}"#, "date", "1987-06-05"),
    (r#"{"transform":"shift_date","days":3650}"#, "timestamptz", "0001-01-01 00:00:00+00 BC"),
    (r#"{"transform":"noise"}"#, "int4", "1000000"),
    (r#"{"transform":"noise","amount":2.5}"#, "numeric", "10.00"),
    (r#"{"transform":"noise"}"#, "float8", "1.5e+20"),
    (r#"{"transform":"noise","ratio":1}"#, "int2", "32767"),
    (r#"{"transform":"noise","ratio":0.001}"#, "float8", "20.5"),
    (r#"{"transform":"bool"}"#, "bool", "t"),
    (r#"{"transform":"bool"}"#, "int4", "1"),
    (r#"{"transform":"choice","values":["a","b"]}"#, "enum(a|b|c)", "c"),
    (r#"{"transform":"fake_name"}"#, "text[]", "{Ada,NULL,\"Grace Hopper\"}"),
    (r#"{"transform":"fake_words","count":12}"#, "text", "x"),
    (r#"{"transform":"fake_paragraph"}"#, "text", "x"),
    (r#"{"transform":"fake_characters","length":40}"#, "text", "x"),
    (r#"{"transform":"fake_digits","length":40}"#, "text", "x"),
    (
        r#"{"transform":"json","paths":{"a[*].n":"fake_name","b":"noise","c":"hash"}}"#,
        "jsonb",
        r#"{"a": [{"n": "Ada", "x": 1}, {"n": null}], "b": 100, "c": "s", "d": {}}"#,
    ),
    (r#"{"transform":"digits"}"#, "text", "7-7"),
    (r#"{"transform":"digits"}"#, "text", "7"),
    (r#"{"transform":"digits"}"#, "numeric(65536)", "-1"),
    (r#"{"transform":"noise","amount":2.5}"#, "float8", "10"),
];

#[test]
fn all_names_are_different_and_snake_case() {
    let mut names: Vec<&str> =
        catalog::entries().flat_map(|e| e.aliases.iter().chain([&e.name]).copied()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let plain = |name: &str| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    assert!(catalog::entries().all(|e| plain(e.name) && e.doc.ends_with('.')));
}

/// The names that `transforms.yml` knows.
#[test]
fn every_transform_of_the_yaml_file_is_there() {
    let names = "FakeName FakeFirstName FakeLastName FakeEmail FakeSSN FakeDateOfBirth FakePhone \
        FakeGender FakeTitle FakeJobTitle FakeIndustry FakeDomainName FakeUsername FakePassword \
        FakeStreetAddress FakeStreet FakeCity FakeState FakeStateAbbr FakeZip FakeCountry \
        FakeLatitude FakeLongitude FakeCompany FakeProduct FakeProductName FakeProductDescription \
        FakeParagraph FakeWord FakeMonth FakeMonthNum FakeWeekDay FakeYear FakeCreditCardType \
        FakeCreditCardNum FakeCurrency Bool Regex Template PasswordBcrypt PasswordScrypt \
        PasswordPBKDF2 PasswordArgon2id FakeSentence FakeWords FakeCharacters FakeCharacter FakeDigits";
    let names: Vec<&str> = names.split_whitespace().collect();
    assert_eq!(names.len(), 48);
    for name in names {
        assert!(catalog::named(name).is_some(), "{name}");
    }
}
