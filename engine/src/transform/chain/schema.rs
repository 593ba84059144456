//! Schema changes on their way through the chain. Those that a binding subscribes to by
//! name are its business, as rows of `kasho.ddl`; about the others the policy decides.

use kasho_plugin_sdk::Op;

use super::super::ddl::{Ddl, Decision, Verdict, is_local, judge};
use super::super::error::TransformError;
use super::Chain;
use crate::batch::{Batch, Cell, DDL_RELATION_ID, DdlDetail, Detail, Span};

/// The place of `text` in `kasho.ddl`.
const TEXT: usize = 3;

/// Whether there may be schema changes in a batch.
pub(super) fn has_ddl(batch: &Batch) -> bool {
    batch.relations.iter().any(|relation| relation.id == DDL_RELATION_ID)
}

impl Chain {
    /// Decides about each schema change of a batch.
    pub(super) fn schema_changes(&self, batch: &mut Batch) -> Result<(), TransformError> {
        for at in 0..batch.rows.len() {
            let row = &batch.rows[at];
            if row.op != Op::Ddl || row.dropped {
                continue;
            }
            let named = self.links.iter().any(|link| link.bound.names(batch.relation_of(row)));
            let verdict = match texts(batch, at) {
                [Some(tag), _, _, _] if is_local(tag) => Verdict::Drop,
                _ if named => Verdict::Pass,
                [Some(tag), _, _, text] => self.judge(batch, at, tag, text),
                _ => Verdict::Halt("it has no tag".to_owned()),
            };
            self.carry_out(batch, at, verdict)?;
        }
        Ok(())
    }

    fn judge(&self, batch: &Batch, at: usize, tag: &str, text: Option<&str>) -> Verdict {
        let usual = if self.policy.masks { Ddl::Structural } else { Ddl::Text };
        let verdict = judge(self.policy.ddl.unwrap_or(usual), tag, text);
        let renamed = match batch.rows[at].detail.as_deref() {
            Some(Detail::Ddl(detail)) => self.renamed(detail, text.unwrap_or_default()),
            _ => None,
        };
        match (verdict, renamed) {
            (Verdict::Pass | Verdict::As(_), Some(table)) => Verdict::Halt(format!(
                "it concerns {table}, which leaves under other names ([transform.rename])"
            )),
            (verdict, _) => verdict,
        }
    }

    /// A table that it speaks of and that leaves under other names than it does.
    fn renamed(&self, detail: &DdlDetail, text: &str) -> Option<String> {
        let text = text.to_lowercase();
        let concerns = |schema: &str, table: &str| {
            text.contains(&table.to_lowercase())
                || detail.objects.iter().any(|object| {
                    let of = |own: &Option<String>, name: &str| own.as_deref() == Some(name);
                    of(&object.schema, schema) && of(&object.name, table)
                })
        };
        let sources = self.generation.renames.sources();
        let found = sources.into_iter().find(|(schema, table)| concerns(schema, table))?;
        Some(format!("{}.{}", found.0, found.1))
    }

    fn carry_out(
        &self,
        batch: &mut Batch,
        at: usize,
        verdict: Verdict,
    ) -> Result<(), TransformError> {
        match verdict {
            Verdict::Pass => {}
            Verdict::As(text) => self.set_text(batch, at, Some(text)),
            Verdict::Drop => batch.rows[at].dropped = true,
            Verdict::Halt(reason) => {
                let position = batch.rows[at].position;
                match self.generation.host.decisions().of(position) {
                    Some(Decision::Skip) => batch.rows[at].dropped = true,
                    Some(Decision::Done) => {
                        self.set_text(batch, at, None);
                        if let Some(Detail::Ddl(detail)) = batch.rows[at].detail.as_deref_mut() {
                            detail.done = true;
                        }
                    }
                    None => return Err(self.halted_at(batch, at, reason)),
                }
            }
        }
        Ok(())
    }

    fn halted_at(&self, batch: &Batch, at: usize, reason: String) -> TransformError {
        let [tag, _, identity, _] =
            texts(batch, at).map(|text| text.unwrap_or_default().to_owned());
        let position = batch.rows[at].position;
        let what = if identity.is_empty() { tag } else { format!("{tag} ({identity})") };
        self.generation.host.decisions().wait(position, what.clone());
        TransformError::Ddl { what, position, reason }
    }

    fn set_text(&self, batch: &mut Batch, at: usize, text: Option<String>) {
        let Some(image) = batch.rows[at].new else { return };
        let cell = match text {
            Some(text) => {
                let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
                let segment = batch.push_segment(text.into());
                Cell::Text(Span { segment, start: 0, len })
            }
            None => Cell::Null,
        };
        if let Some(there) = batch.cells_mut(image).get_mut(TEXT) {
            *there = cell;
        }
    }
}

/// The four columns of a schema change.
fn texts(batch: &Batch, at: usize) -> [Option<&str>; 4] {
    let cells = batch.rows[at].new.map(|image| batch.cells(image)).unwrap_or_default();
    std::array::from_fn(|column| {
        let bytes = cells.get(column).and_then(|cell| batch.text(*cell))?;
        std::str::from_utf8(bytes).ok()
    })
}
