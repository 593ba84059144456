//! Fixture files: rows in, rows expected, errors expected, as TOML that a person writes
//! and a diff shows line by line.
//!
//! One reader and one judge for all who run them: `cargo test` natively
//! ([`crate::testing::run_fixtures`]) and `kasho plugin test` in WebAssembly, through the
//! real host. `README.md` describes the format. What goes wrong here is a file that is none,
//! with its line, and a row that became something else than the file says.

mod table;
mod value;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::batch::{Field, Image};
use crate::event::{Op, Relation, Value};

pub use table::parse_table;
pub use value::json;

/// A value of a test's row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// NULL.
    Null,
    /// TOASTed and not sent.
    Unchanged,
    /// Not part of the image.
    #[default]
    Absent,
}

impl Cell {
    /// As a plugin sees it.
    #[must_use]
    pub fn value(&self) -> Value<'_> {
        match self {
            Cell::Text(text) => Value::Text(text),
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Absent => Value::Absent,
        }
    }

    /// As a block holds it.
    #[must_use]
    pub fn field(&self) -> Field<'_> {
        match self {
            Cell::Text(text) => Field::Text(text.as_bytes()),
            Cell::Null => Field::Null,
            Cell::Unchanged => Field::Unchanged,
            Cell::Absent => Field::Absent,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

/// `None` is NULL.
impl From<Option<&str>> for Cell {
    fn from(text: Option<&str>) -> Cell {
        text.map_or(Cell::Null, Cell::from)
    }
}

impl From<Value<'_>> for Cell {
    fn from(value: Value<'_>) -> Cell {
        match value {
            Value::Text(text) => Cell::Text(text.to_owned()),
            Value::Null => Cell::Null,
            Value::Unchanged => Cell::Unchanged,
            Value::Absent => Cell::Absent,
        }
    }
}

/// Values by column.
pub type Cells = BTreeMap<String, Cell>;

/// A fixture file, read and checked.
#[derive(Clone, Debug)]
pub struct FixtureFile {
    /// Its tables; each row is of one of them.
    pub tables: Vec<Relation>,
    /// The plugin's configuration.
    pub rules: toml::Table,
    /// The plugin has to refuse rules or tables, with a text that holds this one.
    pub refused: Option<String>,
    /// Most instructions of one call with the rows that are not in error.
    pub fuel: Option<u64>,
    /// The rows, in the file's order.
    pub rows: Vec<FixtureRow>,
}

/// One row of a file.
#[derive(Clone, Debug)]
pub struct FixtureRow {
    /// Where it begins in the file.
    pub line: usize,
    /// Index of its table.
    pub table: usize,
    /// What happened to it.
    pub op: Op,
    /// After the change; what is not named is NULL.
    pub new: Option<Cells>,
    /// Before the change; what is not named is absent.
    pub old: Option<Cells>,
    /// What has to become of it.
    pub expected: Expected,
}

/// What has to become of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It goes on.
    Leaves {
        /// As this.
        op: Op,
        /// Columns of the new image that are not as they came.
        new: Cells,
        /// Columns of the old image that are not as they came.
        old: Cells,
    },
    /// It is removed.
    Dropped,
    /// It is in error, with a text that holds this one.
    Error(String),
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It goes on.
    Leaves {
        /// As this.
        op: Op,
        /// Its new image, by the table's columns.
        new: Vec<Cell>,
        /// Its old image.
        old: Vec<Cell>,
    },
    /// It is removed.
    Dropped,
    /// It is in error.
    Error(String),
}

/// The file as TOML has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tables: Vec<Spanned<String>>,
    #[serde(default)]
    rules: toml::Table,
    refused: Option<String>,
    fuel: Option<u64>,
    #[serde(default)]
    row: Vec<Spanned<WrittenRow>>,
}

type Named = BTreeMap<String, toml::Value>;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    table: Option<String>,
    insert: Option<Named>,
    read: Option<Named>,
    update: Option<Named>,
    delete: Option<Named>,
    #[serde(default)]
    truncate: bool,
    old: Option<Named>,
    want: Option<Named>,
    want_old: Option<Named>,
    becomes: Option<Op>,
    #[serde(default)]
    drop: bool,
    error: Option<String>,
}

