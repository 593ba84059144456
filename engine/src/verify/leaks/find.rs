//! The search of the target: whether a sampled value stands in any text or document, whatever
//! table that is in. Every row is read once.
//!
//! A fake may well be somebody's original: names come from a small world. What the plugins
//! give of the same row of the source is sorted out on the way, some rows at a time; only what
//! they do not explain is a suspect.

use std::collections::HashMap;
use std::sync::Arc;

use super::judge::{Place, Suspect, explain};
use super::masker::{Left, Masker};
use super::search::Needles;
use super::{MOST, column};
use crate::source::catalog::Catalog;
use crate::verify::compare::{KEYS_AT_ONCE, Lookup, halves};
use crate::verify::error::VerifyError;
use crate::verify::meeting::Sides;
use crate::verify::plan::{Pair, targets};
use crate::verify::session::{key, texts};
use crate::verify::{Progress, sql};

/// Different texts of a table without key that are held until the source's rows are passed
/// through the plugins.
const MOST_TEXTS: usize = 100_000;

/// What is looked for, and where.
pub(super) struct Search<'a> {
    pub(super) needles: &'a Needles,
    /// The columns whose values they are, by their numbers.
    pub(super) owners: &'a [String],
    pub(super) pairs: &'a [Arc<Pair>],
    pub(super) catalog: &'a Catalog,
}

/// A table of the target and its columns that hold texts.
struct Searched {
    schema: String,
    table: String,
    partitioned: bool,
    /// Names, and whether each holds documents.
    columns: Vec<(String, bool)>,
}

/// A private value in a text.
struct Hit {
    /// The column's place.
    at: usize,
    owner: u32,
    text: u64,
    row: Vec<String>,
}

/// One table while it is searched.
struct Table<'a> {
    search: &'a Search<'a>,
    searched: &'a Searched,
    pair: Option<&'a Arc<Pair>>,
    /// For people.
    shown: String,
    suspects: Vec<Suspect>,
    /// Suspects of each column.
    found: Vec<usize>,
    more: bool,
}

impl Search<'_> {
    /// Searches every table; answers with the suspects, how many columns there were, and
    /// whether there are more.
    pub(super) async fn all(
        &self,
        sides: &Sides,
        masker: &mut Masker,
        progress: &dyn Progress,
    ) -> Result<(Vec<Suspect>, usize, bool), VerifyError> {
        let (mut suspects, mut columns, mut more) = (Vec::new(), 0, false);
        if self.needles.is_empty() {
            return Ok((suspects, columns, more));
        }
        for searched in tables(sides).await? {
            columns += searched.columns.len();
            progress.searches(&format!("{}.{}", searched.schema, searched.table));
            let mut table = Table::new(self, &searched);
            match table.pair {
                Some(pair) if !pair.key.is_empty() => table.keyed(sides, pair, masker).await?,
                Some(pair) => table.nameless(sides, pair, masker).await?,
                None => table.strange(sides).await?,
            }
            suspects.append(&mut table.suspects);
            more |= table.more;
        }
        Ok((suspects, columns, more))
    }
}

