//! An entry of the stream as a change of a row of the target: which columns are set, and by
//! which the row is found. Pure.
//!
//! What can go wrong: a row that nothing tells from others ([`Unfit`]): its key is not among
//! what the entry says of it, and the whole old row is not there either.

use std::sync::Arc;

use bytestring::ByteString;
use kasho_plugin_sdk::Op;

use super::error::ApplyError;
use super::table::{Mapping, Table};
use crate::position::EpochPosition;
use crate::sink::entry::{Field, Value as Packed};

/// A value's text, or NULL.
pub(super) type Value = Option<ByteString>;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Insert,
    Update,
    Delete,
}

impl Verb {
    /// In errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Verb::Insert => "insert",
            Verb::Update => "update",
            Verb::Delete => "delete",
        }
    }
}

/// How the row is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Find {
    /// It is new.
    New,
    /// By one of the table's keys.
    Key(usize),
    /// By all of its columns; one row, if several are alike.
    Whole,
}

/// What a statement is made for: changes of one shape differ in their values only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) verb: Verb,
    pub(super) find: Find,
    /// Places of the columns that are written.
    pub(super) set: Vec<usize>,
    /// Places of the columns that say which row it is, and whether each is NULL there.
    pub(super) by: Vec<(usize, bool)>,
}

impl Shape {
    /// The row may be found by something else from then on.
    pub(super) fn moves(&self) -> bool {
        let by = |place: &usize| self.by.iter().any(|(by, _)| by == place);
        self.find == Find::Whole || self.set.iter().any(by)
    }
}

/// One changed row.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) at: EpochPosition,
    pub(super) table: Arc<Table>,
    pub(super) shape: Arc<Shape>,
    /// One for each column of `shape.set`.
    pub(super) values: Vec<Value>,
    /// One for each column of `shape.by`.
    pub(super) key: Vec<Value>,
    /// The chain may have lost rows of this table.
    pub(super) miss: bool,
    /// Every column of the new row is known.
    pub(super) whole: bool,
}

impl Change {
    /// Bytes of its values.
    pub(super) fn weight(&self) -> usize {
        let bytes = |value: &Value| value.as_ref().map_or(0, |text| text.len());
        self.values.iter().chain(&self.key).map(bytes).sum::<usize>() + size_of::<Change>()
    }
}

/// Why an entry is no change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// An insert without all of its values.
    Partial,
    /// The table of the target has no unique index over what tells its rows apart.
    NoIndex(String),
    /// Nothing tells them apart.
    NoIdentity,
    /// An identity column that only the target itself may set.
    Always(String),
    /// Not a row.
    NoRow,
    /// A text that no sender of ours lets through.
    NotUtf8,
}

/// What an entry says of a row.
pub(super) struct Images<'a> {
    pub(super) op: Op,
    pub(super) new: Option<Vec<Field>>,
    pub(super) old: Option<Vec<Field>>,
    pub(super) key: &'a [usize],
    pub(super) miss: bool,
}

/// The change that an entry is; none if there is nothing to do.
///
/// # Errors
/// See [`Unfit`].
pub(super) fn change(
    table: &Arc<Table>,
    mapping: &Mapping,
    at: EpochPosition,
    images: Images<'_>,
) -> Result<Option<Change>, Unfit> {
    let Images { op, new, old, key, miss } = images;
    let partial = |field: &Field| matches!(field, Field::Absent | Field::Unchanged);
    let whole = new.as_ref().is_some_and(|new| !new.iter().any(partial));
    let change = |shape, values, key| {
        let (table, shape) = (Arc::clone(table), Arc::new(shape));
        Ok(Some(Change { at, table, shape, values, key, miss, whole }))
    };
    match op {
        Op::Insert => {
            let new = new.ok_or(Unfit::NoRow)?;
            if new.contains(&Field::Unchanged) {
                return Err(Unfit::Partial);
            }
            let (set, values) = written(mapping, new).unzip();
            let shape = Shape { verb: Verb::Insert, find: Find::New, set, by: Vec::new() };
            change(shape, values, Vec::new())
        }
        Op::Delete => {
            let old = placed(mapping, old.as_deref().ok_or(Unfit::NoRow)?);
            let (find, by, key) = find(table, &old)?;
            change(Shape { verb: Verb::Delete, find, set: Vec::new(), by }, Vec::new(), key)
        }
        Op::Update => {
            let new = new.ok_or(Unfit::NoRow)?;
            let old = match &old {
                Some(old) => placed(mapping, old),
                None => kept(mapping, &new, key),
            };
            let (find, by, key) = find(table, &old)?;
            let places = mapping.places.len();
            let (mut set, mut values) = (Vec::with_capacity(places), Vec::with_capacity(places));
            for (place, value) in written(mapping, new) {
                let always = table.columns[place].always;
                let write = match known(&old, place).map(|was| *was == value) {
                    Some(true) => {
                        let by_key = find != Find::Whole && by.iter().any(|(at, _)| *at == place);
                        !(by_key || always)
                    }
                    Some(false) if always => {
                        return Err(Unfit::Always(table.columns[place].name.clone()));
                    }
                    Some(false) => true,
                    // The source would not have let it change either.
                    None => !always,
                };
                if write {
                    set.push(place);
                    values.push(value);
                }
            }
            match set.is_empty() {
                true => Ok(None),
                false => change(Shape { verb: Verb::Update, find, set, by }, values, key),
            }
        }
        _ => Err(Unfit::NoRow),
    }
}

