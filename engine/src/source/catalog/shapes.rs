//! Types whose text depends on the session that prints it: `timestamptz`, `bytea`, and
//! whatever holds one of them. Sessions of ours pin those settings; a dump that was made
//! elsewhere has to be brought to the same text, and this tells where in a value to look.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Oid;
use tokio_postgres::{Client, Row};

use crate::source::error::SourceError;

/// Where in a type's text something depends on settings. Domains are what they rest on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `timestamp with time zone`: the offset is the session's time zone's.
    Timestamptz,
    /// `bytea`: hex or escapes.
    Bytea,
    /// An array of such.
    Array(Box<Shape>),
    /// A range over such.
    Range(Box<Shape>),
    /// A multirange over such.
    Multirange(Box<Shape>),
    /// A row type with one at least.
    Composite(Vec<Option<Shape>>),
}

/// Shapes as a list of pairs: numbers as a map's keys do not survive an enum with a tag,
/// which is how the snapshot's holder tells its catalogue.
pub(super) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Shape;

    /// Writes the pairs.
    pub(crate) fn serialize<S: Serializer>(
        shapes: &BTreeMap<u32, Shape>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(shapes)
    }

    /// Reads them.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<u32, Shape>, D::Error> {
        Ok(Vec::<(u32, Shape)>::deserialize(from)?.into_iter().collect())
    }
}

const TIMESTAMPTZ: Oid = 1184;
const BYTEA: Oid = 17;

/// All types that columns of the tables are made of; 0 where there is no such part.
const TYPES: &str = "WITH RECURSIVE part (oid, beneath) AS ( \
     SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd' UNION ALL \
     SELECT oid, typelem FROM pg_type \
     WHERE typcategory = 'A' AND typlen = -1 AND typelem <> 0 UNION ALL \
     SELECT rngtypid, rngsubtype FROM pg_range UNION ALL \
     SELECT rngmultitypid, rngtypid FROM pg_range UNION ALL \
     SELECT t.oid, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid \
     WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped), \
     need (oid) AS ( \
     SELECT DISTINCT atttypid FROM pg_attribute \
     WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped UNION \
     SELECT part.beneath FROM need JOIN part ON part.oid = need.oid) \
     SELECT t.oid, t.typtype, t.typbasetype, \
     CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END, \
     coalesce(r.rngsubtype, 0), coalesce(m.rngtypid, 0), \
     array(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid \
           AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) \
     FROM need JOIN pg_type t ON t.oid = need.oid \
     LEFT JOIN pg_range r ON r.rngtypid = t.oid LEFT JOIN pg_range m ON m.rngmultitypid = t.oid";

/// A type and its parts.
struct Type {
    /// `pg_type.typtype`.
    kind: u8,
    base: Oid,
    element: Oid,
    subtype: Oid,
    range: Oid,
    fields: Vec<Oid>,
}

/// The shapes of those types of the tables' columns that have one.
pub(super) async fn read(
    client: &Client,
    tables: &[Oid],
) -> Result<BTreeMap<u32, Shape>, SourceError> {
    let rows = client
        .query(TYPES, &[&tables])
        .await
        .map_err(|error| SourceError::sql("reading what the columns' types are made of", &error))?;
    let entry = |row: &Row| {
        let found = Type {
            kind: u8::try_from(row.get::<_, i8>(1)).unwrap_or(0),
            base: row.get(2),
            element: row.get(3),
            subtype: row.get(4),
            range: row.get(5),
            fields: row.get(6),
        };
        (row.get::<_, Oid>(0), found)
    };
    let types: BTreeMap<Oid, Type> = rows.iter().map(entry).collect();
    let shapes = types.keys().filter_map(|oid| Some((*oid, shape(*oid, &types)?)));
    Ok(shapes.collect())
}

/// PostgreSQL allows no type that holds itself, so this ends.
fn shape(oid: Oid, types: &BTreeMap<Oid, Type>) -> Option<Shape> {
    match oid {
        TIMESTAMPTZ => return Some(Shape::Timestamptz),
        BYTEA => return Some(Shape::Bytea),
        _ => {}
    }
    let found = types.get(&oid)?;
    let part = |oid: Oid| shape(oid, types).map(Box::new);
    match found.kind {
        b'd' => shape(found.base, types),
        b'r' => part(found.subtype).map(Shape::Range),
        b'm' => match *part(found.range)? {
            Shape::Range(subtype) => Some(Shape::Multirange(subtype)),
            _ => None,
        },
        b'c' => {
            let fields: Vec<_> = found.fields.iter().map(|oid| shape(*oid, types)).collect();
            fields.iter().any(Option::is_some).then_some(Shape::Composite(fields))
        }
        _ if found.element != 0 => part(found.element).map(Shape::Array),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(kind: u8) -> Type {
        Type { kind, base: 0, element: 0, subtype: 0, range: 0, fields: Vec::new() }
    }

    #[test]
    fn shapes_survive_an_enum_with_a_tag() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "event")]
        enum Event {
            Ready {
                #[serde(with = "pairs")]
                shapes: BTreeMap<u32, Shape>,
            },
        }
        let event = Event::Ready { shapes: BTreeMap::from([(1184, Shape::Timestamptz)]) };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }

    #[test]
    fn whatever_holds_one_has_a_shape() {
        let types = BTreeMap::from([
            (23, plain(b'b')),
            (1184, plain(b'b')),
            (1, Type { base: 1184, ..plain(b'd') }),
            (2, Type { element: 1, ..plain(b'b') }),
            (3, Type { subtype: 1184, ..plain(b'r') }),
            (4, Type { range: 3, ..plain(b'm') }),
            (5, Type { fields: vec![23, 2, 17], ..plain(b'c') }),
            (6, Type { fields: vec![23, 23], ..plain(b'c') }),
            (7, Type { element: 23, ..plain(b'b') }),
        ]);
        let stamp = || Box::new(Shape::Timestamptz);
        assert_eq!(shape(1, &types), Some(Shape::Timestamptz));
        assert_eq!(shape(2, &types), Some(Shape::Array(stamp())));
        assert_eq!(shape(3, &types), Some(Shape::Range(stamp())));
        assert_eq!(shape(4, &types), Some(Shape::Multirange(stamp())));
        let fields = vec![None, Some(Shape::Array(stamp())), Some(Shape::Bytea)];
        assert_eq!(shape(5, &types), Some(Shape::Composite(fields)));
        assert_eq!((shape(6, &types), shape(7, &types), shape(23, &types)), (None, None, None));
    }
}
