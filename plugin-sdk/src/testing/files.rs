//! Fixture files, run natively: the same ones that `kasho plugin test` runs in WebAssembly.

use std::path::Path;

use super::{Fixture, TestRow};
use crate::event::Relation;
use crate::fixture::{Became, FixtureFile, FixtureRow};
use crate::plugin::Plugin;

/// Runs every `*.toml` of a folder through a plugin, each row alone and all rows of a
/// table together.
///
/// # Panics
/// If a file is none, or a row becomes something else than its file says.
///
/// ```
/// use kasho_plugin_sdk::{*, testing::run_fixtures};
/// # let folder = std::env::temp_dir().join(format!("kasho-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// # let text = "tables = [\"public.users(id int8 key, name text)\"]\n[[row]]\n\
/// #             insert = { id = 1, name = \"Ada\" }\nwant = { name = \"ADA\" }\n";
/// # std::fs::write(folder.join("users.toml"), text).unwrap();
/// # struct Upper(Col);
/// # impl Plugin for Upper {
/// #     fn new(cx: &mut Setup) -> Result<Self> { Ok(Upper(cx.write("public.users.name")?)) }
/// #     fn row(&mut self, row: &mut Row) -> Verdict {
/// #         row.rewrite(self.0, |name, _| name.to_uppercase());
/// #         Verdict::Keep
/// #     }
/// # }
/// run_fixtures::<Upper>(&folder);
/// # std::fs::remove_dir_all(&folder).unwrap();
/// ```
pub fn run_fixtures<P: Plugin>(folder: impl AsRef<Path>) {
    let files = FixtureFile::read_folder(folder.as_ref()).unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|(name, file)| run::<P>(file).into_iter().map(move |w| format!("{name}:{w}")))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What is not as the file says, each with its line.
fn run<P: Plugin>(file: &FixtureFile) -> Vec<String> {
    let mut fixture = match set_up::<P>(file) {
        Ok(fixture) => fixture,
        Err(text) => {
            return match &file.refused {
                Some(want) if text.contains(want) => Vec::new(),
                Some(want) => vec![format!("1: refused: {text}, and not: {want}")],
                None => vec![format!("1: the plugin refuses: {text}")],
            };
        }
    };
    if let Some(want) = &file.refused {
        return vec![format!("1: the plugin takes it, and should have refused: {want}")];
    }
    let mut wrong = Vec::new();
    for (index, relation) in file.tables.iter().enumerate() {
        let rows: Vec<&FixtureRow> = file.rows.iter().filter(|r| r.table == index).collect();
        let sent: Vec<TestRow> = rows.iter().map(|row| test_row(row)).collect();
        let together = outcomes(&mut fixture, relation, &sent);
        for ((row, sent), together) in rows.into_iter().zip(&sent).zip(together) {
            let alone = outcomes(&mut fixture, relation, std::slice::from_ref(sent));
            if alone.first() != Some(&together) {
                wrong.push(format!(
                    "{}: among others it becomes something else than alone: rows are independent",
                    row.line
                ));
            } else if let Err(text) = row.judge(relation, &together) {
                let (op, table) = (row.op.name(), relation.qualified());
                wrong.push(format!("{}: {op} of {table}: {text}", row.line));
            }
        }
    }
    wrong
}

fn set_up<P: Plugin>(file: &FixtureFile) -> Result<Fixture<P>, String> {
    let mut fixture = Fixture::<P>::new(file.rules_json()).map_err(|e| e.to_string())?;
    for relation in &file.tables {
        fixture.relation(relation).map_err(|e| e.to_string())?;
    }
    Ok(fixture)
}

fn test_row(row: &FixtureRow) -> TestRow {
    TestRow { op: row.op, new: row.new.clone(), old: row.old.clone() }
}

fn outcomes<P: Plugin>(
    fixture: &mut Fixture<P>,
    relation: &Relation,
    rows: &[TestRow],
) -> Vec<Became> {
    match rows.is_empty() {
        true => Vec::new(),
        false => fixture.run(relation, rows).iter().map(super::Outcome::became).collect(),
    }
}
