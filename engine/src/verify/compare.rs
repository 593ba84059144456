//! Comparing one table in two snapshots: digests of parts first, rows only of parts that
//! differ. Parts are ranges of the key where its order is the same on both servers, else
//! buckets of its digest, so that no server's collation matters.
//!
//! Of a table every row is read once, and of the parts that differ a second time: never the
//! whole of it for each of them. Memory holds the digests of parts and the keys of suspects,
//! however many rows there are. What is found are candidates: a row that is changing differs,
//! too, and [`super::settle`] tells the two apart.

mod rows;

use std::collections::HashMap;

use tokio_postgres::SimpleQueryRow;

use super::error::VerifyError;
use super::plan::{Pair, Pairing, sources, targets};
use super::report::{Kind, Table};
use super::session::{Side, key};
use super::{Progress, sql};

pub(super) use rows::{KEYS_AT_ONCE, Lookup};

/// Rows of a range, and of a bucket about.
const RANGE_ROWS: u64 = 16_384;
const BUCKET_ROWS: u64 = 4_096;
const MOST_BUCKETS: u64 = 65_536;
/// Rows of buckets that differ are read in so many passes over the table, of so many rows
/// each: most differences are in a few buckets, and a table that differs everywhere has shown
/// enough of it by then.
const PASSES: [u64; 4] = [1 << 17, 1 << 20, 1 << 23, 1 << 23];
/// Suspects of a table that are looked at: as many as may change while the target catches up.
const MOST: usize = 10_000;

/// A row that differs in these two snapshots, or a number of rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The row with this key.
    Key(Vec<String>),
    /// The copies of a row without key, by its digest.
    Copies(String),
    /// All rows of the table, counted.
    Count,
}

/// A table, what was found of it, and what has to be looked at again.
pub(super) struct Compared {
    pub(super) pair: Pair,
    pub(super) table: Table,
    pub(super) candidates: Vec<Subject>,
}

/// One side of a comparison, with this side's names.
pub(super) struct Half<'a> {
    pub(super) side: &'a Side,
    /// As in FROM.
    pub(super) from: &'a str,
    pub(super) filter: Option<&'a str>,
    pub(super) key: Vec<&'a str>,
    pub(super) columns: Vec<&'a str>,
    /// For errors.
    pub(super) doing: String,
}

/// Both halves.
pub(super) fn halves<'a>(
    pair: &'a Pair,
    source: &'a Side,
    target: &'a Side,
) -> (Half<'a>, Half<'a>) {
    let half =
        |side: &'a Side, names: fn(&[Pairing]) -> Vec<&str>, from, filter, name: &str| Half {
            side,
            from,
            filter,
            key: names(&pair.key),
            columns: names(&pair.columns),
            doing: format!("reading {name}"),
        };
    let filter = pair.filter.as_deref();
    (
        half(source, sources, &pair.source, filter, &pair.source_name),
        half(target, targets, &pair.target, None, &pair.target_name),
    )
}

impl Half<'_> {
    /// ` FROM … WHERE …`.
    pub(super) fn rows(&self, condition: Option<&str>) -> String {
        format!(" FROM {}{}", self.from, sql::filtered([self.filter, condition]))
    }

    /// How many rows there are, and the sum of their digests.
    async fn sum(&self, condition: Option<&str>) -> Result<Sum, VerifyError> {
        let statement = format!(
            "SELECT count(*), coalesce(sum({}), 0){}",
            sql::summand(&self.columns),
            self.rows(condition)
        );
        let mut sum = Sum::default();
        self.side
            .each(&self.doing, &statement, |row| {
                sum = Sum::of(row.get(0), row.get(1));
                Ok(())
            })
            .await?;
        Ok(sum)
    }

    /// The same of each bucket.
    async fn sums(
        &self,
        bucket: &str,
        condition: Option<&str>,
    ) -> Result<HashMap<u64, Sum>, VerifyError> {
        let statement = format!(
            "SELECT {bucket}, count(*), sum({}){} GROUP BY 1",
            sql::summand(&self.columns),
            self.rows(condition)
        );
        let mut sums = HashMap::new();
        self.side
            .each(&self.doing, &statement, |row| {
                let bucket = row.get(0).and_then(|text| text.parse().ok()).unwrap_or_default();
                sums.insert(bucket, Sum::of(row.get(1), row.get(2)));
                Ok(())
            })
            .await?;
        Ok(sums)
    }

    pub(super) async fn count(&self) -> Result<u64, VerifyError> {
        let statement = format!("SELECT count(*){}", self.rows(None));
        let count = self.side.value(&self.doing, &statement).await?;
        Ok(count.and_then(|text| text.parse().ok()).unwrap_or_default())
    }

    /// The key of the last row of a range, unless it is the last range.
    pub(super) async fn boundary(
        &self,
        after: Option<&[String]>,
        rows: u64,
    ) -> Result<Option<Vec<String>>, VerifyError> {
        let names = sql::list(&self.key);
        let statement = format!(
            "SELECT {names}{} ORDER BY {names} OFFSET {} LIMIT 1",
            self.rows(sql::range(&self.key, after, None).as_deref()),
            rows - 1
        );
        let (mut found, columns) = (None, self.key.len());
        let each = |row: &SimpleQueryRow| {
            found = Some(key(row, 0..columns));
            Ok(())
        };
        self.side.each(&self.doing, &statement, each).await?;
        Ok(found)
    }

    /// The columns of a row by which buckets are made.
    pub(super) fn named_by(&self) -> &[&str] {
        if self.key.is_empty() { &self.columns } else { &self.key }
    }
}

