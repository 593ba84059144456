//! A seed's tables: a few, of every identity there is, with columns of whatever types the
//! lot gives, under names that need quotes.

use kasho_plugin_sdk::event::quote_identifier;

use super::random::Random;
use super::values::{DECLARED, TYPES, Type};

/// How rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identity {
    /// `k` is the primary key.
    Primary,
    /// The primary key has two columns.
    Composite,
    /// `k` is an identity column, and the primary key.
    Always,
    /// REPLICA IDENTITY USING INDEX, and no primary key.
    Index,
    /// A primary key and REPLICA IDENTITY FULL.
    FullKeyed,
    /// FULL without any key: rows may be equal.
    Keyless,
    /// REPLICA IDENTITY NOTHING: rows only come.
    Nothing,
    /// Partitions by hash of `k`.
    Partitioned,
}

pub(super) const IDENTITIES: [Identity; 8] = [
    Identity::Primary,
    Identity::Composite,
    Identity::Always,
    Identity::Index,
    Identity::FullKeyed,
    Identity::Keyless,
    Identity::Nothing,
    Identity::Partitioned,
];

/// One table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Quoted, with its schema.
    pub(super) name: String,
    pub(super) identity: Identity,
    /// Columns beside `k`, quoted.
    pub(super) columns: Vec<(String, Type)>,
    /// It has `u`, which is unique at the end of a transaction.
    pub(super) shifts: bool,
}

/// A seed's schema.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) tables: Vec<Table>,
    /// Makes all of it, rows included.
    pub(super) ddl: String,
}

impl Schema {
    pub(super) fn new(seed: u64, random: &mut Random) -> Schema {
        let name = format!("seed_{seed}");
        let mut ddl = format!(
            "CREATE SCHEMA {name}; SET search_path = {name}; {DECLARED}\n\
             CREATE TABLE done (seed int8 PRIMARY KEY);\n"
        );
        let mut tables = Vec::new();
        for at in 0..random.within(3, 5) {
            let table = table(&name, at, random);
            ddl += &made(&table, random);
            tables.push(table);
        }
        Schema { name, tables, ddl }
    }
}

pub(super) fn table(schema: &str, at: u64, random: &mut Random) -> Table {
    let identity = random.one(&IDENTITIES);
    let plain = random.one(&["t", "Table", "a \"b\"", "select"]);
    let name = format!("{schema}.\"{}_{at}\"", plain.replace('"', "\"\""));
    let mut columns = Vec::new();
    for at in 0..random.within(1, 6) {
        let fits = |of: &Type| !(of.unequal && identity == Identity::Keyless);
        let types: Vec<Type> = TYPES.iter().copied().filter(|of| fits(of)).collect();
        let plain = random.one(&["c", "Column", "from", "é'"]);
        columns.push((format!("\"{plain}_{at}\""), random.one(&types)));
    }
    let keyed = [Identity::Primary, Identity::Index, Identity::FullKeyed];
    let shifts = keyed.contains(&identity) && random.often(500);
    Table { name, identity, columns, shifts }
}

