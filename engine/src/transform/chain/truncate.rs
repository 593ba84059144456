//! TRUNCATE passes a chain: each table of the statement is asked about, and those that are
//! kept stay one command.
//!
//! What can go wrong: no rule names a table where something is masked; or a plugin fails, and
//! the binding's policy is to halt.

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::batch::Decision;

use crate::batch::{Batch, Detail};

use super::super::error::TransformError;
use super::super::plan::{Fate, RelationPlan};
use super::super::rows::{Plans, halted};
use super::Chain;
use super::failed::Reason;

impl Chain {
    /// Asks about every TRUNCATE of a batch.
    pub(super) fn truncates(
        &mut self,
        batch: &mut Batch,
        plans: &Plans,
    ) -> Result<(), TransformError> {
        for row in 0..batch.rows.len() {
            let there = &batch.rows[row];
            if there.dropped || there.op != Op::Truncate {
                continue;
            }
            let tables = match there.detail.as_deref() {
                Some(Detail::Truncate { relations, .. }) => relations.clone(),
                _ => vec![there.relation],
            };
            let mut kept = Vec::with_capacity(tables.len());
            for table in tables {
                let keep = match plans[table as usize].clone() {
                    Some(plan) => self.truncate(batch, row, &plan)?,
                    None => true,
                };
                if keep {
                    kept.push(table);
                }
            }
            let row = &mut batch.rows[row];
            match kept.first() {
                None => row.dropped = true,
                Some(first) => row.relation = *first,
            }
            if let Some(Detail::Truncate { relations, .. }) = row.detail.as_deref_mut() {
                *relations = kept;
            }
        }
        Ok(())
    }

    fn truncate(
        &mut self,
        batch: &mut Batch,
        row: usize,
        plan: &RelationPlan,
    ) -> Result<bool, TransformError> {
        match &plan.fate {
            Fate::Pass => {}
            Fate::Drop => return Ok(false),
            Fate::Halt(reason) => return Err(halted(batch, plan, row, reason)),
        }
        let number = u32::try_from(row).unwrap_or(u32::MAX);
        for at in 0..self.links.len() {
            let Some(link) = plan.links[at].clone().filter(|l| l.wants(Op::Truncate)) else {
                continue;
            };
            let reason = match self.obtain(batch, at, &link, &[number], true)? {
                Ok(decided) => match decided.first() {
                    None => continue,
                    Some(decided) if decided.decision == Decision::Drop => return Ok(false),
                    Some(decided) => self.reason(at, &link, decided),
                },
                Err(failure) => Reason::told(failure.to_string()),
            };
            if !self.truncate_error(batch, at, &link, number, reason)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
