//! Comparing source and target at one position: that the target holds what the source held,
//! apart from what the rules in force change, and that nothing private is in it.
//!
//! The source is read in one snapshot whose LSN is known; the target once the applier's
//! progress, which stands in the target, has reached that. Rows are compared by digests that
//! both servers compute; those that differ are read again until they stand still, so that a
//! row in flight is never called different. Both snapshots are held for as long as it takes,
//! which keeps dead rows of the source as a `pg_dump` does.
//!
//! What can go wrong: a server does not answer, the target does not catch up, a role may not
//! read a table. Nothing here writes to a table, and no row value is logged or put in an
//! error; keys of differing rows stand in the [`Report`] alone.

mod compare;
mod error;
mod leaks;
mod meeting;
mod plan;
mod report;
mod rules;
mod session;
mod settle;
mod sql;

use std::time::Duration;

pub use error::VerifyError;
pub use plan::Skipped;
pub use report::{Difference, How, Kind, Leak, Leaks, Looked, Report, Table};

use compare::Compared;
use meeting::{Follows, Sides};
use plan::{Planned, Standing, Target, TargetTable};
use rules::Rules;
use session::Side;

use crate::config::Config;
use crate::sink::redis::RedisConnector;
use crate::source::catalog::Catalog;
use crate::source::conninfo::Conninfo;

/// So often a table is compared that changes too fast to be looked at to its end.
const ATTEMPTS: usize = 3;
/// Differing rows of a table that are reported.
const MOST_TOLD: usize = 1_000;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Compare about so many rows of each table; all of them without it.
    pub sample: Option<u64>,
    /// Look for private values: so many of each masked column.
    pub leaks: Option<u64>,
    /// How long the target may take to reach the source's position.
    pub wait: Duration,
}

/// Whoever is told how far it is.
pub trait Progress: Sync {
    /// A table begins, of about so many rows.
    fn table(&self, name: &str, rows: u64);
    /// So many more rows are done.
    fn rows(&self, rows: u64);
    /// The target is not there yet.
    fn waits(&self, told: &str);
    /// So many rows are read again.
    fn settles(&self, rows: usize);
    /// The target is searched for private values.
    fn searches(&self, table: &str);
}

/// Compares.
///
/// # Errors
/// See [`VerifyError`]; a difference is none.
pub async fn verify(
    config: &Config,
    (source, target): (&Conninfo, &Conninfo),
    options: Options,
    progress: &dyn Progress,
) -> Result<Report, VerifyError> {
    let side = Side::connect(source, "source").await?;
    let catalog = Catalog::read(side.client(), &config.source.publications).await?;
    let rules = Rules::in_force(config, &catalog, options.leaks.is_some()).await?;
    let mut sides = Sides {
        source: side,
        target: Side::connect(target, "target").await?,
        voice: Side::connect(source, "source").await?,
        follows: None,
        wait: options.wait,
    };
    if meeting::is_applied_to(&sides.target).await? {
        let epoch = rules.epoch.ok_or_else(|| {
            VerifyError::NotComparable(
                "the target has an applier's progress, and Redis has no stream: is this its Redis \
                 (redis.url, redis.prefix)?"
                    .to_owned(),
            )
        })?;
        let (redis, consumer) = (RedisConnector::new(&config.redis), config.apply.consumer.clone());
        sides.follows = Some(Follows { redis, consumer, epoch });
    }
    let at = sides.meet(progress).await?;
    let there = target_tables(&sides.target).await?;
    let mut report = Report {
        source_lsn: at.source.to_string(),
        target_position: at.target.map(|position| position.to_string()),
        rules: rules.told.clone(),
        ..Report::default()
    };
    let mut compared = Vec::new();
    for planned in plan::plan(&catalog, &rules.coverage, &there) {
        match planned {
            Planned::Pair(pair) => {
                let both = (&sides.source, &sides.target);
                compared.push(compare::compare(both, *pair, options.sample, progress).await?);
            }
            Planned::Closed { table, reason, target } => {
                report.tables.push(closed(&sides, table, reason, target).await?);
            }
            Planned::Lacks { table, target, columns } => {
                report.tables.push(lacking(table, target, &columns));
            }
        }
    }
    report.tables.extend(unpublished(&sides.source, &catalog).await?);
    settled(&mut sides, &mut compared, options.sample, progress).await?;
    if let (Some(sample), Some(generation)) = (options.leaks, &rules.generation) {
        let pairs: Vec<_> = compared.iter().map(|compared| compared.pair.clone()).collect();
        let found = leaks::look(
            &mut sides,
            &catalog,
            (generation, &rules.coverage),
            &pairs,
            sample,
            progress,
        )
        .await?;
        report.leaks = Some(found);
    }
    report.tables.extend(compared.into_iter().map(finished));
    report.tables.sort_by(|a, b| a.table.cmp(&b.table));
    Ok(report)
}

