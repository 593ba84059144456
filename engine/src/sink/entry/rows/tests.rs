//! Rows of one entry are read as they are when each has its own, and the bytes are those of
//! the contract with readers that share no code with us.

use proptest::prelude::*;

use super::*;
use crate::sink::contract::sample;

/// The entry that `data` is, numbered as the last of its rows.
fn raw(op: &str, data: &[u8], high: u64) -> RawEntry {
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
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
        3 => any::<String>().prop_map(Field::Text),
        1 => "[a-z]{0,400}".prop_map(Field::Text),
        1 => Just(Field::Null),
        1 => Just(Field::Absent),
    ]
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
        prop_assert_eq!(read.collect::<Vec<_>>(), alone.collect::<Vec<_>>());
        // Whoever does not know of it halts, and takes nothing for one row.
        prop_assert_eq!(Entry::decode(&entry, Lane::Bootstrap).unwrap_err().field, "o");
    }
}

#[test]
fn the_map_is_what_the_contract_says() {
    let text = |text: &str| Field::Text(text.to_owned());
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
        let read = Entry::rows(&raw(ROWS, data.as_bytes(), high), Id::ZERO);
        read.expect_err("an error").field
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
