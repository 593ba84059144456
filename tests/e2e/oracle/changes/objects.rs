//! Statements about what stands around tables: constraints, indexes, labels, schemas, views,
//! sequences, triggers.

use super::{Scene, a_column, add_column, create_table};
use crate::oracle::changing::Object;
use crate::oracle::random::Random;
use crate::oracle::schema::{Identity, Table};

pub(super) fn schema_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(schema, _)| schema)
}

pub(super) fn constraint(scene: &mut Scene, random: &mut Random) -> String {
    let known = scene.pick(random, |object| matches!(object, Object::Constraint(..)));
    if let (Some((number, Object::Constraint(of, name))), true) = (known, random.often(500)) {
        let Some(Object::Table(table)) = scene.objects.get(&of).cloned() else {
            scene.remove(number);
            return add_column(scene, random);
        };
        let head = format!("ALTER TABLE {}", table.name);
        return match random.below(3) {
            0 => format!("{head} VALIDATE CONSTRAINT {name}"),
            1 => {
                let new = format!("\"con {}\"", scene.number());
                scene.set(number, Object::Constraint(of, new.clone()));
                format!("{head} RENAME CONSTRAINT {name} TO {new}")
            }
            _ => {
                scene.remove(number);
                format!("{head} DROP CONSTRAINT {name}{}", random.one(&["", " CASCADE"]))
            }
        };
    }
    let (of, table) = scene.table(random);
    let name = format!("\"con_{}\"", scene.number());
    // A target has no rows of a table that is put off, for a foreign key to look at.
    let what = match random.below(if scene.loading { 5 } else { 7 }) {
        0 => "CHECK (k > -5000000)".to_owned(),
        1 => "CHECK (pad IS NULL OR length(pad) < 100000) NOT VALID".to_owned(),
        2 => "UNIQUE (k)".to_owned(),
        3 => "UNIQUE (k) DEFERRABLE INITIALLY DEFERRED".to_owned(),
        4 => "EXCLUDE USING btree (k WITH =)".to_owned(),
        more => {
            let (_, other) = scene.table(random);
            let more = if more == 5 { "ON DELETE CASCADE NOT VALID" } else { "ON UPDATE CASCADE" };
            format!("FOREIGN KEY (k) REFERENCES {} (k) {more}", other.name)
        }
    };
    scene.add(Object::Constraint(of, name.clone()));
    format!("ALTER TABLE {} ADD CONSTRAINT {name} {what}", table.name)
}

pub(super) fn index(scene: &mut Scene, random: &mut Random) -> String {
    let known = scene.pick(random, |object| matches!(object, Object::Index(_)));
    if let (Some((number, Object::Index(name))), true) = (known, random.often(600)) {
        if random.often(500) {
            let new = format!("\"ix \"\"{}\"", scene.number());
            scene.set(number, Object::Index(format!("{}.{new}", schema_of(&name))));
            return format!("ALTER INDEX {name} RENAME TO {new}");
        }
        scene.remove(number);
        return format!("DROP INDEX {name}");
    }
    if scene.others_index {
        return super::add_column(scene, random);
    }
    let (_, table) = scene.table(random);
    let column = a_column(&table, random).map(|at| table.columns[at].0.clone());
    let column = column.unwrap_or_else(|| "k".to_owned());
    let (unique, what) = match random.below(6) {
        0 => ("", "(k) INCLUDE (pad)".to_owned()),
        1 => ("", "(left(pad, 20) text_pattern_ops, k DESC NULLS LAST)".to_owned()),
        2 => ("", "USING hash (k)".to_owned()),
        3 => ("", format!("({column}) WHERE k > 5 AND pad <> 'a;b'")),
        4 => ("UNIQUE ", format!("(k, {column})")),
        _ => ("", format!("({column})")),
    };
    let name = match random.often(200) {
        // The server makes one up.
        true => String::new(),
        false => {
            let plain = format!("\"ix_{}\"", scene.number());
            scene.add(Object::Index(format!("{}.{plain}", schema_of(&table.name))));
            format!("{plain} ")
        }
    };
    format!("CREATE {unique}INDEX {name}ON {} {what}", table.name)
}

/// Labels of the enum that the seed declares, and its domain's constraints.
pub(super) fn label(scene: &mut Scene, random: &mut Random) -> String {
    let schema = scene.schema.clone();
    let known = scene.pick(random, |object| matches!(object, Object::Label(_)));
    let new = format!("it''s {}", scene.number());
    match (random.below(5), known) {
        (0, _) => format!(
            "ALTER DOMAIN {schema}.short ADD CONSTRAINT \"d_{}\" CHECK (value <> 'never')",
            scene.number()
        ),
        (1, _) => {
            let name = scene.name("type", random);
            format!("CREATE TYPE {name} AS ENUM ('a;b', 'c'); ALTER TYPE {name} ADD VALUE 'd'")
        }
        (2 | 3, Some((number, Object::Label(old)))) => {
            scene.set(number, Object::Label(new.clone()));
            format!("ALTER TYPE {schema}.mood RENAME VALUE '{old}' TO '{new}'")
        }
        _ => {
            scene.add(Object::Label(new.clone()));
            let place = random.one(&["", " BEFORE 'sad'", " AFTER 'it''s'"]);
            format!("ALTER TYPE {schema}.mood ADD VALUE '{new}'{place}")
        }
    }
}