impl FixtureFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// `line: what is wrong`.
    ///
    /// ```
    /// use kasho_plugin_sdk::fixture::{Expected, FixtureFile};
    ///
    /// let file = FixtureFile::parse(
    ///     r#"
    ///     tables = ["public.users(id int8 key, email text)"]
    ///
    ///     [[row]]
    ///     insert = { id = 1, email = "nonsense" }
    ///     error = "not an e-mail"
    ///     "#,
    /// )
    /// .unwrap();
    /// assert_eq!(file.rows[0].expected, Expected::Error("not an e-mail".to_owned()));
    /// ```
    pub fn parse(text: &str) -> Result<FixtureFile, String> {
        let line = |at: usize| 1 + text.get(..at).unwrap_or(text).matches('\n').count();
        let written: Written = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(1, |span| line(span.start));
            format!("{at}: {}", e.message())
        })?;
        let mut tables: Vec<Relation> = Vec::new();
        for table in &written.tables {
            let at = line(table.span().start);
            let relation = parse_table(table.get_ref()).map_err(|e| format!("{at}: {e}"))?;
            if tables.iter().any(|t| t.id == relation.id) {
                return Err(format!("{at}: {} stands here twice", relation.qualified()));
            }
            tables.push(relation);
        }
        if tables.is_empty() {
            return Err("1: `tables` names no table".to_owned());
        }
        let mut rows = Vec::new();
        for row in written.row {
            let at = line(row.span().start);
            rows.push(row.into_inner().read(at, &tables).map_err(|e| format!("{at}: {e}"))?);
        }
        let Written { rules, refused, fuel, .. } = written;
        if rows.is_empty() == refused.is_none() {
            return Err("1: a fixture has rows, or `refused` and no row".to_owned());
        }
        Ok(FixtureFile { tables, rules, refused, fuel, rows })
    }

    /// Reads all `*.toml` of a folder, by name.
    ///
    /// # Errors
    /// `file:line: what is wrong` of the first one that is none, or that there is none.
    pub fn read_folder(folder: &Path) -> Result<Vec<(String, FixtureFile)>, String> {
        let shown = folder.display();
        let entries = std::fs::read_dir(folder).map_err(|e| format!("{shown}: {e}"))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut paths: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
        paths.sort();
        if paths.is_empty() {
            return Err(format!("{shown}: there is no fixture (*.toml) in it"));
        }
        let read = |path: std::path::PathBuf| {
            let shown = path.strip_prefix(".").unwrap_or(&path);
            let name = shown.display().to_string();
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
            let file = FixtureFile::parse(&text).map_err(|e| format!("{name}:{e}"))?;
            Ok((name, file))
        };
        paths.into_iter().map(read).collect()
    }

    /// The rules as a plugin receives them. TOML's dates become their text.
    #[must_use]
    pub fn rules_json(&self) -> serde_json::Value {
        json(&toml::Value::Table(self.rules.clone()))
    }
}

impl WrittenRow {
    fn read(self, line: usize, tables: &[Relation]) -> Result<FixtureRow, String> {
        let table = self.table_of(tables)?;
        let relation = &tables[table];
        let expected = self.expected(relation)?;
        let images = [
            (Op::Insert, self.insert),
            (Op::Read, self.read),
            (Op::Update, self.update),
            (Op::Delete, self.delete),
            (Op::Truncate, self.truncate.then(Named::new)),
        ];
        let mut images = images.into_iter().filter_map(|(op, image)| Some((op, image?)));
        let (Some((op, image)), None) = (images.next(), images.next()) else {
            return Err("a row has one of insert, read, update, delete, truncate".to_owned());
        };
        let image = value::cells(relation, image)?;
        let old = self.old.map(|old| value::cells(relation, old)).transpose()?;
        let (new, old) = match op {
            Op::Update => (Some(image), old),
            Op::Delete => (None, Some(image)),
            Op::Truncate => (None, None),
            _ => (Some(image), None),
        };
        if let (Expected::Leaves { op: becomes, .. }, Op::Update) = (&expected, op)
            && !matches!(becomes, Op::Update | Op::Insert | Op::Delete)
        {
            return Err("`becomes` is \"insert\" or \"delete\"".to_owned());
        }
        let identity = |name: &&String| relation.columns.iter().any(|c| c.key && c.name == **name);
        if let Some(name) = old.iter().flat_map(Cells::keys).find(|name| !identity(name)) {
            return Err(format!(
                "an old image holds the identity alone, and {name} is no `key` (a table that is \
                 `full` has all)"
            ));
        }
        let expected = match expected {
            // Named only of an UPDATE; all else goes on as what it was.
            Expected::Leaves { op: becomes, new, old } => {
                let op = if op == Op::Update { becomes } else { op };
                Expected::Leaves { op, new, old }
            }
            other => other,
        };
        Ok(FixtureRow { line, table, op, new, old, expected })
    }

    fn table_of(&self, tables: &[Relation]) -> Result<usize, String> {
        match &self.table {
            Some(name) => {
                let found = tables.iter().position(|table| table.qualified() == *name);
                found.ok_or_else(|| format!("{name} does not stand in `tables`"))
            }
            None if tables.len() == 1 => Ok(0),
            None => Err("there are several tables: say `table = \"…\"`".to_owned()),
        }
    }

