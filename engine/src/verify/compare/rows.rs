//! Holding the rows of a part against each other. Both servers send them in the order of a
//! digest, which no collation has a say in, so that one row of each side is held at a time
//! whatever a part's size; or, where the target may hold fewer rows, those of the target are
//! read as they come, and the source is asked for the same keys.
//!
//! What can go wrong: a target without the key's index may hold a row more than once; every
//! further one is a suspect.

use std::collections::HashMap;

use super::{Compared, Half, MOST};
use crate::verify::error::VerifyError;
use crate::verify::plan::Pair;
use crate::verify::session::{Rows, key};
use crate::verify::sql;

/// Rows whose keys one statement asks for.
pub(in crate::verify) const KEYS_AT_ONCE: usize = 2_048;

/// A row, or the copies of one that has no key.
struct Row {
    /// The digest that rows are ordered by.
    name: String,
    /// The key; of a row without key, its digest.
    key: Vec<String>,
    digest: String,
    copies: u64,
}

/// The rows of one side.
struct Side {
    rows: Rows,
    /// Columns of the key.
    columns: usize,
    next: Option<Row>,
    /// Rows that went by.
    count: u64,
}

impl Side {
    async fn open(half: &Half<'_>, condition: Option<&str>) -> Result<Side, VerifyError> {
        let from = half.rows(condition);
        let digest = sql::fingerprint(&half.columns);
        let statement = match half.key.as_slice() {
            [] => format!("SELECT {digest} COLLATE \"C\", count(*){from} GROUP BY 1 ORDER BY 1"),
            key => format!(
                "SELECT {} COLLATE \"C\", {}, {digest}{from} ORDER BY 1",
                sql::fingerprint(key),
                sql::list(key)
            ),
        };
        let rows = half.side.rows(&half.doing, &statement).await?;
        Ok(Side { rows, columns: half.key.len(), next: None, count: 0 })
    }

    async fn advance(&mut self) -> Result<(), VerifyError> {
        let columns = self.columns;
        self.next = self.rows.next().await?.map(|row| {
            let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
            let (name, last) = (text(0), text(columns + 1));
            match columns {
                0 => {
                    let copies = last.parse().unwrap_or(0);
                    Row { key: vec![name.clone()], name, digest: String::new(), copies }
                }
                _ => Row { name, key: key(&row, 1..1 + columns), digest: last, copies: 1 },
            }
        });
        self.count += self.next.as_ref().map_or(0, |row| row.copies);
        Ok(())
    }
}

/// Finds the suspects of a part, and says how many rows it has on each side.
pub(super) async fn merge(
    (source, target): (&Half<'_>, &Half<'_>),
    (here, there): (Option<&str>, Option<&str>),
    compared: &mut Compared,
) -> Result<(u64, u64), VerifyError> {
    let fewer = compared.pair.fewer;
    let (mut source, mut target) =
        tokio::try_join!(Side::open(source, here), Side::open(target, there))?;
    tokio::try_join!(source.advance(), target.advance())?;
    loop {
        let order = match (&source.next, &target.next) {
            (None, None) => return Ok((source.count, target.count)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(own), Some(other)) => own.name.cmp(&other.name),
        };
        let columns = source.columns;
        if order.is_le() {
            let own = source.next.take();
            source.advance().await?;
            let Some(own) = own else { continue };
            let other = target.next.take_if(|other| other.name == own.name);
            let same = match &other {
                None => fewer,
                Some(other) if columns == 0 && fewer => other.copies <= own.copies,
                Some(other) => other.copies == own.copies && other.digest == own.digest,
            };
            if other.is_some() {
                target.advance().await?;
            }
            if !same {
                compared.suspect(own.key, columns);
            }
        } else {
            // Nothing like it, or a row more than the source has.
            if let Some(other) = target.next.take() {
                compared.suspect(other.key, columns);
            }
            target.advance().await?;
        }
    }
}

/// Asks the source for rows by their keys.
pub(in crate::verify) struct Lookup<'a> {
    pub(in crate::verify) half: Half<'a>,
    /// Types of the key's columns.
    types: Vec<String>,
}

impl<'a> Lookup<'a> {
    pub(in crate::verify) async fn new(
        half: Half<'a>,
        pair: &Pair,
    ) -> Result<Lookup<'a>, VerifyError> {
        let mut types = Vec::with_capacity(half.key.len());
        for name in &half.key {
            // Without a modifier: `character` alone would be of one letter.
            let statement = format!(
                "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = {} AND attname = {}",
                pair.id,
                sql::literal(name)
            );
            let found = half.side.value(&half.doing, &statement).await?;
            types.push(found.unwrap_or_else(|| "text".to_owned()));
        }
        Ok(Lookup { half, types })
    }

    /// These expressions of the rows with these keys.
    pub(in crate::verify) async fn rows(
        &self,
        expressions: &str,
        keys: &[Vec<String>],
    ) -> Result<Rows, VerifyError> {
        let condition = sql::among(&self.half.key, &self.types, keys);
        let statement = format!("SELECT {expressions}{}", self.half.rows(Some(&condition)));
        self.half.side.rows(&self.half.doing, &statement).await
    }
}

/// Keys that several rows of the target have, where no index of its forbids that.
pub(super) async fn twice(
    target: &Half<'_>,
    there: Option<&str>,
    compared: &mut Compared,
) -> Result<(), VerifyError> {
    let (columns, list) = (target.key.len(), sql::list(&target.key));
    let statement = format!(
        "SELECT {list}{} GROUP BY {list} HAVING count(*) > 1 LIMIT {MOST}",
        target.rows(there)
    );
    let mut rows = target.side.rows(&target.doing, &statement).await?;
    while let Some(row) = rows.next().await? {
        compared.suspect(key(&row, 0..columns), columns);
    }
    Ok(())
}

/// Holds every row of the target against the source's, and says how many there are: those
/// that the target lacks may have been removed.
pub(super) async fn look_up(
    source: Half<'_>,
    target: &Half<'_>,
    there: Option<&str>,
    compared: &mut Compared,
) -> Result<u64, VerifyError> {
    let columns = target.key.len();
    let expressions = format!("{}, {}", sql::list(&source.key), sql::fingerprint(&source.columns));
    let lookup = Lookup::new(source, &compared.pair).await?;
    let statement = format!(
        "SELECT {}, {}{}",
        sql::list(&target.key),
        sql::fingerprint(&target.columns),
        target.rows(there)
    );
    let mut rows = target.side.rows(&target.doing, &statement).await?;
    let (mut count, mut last) = (0, false);
    while !last {
        let mut held: HashMap<Vec<String>, String> = HashMap::with_capacity(KEYS_AT_ONCE);
        while held.len() < KEYS_AT_ONCE && !last {
            let Some(row) = rows.next().await? else {
                last = true;
                continue;
            };
            count += 1;
            let (key, digest) = (key(&row, 0..columns), row.get(columns).unwrap_or_default());
            held.insert(key, digest.to_owned());
        }
        let keys: Vec<Vec<String>> = held.keys().cloned().collect();
        if !keys.is_empty() {
            let mut found = lookup.rows(&expressions, &keys).await?;
            while let Some(row) = found.next().await? {
                let key = key(&row, 0..columns);
                if held.get(&key).map(String::as_str) == row.get(columns) {
                    held.remove(&key);
                }
            }
        }
        held.into_keys().for_each(|key| compared.suspect(key, columns));
        if compared.table.more {
            break;
        }
    }
    Ok(count)
}
