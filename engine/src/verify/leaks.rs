//! `--leaks`: whether anything private is in the target.
//!
//! Of each masked column that has enough different values to tell: no row of the target may
//! hold its own source row's value, and none of many sampled values may stand in any text or
//! document of the target, whatever table that is. What is found is judged by [`judge`]: a
//! fake may equal an original by chance, and the plugins themselves say whether it does.
//!
//! What can go wrong: a value is too plain to tell anything (a first name, a date), or a
//! column has too few; these are listed as undecided, and nothing is claimed of them.

mod judge;
mod masker;
mod own;
mod search;

use std::collections::BTreeSet;
use std::sync::Arc;

use kasho_plugin_sdk::Relation;

use super::error::VerifyError;
use super::meeting::Sides;
use super::plan::{Pair, Private};
use super::report::{Leaks, Looked};
use super::session::{key, texts};
use super::{Progress, sql};
use crate::source::catalog::Catalog;
use crate::transform::Generation;

use judge::{Place, Suspect};
use masker::Masker;
use search::{Needles, telling};

/// With fewer different values an original is met by chance.
const TELLING_VALUES: u64 = 1_000;
/// Types whose values are looked for in texts.
const TEXTS: [&str; 10] =
    ["text", "varchar", "bpchar", "citext", "name", "uuid", "inet", "cidr", "macaddr", "macaddr8"];
/// Suspects of one kind that are judged.
pub(super) const MOST: usize = 1_000;

/// A masked column that is looked at.
pub(super) struct Watched<'a> {
    pub(super) pair: &'a Pair,
    pub(super) private: &'a Private,
    pub(super) looked: Looked,
    /// It has enough different values.
    pub(super) decidable: bool,
}

impl Watched<'_> {
    pub(super) fn name(&self) -> String {
        column(&self.pair.source_name, &self.private.source)
    }
}

/// `schema.table.column` for people.
pub(super) fn column(table: &str, column: &str) -> String {
    format!("{table}.{}", kasho_plugin_sdk::event::quote_identifier(column))
}

/// Looks for private values.
pub(super) async fn look(
    sides: &mut Sides,
    catalog: &Catalog,
    generation: &Arc<Generation>,
    pairs: &[Pair],
    sample: u64,
    progress: &dyn Progress,
) -> Result<Leaks, VerifyError> {
    sides.meet(progress).await?;
    let mut leaks = Leaks::default();
    let mut watched = watched(sides, pairs).await?;
    let mut suspects = own::scan(sides, &mut watched, progress, &mut leaks.more).await?;
    let mut masker = Masker::new(generation);
    let (needles, owners) = sampled(sides, catalog, &mut watched, &mut masker, sample).await?;
    let searched = Search { needles: &needles, owners: &owners, pairs, progress };
    leaks.searched = searched.all(sides, &mut suspects, &mut leaks.more).await?;
    let relation = |id: u32| catalog.relation(id);
    (leaks.found, leaks.unsettled) =
        judge::judge(sides, &mut masker, &relation, &needles, suspects, progress).await?;
    leaks.found.sort_by(|a, b| (&a.found, &a.row, a.how).cmp(&(&b.found, &b.row, b.how)));
    leaks.found.dedup();
    leaks.columns = watched.into_iter().map(|watched| watched.looked).collect();
    Ok(leaks)
}

/// The masked columns, and which of them have enough different values.
async fn watched<'a>(sides: &Sides, pairs: &'a [Pair]) -> Result<Vec<Watched<'a>>, VerifyError> {
    let mut all = Vec::new();
    for pair in pairs {
        for private in &pair.private {
            let name = sql::quoted(&private.source);
            let condition = format!("{name} IS NOT NULL");
            let statement = format!(
                "SELECT count(*) FROM (SELECT DISTINCT {name}::text FROM {}{} LIMIT {TELLING_VALUES}) v",
                pair.source,
                sql::filtered([pair.filter.as_deref(), Some(&condition)])
            );
            let doing = format!("reading {}", pair.source_name);
            let count = sides.source.value(&doing, &statement).await?;
            let values = count.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            let mut looked = Looked {
                column: column(&pair.source_name, &private.source),
                own_rows: 0,
                sampled: 0,
                undecided: Vec::new(),
            };
            let decidable = values >= TELLING_VALUES;
            if !decidable {
                let text =
                    format!("not decidable: it has {values} different values, fewer than 1,000");
                looked.undecided.push(text);
            }
            all.push(Watched { pair, private, looked, decidable });
        }
    }
    Ok(all)
}

