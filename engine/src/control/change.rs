//! An entry of the streams as a gRPC change: in the original's form, and without loss
//! where that is asked for. Pure; nothing can go wrong, at worst a value is a string.

use std::borrow::Cow;

use kasho_plugin_sdk::Op;

use crate::batch::DdlDetail;
use crate::control::proto::kasho::raw_value::State;
use crate::control::proto::kasho::{Change, DdlData, DmlData, OldKeys, RawChange, RawValue};
use crate::control::value::{rfc3339_us, typed};
use crate::position::{Epoch, EpochPosition, Position};
use crate::sink::entry::{Content, Entry, EntryOp, Field};

/// The change that `entry` of `epoch` is. None where the original's form has no words for
/// it and `raw` was not asked for.
#[must_use]
pub fn change(epoch: Epoch, entry: &Entry, raw: bool) -> Option<Change> {
    let position = EpochPosition { epoch: Some(epoch), position: entry.position };
    let mut change = Change { position: position.to_string(), ..Change::default() };
    match (&entry.content, entry.op) {
        (Content::Row { columns, new, ddl: beside, .. }, EntryOp::Row(Op::Ddl)) => {
            change.r#type = "ddl".to_owned();
            let fields = new.as_deref().unwrap_or_default();
            change.ddl = Some(ddl(entry, columns, fields, beside.as_deref()));
        }
        (Content::Row { columns, oids, new, old, key, .. }, EntryOp::Row(op))
            if op != Op::Message =>
        {
            change.r#type = "dml".to_owned();
            // An identity that kept its values has them in the new image.
            let kept = new.as_ref().filter(|_| old.is_none() && !key.is_empty());
            let kept = kept.map(|new| only(new, key));
            let images = (new.as_deref(), old.as_deref().or(kept.as_deref()));
            change.dml = Some(dml(&entry.table, kind(op), columns, oids, images));
        }
        // A table whose load begins again is to be emptied: to the original's clients
        // that is a truncate.
        (Content::Truncate { .. } | Content::Restart { .. } | Content::Mark { .. }, _) => {
            change.r#type = "dml".to_owned();
            change.dml = Some(dml(&entry.table, "truncate", &[], &[], (None, None)));
        }
        _ if raw => entry.op.name().clone_into(&mut change.r#type),
        _ => return None,
    }
    change.raw = raw.then(|| raw_change(entry));
    Some(change)
}

/// The end of a transaction of which nothing came, for a client that acknowledges: it may be all
/// that there is to acknowledge.
#[must_use]
pub(super) fn passed(epoch: Epoch, entry: &Entry) -> Option<Change> {
    let position = EpochPosition { epoch: Some(epoch), position: entry.position }.to_string();
    let r#type = entry.op.name().to_owned();
    let passed = matches!(entry.content, Content::Commit);
    passed.then(|| Change { position, r#type, ..Change::default() })
}

/// An image with nothing but these columns.
fn only(image: &[Field], places: &[usize]) -> Vec<Field> {
    let fields = image.iter().enumerate();
    let of = |(place, field): (usize, &Field)| match places.contains(&place) {
        true => field.clone(),
        false => Field::Absent,
    };
    fields.map(of).collect()
}

/// To the original's clients a row of the load is an insert.
fn kind(op: Op) -> &'static str {
    match op {
        Op::Read => Op::Insert.name(),
        other => other.name(),
    }
}

fn dml(
    table: &str,
    kind: &str,
    columns: &[String],
    oids: &[u32],
    (new, old): (Option<&[Field]>, Option<&[Field]>),
) -> DmlData {
    let image = |fields: Option<&[Field]>| {
        let named = columns.iter().zip(oids).zip(fields.unwrap_or_default());
        named
            .filter_map(|((name, oid), field)| {
                let text = match field {
                    Field::Text(text) => Some(Cow::Borrowed(&**text)),
                    Field::Bytes(bytes) => Some(String::from_utf8_lossy(bytes)),
                    Field::Null => None,
                    Field::Unchanged | Field::Absent => return None,
                };
                Some((name.clone(), typed(*oid, text)))
            })
            .unzip()
    };
    let (column_names, column_values) = image(new);
    let old_keys = old.map(|old| {
        let (key_names, key_values) = image(Some(old));
        OldKeys { key_names, key_values }
    });
    DmlData {
        table: table.to_owned(),
        column_names,
        column_values,
        kind: kind.to_owned(),
        old_keys,
    }
}

/// A schema change is a row of a virtual relation, and what stands beside it.
fn ddl(entry: &Entry, columns: &[String], fields: &[Field], beside: Option<&DdlDetail>) -> DdlData {
    let at = columns.iter().position(|column| column == "text");
    let text = match at.and_then(|at| fields.get(at)) {
        Some(Field::Text(text)) => text.to_string(),
        _ => String::new(),
    };
    let of = |field: fn(&DdlDetail) -> &String| beside.map(field).cloned().unwrap_or_default();
    DdlData {
        id: number(entry.position),
        time: rfc3339_us(entry.commit_us),
        username: of(|beside| &beside.username),
        database: of(|beside| &beside.database),
        ddl: text,
    }
}

/// A number that is the same whenever the position is: the original counts the rows of a
/// table of its own, which nobody here has. A digest, so that close positions do not meet.
fn number(position: Position) -> i32 {
    // FNV-1a.
    let digest = position
        .to_string()
        .bytes()
        .fold(0x811C_9DC5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    i32::try_from(digest & 0x7FFF_FFFF).unwrap_or(i32::MAX)
}

fn raw_change(entry: &Entry) -> RawChange {
    let mut raw = RawChange {
        op: entry.op.name().to_owned(),
        xid: entry.xid,
        commit_us: entry.commit_us,
        generation: entry.generation,
        last: entry.last,
        ..RawChange::default()
    };
    if !entry.table.is_empty() {
        raw.tables = vec![entry.table.clone()];
    }
    match &entry.content {
        Content::Row { columns, oids, new, old, transactional, miss, .. } => {
            (raw.column_names, raw.type_oids) = (columns.to_vec(), oids.to_vec());
            let values = |fields: &Option<Vec<Field>>| {
                fields.iter().flatten().map(raw_value).collect::<Vec<_>>()
            };
            (raw.new_values, raw.old_values) = (values(new), values(old));
            raw.transactional = transactional.unwrap_or(false);
            raw.may_miss = *miss;
        }
        Content::Truncate { tables, cascade, restart_identity } => {
            raw.tables.clone_from(tables);
            (raw.cascade, raw.restart_identity) = (*cascade, *restart_identity);
        }
        Content::Restart { attempt, load_lsn } => {
            raw.attempt = u32::try_from(*attempt).unwrap_or(u32::MAX);
            raw.load_lsn = load_lsn.to_string();
        }
        Content::Mark { section, tables } => {
            raw.section = *section;
            raw.tables.clone_from(tables);
        }
        Content::End { start_lsn, load_points, after, whole, called: _ } => {
            raw.whole = *whole;
            raw.after = after.map_or_else(String::new, |after| after.to_string());
            raw.start_lsn = start_lsn.to_string();
            let points = load_points.iter().map(|(table, lsn)| (table.clone(), lsn.to_string()));
            raw.load_points = points.collect();
        }
        // Clients get rows one by one: the reader divides entries for them.
        Content::Rows(_) | Content::Commit => {}
    }
    raw
}

fn raw_value(field: &Field) -> RawValue {
    let (state, text, bytes) = match field {
        Field::Text(text) => (State::Text, text.to_string(), Vec::new()),
        Field::Bytes(bytes) => (State::Bytes, String::new(), bytes.clone()),
        Field::Null => (State::Null, String::new(), Vec::new()),
        Field::Unchanged => (State::Unchanged, String::new(), Vec::new()),
        Field::Absent => (State::Absent, String::new(), Vec::new()),
    };
    RawValue { state: state.into(), text, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::kasho::column_value::Value;
    use crate::position::{Lsn, Position};

    fn entry(op: EntryOp, content: Content) -> Entry {
        Entry {
            position: Position::Wal { commit_lsn: Lsn(0x16_0000_0001), ordinal: 3 },
            op,
            table: "public.users".into(),
            generation: 4,
            last: true,
            xid: 7,
            commit_us: 8,
            content,
            weight: 0,
        }
    }

    fn row(op: Op, new: Option<Vec<Field>>, old: Option<Vec<Field>>) -> Entry {
        let columns = ["id", "name", "big"].map(str::to_owned).into();
        let key = if op == Op::Update && old.is_none() { vec![0] } else { Vec::new() };
        let (oids, transactional) = ([23, 25, 25].into(), None);
        let miss = false;
        let ddl = None;
        let content = Content::Row { columns, oids, new, old, key, transactional, miss, ddl };
        entry(EntryOp::Row(op), content)
    }

    fn text(text: &str) -> Field {
        Field::Text(text.into())
    }

    #[test]
    fn an_update_leaves_unchanged_columns_out() {
        let new = vec![text("1"), Field::Null, Field::Unchanged];
        let old = vec![text("2"), Field::Absent, Field::Absent];
        let change = change(Epoch(2), &row(Op::Update, Some(new), Some(old)), true).unwrap();
        assert_eq!(change.position, "e2:16/1:3");
        assert_eq!(change.r#type, "dml");
        let dml = change.dml.unwrap();
        assert_eq!((dml.table.as_str(), dml.kind.as_str()), ("public.users", "update"));
        assert_eq!(dml.column_names, ["id", "name"]);
        assert_eq!(dml.column_values[0].value, Some(Value::IntValue(1)));
        assert_eq!(dml.column_values[1].value, None);
        let keys = dml.old_keys.unwrap();
        assert_eq!(
            (keys.key_names.len(), &keys.key_values[0].value),
            (1, &Some(Value::IntValue(2)))
        );
        let raw = change.raw.unwrap();
        let states: Vec<_> = raw.new_values.iter().map(RawValue::state).collect();
        assert_eq!(states, [State::Text, State::Null, State::Unchanged]);
        assert_eq!(raw.old_values[1].state(), State::Absent);
        assert_eq!((raw.xid, raw.commit_us, raw.generation, raw.last), (7, 8, 4, true));
    }

    #[test]
    fn an_update_that_keeps_its_key_says_which_row_it_is() {
        let new = vec![text("1"), text("new"), Field::Unchanged];
        let change = change(Epoch(2), &row(Op::Update, Some(new), None), true).unwrap();
        let dml = change.dml.unwrap();
        assert_eq!(dml.column_names, ["id", "name"]);
        let keys = dml.old_keys.unwrap();
        assert_eq!(keys.key_names, ["id"]);
        assert_eq!(keys.key_values[0].value, Some(Value::IntValue(1)));
        assert!(change.raw.unwrap().old_values.is_empty(), "raw says what PostgreSQL sent");
    }

    #[test]
    fn a_row_of_the_load_is_an_insert_and_a_delete_has_only_keys() {
        let values = || Some(vec![text("1"), text(""), Field::Absent]);
        let read = change(Epoch(1), &row(Op::Read, values(), None), false).unwrap();
        assert!(read.raw.is_none());
        let dml = read.dml.unwrap();
        assert_eq!(dml.kind, "insert");
        assert_eq!(dml.column_values[1].value, Some(Value::StringValue(String::new())));
        let delete = change(Epoch(1), &row(Op::Delete, None, values()), false).unwrap();
        let dml = delete.dml.unwrap();
        assert_eq!((dml.kind.as_str(), dml.column_names.len()), ("delete", 0));
        assert_eq!(dml.old_keys.unwrap().key_names, ["id", "name"]);
    }

    #[test]
    fn what_the_original_has_no_words_for_needs_raw() {
        let end = Content::End {
            start_lsn: Lsn(1),
            load_points: [("a.b".into(), Lsn(2))].into(),
            called: [].into(),
            whole: true,
            after: None,
        };
        for (op, content) in [
            (EntryOp::Commit, Content::Commit),
            (EntryOp::End, end),
            (EntryOp::Row(Op::Message), row(Op::Message, None, None).content),
        ] {
            let entry = entry(op, content);
            assert_eq!(change(Epoch(1), &entry, false), None);
            let ends = matches!(entry.content, Content::Commit);
            assert_eq!(passed(Epoch(1), &entry).map(|c| c.r#type), ends.then(|| "commit".into()));
            let raw = change(Epoch(1), &entry, true).unwrap();
            assert_eq!(raw.r#type, op.name());
            assert_eq!(raw.raw.unwrap().op, op.name());
        }
    }

    #[test]
    fn loads_of_single_tables_can_be_told_apart() {
        let mark = Content::Mark { section: 41, tables: vec!["a.b".into()] };
        let mark = change(Epoch(1), &entry(EntryOp::Restart, mark), true).unwrap().raw.unwrap();
        assert_eq!((mark.section, mark.tables.as_slice()), (41, &["a.b".to_owned()][..]));
        let end = |after: Option<Lsn>| {
            let load_points = [("a.b".into(), Lsn(2))].into();
            let (start_lsn, called, whole) = (Lsn(1), [].into(), after.is_none());
            let end = Content::End { start_lsn, load_points, called, after, whole };
            change(Epoch(1), &entry(EntryOp::End, end), true).unwrap().raw.unwrap().after
        };
        assert_eq!(end(Some(Lsn(255))), "0/FF");
        assert_eq!(end(None), "", "the whole load has no mark");
    }

    #[test]
    fn a_restart_empties_the_table() {
        let restart = Content::Restart { attempt: 2, load_lsn: Lsn(255) };
        let change = change(Epoch(1), &entry(EntryOp::Restart, restart), true).unwrap();
        assert_eq!(change.dml.unwrap().kind, "truncate");
        let raw = change.raw.unwrap();
        assert_eq!((raw.op.as_str(), raw.attempt, raw.load_lsn.as_str()), ("restart", 2, "0/FF"));
    }

    #[test]
    fn a_schema_change() {
        let content = Content::Row {
            columns: ["tag", "object_type", "identity", "text"].map(str::to_owned).into(),
            oids: [25; 4].into(),
            new: Some(vec![text("CREATE TABLE"), text("table"), text("s.t"), text("CREATE …")]),
            old: None,
            key: Vec::new(),
            transactional: None,
            miss: false,
            ddl: Some(Box::new(DdlDetail {
                username: "me".into(),
                database: "db".into(),
                ..DdlDetail::default()
            })),
        };
        let change = change(Epoch(1), &entry(EntryOp::Row(Op::Ddl), content), false).unwrap();
        assert_eq!(change.r#type, "ddl");
        let ddl = change.ddl.unwrap();
        assert_eq!((ddl.username.as_str(), ddl.database.as_str()), ("me", "db"));
        assert_eq!(
            (ddl.time.as_str(), ddl.ddl.as_str()),
            ("1970-01-01T00:00:00.000008Z", "CREATE …")
        );
        assert!(ddl.id > 0);
    }

    #[test]
    fn the_number_of_a_position_is_its_own() {
        let at = |lsn, ordinal| number(Position::Wal { commit_lsn: Lsn(lsn), ordinal });
        assert_eq!(at(1, 2), at(1, 2));
        let mut all: Vec<i32> = (0..40).flat_map(|lsn| (0..5).map(move |n| at(lsn, n))).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }
}