/// Rows and the sum of their digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    digests: String,
}

impl Sum {
    fn of(rows: Option<&str>, digests: Option<&str>) -> Sum {
        let rows = rows.and_then(|text| text.parse().ok()).unwrap_or_default();
        Sum { rows, digests: digests.unwrap_or("0").to_owned() }
    }
}

/// Which parts are compared.
#[derive(Clone, Copy)]
struct Chosen {
    /// Every so many of them.
    every: u64,
    phase: u64,
    range_rows: u64,
    bucket_rows: u64,
}

impl Chosen {
    fn all() -> Chosen {
        Chosen { every: 1, phase: 0, range_rows: RANGE_ROWS, bucket_rows: BUCKET_ROWS }
    }

    /// About `sample` of so many `rows`.
    fn sample(sample: u64, rows: u64) -> Chosen {
        let every = (rows / sample.max(1)).max(1);
        let part = (sample / 8).max(1);
        let (range_rows, bucket_rows) = (part.min(RANGE_ROWS), part.min(BUCKET_ROWS));
        // What is chosen is another part each time, and need not be a secret.
        let phase = getrandom::u64().unwrap_or_default() % every;
        Chosen { every, phase, range_rows, bucket_rows }
    }

    /// The same of no more than so many parts: one is always taken.
    fn within(self, parts: u64) -> Chosen {
        let every = self.every.min(parts.max(1));
        Chosen { every, phase: self.phase % every, ..self }
    }

    fn takes(&self, part: u64) -> bool {
        part % self.every == self.phase
    }

    /// The same as a condition on the number of a part, if not all are taken.
    fn condition(&self, part: &str) -> Option<String> {
        (self.every > 1).then(|| format!("({part}) % {} = {}", self.every, self.phase))
    }
}

/// Compares a table.
pub(super) async fn compare(
    (source, target): (&Side, &Side),
    pair: Pair,
    sample: Option<u64>,
    progress: &dyn Progress,
) -> Result<Compared, VerifyError> {
    let table = Table {
        table: pair.source_name.clone(),
        target: pair.target_name.clone(),
        columns: sources(&pair.columns).into_iter().map(str::to_owned).collect(),
        skipped: pair.skipped.clone(),
        key: sources(&pair.key).into_iter().map(str::to_owned).collect(),
        filtered: pair.fewer,
        ..Table::default()
    };
    let mut compared = Compared { pair: pair.clone(), table, candidates: Vec::new() };
    let (source, target) = halves(&pair, source, target);
    let mut chosen = Chosen::all();
    if let Some(sample) = sample {
        let (here, there) = tokio::try_join!(source.count(), target.count())?;
        chosen = Chosen::sample(sample, here);
        (compared.table.source_rows, compared.table.target_rows) = (here, there);
        if chosen.every > 1 && differ(&pair, here, there) {
            compared.candidates.push(Subject::Count);
        }
    }
    progress.table(&pair.source_name, pair.rows_estimated);
    let counted = chosen.every > 1;
    let mut work = Work { source, target, compared: &mut compared, counted, progress };
    match (pair.ordered, pair.fewer) {
        (true, _) => work.by_ranges(chosen).await?,
        (false, false) => work.by_buckets(chosen).await?,
        (false, true) if pair.key.is_empty() => work.by_copies(chosen).await?,
        (false, true) => work.by_keys(chosen).await?,
    }
    // Whatever hides a row from what is above does not hide it from being counted.
    let (here, there) = (compared.table.source_rows, compared.table.target_rows);
    if compared.candidates.is_empty() && differ(&pair, here, there) {
        compared.candidates.push(Subject::Count);
    }
    Ok(compared)
}

