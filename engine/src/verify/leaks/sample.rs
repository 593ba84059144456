//! Which masked columns have enough different values to tell, and values of them to be looked
//! for. Of a large table both look at a part of it, so that no server sorts or keeps all of
//! its values; and there are no more values than a few tens of megabytes hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use kasho_plugin_sdk::Relation;

use super::masker::Masker;
use super::search::{Gathered, Needles, telling};
use super::{Watched, column};
use crate::source::catalog::Catalog;
use crate::transform::Coverage;
use crate::verify::error::VerifyError;
use crate::verify::meeting::Sides;
use crate::verify::plan::Pair;
use crate::verify::report::Looked;
use crate::verify::session::texts;
use crate::verify::sql;

/// With fewer different values an original is met by chance.
const TELLING_VALUES: u64 = 1_000;
/// Rows in which most columns with enough different values show them.
const FIRST_ROWS: u64 = 20_000;
/// Values that are looked for, of all columns.
const MOST_VALUES: u64 = 500_000;
/// Types of a few values that read in one way, or are understood in each ([`judge::same`]).
const PLAIN: [&str; 9] =
    ["text", "varchar", "bpchar", "citext", "bool", "int2", "int4", "int8", "date"];
/// Types whose values are looked for in texts.
const TEXTS: [&str; 10] =
    ["text", "varchar", "bpchar", "citext", "name", "uuid", "inet", "cidr", "macaddr", "macaddr8"];

impl Watched {
    fn is_text(&self) -> bool {
        TEXTS.contains(&self.private.base.as_str())
    }
}

/// The masked columns, and what can be told of them. `coverage` is that of the rules in force.
pub(super) async fn watched(
    sides: &Sides,
    pairs: &[Arc<Pair>],
    coverage: &Coverage,
) -> Result<Vec<Watched>, VerifyError> {
    let mut all = Vec::new();
    let faked = coverage.faked_before();
    for pair in pairs.iter().filter(|pair| !pair.private.is_empty()) {
        let first = first_values(sides, pair).await?;
        for (private, first) in pair.private.iter().zip(first) {
            let values = match first >= TELLING_VALUES {
                true => first,
                false => all_values(sides, pair, &private.source).await?,
            };
            let telling = values >= TELLING_VALUES;
            let base = private.base.as_str();
            let few = format!("it has {values} different values, fewer than 1,000");
            let undecided = match (telling, faked.contains(&(pair.id, private.source.as_str()))) {
                (true, _) => None,
                (false, true) => Some(format!(
                    "not decidable: {few}, and rows that left before carry another fake, which may \
                     be the original (load the table again)"
                )),
                (false, false) if private.labels || PLAIN.contains(&base) => None,
                (false, false) => Some(format!("not decidable: {few}, of type {base}")),
            };
            let own = undecided.is_none();
            let elsewhere = || format!("{few}: they are not looked for elsewhere");
            let undecided = undecided.or_else(|| (!telling).then(elsewhere));
            let looked = Looked {
                column: column(&pair.source_name, &private.source),
                own_rows: 0,
                sampled: 0,
                undecided: undecided.into_iter().collect(),
            };
            let (pair, private) = (Arc::clone(pair), private.clone());
            all.push(Watched { pair, private, looked, telling, own });
        }
    }
    Ok(all)
}

/// How many different values each masked column has in some rows.
async fn first_values(sides: &Sides, pair: &Pair) -> Result<Vec<u64>, VerifyError> {
    let names: Vec<&str> = pair.private.iter().map(|private| private.source.as_str()).collect();
    let counts: Vec<String> =
        names.iter().map(|name| format!("count(DISTINCT {}::text)", sql::quoted(name))).collect();
    let statement = format!(
        "SELECT {} FROM (SELECT {} FROM {}{} LIMIT {FIRST_ROWS}) v",
        counts.join(", "),
        sql::list(&names),
        pair.source,
        sql::filtered([pair.filter.as_deref()])
    );
    let doing = format!("reading {}", pair.source_name);
    let row = sides.source.all(&doing, &statement).await?.into_iter().next().unwrap_or_default();
    let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(row.into_iter().map(number).collect())
}

