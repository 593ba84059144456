//! Schema changes as the engine sees them: which tables they made, whose rows the stream
//! alone does not bring, and what an operator decides about one that stopped the stream.
//!
//! What can go wrong: the process ends between a schema change and what is noted of it. So it
//! is published only when that is stored: a process that is killed in between notes it twice,
//! which is too much and harmless. While it cannot be stored, the stream waits.

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::event::quote_identifier;

use super::Engine;
use super::reload::Named;
use crate::batch::{Batch, DdlDetail, DdlObject, Detail};
use crate::bootstrap::{Command, MissingRows, Phase, Refusal, Renamed, Streaming};
use crate::position::Position;
use crate::transform::Decision;

/// What schema changes of a batch mean for the tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Made, published from then on, and empty then: the stream brings all of their rows.
    made: Vec<String>,
    /// Changed in a way that the stream does not bring.
    stale: Vec<String>,
    /// Schemas that get other names, and where.
    renamed: Vec<Renamed>,
}

impl Seen {
    /// Of a batch of what these publications publish.
    pub(super) fn of(batch: &Batch, publications: &[String]) -> Seen {
        let mut seen = Seen::default();
        if !batch.has_ddl() {
            return seen;
        }
        // Those that do not leave too: what rows the source has is not for any policy to say.
        for row in batch.rows.iter().filter(|row| row.op == Op::Ddl) {
            if let Some(Detail::Ddl(detail)) = row.detail.as_deref() {
                seen.add(detail, publications);
                for (from, to) in detail.renamed_schemas() {
                    seen.rename(Renamed::new(row.position, from, to));
                }
            }
        }
        seen
    }

    fn add(&mut self, detail: &DdlDetail, publications: &[String]) {
        self.stale.extend(detail.recomputed.iter().cloned());
        // One that is published later may have got rows before.
        let published = |o: &DdlObject| o.published.iter().any(|own| publications.contains(own));
        let made = detail.objects.iter();
        let made = made.filter(|o| detail.makes && o.kind == "table" && published(o));
        let name = |schema: &str, table: &str| {
            format!("{}.{}", quote_identifier(schema), quote_identifier(table))
        };
        self.made.extend(made.filter_map(|o| Some(name(o.schema.as_ref()?, o.name.as_ref()?))));
    }

    /// Tables are told by the names that they have behind all of the batch.
    fn rename(&mut self, renamed: Renamed) {
        for name in self.made.iter_mut().chain(&mut self.stale) {
            if let Some(moved) = renamed.moved(name) {
                *name = moved;
            }
        }
        self.renamed.push(renamed);
    }

    /// Nothing that the engine has to know.
    pub(super) fn is_empty(&self) -> bool {
        self.made.is_empty() && self.stale.is_empty() && self.renamed.is_empty()
    }
}

