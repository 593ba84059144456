//! Statements of a seed that changes its schema, by lot.
//!
//! Left out is what cannot be the same elsewhere: unlogged tables, whose rows no log has, and
//! what a function in SQL runs, whose text nobody knows (it halts the stream); indexes that are
//! made or dropped CONCURRENTLY: where that fails (by a lock, which is often here), an invalid
//! index stays that no event trigger tells of, and an ALTER COLUMN TYPE makes it valid; and
//! tables whose rows have no identity, since everything is published here: their rows could
//! not be changed, and an engine that is killed would refuse to begin again before they have
//! one.

use super::changing::{Edits, Object, Objects};
use super::random::Random;
use super::schema::{self, Identity, Schema, Table};
use super::values::{TYPES, Type};
use super::workload;

mod objects;

/// What a session knows, and what its statement does to that.
pub(super) struct Scene {
    pub(super) schema: String,
    pub(super) objects: Objects,
    /// Tables are loaded for the first time.
    pub(super) loading: bool,
    /// What other sessions have changed, and not committed.
    pub(super) others: Edits,
    /// The statements of theirs that have made or changed something.
    pub(super) others_said: Vec<String>,
    /// One of them has given a schema another name.
    pub(super) others_rename: bool,
    /// One of them has made an index, or a table like another one: which is like it, indexes
    /// included, does not go by who commits first.
    pub(super) others_index: bool,
    /// Labels that a row may have: those that are committed.
    pub(super) labels: Vec<String>,
    /// The number of the next new object.
    pub(super) next: u64,
    pub(super) edits: Edits,
}

impl Scene {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A new name in the seed's schema, or in another one of its own.
    fn name(&mut self, word: &str, random: &mut Random) -> String {
        let number = self.number();
        let schema = match self.pick(random, |object| matches!(object, Object::Schema(_))) {
            Some((_, Object::Schema(schema))) if random.often(300) => schema,
            _ => self.schema.clone(),
        };
        let plain = random.one(&["", " \"x\"", " É"]).replace('"', "\"\"");
        format!("{schema}.\"{word}_{number}{plain}\"")
    }

    fn pick(&self, random: &mut Random, fits: impl Fn(&Object) -> bool) -> Option<(u64, Object)> {
        let all: Vec<_> = self.objects.iter().filter(|(_, object)| fits(object)).collect();
        if all.is_empty() {
            return None;
        }
        let at = usize::try_from(random.below(all.len() as u64)).expect("few");
        Some((*all[at].0, all[at].1.clone()))
    }

    fn table(&self, random: &mut Random) -> (u64, Table) {
        match self.pick(random, |object| matches!(object, Object::Table(_))) {
            Some((number, Object::Table(table))) => (number, table),
            _ => panic!("a seed keeps tables"),
        }
    }

    fn tables(&self) -> Vec<Table> {
        let table = |object: &Object| match object {
            Object::Table(table) => Some(table.clone()),
            _ => None,
        };
        self.objects.values().filter_map(table).collect()
    }

    /// Whether another session may have said the name of this schema: by what it has done to
    /// something, or to what nobody remembers, as functions.
    fn is_named_elsewhere(&self, schema: &str) -> bool {
        let named = format!("{schema}.");
        self.others_said.iter().any(|said| said.contains(&named))
            || self.others.iter().any(|(number, object)| match object {
                Some(Object::Table(table)) => {
                    !self.objects.contains_key(number) || objects::schema_of(&table.name) == schema
                }
                Some(Object::Index(name) | Object::Sequence(name)) => {
                    objects::schema_of(name) == schema
                }
                Some(Object::Label(_)) => false,
                Some(Object::View(..) | Object::Constraint(..) | Object::Schema(_)) | None => true,
            })
    }

    fn set(&mut self, number: u64, object: Object) {
        self.edits.push((number, Some(object)));
    }

    fn add(&mut self, object: Object) {
        let number = self.number();
        self.set(number, object);
    }

    fn remove(&mut self, number: u64) {
        self.edits.push((number, None));
    }
}

