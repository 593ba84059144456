//! What is written is what is read, in both encodings, byte for byte where it is a
//! contract with readers that share no code with us.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::batch::{DdlDetail, DdlEvent, DdlObject};
use crate::position::{Lsn, Position};
use crate::sink::contract::sample;
use crate::sink::id::{Id, Lane};

fn raw(op: &str, table: &str, data: Vec<u8>) -> RawEntry {
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec().into(), value.to_vec().into());
    let mut fields = vec![field("o", op.as_bytes()), field("d", &data), field("g", b"7")];
    if !table.is_empty() {
        fields.push(field("t", table.as_bytes()));
    }
    RawEntry { id: Id { high: 0xB3, low: 2 }, fields }
}

/// One row whose images hold these values.
fn one_row(op: Op, new: Option<&[Field]>, old: Option<&[Field]>) -> (Batch, Piece) {
    let mut batch = Batch::default();
    let relation = batch.relation_index(&sample::relation("t"));
    let mut image = |values: Option<&[Field]>| {
        let values = values?;
        let cells = sample::cells(&mut batch, values);
        Some(batch.push_image(cells))
    };
    let (new, old) = (image(new), image(old));
    let position = Position::Wal { commit_lsn: Lsn(0xB3), ordinal: 2 };
    batch.rows.push(Row { position, op, relation, new, old, detail: None, dropped: false });
    let piece = Piece {
        xid: 731,
        commit_lsn: Lsn(0xB3),
        commit_us: 1_700_000_000_000_001,
        rows: 0..1,
        first: true,
        end_lsn: None,
    };
    (batch, piece)
}

fn encode(encoding: Encoding, batch: &Batch, piece: &Piece) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encoding.row(batch, piece, &batch.rows[0], &mut out).unwrap();
    out.split_off(6)
}

fn value() -> impl Strategy<Value = Field> {
    prop_oneof![
        3 => any::<String>().prop_map(|text| Field::Text(text.into())),
        1 => "[a-z]{0,400}".prop_map(|text| Field::Text(text.into())),
        1 => Just(Field::Null),
        1 => Just(Field::Unchanged),
        1 => Just(Field::Absent),
    ]
}

proptest! {
    #[test]
    fn rows_come_back_as_they_were(
        new in proptest::option::of(prop::collection::vec(value(), 2)),
        old in proptest::option::of(prop::collection::vec(value(), 2)),
        json in any::<bool>(),
    ) {
        let encoding = if json { Encoding::Json } else { Encoding::Msgpack };
        let (batch, piece) = one_row(Op::Update, new.as_deref(), old.as_deref());
        let data = encode(encoding, &batch, &piece);
        let entry = Entry::decode(&raw("update", "public.t", data), Lane::Changes).unwrap();
        prop_assert_eq!((entry.xid, entry.commit_us), (731, 1_700_000_000_000_001));
        prop_assert_eq!((entry.generation, entry.last), (7, false));
        let columns = ["id".to_owned(), "note".to_owned()].into();
        let key = if old.is_none() { vec![0] } else { Vec::new() };
        let (oids, transactional) = ([23, 25].into(), None);
        let miss = false;
        let ddl = None;
        let expected = Content::Row { columns, oids, new, old, key, transactional, miss, ddl };
        prop_assert_eq!(entry.content, expected);
    }

    #[test]
    fn any_bytes_are_an_entry_or_an_error(data in prop::collection::vec(any::<u8>(), 0..200)) {
        for op in ["insert", "truncate", "restart", "end", "commit", "nonsense"] {
            let _ = Entry::decode(&raw(op, "t", data.clone()), Lane::Changes);
        }
        let _ = Entry::rows(&raw("rows", "t", data), Id::ZERO);
    }
}