/// The statements that make a table, and its first rows.
pub(super) fn made(table: &Table, random: &mut Random) -> String {
    let Table { name, identity, columns, .. } = table;
    let key = match identity {
        Identity::Always => "k int4 GENERATED ALWAYS AS IDENTITY",
        _ => "k int4 NOT NULL",
    };
    let mut lines = vec![key.to_owned(), "pad text".to_owned()];
    lines.extend(columns.iter().map(|(name, of)| format!("{name} {}", of.sql)));
    if random.often(300) {
        lines.push("made int8 GENERATED ALWAYS AS (k * 2::int8) STORED".to_owned());
    }
    if table.shifts {
        lines.push("u int4 UNIQUE DEFERRABLE INITIALLY DEFERRED".to_owned());
    }
    let mut after = String::new();
    match identity {
        Identity::Primary | Identity::Always | Identity::Partitioned => {
            lines.push("PRIMARY KEY (k)".to_owned());
        }
        Identity::FullKeyed => {
            lines.push("PRIMARY KEY (k)".to_owned());
            after = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        }
        Identity::Composite => {
            lines.push("part text NOT NULL DEFAULT 'a'".to_owned());
            lines.push("PRIMARY KEY (part, k)".to_owned());
        }
        Identity::Index => {
            let index = format!("\"by k of {}\"", name.replace(['"', '.'], ""));
            let alter = format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index};");
            after = format!("CREATE UNIQUE INDEX {index} ON {name} (k); {alter}");
        }
        Identity::Keyless => after = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"),
        Identity::Nothing => after = format!("ALTER TABLE {name} REPLICA IDENTITY NOTHING;"),
    }
    let mut tail = String::new();
    if *identity == Identity::Partitioned {
        tail = " PARTITION BY HASH (k)".to_owned();
        for rest in 0..3 {
            let part = format!("{}_p{rest}\"", name.trim_end_matches('"'));
            after += &format!(
                "CREATE TABLE {part} PARTITION OF {name} FOR VALUES WITH (MODULUS 3, REMAINDER {rest});"
            );
        }
    } else {
        after += &format!("ALTER TABLE {name} ALTER pad SET STORAGE EXTERNAL;");
    }
    let mut ddl = format!("CREATE TABLE {name} ({}){tail};{after}\n", lines.join(", "));
    for k in 1..=random.within(0, 40) {
        ddl += &format!("{};\n", table.insert(k, random));
    }
    ddl
}

impl Table {
    /// As Kasho names it, or one of its leaves, by which a partitioned table is published.
    pub(super) fn published(&self) -> String {
        let (schema, table) = self.name.split_once('.').expect("schema.table");
        let plain = table.trim_matches('"').replace("\"\"", "\"");
        let leaf = if self.identity == Identity::Partitioned { "_p1" } else { "" };
        format!("{schema}.{}", quote_identifier(&format!("{plain}{leaf}")))
    }

    /// Whether its rows can be changed.
    pub(super) fn changes(&self) -> bool {
        self.identity != Identity::Nothing
    }

    /// An INSERT of one row.
    pub(super) fn insert(&self, k: u64, random: &mut Random) -> String {
        let (mut names, mut values) = (vec!["pad".to_owned()], vec![pad(random)]);
        if self.identity != Identity::Always {
            names.push("k".to_owned());
            values.push(k.to_string());
        }
        for (name, of) in &self.columns {
            names.push(name.clone());
            values.push(of.value(random, true));
        }
        format!("INSERT INTO {} ({}) VALUES ({})", self.name, names.join(", "), values.join(", "))
    }

    /// An INSERT of many rows, with one value in each column.
    pub(super) fn insert_many(&self, from: u64, rows: u64, random: &mut Random) -> String {
        let (mut names, mut values) = (vec!["pad".to_owned()], vec![pad(random)]);
        if self.identity != Identity::Always {
            names.push("k".to_owned());
            values.push(format!("{from} + n"));
        }
        for (name, of) in &self.columns {
            names.push(name.clone());
            // What is chosen for many rows has to be given its type.
            values.push(format!("({})::{}", of.value(random, true), of.sql));
        }
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM generate_series(1, {rows}) n ON CONFLICT DO NOTHING",
            self.name,
            names.join(", "),
            values.join(", ")
        )
    }

    /// SET for some columns; now and then for `pad`, which is stored out of line.
    pub(super) fn set(&self, random: &mut Random) -> String {
        let mut sets: Vec<String> = self
            .columns
            .iter()
            .filter(|_| random.often(500))
            .map(|(name, of)| (name, *of))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(name, of)| format!("{name} = {}", of.value(random, true)))
            .collect();
        if sets.is_empty() || random.often(150) {
            sets.push(format!("pad = {}", pad(random)));
        }
        sets.join(", ")
    }
}

/// Small, or stored out of line.
fn pad(random: &mut Random) -> String {
    let n = random.below(100);
    match random.below(4) {
        0 => "NULL".to_owned(),
        1 => format!("repeat('out of line {n} ', 400)"),
        _ => format!("'in line {n}'"),
    }
}