/// Judges what was found. Where so much was changing that looking ended before the table did
/// (a TRUNCATE, a burst), the table is compared again.
async fn settled(
    sides: &mut Sides,
    compared: &mut [Compared],
    sample: Option<u64>,
    progress: &dyn Progress,
) -> Result<(), VerifyError> {
    for attempt in 1.. {
        settle::settle(sides, compared, progress).await?;
        if attempt == ATTEMPTS || !compared.iter().any(|one| one.table.unfinished) {
            break;
        }
        sides.meet(progress).await?;
        for one in compared.iter_mut().filter(|one| one.table.unfinished) {
            let both = (&sides.source, &sides.target);
            *one = compare::compare(both, one.pair.clone(), sample, progress).await?;
        }
    }
    Ok(())
}

fn finished(compared: Compared) -> Table {
    let mut table = compared.table;
    table.differences.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
    table.more |= table.differences.len() > MOST_TOLD;
    table.differences.truncate(MOST_TOLD);
    table
}

/// Tables of the source that no publication carries: nobody is to think they were looked at.
async fn unpublished(source: &Side, catalog: &Catalog) -> Result<Vec<Table>, VerifyError> {
    let ids = catalog.relations.iter().map(|relation| relation.id);
    let oids = catalog.tables.iter().map(|table| table.oid);
    let published: Vec<String> = ids.chain(oids).map(|oid| oid.to_string()).collect();
    let statement = format!(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' \
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'kasho') \
           AND n.nspname !~ '^pg_(toast|temp)' AND NOT c.oid = ANY ('{{{}}}'::oid[])",
        published.join(",")
    );
    let quote =
        |name: Option<&str>| kasho_plugin_sdk::event::quote_identifier(name.unwrap_or_default());
    let mut tables = Vec::new();
    source
        .each("reading the source's tables", &statement, |row| {
            let table = format!("{}.{}", quote(row.get(0)), quote(row.get(1)));
            let not_compared = Some("it is not published".to_owned());
            tables.push(Table { table, not_compared, ..Table::default() });
            Ok(())
        })
        .await?;
    Ok(tables)
}

/// What is said of a table that may not leave: whether it has.
async fn closed(
    sides: &Sides,
    table: String,
    reason: &str,
    target: Option<Standing>,
) -> Result<Table, VerifyError> {
    let not_compared = Some(reason.to_owned());
    let mut told = Table { table, not_compared, ..Table::default() };
    if let Some(Standing { name, from, .. }) = target {
        let statement = format!("SELECT EXISTS (SELECT FROM {from})");
        let any = sides.target.value(&format!("reading {name}"), &statement).await?;
        told.stands = any.as_deref() == Some("t");
        told.target = name;
    }
    Ok(told)
}

/// What is said of a table that has no counterpart, or not all of it.
fn lacking(table: String, target: String, columns: &[String]) -> Table {
    let lacks = match columns {
        [] => "the table".to_owned(),
        columns => format!("the columns {}", columns.join(", ")),
    };
    Table { table, target, lacks: Some(lacks), ..Table::default() }
}

async fn target_tables(target: &Side) -> Result<Target, VerifyError> {
    let mut tables = Target::new();
    let statement = "SELECT n.nspname, c.relname, c.relkind = 'p', a.attname, a.attgenerated <> '' \
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
                          AND NOT a.attisdropped \
                     WHERE c.relkind IN ('r', 'p', 'f')";
    target
        .each("reading the target's tables", statement, |row| {
            let text = |at: usize| row.get(at).unwrap_or_default();
            let name = (text(0).to_owned(), text(1).to_owned());
            let table: &mut TargetTable = tables.entry(name).or_default();
            table.partitioned = text(2) == "t";
            if let Some(column) = row.get(3) {
                table.columns.insert(column.to_owned(), text(4) == "t");
            }
            Ok(())
        })
        .await?;
    indexes(target, &mut tables).await?;
    Ok(tables)
}

async fn indexes(target: &Side, tables: &mut Target) -> Result<(), VerifyError> {
    let statement = "SELECT n.nspname, c.relname, x.indexrelid, a.attname, x.indisunique FROM pg_index x \
                     JOIN pg_class c ON c.oid = x.indrelid \
                     JOIN pg_namespace n ON n.oid = c.relnamespace \
                     JOIN pg_class i ON i.oid = x.indexrelid \
                     JOIN pg_am m ON m.oid = i.relam AND m.amname = 'btree' \
                     CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
                     LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum \
                     WHERE x.indisvalid AND x.indpred IS NULL AND k.n <= x.indnkeyatts \
                     ORDER BY x.indexrelid, k.n";
    let mut last = String::new();
    target
        .each("reading the target's indexes", statement, |row| {
            let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
            let Some(table) = tables.get_mut(&(text(0), text(1))) else { return Ok(()) };
            let index = text(2);
            if index != last {
                table.indexes.push((text(4) == "t", Vec::new()));
                last = index;
            }
            if let Some((_, columns)) = table.indexes.last_mut() {
                // An expression is no column.
                columns.push(text(3));
            }
            Ok(())
        })
        .await
}