#[test]
fn the_map_is_what_the_contract_says() {
    let new = [Field::Text("1".into()), Field::Null];
    let old = [Field::Unchanged, Field::Absent];
    let (batch, piece) = one_row(Op::Update, Some(&new), Some(&old));
    let json = String::from_utf8(encode(Encoding::Json, &batch, &piece)).unwrap();
    assert_eq!(
        json,
        r#"{"xid":731,"ts":1700000000000001,"cols":["id","note"],"oids":[23,25],"new":["1",null],"old":[true,false]}"#
    );
    let packed = encode(Encoding::Msgpack, &batch, &piece);
    let mut expected = b"\x86\xa3xid\xcd\x02\xdb\xa2ts\xcf".to_vec();
    expected.extend(1_700_000_000_000_001_u64.to_be_bytes());
    expected.extend(b"\xa4cols\x92\xa2id\xa4note\xa4oids\x92\x17\x19");
    expected.extend(b"\xa3new\x92\xa11\xc0\xa3old\x92\xc3\xc2");
    assert_eq!(packed, expected);

    // Where the identity kept its values the entry says which columns it is.
    let (batch, piece) = one_row(Op::Update, Some(&new), None);
    let json = String::from_utf8(encode(Encoding::Json, &batch, &piece)).unwrap();
    assert!(json.ends_with(r#""new":["1",null],"key":[0]}"#), "{json}");
    let (batch, piece) = one_row(Op::Insert, Some(&new), None);
    let json = String::from_utf8(encode(Encoding::Json, &batch, &piece)).unwrap();
    assert!(json.ends_with(r#""new":["1",null]}"#), "{json}");
}

#[test]
fn marks_and_rare_kinds_come_back() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let decode = |op: &str, table: &str, data: &[u8]| {
            Entry::decode(&raw(op, table, data.to_vec()), Lane::Bootstrap).unwrap()
        };
        let mut data = Vec::new();
        encoding.commit(9, -5, &mut data);
        let commit = decode("commit", "", &data);
        assert_eq!((commit.xid, commit.commit_us, commit.last), (9, -5, true));
        assert_eq!(commit.content, Content::Commit);

        data.clear();
        encoding.restart(3, "16/B3", &mut data);
        let load_lsn = Lsn(0x16_0000_00B3);
        let restart = decode("restart", "public.t", &data);
        assert_eq!(restart.content, Content::Restart { attempt: 3, load_lsn });

        data.clear();
        let points = BTreeMap::from([("public.t".to_owned(), "16/B3".to_owned())]);
        let called = BTreeMap::from([("public.t".to_owned(), (u64::MAX, 3))]);
        encoding.end("0/1", (&points, &called), (Some("0/9"), true), &mut data);
        let load_points = BTreeMap::from([("public.t".to_owned(), load_lsn)]);
        let end = decode("end", "", &data);
        let (start_lsn, after) = (Lsn(1), Some(Lsn(9)));
        let expected = Content::End { start_lsn, load_points, called, after, whole: true };
        assert_eq!(end.content, expected);

        let (mut batch, piece) = one_row(Op::Truncate, None, None);
        let other = batch.relation_index(&sample::relation("Weird,\"Name"));
        let relations = vec![0, other];
        batch.rows[0].detail =
            Some(Box::new(Detail::Truncate { relations, cascade: true, restart_identity: false }));
        let names = tables(&batch, &batch.rows[0]);
        assert_eq!(names, r#"public.t,public."Weird,""Name""#);
        let truncate = decode("truncate", &names, &encode(encoding, &batch, &piece));
        let tables = vec!["public.t".to_owned(), r#"public."Weird,""Name""#.to_owned()];
        let expected = Content::Truncate { tables, cascade: true, restart_identity: false };
        assert_eq!(truncate.content, expected);
    }
}

#[test]
fn a_message_may_be_any_bytes_and_a_row_may_not() {
    let batch = sample::message(500, true);
    for (encoding, content) in [
        (Encoding::Msgpack, Field::Bytes(b"\xff\x00content".to_vec())),
        (Encoding::Json, Field::Text("\\xff00636f6e74656e74".into())),
    ] {
        let data = encode(encoding, &batch, &batch.pieces[0]);
        let entry = Entry::decode(&raw("message", "kasho.message", data), Lane::Changes).unwrap();
        let Content::Row { new, transactional, .. } = entry.content else { panic!("no row") };
        assert_eq!(new, Some(vec![Field::Text("prefix".into()), content]));
        assert_eq!(transactional, Some(false));

        let secret = [Field::Text("1".into()), Field::Bytes(b"secret\xff".to_vec())];
        let (batch, piece) = one_row(Op::Insert, Some(&secret), None);
        let mut out = b"before".to_vec();
        let error = encoding.row(&batch, &piece, &batch.rows[0], &mut out).unwrap_err();
        let named = EncodeError::NotUtf8 { table: "public.t".into(), column: "note".into() };
        assert_eq!((error, out), (named, b"before".to_vec()));
    }
}

#[test]
fn values_stay_out_of_debug_texts() {
    let (batch, piece) =
        one_row(Op::Insert, Some(&[Field::Text("secret".into()), Field::Null]), None);
    let data = encode(Encoding::Json, &batch, &piece);
    let entry = Entry::decode(&raw("insert", "t", data), Lane::Changes).unwrap();
    assert!(!format!("{entry:?}").contains("secret"));
}

/// A schema change, alone in its transaction.
fn schema_change(event: &DdlEvent) -> (Batch, Piece) {
    let (mut batch, piece) = one_row(Op::Ddl, None, None);
    let relation = batch.relation_index(&crate::batch::ddl_relation());
    let new = event.push(&mut batch);
    let row = &mut batch.rows[0];
    (row.relation, row.new) = (relation, Some(new));
    row.detail = Some(Box::new(event.beside()));
    (batch, piece)
}

fn added_column() -> DdlEvent {
    let object = DdlObject {
        kind: "table".into(),
        identity: "public.\"Users\"".into(),
        schema: Some("public".into()),
        name: Some("Users".into()),
        // Leaves with no entry.
        published: vec!["kasho_pub".into()],
        ..DdlObject::default()
    };
    DdlEvent {
        tag: "ALTER TABLE".into(),
        object_type: "table".into(),
        identity: "public.\"Users\"".into(),
        text: Some("ALTER TABLE \"Users\" ADD note text".into()),
        detail: DdlDetail {
            search_path: "\"$user\", public".into(),
            username: "ada".into(),
            database: "shop".into(),
            objects: vec![object],
            ..DdlDetail::default()
        },
    }
}

#[test]
fn a_schema_change_carries_what_its_row_does_not() {
    let mut event = added_column();
    for text in [event.text.clone(), None] {
        event.text = text;
        let (batch, piece) = schema_change(&event);
        assert_eq!(tables(&batch, &batch.rows[0]), "kasho.ddl");
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let data = encode(encoding, &batch, &piece);
            let entry = Entry::decode(&raw("ddl", "kasho.ddl", data), Lane::Changes).unwrap();
            let Content::Row { columns, new, ddl, .. } = entry.content else { panic!("no row") };
            assert_eq!(columns[..], ["tag", "object_type", "identity", "text"]);
            let field = |text: Option<&str>| text.map_or(Field::Null, |t| Field::Text(t.into()));
            assert_eq!(new, Some(event.values().map(field).to_vec()));
            let mut told = event.detail.clone();
            told.objects[0].published.clear();
            assert_eq!(ddl.as_deref(), Some(&told));
        }
    }
    let (batch, piece) = schema_change(&event);
    let json = String::from_utf8(encode(Encoding::Json, &batch, &piece)).unwrap();
    let ddl = r#""ddl":{"search_path":"\"$user\", public","username":"ada","database":"shop","objects":[{"type":"table","identity":"public.\"Users\"","schema":"public","name":"Users","dropped":false}]}}"#;
    assert!(json.ends_with(ddl), "{json}");
}

#[test]
fn a_schema_change_without_its_surroundings_is_none() {
    let (mut batch, piece) = schema_change(&added_column());
    batch.rows[0].detail = None;
    let data = encode(Encoding::Json, &batch, &piece);
    let error = Entry::decode(&raw("ddl", "kasho.ddl", data), Lane::Changes).unwrap_err();
    assert_eq!(error.field, "d");
}
