//! Rows of one entry are read as they are when each has its own, and the bytes are those of
//! the contract with readers that share no code with us.

use proptest::prelude::*;

use super::*;
use crate::position::Position;
use crate::sink::contract::sample;

/// The entry that `data` is, numbered as the last of its rows.
fn raw(op: &str, data: &[u8], high: u64) -> RawEntry {
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec().into(), value.to_vec().into());
    let fields: [(&str, &[u8]); 4] =
        [("o", op.as_bytes()), ("t", b"public.t"), ("d", data), ("g", b"7")];
    let fields = fields.map(|(name, value)| field(name, value)).into();
    RawEntry { id: Id { high, low: 1 }, fields }
}

/// Rows of a load that have these values.
fn batch(rows: &[Vec<Field>]) -> Batch {
    let mut batch = Batch::default();
    let relation = batch.relation_index(&sample::relation("t"));
    for values in rows {
        let cells = sample::cells(&mut batch, values);
        sample::push_read(&mut batch, relation, cells);
    }
    batch
}

fn encode(encoding: Encoding, batch: &Batch) -> Vec<u8> {
    let mut out = b"before".to_vec();
    let rows: Vec<&Row> = batch.rows.iter().collect();
    encoding.rows(batch, &batch.pieces[0], &rows, &mut out).unwrap();
    out.split_off(6)
}

fn value() -> impl Strategy<Value = Field> {
    prop_oneof![
        3 => any::<String>().prop_map(|text| Field::Text(text.into())),
        1 => "[a-z]{0,400}".prop_map(|text| Field::Text(text.into())),
        1 => Just(Field::Null),
        1 => Just(Field::Absent),
    ]
}

/// The rows of an entry that was read as one.
fn divided(entry: &Entry) -> Vec<Entry> {
    let Content::Rows(rows) = &entry.content else { panic!("{entry:?}") };
    let (mut lines, mut read) = (rows.lines(), Vec::new());
    let oids: Arc<[u32]> = sample::relation("t").columns.iter().map(|column| column.oid).collect();
    assert!(lines.row().is_none_or(|(number, _)| number == rows.first));
    while let Some((number, values)) = lines.row() {
        let packed = lines.packed();
        let field = |value: &Value<'_>| match *value {
            Value::Text(text) => {
                let there = |packed: &[u8]| text.is_empty() || find(packed, text);
                assert!(packed.is_none_or(there), "a text stands where it says");
                Field::Text(String::from_utf8(text.to_vec()).unwrap().into())
            }
            Value::Null => Field::Null,
            Value::Unchanged => Field::Unchanged,
            Value::Absent => Field::Absent,
        };
        let (columns, oids) = (Arc::clone(&rows.columns), Arc::clone(&oids));
        let new = Some(values.iter().map(field).collect());
        let (old, key, transactional, ddl) = (None, Vec::new(), None, None);
        let miss = false;
        read.push(Entry {
            position: Position::Bootstrap(number),
            content: Content::Row { columns, oids, new, old, key, transactional, miss, ddl },
            weight: 0,
            ..entry.clone()
        });
        lines.advance();
    }
    assert_eq!(read.len(), rows.count());
    assert!(read.last().is_none_or(|last| last.position == entry.position));
    read
}