    fn expected(&self, relation: &Relation) -> Result<Expected, String> {
        let wants = self.want.is_some() || self.want_old.is_some() || self.becomes.is_some();
        if usize::from(wants) + usize::from(self.drop) + usize::from(self.error.is_some()) > 1 {
            return Err("a row has `want`, or `drop = true`, or `error`".to_owned());
        }
        if self.becomes.is_some() && self.update.is_none() {
            return Err("only an update becomes something else".to_owned());
        }
        if self.old.is_some() && self.update.is_none() {
            return Err("only an update has `old` beside it".to_owned());
        }
        if self.drop {
            return Ok(Expected::Dropped);
        }
        if let Some(error) = &self.error {
            return match error.is_empty() {
                true => Err("`error` is empty".to_owned()),
                false => Ok(Expected::Error(error.clone())),
            };
        }
        let cells =
            |named: &Option<Named>| value::cells(relation, named.clone().unwrap_or_default());
        // A delete has no other image than the old one.
        let deletes = self.delete.is_some() && self.want_old.is_none();
        let (new, old) = match deletes {
            true => (Cells::new(), cells(&self.want)?),
            false => (cells(&self.want)?, cells(&self.want_old)?),
        };
        Ok(Expected::Leaves { op: self.becomes.unwrap_or(Op::Update), new, old })
    }
}

impl FixtureRow {
    /// One of its images, by the table's columns.
    #[must_use]
    pub fn image(&self, image: Image, relation: &Relation) -> Vec<Cell> {
        let (cells, missing) = match image {
            Image::New => (&self.new, Cell::Null),
            Image::Old => (&self.old, Cell::Absent),
        };
        let Some(cells) = cells else { return vec![Cell::Absent; relation.columns.len()] };
        let cell = |name: &String| cells.get(name).cloned().unwrap_or_else(|| missing.clone());
        relation.columns.iter().map(|column| cell(&column.name)).collect()
    }

    /// Whether it became what the file says.
    ///
    /// # Errors
    /// What it became in place of that; a test prints it, and it holds values.
    pub fn judge(&self, relation: &Relation, became: &Became) -> Result<(), String> {
        match (&self.expected, became) {
            (Expected::Dropped, Became::Dropped) => Ok(()),
            (Expected::Error(want), Became::Error(got)) if got.contains(want) => Ok(()),
            (Expected::Leaves { op, new, old }, Became::Leaves { op: is, new: n, old: o }) => {
                if op != is {
                    return Err(format!("it goes on as {}, not as {}", is.name(), op.name()));
                }
                let mut wrong = String::new();
                for (image, want, got) in [(Image::New, new, n), (Image::Old, old, o)] {
                    self.compare(relation, image, (*op, want), got, &mut wrong);
                }
                if wrong.is_empty() { Ok(()) } else { Err(wrong) }
            }
            (want, got) => Err(format!("{}, and {} was expected", told(got), asked(want))),
        }
    }

    fn compare(
        &self,
        relation: &Relation,
        image: Image,
        (op, want): (Op, &Cells),
        got: &[Cell],
        wrong: &mut String,
    ) {
        // What a changed operation leaves of the images is the host's doing: only what the
        // file names is looked at.
        let changed = op != self.op;
        let came = self.image(image, relation);
        for (i, column) in relation.columns.iter().enumerate() {
            let want = match want.get(&column.name) {
                Some(want) => want,
                None if changed => continue,
                None => &came[i],
            };
            let got = got.get(i).unwrap_or(&Cell::Absent);
            if want != got {
                let old = if image == Image::Old { "old " } else { "" };
                let sep = if wrong.is_empty() { "" } else { "; " };
                let (got, want) = (value::shown(got), value::shown(want));
                // Writing to a String cannot fail.
                let _ = write!(wrong, "{sep}{old}{} = {got}, not {want}", column.name);
            }
        }
    }
}

fn told(became: &Became) -> String {
    match became {
        Became::Leaves { op, .. } => format!("it goes on as {}", op.name()),
        Became::Dropped => "it is dropped".to_owned(),
        Became::Error(text) => format!("it is in error: {text}"),
    }
}