/// Values to be looked for, and of which column each is. What the plugins make of the sampled
/// rows is left out: it may stand anywhere by right.
async fn sampled(
    sides: &Sides,
    catalog: &Catalog,
    watched: &mut [Watched<'_>],
    masker: &mut Masker,
    sample: u64,
) -> Result<(Needles, Vec<String>), VerifyError> {
    let (mut values, mut fakes) = (Vec::new(), BTreeSet::new());
    let ids: BTreeSet<u32> = watched.iter().map(|watched| watched.pair.id).collect();
    for id in ids {
        let Some(relation) = catalog.relation(id) else { continue };
        let mut own: Vec<&mut Watched<'_>> =
            watched.iter_mut().filter(|w| w.pair.id == id && w.decidable).collect();
        let texts_only = |w: &Watched<'_>| TEXTS.contains(&w.private.base.as_str());
        for watched in own.iter_mut().filter(|w| !texts_only(w)) {
            let text =
                format!("values of type {} are not looked for in texts", watched.private.base);
            watched.looked.undecided.push(text);
        }
        own.retain(|w| texts_only(w));
        let Some(pair) = own.first().map(|watched| watched.pair) else { continue };
        let statement = sample_of(sides, pair, relation, sample).await?;
        let mut plain = vec![0_u64; own.len()];
        sides
            .source
            .each(&format!("reading {}", pair.source_name), &statement, |row| {
                let all: Vec<Option<String>> = texts(row, 0..row.len()).collect();
                let left = masker.pass(relation, &all).unwrap_or_default();
                for (at, watched) in own.iter_mut().enumerate() {
                    let place = relation.column(&watched.private.source);
                    let value = place.and_then(|place| all.get(place).cloned().flatten());
                    let fake = watched.private.target.as_ref().and_then(|name| left.get(name));
                    fakes.extend(fake.cloned().flatten().filter(|fake| telling(fake.trim())));
                    match value.map(|value| value.trim().to_owned()) {
                        Some(value) if telling(&value) => {
                            values.push((value, watched.name()));
                            watched.looked.sampled += 1;
                        }
                        Some(_) => plain[at] += 1,
                        None => {}
                    }
                }
                Ok(())
            })
            .await?;
        for (watched, plain) in own.iter_mut().zip(plain).filter(|(_, plain)| *plain > 0) {
            let text = format!("{plain} values are too short or too plain to be looked for");
            watched.looked.undecided.push(text);
        }
    }
    values.retain(|(value, _)| !fakes.contains(value));
    values.sort();
    values.dedup_by(|a, b| a.0 == b.0);
    let (values, owners): (Vec<String>, Vec<String>) = values.into_iter().unzip();
    Ok((Needles::new(values), owners))
}

/// The statement that reads about so many rows, from all over the table.
async fn sample_of(
    sides: &Sides,
    pair: &Pair,
    relation: &Relation,
    sample: u64,
) -> Result<String, VerifyError> {
    let filter = sql::filtered([pair.filter.as_deref()]);
    let doing = format!("reading {}", pair.source_name);
    let count = format!("SELECT count(*) FROM {}{filter}", pair.source);
    let count = sides.source.value(&doing, &count).await?;
    let rows = count.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let names: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
    let some = match rows > sample {
        // A little more than needed, for the share is one of chance.
        true => format!(" TABLESAMPLE BERNOULLI ({})", 110.0 * sample as f64 / rows as f64),
        false => String::new(),
    };
    let some = if some.contains("BERNOULLI (1") && sample * 11 >= rows * 10 { "" } else { &some };
    Ok(format!("SELECT {} FROM {}{some}{filter} LIMIT {sample}", sql::list(&names), pair.source))
}

/// The search of the target.
struct Search<'a> {
    needles: &'a Needles,
    /// The column of each needle.
    owners: &'a [String],
    pairs: &'a [Pair],
    progress: &'a dyn Progress,
}