/// How many different values a column has, as far as that matters.
async fn all_values(sides: &Sides, pair: &Pair, name: &str) -> Result<u64, VerifyError> {
    let name = sql::quoted(name);
    let condition = format!("{name} IS NOT NULL");
    let statement = format!(
        "SELECT count(*) FROM (SELECT DISTINCT {name}::text FROM {}{} LIMIT {TELLING_VALUES}) v",
        pair.source,
        sql::filtered([pair.filter.as_deref(), Some(&condition)])
    );
    let doing = format!("reading {}", pair.source_name);
    let count = sides.source.value(&doing, &statement).await?;
    Ok(count.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Values to be looked for, and the columns by their numbers. What the plugins make of the
/// sampled rows is left out: it may stand anywhere by right.
pub(super) async fn values(
    sides: &Sides,
    catalog: &Catalog,
    watched: &mut [Watched],
    masker: &mut Masker,
    sample: u64,
) -> Result<(Needles, Vec<String>), VerifyError> {
    let mut owners: Vec<String> = watched.iter().map(Watched::name).collect();
    owners.sort();
    let mut gathered = Gathered::default();
    let columns = watched.iter().filter(|w| w.telling && w.is_text()).count() as u64;
    let sample = sample.min(MOST_VALUES / columns.max(1)).max(1);
    let ids: BTreeSet<u32> = watched.iter().map(|watched| watched.pair.id).collect();
    for id in ids {
        let Some(relation) = catalog.relation(id) else { continue };
        let mut own: Vec<&mut Watched> =
            watched.iter_mut().filter(|w| w.pair.id == id && w.telling).collect();
        for watched in own.iter_mut().filter(|w| !w.is_text()) {
            let text =
                format!("values of type {} are not looked for in texts", watched.private.base);
            watched.looked.undecided.push(text);
        }
        own.retain(|w| w.is_text());
        let numbers: Vec<u32> = own.iter().map(|w| number(&owners, &w.name())).collect();
        of_table(sides, relation, (&mut own, &numbers), masker, sample, &mut gathered).await?;
    }
    Ok((gathered.done(), owners))
}

fn number(owners: &[String], name: &String) -> u32 {
    u32::try_from(owners.binary_search(name).unwrap_or_default()).unwrap_or_default()
}

/// The values of one table's columns, which have these numbers.
async fn of_table(
    sides: &Sides,
    relation: &Arc<Relation>,
    (own, numbers): (&mut [&mut Watched], &[u32]),
    masker: &mut Masker,
    sample: u64,
    gathered: &mut Gathered,
) -> Result<(), VerifyError> {
    let Some(pair) = own.first().map(|watched| Arc::clone(&watched.pair)) else { return Ok(()) };
    let statement = statement(sides, &pair, relation, sample).await?;
    let mut plain = vec![0_u64; own.len()];
    sides
        .source
        .each(&format!("reading {}", pair.source_name), &statement, |row| {
            let all: Vec<Option<String>> = texts(row, 0..row.len()).collect();
            let left = masker.pass(relation, &all).unwrap_or_default();
            for (at, watched) in own.iter_mut().enumerate() {
                let place = relation.column(&watched.private.source);
                let value = place.and_then(|place| all.get(place)?.as_deref());
                let fake = watched.private.target.as_ref().and_then(|name| left.get(name));
                let fake = fake.and_then(|fake| fake.as_deref()).map(str::trim);
                if let Some(fake) = fake.filter(|fake| telling(fake)) {
                    gathered.fake(fake);
                }
                match value.map(str::trim) {
                    Some(value) if telling(value) => {
                        gathered.value(value, numbers[at]);
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
    Ok(())
}

/// The statement that reads about so many rows, from all over the table.
async fn statement(
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
    // A little more than needed, for the share is one of chance.
    let percent = 110.0 * sample as f64 / rows.max(1) as f64;
    let some = match percent < 100.0 {
        true => format!(" TABLESAMPLE BERNOULLI ({percent})"),
        false => String::new(),
    };
    Ok(format!("SELECT {} FROM {}{some}{filter} LIMIT {sample}", sql::list(&names), pair.source))
}