impl Engine {
    /// A schema change is about to be published.
    ///
    /// # Errors
    /// A server does not answer, or Redis holds another state than ours: it is not noted, and
    /// must not be published yet.
    pub(super) async fn schema_changed(
        &mut self,
        Seen { made, stale, renamed }: Seen,
    ) -> Result<(), Refusal> {
        for table in &stale {
            tracing::warn!(
                %table,
                "the source has computed values of it anew, or taken in a partition with rows: \
                 the stream does not bring that"
            );
        }
        let what = "tables were made, rewritten or renamed";
        match self.transition(Command::SchemaChanged { made, stale, renamed }).await {
            Ok(()) => tracing::info!(state = %self.phase.state(), "{what}"),
            // There is nothing that it could be noted of.
            Err(refusal) if matches!(self.phase, Phase::Waiting(_)) => {
                tracing::warn!(%refusal, "{what}, and that was refused");
            }
            // The stream says it again, and then why it waits.
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    /// Loads what a load has put off, and what nobody has loaded, if that is asked for.
    pub(super) fn load_missing(&mut self) {
        let tables = self.missing();
        let asked = self.naming.as_ref().is_some_and(|naming| !naming.is_finished());
        if !tables.is_empty() && !asked {
            self.naming = Some(self.name(tables, None));
        }
    }

    /// What is to be loaded by itself, if that can begin now.
    fn missing(&self) -> Vec<String> {
        let wanted = self.world.config.bootstrap.missing_rows == MissingRows::Load;
        // What is remembered may have been dropped meanwhile.
        let ready = self.stream_open && self.observed.published.is_some();
        match &self.phase {
            Phase::Streaming(Streaming { reload: None, later, .. }) if ready => {
                let mut tables = self.not_loaded();
                tables.retain(|table| wanted || later.contains(table));
                tables
            }
            _ => Vec::new(),
        }
    }

    /// The names of what nobody has loaded are known.
    pub(super) async fn load_named(&mut self, named: Result<Named, Refusal>) {
        let missing = self.missing();
        let loading = match named {
            Ok((mut tables, planned)) => {
                // Something may have begun since they were asked for.
                tables.retain(|table| missing.contains(table));
                if tables.is_empty() {
                    return;
                }
                self.load_again((tables.clone(), planned)).await.map(|_| tables.join(", "))
            }
            Err(refusal) => Err(refusal),
        };
        match loading {
            Ok(tables) => tracing::info!(tables, "loading rows that are missing"),
            Err(refusal) => tracing::warn!(%refusal, "rows that are missing are not loaded yet"),
        }
    }

    /// An operator decides about the schema change that the stream stands before.
    pub(super) fn decide(&mut self, position: Position, done: bool) -> Result<String, Refusal> {
        let Position::Wal { commit_lsn, ordinal } = position else {
            return Err(Refusal::argument("there are no schema changes in the initial load"));
        };
        let decision = if done { Decision::Done } else { Decision::Skip };
        let asked = (ordinal != Position::LAST).then_some(ordinal);
        match self.world.host.decisions().make(commit_lsn, asked, decision) {
            Ok(what) => {
                tracing::info!(%position, done, "schema change {what}: an operator has decided");
                // The stream may not have ended yet, although it stands before the statement.
                self.decided = self.streaming.is_some();
                self.try_again();
                let told = if done { "done on the targets, as was said" } else { "left out" };
                Ok(format!("{what} is {told}; the stream goes on"))
            }
            Err(Some((at, what))) => Err(Refusal::precondition(format!(
                "the stream does not wait at {position}, but before {what} at {at}"
            ))),
            Err(None) => Err(Refusal::precondition(format!(
                "the stream does not wait for a schema change, at {position} or anywhere"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Row, ddl_relation};
    use crate::position::Lsn;

    #[test]
    fn tables_that_are_made_and_tables_that_are_stale() {
        let object = |kind: &str, name: &str| DdlObject {
            kind: kind.into(),
            schema: Some("public".into()),
            name: Some(name.into()),
            published: vec!["theirs".into(), "kasho_pub".into()],
            ..DdlObject::default()
        };
        let alone = DdlObject { published: vec!["theirs".into()], ..object("table", "alone") };
        let ours = ["kasho_pub".to_owned()];
        let mut detail = DdlDetail {
            objects: vec![object("sequence", "s"), object("table", "Odd"), alone],
            recomputed: vec!["public.t".into()],
            makes: true,
            ..DdlDetail::default()
        };
        let mut seen = Seen::default();
        seen.add(&detail, &ours);
        assert_eq!(seen.made, ["public.\"Odd\""]);
        assert_eq!(seen.stale, ["public.t"]);
        (detail.makes, detail.recomputed) = (false, Vec::new());
        let mut seen = Seen::default();
        seen.add(&detail, &ours);
        assert!(seen.is_empty());
    }

    #[test]
    fn a_statement_that_does_not_leave_has_changed_the_source_too() {
        let ours = ["kasho_pub".to_owned()];
        let mut batch = Batch::default();
        let detail = DdlDetail { recomputed: vec!["public.t".into()], ..DdlDetail::default() };
        batch.rows.push(Row {
            position: Position::Wal { commit_lsn: Lsn(1), ordinal: 1 },
            op: Op::Ddl,
            relation: 0,
            new: None,
            old: None,
            detail: Some(Box::new(Detail::Ddl(Box::new(detail)))),
            dropped: true,
        });
        assert!(Seen::of(&batch, &ours).is_empty(), "there are no schema changes in it");
        batch.relations.push(ddl_relation());
        assert_eq!(Seen::of(&batch, &ours).stale, ["public.t"]);
    }

    /// Renames are adopted before what is noted beside them.
    #[test]
    fn tables_are_told_by_the_names_that_they_have_behind_the_batch() {
        let mut seen = Seen::default();
        let detail = DdlDetail { recomputed: vec!["blue.t".into()], ..DdlDetail::default() };
        seen.add(&detail, &[]);
        let swap = [("blue", "x"), ("green", "blue"), ("x", "green")];
        for (ordinal, (from, to)) in (1..).zip(swap) {
            seen.rename(Renamed::new(Position::Wal { commit_lsn: Lsn(1), ordinal }, from, to));
        }
        seen.add(&detail, &[]);
        assert_eq!(seen.stale, ["green.t", "blue.t"]);
    }
}
