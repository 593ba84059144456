//! What a column's new values depend on besides its own old ones: other columns of the row.
//!
//! Nothing can go wrong here that [`Setup::read`] does not refuse.

use super::{Col, Declaration, Result, Setup};
use crate::abi::Use;
use crate::event::Relation;
use crate::pattern::ColumnPattern;

impl Setup<'_> {
    /// Declares that the columns of the replica identity are looked at, whatever they are
    /// called, the first `most` of them: one [`Col`] for each place.
    ///
    /// # Errors
    /// `table` is not `schema.table`; either may hold `*`.
    pub fn read_identity(&mut self, table: &str, most: usize) -> Result<Vec<Col>> {
        let mut columns = Vec::with_capacity(most);
        for nth in 0..most {
            let index = self.push(&format!("{table}.*"), Use::Read, &[])?;
            if let Some(declaration) = self.declared.columns.get_mut(usize::from(index)) {
                declaration.identity = Some(nth);
            }
            columns.push(Col::new(index, Use::Read));
        }
        Ok(columns)
    }

    /// Says that the new values of a column depend on those of others, too, which are
    /// looked at only in tables that have the column.
    pub fn depends(&mut self, col: Col, on: &[Col]) {
        for other in on {
            if let Some(declaration) = self.declared.columns.get_mut(usize::from(other.index)) {
                declaration.with = Some(col.index);
            }
        }
        if let Some(declaration) = self.declared.columns.get_mut(usize::from(col.index)) {
            declaration.reads.extend(on.iter().map(|col| col.index));
        }
    }
}

impl Declaration {
    pub(super) fn new(pattern: ColumnPattern, usage: Use, reads: Vec<u16>) -> Declaration {
        Declaration { pattern, usage, reads, fingerprint: None, identity: None, with: None }
    }

    /// Whether it is about the column at `place` of a relation whose table it matches.
    pub(crate) fn names(&self, all: &[Declaration], relation: &Relation, place: usize) -> bool {
        let Some(column) = relation.columns.get(place) else { return false };
        let has = |owner: &Declaration| {
            relation.columns.iter().any(|c| owner.pattern.column.matches(&c.name))
        };
        if self.with.is_some_and(|with| !all.get(usize::from(with)).is_some_and(has)) {
            return false;
        }
        let keys = || relation.columns.iter().take(place).filter(|c| c.key).count();
        self.pattern.column.matches(&column.name)
            && self.identity.is_none_or(|nth| column.key && keys() == nth)
    }
}
