//! Arrays and JSON, taken apart and put together.

use kasho_plugin_sdk::{Patched, Scratch};

use super::*;
use crate::paths::Path;

/// Joined, with each text in upper case; `null` where it is `x`.
fn joined(value: &str, edits: Option<Vec<Edit<'_>>>) -> Option<String> {
    let edits = edits?;
    assert!(edits.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start), "{edits:?}");
    let mut scratch = Scratch::default();
    let patched = join(value, &edits, &mut scratch.out(), |_, text, out| match text {
        "x" => Patched::Null,
        text => {
            out.push_str(&text.to_uppercase());
            Patched::Written
        }
    });
    assert_eq!(patched, Patched::Written);
    Some(scratch.as_str().to_owned())
}

#[test]
fn arrays_are_rewritten_element_by_element() {
    for (value, want) in [
        ("{}", "{}"),
        ("{a,b}", "{A,B}"),
        ("{a,NULL,x}", "{A,NULL,NULL}"),
        ("{\"null\",\"\"}", "{\"NULL\",\"\"}"),
        (r#"{"a \"b\" \\ c","d,e"}"#, r#"{"A \"B\" \\ C","D,E"}"#),
        ("{{a,b},{c,d}}", "{{A,B},{C,D}}"),
        ("[2:3]={a,b}", "[2:3]={A,B}"),
        ("[0:0][1:2]={{a,b}}", "[0:0][1:2]={{A,B}}"),
        ("{ß}", "{SS}"),
    ] {
        assert_eq!(joined(value, array(value)).as_deref(), Some(want), "{value}");
    }
    for wrong in ["", "a", "{a", "{a}}", "{\"a}", "{a}b", "[1:2]", "{a\\,b}"] {
        assert_eq!(array(wrong), None, "{wrong}");
    }
}

fn kept(value: &str, paths: &[(&str, bool)]) -> Option<String> {
    let read: Vec<Path> = paths.iter().filter_map(|(path, _)| Path::read(path).ok()).collect();
    assert_eq!(read.len(), paths.len());
    let passes: Vec<bool> = paths.iter().map(|(_, passes)| *passes).collect();
    joined(value, json(value, &read.iter().collect::<Vec<_>>(), &passes))
}

#[test]
fn of_json_only_what_is_listed_leaves() {
    let pass = |path| (path, true);
    let made = |path| (path, false);
    for (value, paths, want) in [
        (r#"{"a":1,"b":2,"c":3}"#, &[pass("b")][..], r#"{"b":2}"#),
        (r#"{ "a" : 1 , "b" : 2 , "c" : 3 }"#, &[pass("a"), pass("c")], r#"{ "a" : 1 , "c" : 3 }"#),
        (r#"{"a":1,"b":2}"#, &[pass("z")], "{}"),
        (r#"{"a":"q","b":"x"}"#, &[made("a"), made("b")], r#"{"a":"Q","b":null}"#),
        (r#"{"a":{"k":"v","p":1}}"#, &[made("a.k")], r#"{"a":{"k":"V"}}"#),
        (r#"{"a":{"k":1}}"#, &[made("a")], r#"{"a":null}"#),
        (r#"{"a":"scalar"}"#, &[pass("a.b")], r#"{"a":null}"#),
        (r#"{"a":[1,"q"]}"#, &[pass("a.b")], r#"{"a":null}"#),
        (r#"{"a":[ {"b":"q","c":1}, {"c":2} ]}"#, &[made("a[*].b")], r#"{"a":[ {"b":"Q"}, {} ]}"#),
        (r#"{"a":1,"b":{"c":"q"}}"#, &[made("*.c")], r#"{"a":null,"b":{"c":"Q"}}"#),
        (r#"{"a":"q","b":"q"}"#, &[made("*"), pass("a")], r#"{"a":"q","b":"Q"}"#),
        (r#""q""#, &[made("$")], r#""Q""#),
        (r#"[1,2]"#, &[pass("a")], "null"),
        (r#"{"a":"ein \"\u00df\n"}"#, &[made("a")], r#"{"a":"EIN \"SS\n"}"#),
        (
            r#"{"a":-1.5e3,"b":null,"c":true}"#,
            &[made("a"), made("b"), made("c")],
            r#"{"a":-1.5E3,"b":null,"c":"TRUE"}"#,
        ),
        (r#"{"\u0061":"q"}"#, &[made("a")], r#"{"\u0061":"Q"}"#),
    ] {
        assert_eq!(kept(value, paths).as_deref(), Some(want), "{value}");
        assert!(serde_json::from_str::<serde_json::Value>(want).is_ok());
    }
}

#[test]
fn a_pass_keeps_all_but_what_goes_further() {
    let pass = |path| (path, true);
    let made = |path| (path, false);
    for (value, paths, want) in [
        (
            r#"{"who": {"ssn": "q", "n": "q"}, "x": 1}"#,
            &[pass("who"), made("who.ssn")][..],
            r#"{"who": {"ssn": "Q", "n": "q"}}"#,
        ),
        (
            r#"{"a":{"b":{"c":"q","d":"q"}}}"#,
            &[pass("a"), made("*.*.c")],
            r#"{"a":{"b":{"c":"Q","d":"q"}}}"#,
        ),
        (
            r#"{"a":"q","b":{"s":"q","t":["q"]}}"#,
            &[pass("$"), made("*.s")],
            r#"{"a":"q","b":{"s":"Q","t":["q"]}}"#,
        ),
        (r#"[{"s":"q","t":"q"},"q"]"#, &[pass("$"), made("[*].s")], r#"[{"s":"Q","t":"q"},null]"#),
        (r#"{"a":{"b":"q"}}"#, &[pass("a"), made("a.*"), pass("a.b")], r#"{"a":{"b":"q"}}"#),
        (
            r#"{"a":{"b":"q","c":"q"}}"#,
            &[pass("a"), made("a.*"), pass("a.b")],
            r#"{"a":{"b":"q","c":"Q"}}"#,
        ),
        // What the path goes on into is not there: in doubt it does not leave.
        (r#"{"who":[{"ssn":"q"}]}"#, &[pass("who"), made("who.ssn")], r#"{"who":null}"#),
        (r#"{"who":"ssn: q"}"#, &[pass("who"), made("who.ssn")], r#"{"who":null}"#),
        (r#"{"who":{"s":"q"}}"#, &[pass("who"), made("who[*].s")], r#"{"who":null}"#),
        (r#"{"who":{"s":{"t":"q"}}}"#, &[pass("who"), made("who.s")], r#"{"who":{"s":null}}"#),
        // A rule that is no `pass` lets nothing out below it.
        (r#"{"who":{"s":"q"}}"#, &[made("who"), pass("who.s")], r#"{"who":null}"#),
        (r#"{"who":{}}"#, &[pass("who"), made("who.s")], r#"{"who":{}}"#),
    ] {
        assert_eq!(kept(value, paths).as_deref(), Some(want), "{value} {paths:?}");
    }
}

#[test]
fn what_is_no_json_is_refused() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    for wrong in [
        "",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "[1,]",
        "01",
        "tru",
        "\"a",
        "{a:1}",
        "1 2",
        "\"\\x\"",
        &deep,
    ] {
        assert_eq!(kept(wrong, &[("a", false), ("$", false)]), None, "{wrong}");
    }
}
