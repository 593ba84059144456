//! Rows of entries become pieces of COPY's text: whatever they hold, and with the number of the
//! row that is none.

use super::*;
use crate::apply::table::Column;
use crate::sink::entry::{Field, RawEntry};
use crate::sink::id::Id;

fn table() -> Arc<Table> {
    let column = |name: &str| Column { name: name.to_owned(), ..Column::default() };
    let columns = ["id", "note", "made"].map(column).into();
    Arc::new(Table { name: "t".into(), sql: "public.t".into(), columns, ..Table::default() })
}

fn loading(skip: u64) -> Loading {
    Loading::new(table(), 0, skip, None)
}

/// The target makes the last column, and the stream has another order.
fn mapping() -> Mapping {
    Mapping { places: vec![Some(1), None, Some(0)], ..Mapping::default() }
}

/// The rows of an entry as they are read; the last of them has this number.
fn rows(images: &[u8], last: u64) -> Rows {
    let head =
        b"\x85\xa3xid\x00\xa2ts\x00\xa4cols\x93\xa4note\xa4made\xa2id\xa4oids\x93\x19\x19\x17";
    let data = [&head[..], b"\xa4rows", images].concat();
    let fields: [(&[u8], &[u8]); 4] =
        [(b"o", b"rows"), (b"t", b"public.t"), (b"d", &data), (b"g", b"1")];
    let fields = fields.map(|(name, value)| (name.to_vec().into(), value.to_vec().into())).into();
    let raw = RawEntry { id: Id { high: last, low: 1 }, fields };
    match Entry::together(raw, Id::ZERO).unwrap().content {
        Content::Rows(rows) => *rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_are_copied_as_they_are_from_the_first_that_is_not_there() {
    let rows = rows(
        b"\x94\x93\xa1a\xa1x\xa11\x93\xa3b\tb\xc2\xa12\x93\xc0\xc2\xa13\x93\xa4\xc3\xa4\\N\xc0\xa14",
        10,
    );
    let mut loading = loading(7);
    let mut lines = rows.lines();
    assert!(matches!(loading.fill(&table(), &mapping(), &mut lines), Ok(Filled::All)));
    let text = String::from_utf8(loading.piece.clone()).unwrap();
    assert_eq!(text, "b\\tb\t2\n\\N\t3\nä\\\\N\t4\n");
    assert_eq!((loading.first, loading.last, loading.rows), (8, 10, 3));
    assert_eq!(*loading.copy, sql::copy(&table(), &[1, 0]));
}

#[test]
fn a_piece_ends_where_the_columns_change_and_where_it_is_full() {
    let rows = rows(b"\x93\x93\xa1a\xc2\xa11\x93\xc2\xc2\xa12\x93\xc2\xc2\xa13", 3);
    let mut loading = loading(0);
    let mut lines = rows.lines();
    assert!(matches!(loading.fill(&table(), &mapping(), &mut lines), Ok(Filled::Sendable)));
    assert_eq!((&*std::mem::take(&mut loading.piece), loading.last), (&b"a\t1\n"[..], 1));
    loading.rows = 0;
    assert!(matches!(loading.fill(&table(), &mapping(), &mut lines), Ok(Filled::All)));
    assert_eq!((&*loading.piece, loading.first, loading.last), (&b"2\n3\n"[..], 2, 3));
    assert_eq!(*loading.copy, sql::copy(&table(), &[0]));

    let columns: Arc<[String]> = ["note", "made", "id"].map(str::to_owned).into();
    let value = vec![Field::Text("x".repeat(PIECE).into()), Field::Absent, Field::Null];
    let large = Rows::one(columns, 4, value);
    let mut loading = super::tests::loading(0);
    let filled = loading.fill(&table(), &mapping(), &mut large.lines());
    assert!(matches!(filled, Ok(Filled::Sendable)));
    assert_eq!((loading.piece.len(), loading.last), (PIECE + 4, 4));
}

#[test]
fn a_row_that_cannot_be_copied_is_told_by_its_number() {
    for (bad, why) in [
        (&b"\x93\xa2a\xff\xc0\xa12"[..], Unfit::NotUtf8),
        // The first half of a character, and its second half in the next column.
        (b"\x93\xa1\xc3\xc0\xa1\xa4", Unfit::NotUtf8),
        (b"\x93\xc3\xc0\xa12", Unfit::Partial),
    ] {
        let rows = rows(&[&b"\x92\x93\xa1a\xc0\xa11"[..], bad].concat(), 8);
        let mut loading = loading(0);
        let refused = loading.fill(&table(), &mapping(), &mut rows.lines()).err();
        assert_eq!(refused, Some((8, why)));
        assert_eq!((&*loading.piece, loading.last), (&b"a\t1\n"[..], 7), "what is whole stays");
    }
}

#[tokio::test]
async fn a_worker_that_panicked_is_no_lost_connection() {
    let mut load = Load::new(Conninfo::parse("postgres://u@localhost/x").unwrap(), 1, 1);
    load.tasks.spawn(async { panic!("a bug") });
    let error = load.broken().await;
    assert!(error.to_string().contains("a panic"), "{error}");
    assert_eq!(error.class(), crate::error::Class::Halt, "it would panic again");
}