/// The columns of a row of the load that are copied, and their values.
///
/// # Errors
/// Not all of the row is there.
pub(super) fn copied<'a>(
    mapping: &'a Mapping,
    image: &'a [Packed<'a>],
) -> Result<impl Iterator<Item = (usize, Option<&'a [u8]>)> + Clone, Unfit> {
    if image.contains(&Packed::Unchanged) {
        return Err(Unfit::Partial);
    }
    let value = |(place, value): (&Option<usize>, &Packed<'a>)| match *value {
        Packed::Text(text) => place.map(|place| (place, Some(text))),
        Packed::Null => place.map(|place| (place, None)),
        Packed::Unchanged | Packed::Absent => None,
    };
    Ok(mapping.places.iter().zip(image).filter_map(value))
}

/// The columns of an image that are written, and their values.
fn written(mapping: &Mapping, image: Vec<Field>) -> impl Iterator<Item = (usize, Value)> {
    mapping.places.iter().zip(image).filter_map(|(place, field)| Some(((*place)?, value(field)?)))
}

/// None: the image does not say.
fn value(field: Field) -> Option<Value> {
    match field {
        Field::Text(text) => Some(Some(text)),
        Field::Null => Some(None),
        Field::Bytes(_) | Field::Unchanged | Field::Absent => None,
    }
}

/// What is known of the old row: by place, what was there.
fn placed(mapping: &Mapping, image: &[Field]) -> Old {
    let whole = !image.iter().any(|field| matches!(field, Field::Absent | Field::Unchanged));
    let known = mapping.places.iter().zip(image);
    let known = known.filter_map(|(place, field)| Some(((*place)?, value(field.clone())?)));
    Old { whole, known: known.collect() }
}

/// The part of a new image that its row had before, too.
fn kept(mapping: &Mapping, new: &[Field], key: &[usize]) -> Old {
    let known = mapping.places.iter().zip(new).enumerate();
    let known = known.filter(|(at, _)| key.contains(at));
    let known = known.filter_map(|(_, (place, field))| Some(((*place)?, value(field.clone())?)));
    let whole = (0..new.len())
        .all(|at| key.contains(&at) && !matches!(new[at], Field::Absent | Field::Unchanged));
    Old { whole, known: known.collect() }
}

struct Old {
    /// Every column is known.
    whole: bool,
    known: Vec<(usize, Value)>,
}

fn known(old: &Old, place: usize) -> Option<&Value> {
    old.known.iter().find(|(at, _)| *at == place).map(|(_, value)| value)
}

type Found = (Find, Vec<(usize, bool)>, Vec<Value>);

/// By what the row is found: a key of the target whose columns are all known and none NULL,
/// else the whole row.
fn find(table: &Table, old: &Old) -> Result<Found, Unfit> {
    let values = |columns: &[usize]| -> Option<Vec<Value>> {
        columns.iter().map(|at| known(old, *at).filter(|v| v.is_some()).cloned()).collect()
    };
    for (at, key) in table.keys.iter().enumerate() {
        if let Some(values) = values(&key.columns) {
            let by = key.columns.iter().map(|place| (*place, false)).collect();
            return Ok((Find::Key(at), by, values));
        }
    }
    if old.known.is_empty() {
        return Err(Unfit::NoIdentity);
    }
    if !old.whole {
        let names: Vec<_> =
            old.known.iter().map(|(place, _)| table.columns[*place].name.as_str()).collect();
        return Err(Unfit::NoIndex(names.join(", ")));
    }
    let by = old.known.iter().map(|(place, value)| (*place, value.is_none())).collect();
    Ok((Find::Whole, by, old.known.iter().map(|(_, value)| value.clone()).collect()))
}

/// Why a row cannot be applied, and what to do.
pub(super) fn refuse(table: &Table, at: EpochPosition, unfit: Unfit) -> ApplyError {
    let name = &table.name;
    ApplyError::Refused(match unfit {
        Unfit::NoIndex(columns) => format!(
            "table {name} of the target has no unique index over ({columns}), by which {at} finds \
             its row. If its indexes are still to be made: pg_dump --section=post-data of the \
             source into the target; then start again"
        ),
        Unfit::NoIdentity => format!(
            "{at} says of no column of {name} what it was: ALTER TABLE {name} REPLICA IDENTITY \
             FULL at the source, and load the table again (kasho bootstrap --table {name})"
        ),
        Unfit::Partial => format!(
            "{at} inserts a row of {name} of which a value was not sent: ALTER TABLE {name} REPLICA \
             IDENTITY FULL at the source, and load the table again (kasho bootstrap --table {name})"
        ),
        Unfit::Always(column) => format!(
            "{at} changes {name}.{column}, which is GENERATED ALWAYS AS IDENTITY in the target: \
             ALTER TABLE {name} ALTER COLUMN {column} SET GENERATED BY DEFAULT; then start again"
        ),
        Unfit::NoRow => format!("{at} of {name} holds no row: it was written by something else"),
        Unfit::NotUtf8 => format!(
            "{at} of {name} holds a text that is not UTF-8: it was written by something else"
        ),
    })
}