/// A table of the target and its columns that hold texts.
struct Searched {
    schema: String,
    table: String,
    partitioned: bool,
    /// Names, and whether each holds documents.
    columns: Vec<(String, bool)>,
}

impl Search<'_> {
    /// Searches every table; answers how many columns there were.
    async fn all(
        &self,
        sides: &Sides,
        suspects: &mut Vec<Suspect>,
        more: &mut bool,
    ) -> Result<usize, VerifyError> {
        if self.needles.is_empty() {
            return Ok(0);
        }
        let mut columns = 0;
        for table in tables(sides).await? {
            columns += table.columns.len();
            self.progress.searches(&format!("{}.{}", table.schema, table.table));
            *more |= self.one(sides, &table, suspects).await?;
        }
        Ok(columns)
    }

    async fn one(
        &self,
        sides: &Sides,
        table: &Searched,
        suspects: &mut Vec<Suspect>,
    ) -> Result<bool, VerifyError> {
        let parts = (table.schema.clone(), table.table.clone());
        let pair = self.pairs.iter().find(|pair| pair.target_parts == parts);
        let keys: Vec<&str> = pair.map(|pair| super::plan::targets(&pair.key)).unwrap_or_default();
        let named = match keys.as_slice() {
            [] => "tableoid::regclass::text || ' ' || ctid::text".to_owned(),
            keys => sql::list(keys),
        };
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
        let only = if table.partitioned { "" } else { "ONLY " };
        let (schema, name) = (sql::quoted(&table.schema), sql::quoted(&table.table));
        let statement = format!("SELECT {named}, {} FROM {only}{schema}.{name}", sql::list(&names));
        let (width, before) = (keys.len().max(1), suspects.len());
        let shown = match pair {
            Some(pair) => pair.target_name.clone(),
            None => format!("{}.{}", table.schema, table.table),
        };
        let mut more = false;
        sides
            .target
            .each(&format!("searching {shown}"), &statement, |row| {
                for (at, (name, document)) in table.columns.iter().enumerate() {
                    let Some(text) = row.get(width + at) else { continue };
                    let found = match document {
                        true => self.needles.find_in_json(text),
                        false => self.needles.find(text),
                    };
                    let Some(needle) = found else { continue };
                    if suspects.len() - before >= MOST {
                        more = true;
                        return Ok(());
                    }
                    let owner = self.owners.get(needle as usize).cloned().unwrap_or_default();
                    suspects.push(Suspect {
                        column: owner,
                        found: column(&shown, name),
                        pair: pair.cloned(),
                        row: key(row, width),
                        target_column: name.clone(),
                        document: *document,
                        place: Place::Anywhere { text: text.to_owned() },
                    });
                }
                Ok(())
            })
            .await?;
        Ok(more)
    }
}

/// Tables of the target that hold texts or documents, whoever's they are.
async fn tables(sides: &Sides) -> Result<Vec<Searched>, VerifyError> {
    let statement = "SELECT n.nspname, c.relname, c.relkind = 'p', a.attname, \
                            t.typname IN ('json', 'jsonb') \
                     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                     JOIN pg_namespace n ON n.oid = c.relnamespace \
                     JOIN pg_type t ON t.oid = a.atttypid \
                     WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition \
                       AND a.attnum > 0 AND NOT a.attisdropped \
                       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'kasho') \
                       AND n.nspname !~ '^pg_(toast|temp)' \
                       AND (t.typcategory IN ('S', 'A', 'C') \
                            OR t.typname IN ('json', 'jsonb', 'xml', 'hstore', 'tsvector')) \
                     ORDER BY 1, 2, a.attnum";
    let mut all: Vec<Searched> = Vec::new();
    sides
        .target
        .each("reading the target's columns", statement, |row| {
            let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
            let (schema, table) = (text(0), text(1));
            if all.last().is_none_or(|last| last.schema != schema || last.table != table) {
                let partitioned = text(2) == "t";
                all.push(Searched { schema, table, partitioned, columns: Vec::new() });
            }
            if let Some(last) = all.last_mut() {
                last.columns.push((text(3), text(4) == "t"));
            }
            Ok(())
        })
        .await?;
    Ok(all)
}