/// Schemas beside the seed's own.
pub(super) fn schema(scene: &mut Scene, random: &mut Random) -> String {
    let known = scene.pick(random, |object| matches!(object, Object::Schema(_)));
    let number = scene.number();
    let new = format!("{}_more_{number}", scene.schema);
    if let (Some((number, Object::Schema(old))), true) = (&known, random.often(500))
        && !scene.is_named_elsewhere(old)
    {
        return rename_schema(scene, random, *number, old);
    }
    let Some((number, Object::Schema(old))) = known.filter(|_| random.often(250)) else {
        scene.add(Object::Schema(new.clone()));
        if random.often(500) {
            return format!("CREATE SCHEMA {new}");
        }
        let table = Table {
            name: format!("{new}.\"first\""),
            identity: Identity::Primary,
            columns: Vec::new(),
            shifts: false,
        };
        scene.add(Object::Table(table));
        return format!(
            "CREATE SCHEMA {new} CREATE TABLE \"first\" (k int PRIMARY KEY, pad text) \
             CREATE INDEX ON \"first\" (pad)"
        );
    };
    let inside = |name: &str| schema_of(name) == old;
    let objects = scene.objects.clone();
    let kept = |object: &Object| matches!(object, Object::Table(table) if !inside(&table.name));
    if !objects.values().any(kept) {
        return create_table(scene, random);
    }
    for (number, object) in objects {
        let gone = match &object {
            Object::Table(table) => inside(&table.name),
            Object::Index(name) | Object::View(name, _) | Object::Sequence(name) => inside(name),
            _ => false,
        };
        if gone {
            scene.remove(number);
        }
    }
    scene.remove(number);
    format!("DROP SCHEMA {old} CASCADE")
}

/// To a new name, or to that of another one, which gets its own.
fn rename_schema(scene: &mut Scene, random: &mut Random, number: u64, old: &str) -> String {
    let at = scene.number();
    let new = format!("{}_more_{at}", scene.schema);
    let other = scene.pick(random, |o| matches!(o, Object::Schema(name) if name != old));
    let (mut names, mut sql) = (vec![(old.to_owned(), new.clone())], String::new());
    match other {
        Some((_, Object::Schema(other)))
            if random.often(500) && !scene.is_named_elsewhere(&other) =>
        {
            sql = format!(
                "ALTER SCHEMA {other} RENAME TO {old}; ALTER SCHEMA {new} RENAME TO {other}"
            );
            names = vec![(old.to_owned(), other.clone()), (other, old.to_owned())];
        }
        _ => scene.set(number, Object::Schema(new.clone())),
    }
    for (at, object) in scene.objects.clone() {
        let moved = |name: &str| {
            let (_, to) = names.iter().find(|(from, _)| from == schema_of(name))?;
            Some(format!("{to}{}", &name[schema_of(name).len()..]))
        };
        let moved = match object {
            Object::Table(table) => {
                moved(&table.name).map(|name| Object::Table(Table { name, ..table }))
            }
            Object::Index(name) => moved(&name).map(Object::Index),
            Object::View(name, kind) => moved(&name).map(|name| Object::View(name, kind)),
            Object::Sequence(name) => moved(&name).map(Object::Sequence),
            Object::Constraint(..) | Object::Label(_) | Object::Schema(_) => None,
        };
        if let Some(moved) = moved {
            scene.set(at, moved);
        }
    }
    let first = format!("ALTER SCHEMA {old} RENAME TO {new}");
    if sql.is_empty() { first } else { format!("{first}; {sql}") }
}

pub(super) fn view(scene: &mut Scene, random: &mut Random) -> String {
    let known = scene.pick(random, |object| matches!(object, Object::View(..)));
    if let (Some((number, Object::View(name, materialized))), true) = (known, random.often(500)) {
        let kind = if materialized { "MATERIALIZED VIEW" } else { "VIEW" };
        return match random.below(3) {
            0 => {
                let new = format!("\"v {}\"", scene.number());
                let moved = format!("{}.{new}", schema_of(&name));
                scene.set(number, Object::View(moved, materialized));
                format!("ALTER {kind} {name} RENAME TO {new}")
            }
            1 if materialized => format!("REFRESH MATERIALIZED VIEW {name}"),
            _ => {
                scene.remove(number);
                format!("DROP {kind} {name}")
            }
        };
    }
    let (_, table) = scene.table(random);
    let (name, materialized) = (scene.name("view", random), random.often(400));
    scene.add(Object::View(name.clone(), materialized));
    let query = format!("SELECT k, pad || '; ' AS \"P\" FROM {}", table.name);
    match materialized {
        true => format!("CREATE MATERIALIZED VIEW {name} AS {query} WHERE k > 3"),
        false => format!("CREATE OR REPLACE VIEW {name} AS {query}"),
    }
}

pub(super) fn sequence(scene: &mut Scene, random: &mut Random) -> String {
    let known = scene.pick(random, |object| matches!(object, Object::Sequence(_)));
    match (random.below(4), known) {
        (0, Some((number, Object::Sequence(name)))) => {
            scene.remove(number);
            format!("DROP SEQUENCE {name}")
        }
        (1, Some((_, Object::Sequence(name)))) => {
            format!("ALTER SEQUENCE {name} INCREMENT BY 3 MAXVALUE 5000 CYCLE")
        }
        (2, Some((_, Object::Sequence(name)))) => {
            let (_, table) = scene.table(random);
            format!("ALTER SEQUENCE {name} OWNED BY {}.pad", table.name)
        }
        _ => {
            let name = scene.name("seq", random);
            scene.add(Object::Sequence(name.clone()));
            format!("CREATE SEQUENCE {name} AS int START 7")
        }
    }
}

/// One that makes a row another one: the target gets that, and must not do it again.
pub(super) fn trigger(scene: &mut Scene, random: &mut Random) -> String {
    let (_, table) = scene.table(random);
    let name = scene.name("touch", random);
    let (at, body) = (scene.number(), "NEW.pad := coalesce(NEW.pad, '') || '+'; RETURN NEW;");
    format!(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$; \
         CREATE TRIGGER \"touch_{at}\" BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION {name}()",
        table.name
    )
}