fn find(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

proptest! {
    #[test]
    fn rows_come_back_as_if_each_had_its_entry(
        rows in prop::collection::vec(prop::collection::vec(value(), 2), 1..40),
        json in any::<bool>(),
        lossy in any::<bool>(),
        skipped in 0..40_u64,
    ) {
        let encoding = if json { Encoding::Json } else { Encoding::Msgpack };
        let mut batch = batch(&rows);
        if lossy {
            batch.aside.lossy.push(0);
        }
        let last = 100 + rows.len() as u64;
        let alone = batch.rows.iter().zip(101..).map(|(row, high)| {
            let mut data = Vec::new();
            encoding.row(&batch, &batch.pieces[0], row, &mut data).unwrap();
            Entry { weight: 0, ..Entry::decode(&raw("read", &data, high), Lane::Bootstrap).unwrap() }
        });
        let after = Id { high: 100 + skipped.min(rows.len() as u64), low: 1 };
        let alone = alone.filter(|entry| Id::of(entry.position) > after);
        let entry = raw(ROWS, &encode(encoding, &batch), last);
        let read = Entry::rows(&entry, after).unwrap();
        let weight: usize = read.iter().map(|entry| entry.weight).sum();
        prop_assert!(skipped > 0 || weight + rows.len() >= entry.weight());
        let read = read.into_iter().map(|entry| Entry { weight: 0, ..entry });
        let read: Vec<Entry> = read.collect();
        prop_assert_eq!(&read, &alone.collect::<Vec<_>>());
        // What is read as one does not say that rows may miss: nothing of the load finds any.
        let told = read.into_iter().map(|mut entry| {
            if let Content::Row { miss, .. } = &mut entry.content {
                *miss = false;
            }
            entry
        });
        let together = Entry::together(entry.clone(), after).unwrap();
        prop_assert_eq!(divided(&together), told.collect::<Vec<_>>());
        prop_assert_eq!(together.weight, entry.weight());
        // Whoever does not know of it halts, and takes nothing for one row.
        prop_assert_eq!(Entry::decode(&entry, Lane::Bootstrap).unwrap_err().field, "o");
    }
}

proptest! {
    #[test]
    fn whatever_is_no_entry_of_ours_is_refused_by_both_readers(
        rows in prop::collection::vec(prop::collection::vec(value(), 2), 1..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut data = encode(Encoding::Msgpack, &batch(&rows));
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if cut.index(4) == 0 {
            data.truncate(cut.index(data.len()));
        }
        let entry = raw(ROWS, &data, 100);
        let (divided, together) = (Entry::rows(&entry, Id::ZERO), Entry::together(entry, Id::ZERO));
        // Names and values that are no UTF-8 any more are not looked at here, and there.
        if let (Ok(divided), Ok(together)) = (&divided, &together) {
            let Content::Rows(rows) = &together.content else { panic!("{together:?}") };
            prop_assert_eq!(rows.count(), divided.len());
        }
        if let (Err(error), Ok(together)) = (&divided, &together) {
            panic!("{error}, but {together:?}");
        }
    }
}

#[test]
fn the_map_is_what_the_contract_says() {
    let text = |text: &str| Field::Text(text.into());
    let batch = batch(&[vec![text("1"), Field::Null], vec![text("2"), text("x")]]);
    let json = String::from_utf8(encode(Encoding::Json, &batch)).unwrap();
    let expected =
        r#"{"xid":0,"ts":0,"cols":["id","note"],"oids":[23,25],"rows":[["1",null],["2","x"]]}"#;
    assert_eq!(json, expected);
    let mut expected = b"\x85\xa3xid\x00\xa2ts\x00\xa4cols\x92\xa2id\xa4note".to_vec();
    expected.extend(b"\xa4oids\x92\x17\x19\xa4rows\x92\x92\xa11\xc0\x92\xa12\xa1x");
    assert_eq!(encode(Encoding::Msgpack, &batch), expected);
}

#[test]
fn what_is_no_entry_of_rows_is_refused() {
    let good = encode(Encoding::Json, &batch(&[vec![Field::Null; 2], vec![Field::Null; 2]]));
    let good = String::from_utf8(good).unwrap();
    let refused = |data: &str, high| {
        let entry = raw(ROWS, data.as_bytes(), high);
        let read = Entry::rows(&entry, Id::ZERO).expect_err("an error");
        assert_eq!(Entry::together(entry, Id::ZERO), Err(read.clone()));
        read.field
    };
    assert_eq!(refused(&good, 1), "d", "its first row would have no number");
    for (was, bad) in [
        ("[null,null]", "[null]"),
        ("[23,25]", "[23]"),
        ("[[null,null],[null,null]]", "[]"),
        ("\"rows\"", "\"new\""),
    ] {
        assert_eq!(refused(&good.replacen(was, bad, 1), 9), "d", "{bad}");
    }
    let other = raw("read", good.as_bytes(), 9);
    assert_eq!(Entry::rows(&other, Id::ZERO).unwrap_err().field, "o");
    assert_eq!(Entry::together(other, Id::ZERO).unwrap_err().field, "o");
}

/// As another writer might: other widths of lengths and numbers, another order, more keys.
#[test]
fn rows_are_read_however_messagepack_writes_them() {
    let parts: [&[u8]; 8] = [
        b"\xde\x00\x07",
        b"\xa4rows\xdc\x00\x02\x92\xd9\x011\xc4\x01x\xdd\x00\x00\x00\x02\xda\x00\x012\xc3",
        b"\xa5other\x82\xa1a\x93\xca....\xcb........\xc0\xa1b\xc4\x02ab",
        b"\xa5after\xd3\xff\xff\xff\xff\xff\xff\xff\xfe",
        b"\xa3xid\xce\x00\x00\x00\x07",
        b"\xa2ts\xd1\xff\xfe",
        b"\xa4cols\xdc\x00\x02\xa2id\xd9\x04note",
        b"\xd9\x04oids\x92\x17\xcd\x00\x19",
    ];
    let entry = raw(ROWS, &parts.concat(), 12);
    let divided = Entry::rows(&entry, Id::ZERO).unwrap();
    let together = Entry::together(entry, Id::ZERO).unwrap();
    assert_eq!((together.xid, together.commit_us), (7, -2));
    assert_eq!((divided[0].xid, divided[0].commit_us), (7, -2));
    let Content::Rows(rows) = &together.content else { panic!("{together:?}") };
    let mut lines = rows.lines();
    // What is no text goes nowhere, as if it were not part of the row.
    assert_eq!(lines.row(), Some((11, &[Value::Text(b"1"), Value::Absent][..])));
    lines.advance();
    assert_eq!(lines.row(), Some((12, &[Value::Text(b"2"), Value::Unchanged][..])));
    lines.advance();
    assert_eq!((lines.row(), rows.columns.join(",").as_str()), (None, "id,note"));
}

#[test]
fn a_row_that_cannot_be_written_is_told_by_its_place() {
    let text = |bytes: &[u8]| vec![Field::Text("1".into()), Field::Bytes(bytes.to_vec())];
    let batch = batch(&[text(b"good"), text(b"good"), text(b"secret\xff"), text(b"\xff")]);
    let rows: Vec<&Row> = batch.rows.iter().collect();
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut out = b"before".to_vec();
        let error = encoding.rows(&batch, &batch.pieces[0], &rows, &mut out).unwrap_err();
        let named = EncodeError::NotUtf8 { table: "public.t".into(), column: "note".into() };
        assert_eq!((error, out), ((2, named), b"before".to_vec()));
    }
}
