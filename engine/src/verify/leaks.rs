//! `--leaks`: whether anything private is in the target.
//!
//! Of each masked column: no row of the target may hold its own source row's value, and, if
//! there are enough different ones to tell, none of many sampled values may stand in any text
//! or document of the target, whatever table that is. What is found is judged by [`judge`]: a
//! fake may equal an original by chance, and the plugins themselves say whether it does.
//!
//! What can go wrong: a value is too plain to tell anything (a first name, a date), or a
//! column has too few of a type of which a value reads in several ways; these are listed as
//! undecided, and nothing is claimed of them.

mod find;
mod judge;
mod masker;
mod own;
mod sample;
mod search;

use std::sync::Arc;

use super::Progress;
use super::error::VerifyError;
use super::meeting::Sides;
use super::plan::{Pair, Private};
use super::report::{Leaks, Looked};
use crate::source::catalog::Catalog;
use crate::transform::{Coverage, Generation};

use masker::Masker;

/// Suspects of one column that are judged: what the plugins explain at first sight is none.
pub(super) const MOST: usize = 1_000;

/// A masked column that is looked at.
pub(super) struct Watched {
    pub(super) pair: Arc<Pair>,
    pub(super) private: Private,
    pub(super) looked: Looked,
    /// It has so many different values that one of them tells whose it is.
    pub(super) telling: bool,
    /// Its rows can be held against their own: chance would be told apart.
    pub(super) own: bool,
}

impl Watched {
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
    (generation, coverage): (&Arc<Generation>, &Coverage),
    pairs: &[Pair],
    sample: u64,
    progress: &dyn Progress,
) -> Result<Leaks, VerifyError> {
    sides.meet(progress).await?;
    let mut leaks = Leaks::default();
    let pairs: Vec<Arc<Pair>> = pairs.iter().cloned().map(Arc::new).collect();
    let mut masker = Masker::new(generation);
    let mut watched = sample::watched(sides, &pairs, coverage).await?;
    let (mut suspects, more) =
        own::scan(sides, catalog, &mut watched, &mut masker, progress).await?;
    leaks.more = more;
    let (needles, owners) =
        sample::values(sides, catalog, &mut watched, &mut masker, sample).await?;
    let search = find::Search { needles: &needles, owners: &owners, pairs: &pairs, catalog };
    let (found, columns, more) = search.all(sides, &mut masker, progress).await?;
    suspects.extend(found);
    leaks.searched = columns;
    leaks.more |= more;
    let relation = |id: u32| catalog.relation(id);
    (leaks.found, leaks.unsettled) =
        judge::judge(sides, &mut masker, &relation, &needles, suspects, progress).await?;
    leaks.found.sort_by(|a, b| (&a.found, &a.row, a.how).cmp(&(&b.found, &b.row, b.how)));
    leaks.found.dedup();
    leaks.columns = watched.into_iter().map(|watched| watched.looked).collect();
    Ok(leaks)
}