/// The next statement, or several in one query.
pub(super) fn statement(scene: &mut Scene, random: &mut Random) -> String {
    // What is made in a schema that gets another name meanwhile is told of by the name of before,
    // and targets pass it over.
    if !random.often(450) || scene.others_rename {
        return rows(scene, random);
    }
    let statement = match random.below(100) {
        n if n < 16 => add_column(scene, random),
        n if n < 22 => drop_column(scene, random),
        n if n < 28 => rename_column(scene, random),
        n if n < 38 => convert(scene, random),
        n if n < 45 => defaults(scene, random),
        n if n < 53 => objects::constraint(scene, random),
        n if n < 61 => objects::index(scene, random),
        n if n < 71 => create_table(scene, random),
        n if n < 79 => move_table(scene, random),
        n if n < 83 => objects::label(scene, random),
        n if n < 89 => objects::schema(scene, random),
        n if n < 93 => objects::view(scene, random),
        n if n < 95 => objects::sequence(scene, random),
        n if n < 97 => replica_identity(scene, random),
        _ => objects::trigger(scene, random),
    };
    wrapped(statement, scene, random)
}

fn rows(scene: &Scene, random: &mut Random) -> String {
    let (_, table) = scene.table(random);
    let of_mood = table.columns.iter().find(|(_, of)| of.sql == "mood");
    if let (Some((column, _)), false, true) = (of_mood, scene.labels.is_empty(), table.changes()) {
        let at = usize::try_from(random.below(scene.labels.len() as u64)).expect("few");
        let (name, label) = (&table.name, &scene.labels[at]);
        return format!("UPDATE {name} SET {column} = '{label}' WHERE k % 3 = 0");
    }
    let schema = Schema { name: scene.schema.clone(), tables: scene.tables(), ddl: String::new() };
    workload::change(&schema, random)
}

/// Now and then from a block or a function, or between changes of rows in one query.
fn wrapped(statement: String, scene: &mut Scene, random: &mut Random) -> String {
    let alone = !statement.contains(';');
    match random.below(20) {
        0 | 1 if alone => format!("DO $do$ BEGIN {statement}; END $do$"),
        2 if alone => format!("DO $do$ BEGIN EXECUTE $x${statement}$x$; END $do$"),
        3 if alone => {
            let name = scene.name("f", random);
            format!(
                "CREATE FUNCTION {name}() RETURNS void LANGUAGE plpgsql SET datestyle = 'German' \
                 AS $f$ BEGIN EXECUTE $x${statement}$x$; END $f$; SELECT {name}()"
            )
        }
        4 | 5 if alone => format!("{}; {statement}", rows(scene, random)),
        6 => format!("CREATE TEMP TABLE IF NOT EXISTS passing (x int); {statement}"),
        _ => statement,
    }
}

fn a_type(sql: &str) -> Type {
    *TYPES.iter().find(|of| of.sql == sql).unwrap_or_else(|| panic!("{sql}"))
}

fn a_column(table: &Table, random: &mut Random) -> Option<usize> {
    let count = table.columns.len() as u64;
    (count > 0).then(|| usize::try_from(random.below(count)).expect("few"))
}

fn add_column(scene: &mut Scene, random: &mut Random) -> String {
    let (number, mut table) = scene.table(random);
    let name = format!("\"{}_{}\"", random.one(&["n", "New", "order"]), scene.number());
    let head = format!("ALTER TABLE {} ADD COLUMN {name}", table.name);
    match random.below(20) {
        // Values that are others elsewhere: the table is loaded again. Until then its rows are
        // found by their keys.
        0 if table.identity != Identity::Keyless => {
            table.columns.push((name, a_type("uuid")));
            scene.set(number, Object::Table(table));
            return format!("{head} uuid DEFAULT gen_random_uuid()");
        }
        1 => return format!("{head} int8 GENERATED ALWAYS AS (k * 3::int8) STORED"),
        _ => {}
    }
    let of = random.one(TYPES);
    let value = of.value(random, false);
    let rest = match random.below(4) {
        0 => format!(" DEFAULT {value}"),
        1 => format!(" NOT NULL DEFAULT {value}"),
        _ => String::new(),
    };
    table.columns.push((name, of));
    scene.set(number, Object::Table(table));
    format!("{head} {}{rest}", of.sql)
}

fn drop_column(scene: &mut Scene, random: &mut Random) -> String {
    let (number, mut table) = scene.table(random);
    let Some(at) = a_column(&table, random) else { return add_column(scene, random) };
    let (column, _) = table.columns.remove(at);
    let statement =
        format!("ALTER TABLE {} DROP COLUMN {column}{}", table.name, random.one(&["", " CASCADE"]));
    scene.set(number, Object::Table(table));
    statement
}