/// Whether numbers of rows are not what they should be.
pub(super) fn differ(pair: &Pair, source: u64, target: u64) -> bool {
    if pair.fewer { target > source } else { target != source }
}

struct Work<'a> {
    source: Half<'a>,
    target: Half<'a>,
    compared: &'a mut Compared,
    /// The table's rows are counted already.
    counted: bool,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    async fn by_ranges(&mut self, chosen: Chosen) -> Result<(), VerifyError> {
        let (mut after, mut number): (Option<Vec<String>>, u64) = (None, 0);
        loop {
            let through = self.source.boundary(after.as_deref(), chosen.range_rows).await?;
            if chosen.takes(number) && !self.compared.table.more {
                let (low, high) = (after.as_deref(), through.as_deref());
                let here = sql::range(&self.source.key, low, high);
                let there = sql::range(&self.target.key, low, high);
                self.range(here.as_deref(), there.as_deref()).await?;
            }
            number += 1;
            match through {
                Some(through) => after = Some(through),
                None => return Ok(()),
            }
            if self.compared.table.more {
                return self.count_rest().await;
            }
        }
    }

    async fn range(&mut self, here: Option<&str>, there: Option<&str>) -> Result<(), VerifyError> {
        if !self.compared.pair.fewer {
            let (source, target) = tokio::try_join!(self.source.sum(here), self.target.sum(there))?;
            self.count(source.rows, target.rows);
            if source == target {
                return Ok(());
            }
            return self.rows(here, there).await.map(drop);
        }
        let (source, target) = self.rows(here, there).await?;
        self.count(source, target);
        Ok(())
    }

    fn count(&mut self, source: u64, target: u64) {
        let table = &mut self.compared.table;
        table.compared_rows += source;
        if !self.counted {
            table.source_rows += source;
            table.target_rows += target;
        }
        self.progress.rows(source);
    }

    /// The rest is not compared, but counted.
    async fn count_rest(&mut self) -> Result<(), VerifyError> {
        if !self.counted {
            let counts = tokio::try_join!(self.source.count(), self.target.count())?;
            (self.compared.table.source_rows, self.compared.table.target_rows) = counts;
        }
        Ok(())
    }

    /// Compares the rows of a part, and says how many there are.
    async fn rows(
        &mut self,
        here: Option<&str>,
        there: Option<&str>,
    ) -> Result<(u64, u64), VerifyError> {
        rows::merge((&self.source, &self.target), (here, there), self.compared).await
    }

    /// Rules may remove rows, so that no digest of a part says anything: the rows that are in
    /// the target are looked up in the source.
    async fn by_keys(&mut self, chosen: Chosen) -> Result<(), VerifyError> {
        let some = chosen.condition(&sql::bucket(&self.target.key, u64::from(u32::MAX)));
        let pair = self.compared.pair.clone();
        let (source, _) = halves(&pair, self.source.side, self.target.side);
        let rows = rows::look_up(source, &self.target, some.as_deref(), self.compared).await?;
        self.progress.rows(rows);
        if !pair.unique {
            rows::twice(&self.target, some.as_deref(), self.compared).await?;
        }
        self.count_rest().await?;
        let table = &mut self.compared.table;
        // What the target lacks by right is looked at with that.
        table.compared_rows = if self.counted { rows } else { table.source_rows };
        Ok(())
    }

    /// The same of rows without key, whose copies are counted on both sides.
    async fn by_copies(&mut self, chosen: Chosen) -> Result<(), VerifyError> {
        let some =
            |half: &Half<'_>| chosen.condition(&sql::bucket(&half.columns, u64::from(u32::MAX)));
        let (here, there) = (some(&self.source), some(&self.target));
        let (source, target) = self.rows(here.as_deref(), there.as_deref()).await?;
        self.count(source, target);
        Ok(())
    }

    async fn by_buckets(&mut self, chosen: Chosen) -> Result<(), VerifyError> {
        let rows = match self.counted {
            true => self.compared.table.source_rows,
            // What the planner believes of a table that was never analysed is nothing.
            false => self.source.count().await?,
        };
        let of = (rows / chosen.bucket_rows.max(1)).clamp(1, MOST_BUCKETS);
        let chosen = chosen.within(of);
        let (here, there) =
            (sql::bucket(self.source.named_by(), of), sql::bucket(self.target.named_by(), of));
        let (some, others) = (chosen.condition(&here), chosen.condition(&there));
        let (source, target) = tokio::try_join!(
            self.source.sums(&here, some.as_deref()),
            self.target.sums(&there, others.as_deref())
        )?;
        let mut differing = Vec::new();
        for bucket in (0..of).filter(|bucket| chosen.takes(*bucket)) {
            let none = Sum { rows: 0, digests: "0".to_owned() };
            let (own, other) =
                (source.get(&bucket).unwrap_or(&none), target.get(&bucket).unwrap_or(&none));
            self.count(own.rows, other.rows);
            if own != other {
                differing.push((bucket, own.rows + other.rows));
            }
        }
        drop((source, target));
        let mut left = differing.as_slice();
        for most in PASSES {
            let pass = pass(left, most);
            if pass.is_empty() || self.compared.table.more {
                break;
            }
            let numbers: Vec<String> = pass.iter().map(|(bucket, _)| bucket.to_string()).collect();
            let any = |bucket: &str| format!("{bucket} IN ({})", numbers.join(", "));
            self.rows(Some(&any(&here)), Some(&any(&there))).await?;
            left = left.get(pass.len()..).unwrap_or_default();
        }
        self.compared.table.more |= !left.is_empty();
        Ok(())
    }
}

