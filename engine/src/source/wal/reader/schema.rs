//! Schema changes on the stream: a message of the event triggers becomes a row of
//! `kasho.ddl`.
//!
//! What can go wrong: anybody with a session may write a message of their prefix. One that
//! is no schema change is told in the log and counts as nothing: it could not be acted on
//! anyway, and must not be able to stop the stream.

use kasho_plugin_sdk::Op;

use super::Reader;
use crate::ddl;
use crate::source::assemble::NewRow;

impl Reader {
    /// The row of a schema change.
    pub(super) fn ddl_row(&mut self, content: &[u8]) -> Option<NewRow> {
        let event = match ddl::decode(content) {
            Ok(Some(event)) => event,
            Ok(None) => return None,
            Err(why) => {
                let lsn = self.last_lsn;
                tracing::warn!(%lsn, "a message of the prefix {} is left out: {why}", ddl::PREFIX);
                return None;
            }
        };
        self.relations.announce(&event.detail.objects);
        let at = (self.asm.commit_lsn().unwrap_or(self.last_lsn), self.asm.next_ordinal());
        self.relations.rename_schemas(at, event.detail.renamed_schemas());
        // Its own segment, which must not come between the parts of the chunk's.
        self.close_segment();
        let relation = self.asm.batch.relation_index(&self.schema_changes);
        let image = event.push(&mut self.asm.batch);
        self.segments += 1;
        let detail = Some(Box::new(event.beside()));
        Some(NewRow { op: Op::Ddl, relation, new: Some(image), old: None, detail })
    }
}