fn rename_column(scene: &mut Scene, random: &mut Random) -> String {
    let (number, mut table) = scene.table(random);
    let Some(at) = a_column(&table, random) else { return add_column(scene, random) };
    let new = format!("\"r \"\"{}\"", scene.number());
    let old = std::mem::replace(&mut table.columns[at].0, new.clone());
    let statement = format!("ALTER TABLE {} RENAME {old} TO {new}", table.name);
    scene.set(number, Object::Table(table));
    statement
}

/// Types that a seed declares.
const OWN: [&str; 4] = ["mood", "mood[]", "pair", "short"];

/// The types that values of a type can become, besides text.
const CONVERSIONS: &[(&str, &[&str])] = &[
    ("int2", &["int4", "int8", "numeric", "float8"]),
    ("int4", &["int8", "numeric", "int2"]),
    ("int8", &["numeric"]),
    ("numeric", &["float8"]),
    ("numeric(8,2)", &["numeric", "money"]),
    ("float4", &["float8"]),
    ("varchar(20)", &["name", "char(6)"]),
    ("text", &["varchar(20)"]),
    ("date", &["timestamptz", "timestamp"]),
    ("timestamp", &["timestamptz", "date", "time"]),
    ("timestamptz", &["timestamp", "date", "timetz", "time"]),
    ("time", &["timetz", "interval"]),
    ("json", &["jsonb"]),
    ("cidr", &["inet"]),
    ("macaddr", &["macaddr8"]),
    ("box", &["polygon"]),
];

fn convert(scene: &mut Scene, random: &mut Random) -> String {
    // Anything becomes text; rather what can become something else, too, and among that what
    // the time zone of the session decides about.
    let known = |of: &Type| CONVERSIONS.iter().find(|(from, _)| *from == of.sql);
    let times = |of: &Type| ["date", "timestamp"].contains(&of.sql);
    let lot = random.below(10);
    let fits = |(_, of): &(String, Type)| lot < 4 && times(of) || lot < 7 && known(of).is_some();
    let chosen = scene.pick(random, |object| match object {
        Object::Table(table) => table.columns.iter().any(fits),
        _ => false,
    });
    let (number, mut table) = match chosen {
        Some((number, Object::Table(table))) => (number, table),
        _ => scene.table(random),
    };
    let at = table.columns.iter().position(fits).or_else(|| a_column(&table, random));
    let Some(at) = at else { return add_column(scene, random) };
    let (column, of) = table.columns[at].clone();
    let known = known(&of);
    let to = match known {
        Some((_, to)) if random.often(700) => random.one(to),
        _ => "text",
    };
    let using = match random.often(400) {
        true => format!(" USING {column}::{to}"),
        false => String::new(),
    };
    let also = match random.often(200) {
        true => format!(", ADD CONSTRAINT \"ck_{}\" CHECK (k > -9000000)", scene.number()),
        false => String::new(),
    };
    let statement = format!("ALTER TABLE {} ALTER {column} TYPE {to}{using}{also}", table.name);
    table.columns[at].1 = a_type(to);
    scene.set(number, Object::Table(table));
    statement
}

fn defaults(scene: &mut Scene, random: &mut Random) -> String {
    let (_, table) = scene.table(random);
    let name = &table.name;
    let Some(at) = a_column(&table, random) else { return add_column(scene, random) };
    let (column, of) = &table.columns[at];
    let value = of.value(random, false);
    match random.below(6) {
        0 | 1 => format!("ALTER TABLE {name} ALTER {column} SET DEFAULT {value}"),
        2 => format!("ALTER TABLE {name} ALTER {column} DROP DEFAULT"),
        3 => format!("ALTER TABLE {name} ALTER {column} DROP NOT NULL"),
        4 => format!(
            "ALTER TABLE {name} ALTER pad SET DEFAULT 'new', ALTER {column} SET STATISTICS 7"
        ),
        _ if table.changes() => format!(
            "UPDATE {name} SET {column} = {value} WHERE {column} IS NULL; \
             ALTER TABLE {name} ALTER {column} SET NOT NULL"
        ),
        _ => format!("ALTER TABLE {name} ALTER {column} SET NOT NULL"),
    }
}