impl<'a> Table<'a> {
    fn new(search: &'a Search<'a>, searched: &'a Searched) -> Table<'a> {
        let is_it = |pair: &&Arc<Pair>| {
            (&pair.target_parts.0, &pair.target_parts.1) == (&searched.schema, &searched.table)
        };
        let pair = search.pairs.iter().find(is_it);
        let shown = match pair {
            Some(pair) => pair.target_name.clone(),
            None => format!("{}.{}", searched.schema, searched.table),
        };
        let found = vec![0; searched.columns.len()];
        Table { search, searched, pair, shown, suspects: Vec::new(), found, more: false }
    }

    /// The statement that reads it, and how many columns name a row.
    fn statement(&self) -> (String, usize) {
        let keys = self.pair.map(|pair| targets(&pair.key)).unwrap_or_default();
        let named = match keys.as_slice() {
            [] => "tableoid::regclass::text || ' ' || ctid::text".to_owned(),
            keys => sql::list(keys),
        };
        let names: Vec<&str> =
            self.searched.columns.iter().map(|(name, _)| name.as_str()).collect();
        let only = if self.searched.partitioned { "" } else { "ONLY " };
        let (schema, name) =
            (sql::quoted(&self.searched.schema), sql::quoted(&self.searched.table));
        let statement = format!("SELECT {named}, {} FROM {only}{schema}.{name}", sql::list(&names));
        (statement, keys.len().max(1))
    }

    fn doing(&self) -> String {
        format!("searching {}", self.shown)
    }

    /// The private values in a row.
    fn hits(&self, row: &tokio_postgres::SimpleQueryRow, width: usize, hits: &mut Vec<Hit>) {
        let needles = self.search.needles;
        for (at, (_, document)) in self.searched.columns.iter().enumerate() {
            let Some(text) = row.get(width + at) else { continue };
            let found = match document {
                true => needles.find_in_json(text),
                false => needles.find(text),
            };
            if let Some(owner) = found {
                let (row, text) = (key(row, 0..width), needles.digest(text));
                hits.push(Hit { at, owner, text, row });
            }
        }
    }

    /// A value stands there that nothing explains.
    fn suspect(&mut self, hit: Hit) {
        let Some(found) = self.found.get_mut(hit.at) else { return };
        if *found >= MOST {
            self.more = true;
            return;
        }
        *found += 1;
        let (name, document) = &self.searched.columns[hit.at];
        self.suspects.push(Suspect {
            column: self.search.owners.get(hit.owner as usize).cloned().unwrap_or_default(),
            found: column(&self.shown, name),
            pair: self.pair.cloned(),
            row: hit.row,
            target_column: name.clone(),
            document: *document,
            telling: true,
            place: Place::Anywhere { text: hit.text },
        });
    }

    /// Whether a plugin gives that text there. What nothing rewrites is not theirs.
    fn is_given(&self, hit: &Hit, left: Option<&Left>) -> bool {
        let name = &self.searched.columns[hit.at].0;
        let given = left.and_then(|left| left.get(name)?.as_deref());
        !self.passes(name) && given.is_some_and(|g| self.search.needles.digest(g) == hit.text)
    }

    fn passes(&self, name: &str) -> bool {
        self.pair.is_some_and(|pair| pair.columns.iter().any(|column| column.target == name))
    }

    /// A table of nobody's: there is no right to stand in it.
    async fn strange(&mut self, sides: &Sides) -> Result<(), VerifyError> {
        let (statement, width) = self.statement();
        let mut rows = sides.target.rows(&self.doing(), &statement).await?;
        let mut hits = Vec::new();
        while let Some(row) = rows.next().await? {
            self.hits(&row, width, &mut hits);
            hits.drain(..).for_each(|hit| self.suspect(hit));
        }
        Ok(())
    }

    /// A table whose rows are found in the source.
    async fn keyed(
        &mut self,
        sides: &Sides,
        pair: &Arc<Pair>,
        masker: &mut Masker,
    ) -> Result<(), VerifyError> {
        let (source, _) = halves(pair, &sides.source, &sides.target);
        let lookup = Lookup::new(source, pair).await?;
        let (statement, width) = self.statement();
        let mut rows = sides.target.rows(&self.doing(), &statement).await?;
        let mut hits = Vec::new();
        while let Some(row) = rows.next().await? {
            self.hits(&row, width, &mut hits);
            if hits.len() >= KEYS_AT_ONCE {
                self.sift(pair, &lookup, masker, std::mem::take(&mut hits)).await?;
            }
        }
        self.sift(pair, &lookup, masker, hits).await
    }

    async fn sift(
        &mut self,
        pair: &Pair,
        lookup: &Lookup<'_>,
        masker: &mut Masker,
        hits: Vec<Hit>,
    ) -> Result<(), VerifyError> {
        let Some(relation) = self.search.catalog.relation(pair.id) else { return Ok(()) };
        let mut left: HashMap<Vec<String>, Vec<Hit>> = HashMap::new();
        for hit in hits {
            left.entry(hit.row.clone()).or_default().push(hit);
        }
        let keys: Vec<Vec<String>> = left.keys().cloned().collect();
        if !keys.is_empty() {
            let names: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
            let mut rows = lookup.rows(&sql::list(&names), &keys).await?;
            while let Some(row) = rows.next().await? {
                let values: Vec<Option<String>> = texts(&row, 0..row.len()).collect();
                let value = |name: &&str| values.get(relation.column(name)?).cloned().flatten();
                let named = lookup.half.key.iter().map(|name| value(name).unwrap_or_default());
                let key: Vec<String> = named.collect();
                let given = masker.pass(relation, &values);
                if let Some(hits) = left.get_mut(&key) {
                    hits.retain(|hit| !self.is_given(hit, given.as_ref()));
                }
            }
        }
        left.into_values().flatten().for_each(|hit| self.suspect(hit));
        Ok(())
    }

    /// A table whose rows have no name in the source: all of its rows are passed through the
    /// plugins, if there is anything to explain. Rows with the same text are told as one.
    async fn nameless(
        &mut self,
        sides: &Sides,
        pair: &Arc<Pair>,
        masker: &mut Masker,
    ) -> Result<(), VerifyError> {
        let (statement, width) = self.statement();
        let mut rows = sides.target.rows(&self.doing(), &statement).await?;
        let mut texts: HashMap<(usize, u64), Hit> = HashMap::new();
        let mut hits = Vec::new();
        while let Some(row) = rows.next().await? {
            self.hits(&row, width, &mut hits);
            for hit in hits.drain(..) {
                match texts.len() < MOST_TEXTS {
                    true => drop(texts.entry((hit.at, hit.text)).or_insert(hit)),
                    false => self.more |= !texts.contains_key(&(hit.at, hit.text)),
                }
            }
        }
        let relation = self.search.catalog.relation(pair.id);
        if let Some(relation) = relation.filter(|_| !texts.is_empty()) {
            let places: HashMap<&str, usize> = self
                .searched
                .columns
                .iter()
                .enumerate()
                .filter(|(_, (name, _))| !self.passes(name))
                .map(|(at, (name, _))| (name.as_str(), at))
                .collect();
            let needles = self.search.needles;
            explain(sides, pair, relation, masker, &mut |column, text| {
                if let Some(at) = places.get(column.as_str()) {
                    texts.remove(&(*at, needles.digest(&text)));
                }
            })
            .await?;
        }
        texts.into_values().for_each(|hit| self.suspect(hit));
        Ok(())
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