/// As many of the buckets, with their rows, as one pass takes, and one at least.
fn pass(buckets: &[(u64, u64)], most: u64) -> &[(u64, u64)] {
    let mut rows = 0;
    let taken = buckets.iter().take_while(|(_, own)| {
        let first = rows == 0;
        rows += own;
        first || rows <= most
    });
    &buckets[..taken.count()]
}

impl Compared {
    fn suspect(&mut self, mut key: Vec<String>, columns: usize) {
        if self.candidates.len() >= MOST {
            self.table.more = true;
            return;
        }
        self.candidates.push(match columns {
            0 => Subject::Copies(key.pop().unwrap_or_default()),
            _ => Subject::Key(key),
        });
    }
}

/// What a difference is, from the states on both sides.
pub(super) fn kind(source: bool, target: bool) -> Kind {
    match (source, target) {
        (_, false) => Kind::Missing,
        (false, true) => Kind::Extra,
        (true, true) => Kind::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_passes_take_all_buckets_that_differ_a_little() {
        let buckets: Vec<(u64, u64)> = (0..1_200).map(|bucket| (bucket, 8_192)).collect();
        let mut left = buckets.as_slice();
        let mut taken = Vec::new();
        for most in PASSES {
            let pass = pass(left, most);
            taken.push(pass.len());
            left = &left[pass.len()..];
        }
        assert_eq!(taken, [16, 128, 1_024, 32]);
        assert_eq!(pass(&[(7, u64::MAX / 2), (8, 1)], 100).len(), 1, "however large it is");
        assert!(pass(&[], 100).is_empty());
    }

    #[test]
    fn of_however_few_buckets_a_sample_takes_one() {
        for (sample, rows) in [(1, 10_000_000), (7, 900_000), (100, 50_000_000), (1, 1), (9, 0)] {
            for _ in 0..100 {
                let chosen = Chosen::sample(sample, rows);
                let of = (rows / chosen.bucket_rows).clamp(1, MOST_BUCKETS);
                for parts in [of, 1, 2] {
                    let within = chosen.within(parts);
                    let taken = (0..parts).filter(|part| within.takes(*part)).count();
                    assert!(taken > 0, "{sample} of {rows} rows in {parts} buckets");
                }
            }
        }
    }
}
