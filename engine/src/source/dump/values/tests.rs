//! Foreign texts and the stream's: pairs as PostgreSQL 15 itself prints one value under
//! other settings and under the pinned ones.

use proptest::prelude::*;

use super::*;

fn stamp() -> Box<Shape> {
    Box::new(Shape::Timestamptz)
}

fn bytes() -> Box<Shape> {
    Box::new(Shape::Bytea)
}

fn converted(shape: &Shape, text: &str) -> Result<String, Malformed> {
    let mut out = b"before".to_vec();
    let changed = convert(shape, text.as_bytes(), &mut out)?;
    let out = String::from_utf8(out).unwrap();
    assert!(changed || out == "before", "nothing is appended for nothing");
    Ok(if changed { out["before".len()..].to_owned() } else { text.to_owned() })
}

#[test]
fn containers_are_taken_apart_and_put_together() {
    let fields = |list: Vec<Option<Shape>>| Shape::Composite(list);
    for (shape, foreign, expected) in [
        (Shape::Bytea, r"a\\b\000\377'", r"\x615c6200ff27"),
        (Shape::Bytea, "", r"\x"),
        (Shape::Bytea, r"\x00ff", r"\x00ff"),
        (
            Shape::Array(stamp()),
            r#"{"2024-01-01 01:00:00+01",NULL,infinity}"#,
            r#"{"2024-01-01 00:00:00+00",NULL,infinity}"#,
        ),
        (Shape::Array(stamp()), "{}", "{}"),
        (
            Shape::Array(stamp()),
            r#"[3:4]={{"2024-01-01 01:00:00+01"},{NULL}}"#,
            r#"[3:4]={{"2024-01-01 00:00:00+00"},{NULL}}"#,
        ),
        (
            Shape::Array(bytes()),
            r#"{abc,"","\\\\","\\000"}"#,
            r#"{"\\x616263","\\x","\\x5c","\\x00"}"#,
        ),
        (Shape::Array(bytes()), r#"{"\\x61",NULL}"#, r#"{"\\x61",NULL}"#),
        (
            Shape::Range(stamp()),
            r#"["2024-01-01 01:00:00+01","2024-06-01 00:00:00-04")"#,
            r#"["2024-01-01 00:00:00+00","2024-06-01 04:00:00+00")"#,
        ),
        (Shape::Range(stamp()), r#"["2024-01-01 01:00:00+01",)"#, r#"["2024-01-01 00:00:00+00",)"#),
        (Shape::Range(stamp()), "empty", "empty"),
        (Shape::Range(stamp()), "(,infinity)", "(,infinity)"),
        (
            Shape::Multirange(stamp()),
            r#"{["2024-01-01 01:00:00+01","2024-01-02 01:00:00+01"),["2024-02-01 01:00:00+01",)}"#,
            r#"{["2024-01-01 00:00:00+00","2024-01-02 00:00:00+00"),["2024-02-01 00:00:00+00",)}"#,
        ),
        (Shape::Multirange(stamp()), "{}", "{}"),
        (
            fields(vec![None, Some(Shape::Timestamptz), Some(Shape::Bytea), None]),
            r#"("a ""b"", c","2024-01-01 01:00:00+01",abc,)"#,
            r#"("a ""b"", c","2024-01-01 00:00:00+00","\\x616263",)"#,
        ),
        (
            fields(vec![Some(Shape::Array(stamp())), None]),
            r#"("{""2024-01-01 01:00:00+01"",NULL}",7)"#,
            r#"("{""2024-01-01 00:00:00+00"",NULL}",7)"#,
        ),
        (
            Shape::Array(Box::new(Shape::Range(stamp()))),
            r#"{"[\"2024-01-01 01:00:00+01\",)",empty}"#,
            r#"{"[\"2024-01-01 00:00:00+00\",)",empty}"#,
        ),
    ] {
        assert_eq!(converted(&shape, foreign).as_deref(), Ok(expected), "{foreign}");
        // What has the stream's text keeps it.
        assert_eq!(converted(&shape, expected).as_deref(), Ok(expected), "{expected}");
    }
}

#[test]
fn what_is_not_of_the_types_form_is_refused() {
    for (shape, text) in [
        (Shape::Bytea, r"a\b"),
        (Shape::Bytea, r"a\400"),
        (Shape::Bytea, r"a\"),
        (Shape::Array(stamp()), "{"),
        (Shape::Array(stamp()), "x"),
        (Shape::Array(stamp()), "{}x"),
        (Shape::Array(stamp()), r#"{"2024-01-01 00:00"#),
        (Shape::Array(stamp()), "{yesterday}"),
        (Shape::Range(stamp()), "[,"),
        (Shape::Range(stamp()), "[,)x"),
        (Shape::Multirange(stamp()), "{[,)"),
        (Shape::Composite(vec![Some(Shape::Bytea)]), "(a,b)"),
        (Shape::Composite(vec![Some(Shape::Bytea), None]), "(a)"),
    ] {
        assert!(converted(&shape, text).is_err(), "{text}");
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![Just(Shape::Timestamptz), Just(Shape::Bytea)];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|s| Shape::Array(Box::new(s))),
            inner.clone().prop_map(|s| Shape::Range(Box::new(s))),
            inner.clone().prop_map(|s| Shape::Multirange(Box::new(s))),
            proptest::collection::vec(proptest::option::of(inner), 1..3).prop_map(Shape::Composite),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_of_any_shape_is_a_value_or_an_error(
        shape in shapes(),
        text in r#"[\[({]{0,2}([0-9: +.,BC-]|["\\{}()\[\]=]|NULL|\\x){0,40}"#,
    ) {
        let _ = converted(&shape, &text);
    }
}