fn create_table(scene: &mut Scene, random: &mut Random) -> String {
    let (_, from) = scene.table(random);
    let kind = match random.below(6) {
        1 if scene.others_index => 4,
        kind => kind,
    };
    if kind == 0 {
        let number = scene.number();
        let mut table = schema::table(&scene.schema, number, random);
        if table.identity == Identity::Nothing {
            table.identity = Identity::Keyless;
        }
        let statement = schema::made(&table, random);
        scene.add(Object::Table(table));
        return statement;
    }
    let name = scene.name("made", random);
    let full = format!("ALTER TABLE {name} REPLICA IDENTITY FULL");
    let mut table = Table { name: name.clone(), shifts: false, ..from.clone() };
    let statement = match kind {
        1 => {
            let keyed = [Identity::Primary, Identity::Composite, Identity::Always];
            let like = format!("CREATE TABLE {name} (LIKE {} INCLUDING ALL)", from.name);
            if from.identity == Identity::Partitioned {
                table.identity = Identity::Primary;
            }
            match keyed.contains(&table.identity) {
                true => like,
                false => {
                    table.identity = Identity::Keyless;
                    format!("{like}; {full}")
                }
            }
        }
        2 | 3 => {
            // Its rows come before anybody tells of the table: they make it in the target, and
            // of a type of the source's own they do not say what it is (the applier asks for
            // somebody who makes it).
            table.columns.retain(|(_, of)| !OWN.contains(&of.sql));
            let columns: String =
                table.columns.iter().map(|(name, _)| format!(", {name}")).collect();
            let low = random.within(1, 60);
            table.identity = Identity::Keyless;
            let from = &from.name;
            match random.below(3) {
                0 => format!(
                    "SELECT k, pad{columns} INTO {name} FROM {from} WHERE k > {low}; {full}"
                ),
                1 => format!(
                    "CREATE TABLE {name} AS SELECT k, pad{columns} FROM {from} WHERE k < {low}; {full}"
                ),
                _ => format!(
                    "CREATE TABLE {name} AS SELECT k, pad{columns} FROM {from} WITH NO DATA; {full}"
                ),
            }
        }
        _ => {
            (table.identity, table.columns) = (Identity::Primary, Vec::new());
            let exists = random.one(&["", "IF NOT EXISTS "]);
            let create = format!("CREATE TABLE {exists}{name} (k int PRIMARY KEY, pad text)");
            match random.often(500) {
                true => create,
                false => format!("{create}; {}", table.insert(1, random)),
            }
        }
    };
    scene.add(Object::Table(table));
    statement
}

/// Tables go, or get other names.
fn move_table(scene: &mut Scene, random: &mut Random) -> String {
    let (number, mut table) = scene.table(random);
    let old = table.name.clone();
    match random.below(5) {
        0 | 1 if scene.tables().len() > 3 => {
            scene.remove(number);
            format!("DROP TABLE {old}{}", random.one(&["", " CASCADE"]))
        }
        2 => {
            // Two change places.
            let (other, mut second) = scene.table(random);
            let schema = |name: &str| name.split_once('.').map(|(schema, _)| schema.to_owned());
            if other == number || schema(&old) != schema(&second.name) {
                return add_column(scene, random);
            }
            let plain = |name: &str| name.split_once('.').expect("schema").1.to_owned();
            let passing = format!("{}.passing", schema(&old).expect("schema"));
            let statement = format!(
                "ALTER TABLE {old} RENAME TO passing; ALTER TABLE {} RENAME TO {}; \
                 ALTER TABLE {passing} RENAME TO {}",
                second.name,
                plain(&old),
                plain(&second.name)
            );
            std::mem::swap(&mut table.name, &mut second.name);
            scene.set(number, Object::Table(table));
            scene.set(other, Object::Table(second));
            statement
        }
        3 => {
            let elsewhere = scene.pick(random, |object| matches!(object, Object::Schema(_)));
            let Some((_, Object::Schema(schema))) = elsewhere else {
                return objects::schema(scene, random);
            };
            table.name = format!("{schema}.{}", old.split_once('.').expect("schema").1);
            scene.set(number, Object::Table(table));
            format!("ALTER TABLE {old} SET SCHEMA {schema}")
        }
        _ => {
            let new = format!("\"renamed_{}\"", scene.number());
            table.name = format!("{}.{new}", old.split_once('.').expect("schema").0);
            scene.set(number, Object::Table(table));
            format!("ALTER TABLE {old} RENAME TO {new}")
        }
    }
}

fn replica_identity(scene: &mut Scene, random: &mut Random) -> String {
    let (number, mut table) = scene.table(random);
    let (to, word) = match table.identity {
        Identity::Primary => (Identity::FullKeyed, "FULL"),
        Identity::FullKeyed => (Identity::Primary, "DEFAULT"),
        _ => return add_column(scene, random),
    };
    table.identity = to;
    let statement = format!("ALTER TABLE {} REPLICA IDENTITY {word}", table.name);
    scene.set(number, Object::Table(table));
    statement
}
