//! The SQL of a comparison: both servers compute the same digests of the same texts, so that
//! equal parts cost a few bytes on the wire. Pure.
//!
//! A row's text is PostgreSQL's own text of a `ROW(…)`, which tells NULL from an empty text
//! and quotes what would be ambiguous; the sessions pin every setting that it depends on.
//! SHA-256, because a server in FIPS mode refuses MD5. A mistake here would call different
//! rows equal.

use kasho_plugin_sdk::pattern::TablePattern;

pub(super) use crate::quote::{identifier as quoted, literal};

/// A table's name as coverage has it (`crm."People"`), in parts.
pub(super) fn parts(name: &str) -> Option<(String, String)> {
    let pattern = TablePattern::parse(name).ok()?;
    Some((pattern.schema.text().to_owned(), pattern.table.text().to_owned()))
}

fn row(columns: &[&str]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    match columns.as_slice() {
        // There is no ROW() of nothing that has a text.
        [] => "''".to_owned(),
        all => format!("ROW({})::text", all.join(", ")),
    }
}

/// The digest of these columns, 32 bytes.
pub(super) fn digest(columns: &[&str]) -> String {
    format!("sha256(convert_to({}, 'UTF8'))", row(columns))
}

/// Sixteen bytes of a digest as text: two rows of one digest are one row.
pub(super) fn fingerprint(columns: &[&str]) -> String {
    format!("encode(substr({}, 1, 16), 'hex')", digest(columns))
}

/// A number out of a digest whose sum over rows tells two sets of rows apart, in any order.
pub(super) fn summand(columns: &[&str]) -> String {
    format!("('x' || encode(substr({}, 1, 8), 'hex'))::bit(64)::bigint", digest(columns))
}

/// The bucket of `of` that a row falls into by these columns.
pub(super) fn bucket(columns: &[&str], of: u64) -> String {
    format!(
        "(('x' || encode(substr({}, 9, 4), 'hex'))::bit(32)::bigint & 4294967295) % {of}",
        digest(columns)
    )
}

/// The columns as a list.
pub(super) fn list(columns: &[&str]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

/// Values in parentheses, of whatever types they are compared with.
pub(super) fn tuple(values: &[String]) -> String {
    format!("({})", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", "))
}

/// The condition of a range of keys: above `after`, up to and with `through`.
pub(super) fn range(
    key: &[&str],
    after: Option<&[String]>,
    through: Option<&[String]>,
) -> Option<String> {
    let bound = |sign: &str, values: &[String]| {
        let columns = list(key);
        // Of one column PostgreSQL makes no row.
        match values {
            [value] => format!("{columns} {sign} {}", literal(value)),
            all => format!("({columns}) {sign} {}", tuple(all)),
        }
    };
    let conditions: Vec<String> =
        [after.map(|values| bound(">", values)), through.map(|values| bound("<=", values))]
            .into_iter()
            .flatten()
            .collect();
    (!conditions.is_empty()).then(|| conditions.join(" AND "))
}

/// The condition of these very keys.
pub(super) fn any_of(key: &[&str], keys: &[&[String]]) -> String {
    match key {
        [one] => {
            let all: Vec<String> = keys.iter().map(|key| tuple_value(key)).collect();
            format!("{} IN ({})", quoted(one), all.join(", "))
        }
        _ => {
            let all: Vec<String> = keys.iter().map(|key| tuple(key)).collect();
            format!("({}) IN ({})", list(key), all.join(", "))
        }
    }
}

/// The condition of these very keys, however many: one scan of the key's index. `types` are
/// those of its columns, for constants have none of their own.
pub(super) fn among(key: &[&str], types: &[String], keys: &[Vec<String>]) -> String {
    let array = |at: usize| {
        let values = keys.iter().map(|key| element(key.get(at).map_or("", String::as_str)));
        let values = format!("{{{}}}", values.collect::<Vec<_>>().join(","));
        format!("{}::{}[]", literal(&values), types.get(at).map_or("text", String::as_str))
    };
    match key {
        [one] => format!("{} = ANY ({})", quoted(one), array(0)),
        all => {
            let arrays: Vec<String> = (0..all.len()).map(array).collect();
            format!("({}) IN (SELECT * FROM unnest({}))", list(all), arrays.join(", "))
        }
    }
}

/// A value within the text of an array.
fn element(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn tuple_value(key: &[String]) -> String {
    key.first().map_or_else(|| "NULL".to_owned(), |value| literal(value))
}

/// ` WHERE …` of those conditions that there are.
pub(super) fn filtered<'a>(conditions: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let all: Vec<String> =
        conditions.into_iter().flatten().map(|condition| format!("({condition})")).collect();
    match all.as_slice() {
        [] => String::new(),
        all => format!(" WHERE {}", all.join(" AND ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn names_and_values_cannot_break_out() {
        assert_eq!(list(&["a", "B c"]), "\"a\", \"B c\"");
        assert_eq!(parts("crm.\"Pe\"\"ople\""), Some(("crm".to_owned(), "Pe\"ople".to_owned())));
    }

    #[test]
    fn ranges_leave_no_gap_and_do_not_overlap() {
        let (low, high) = (key(&["1", "a"]), key(&["2", "b'"]));
        assert_eq!(range(&["k"], None, None), None);
        assert_eq!(
            range(&["x", "y"], Some(&low), Some(&high)).unwrap(),
            "(\"x\", \"y\") > ('1', 'a') AND (\"x\", \"y\") <= ('2', 'b''')"
        );
        assert_eq!(range(&["x"], None, Some(&key(&["7"]))).unwrap(), "\"x\" <= '7'");
        assert_eq!(range(&["x"], Some(&key(&["7"])), None).unwrap(), "\"x\" > '7'");
    }

    #[test]
    fn keys_are_asked_for_in_one_statement() {
        let (a, b) = (key(&["1"]), key(&["2"]));
        assert_eq!(any_of(&["id"], &[&a, &b]), "\"id\" IN ('1', '2')");
        let c = key(&["1", "x"]);
        assert_eq!(any_of(&["id", "n"], &[&c]), "(\"id\", \"n\") IN (('1', 'x'))");
        assert_eq!(filtered([None, None]), "");
        assert_eq!(filtered([Some("a OR b"), None, Some("c")]), " WHERE (a OR b) AND (c)");
    }

    #[test]
    fn many_keys_are_one_array_a_column() {
        let types = ["text".to_owned(), "int4".to_owned()];
        assert_eq!(
            among(&["id"], &types, &[key(&["it's"]), key(&["\"\\{,"])]),
            r#""id" = ANY ('{"it''s","\"\\{,"}'::text[])"#
        );
        assert_eq!(
            among(&["a", "b"], &types, &[key(&["x", "1"]), key(&["", "2"])]),
            r#"("a", "b") IN (SELECT * FROM unnest('{"x",""}'::text[], '{"1","2"}'::int4[]))"#
        );
    }

    #[test]
    fn no_columns_still_have_a_digest() {
        assert_eq!(digest(&[]), "sha256(convert_to('', 'UTF8'))");
        assert!(fingerprint(&["a"]).contains("ROW(\"a\")::text"));
    }
}