fn asked(expected: &Expected) -> String {
    match expected {
        Expected::Leaves { op, .. } => format!("that it goes on as {}", op.name()),
        Expected::Dropped => "that it is dropped".to_owned(),
        Expected::Error(text) => format!("the error: {text}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const TABLES: &str = "tables = [\"public.users(id int8 key, email text, bio text)\"]\n";

    fn file(rows: &str) -> Result<FixtureFile, String> {
        FixtureFile::parse(&format!("{TABLES}{rows}"))
    }

    fn leaves(op: Op, new: [Cell; 3], old: [Cell; 3]) -> Became {
        Became::Leaves { op, new: new.into(), old: old.into() }
    }

    const NONE: [Cell; 3] = [Cell::Absent, Cell::Absent, Cell::Absent];

    #[test]
    fn a_row_is_as_it_came_where_nothing_else_is_said() {
        let file = file(
            "[[row]]\ninsert = { id = 1, email = \"a@b\" }\nwant = { email = \"x\" }\n\
             [[row]]\nupdate = { id = 2, bio = { is = \"unchanged\" } }\nold = { id = 1 }\n",
        )
        .unwrap();
        let users = &file.tables[0];
        let [first, second] = &file.rows[..] else { panic!() };
        assert_eq!((first.line, second.line), (2, 5));
        let masked = leaves(Op::Insert, ["1".into(), "x".into(), Cell::Null], NONE);
        assert_eq!(first.judge(users, &masked), Ok(()));
        let bare = leaves(Op::Insert, ["1".into(), "a@b".into(), Cell::Null], NONE);
        let wrong = first.judge(users, &bare).unwrap_err();
        assert_eq!(wrong, "email = \"a@b\", not \"x\"");
        let old = ["1".into(), Cell::Absent, Cell::Absent];
        let moved = leaves(Op::Update, ["2".into(), Cell::Null, Cell::Unchanged], old);
        assert_eq!(second.judge(users, &moved), Ok(()));
        assert!(second.judge(users, &Became::Dropped).is_err());
    }

    #[test]
    fn errors_drops_and_changed_operations_are_judged() {
        let file = file(
            "[[row]]\ninsert = {}\nerror = \"not an e-mail\"\n\
             [[row]]\ndelete = { id = 1 }\ndrop = true\n\
             [[row]]\nupdate = { id = 1 }\nbecomes = \"delete\"\nwant_old = { id = 1 }\n\
             [[row]]\ntruncate = true\n",
        )
        .unwrap();
        let users = &file.tables[0];
        let error = Became::Error("column email: not an e-mail".to_owned());
        assert_eq!(file.rows[0].judge(users, &error), Ok(()));
        assert!(file.rows[0].judge(users, &Became::Error("other".to_owned())).is_err());
        assert_eq!(file.rows[1].judge(users, &Became::Dropped), Ok(()));
        let gone = leaves(Op::Delete, NONE, ["1".into(), Cell::Absent, Cell::Absent]);
        assert_eq!(file.rows[2].judge(users, &gone), Ok(()));
        assert!(file.rows[2].judge(users, &leaves(Op::Delete, NONE, NONE)).is_err());
        assert_eq!(file.rows[3].judge(users, &leaves(Op::Truncate, NONE, NONE)), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_line() {
        for (rows, want) in [
            ("", "a fixture has rows"),
            ("refused = \"x\"\n[[row]]\ninsert = {}\n", "a fixture has rows"),
            ("[[row]]\n", "2: a row has one of"),
            ("[[row]]\ninsert = {}\nread = {}\n", "2: a row has one of"),
            ("[[row]]\ninsert = { nam = \"x\" }\n", "public.users has no column nam"),
            ("[[row]]\ninsert = { email = true }\n", "in quotes"),
            ("[[row]]\ninsert = { email = { is = \"nul\" } }\n", "unchanged"),
            ("[[row]]\ninsert = {}\ndrop = true\nerror = \"x\"\n", "a row has `want`, or"),
            ("[[row]]\ninsert = {}\nwants = {}\n", "4: unknown field"),
            ("[[row]]\ndelete = { email = \"x\" }\n", "no `key`"),
            ("[[row]]\ninsert = {}\nold = { id = 1 }\n", "only an update has `old`"),
            ("[[row]]\ninsert = {}\nbecomes = \"delete\"\n", "only an update becomes"),
            ("[[row]]\ntable = \"public.x\"\ninsert = {}\n", "does not stand in `tables`"),
        ] {
            let error = file(rows).unwrap_err();
            assert!(error.contains(want), "{rows}: {error}");
        }
        assert!(FixtureFile::parse("tables = []\n").unwrap_err().contains("no table"));
        let twice = "tables = [\"a.b(c int4)\", \"a.b(d int4)\"]\n[[row]]\ninsert = {}\n";
        assert!(FixtureFile::parse(twice).unwrap_err().contains("twice"));
        let bad = FixtureFile::parse("\ntables = [\"a.b c int4\"]\n").unwrap_err();
        assert!(bad.starts_with("2: ") && bad.contains('('), "{bad}");
    }
}
