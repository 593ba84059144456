//! Schema changes on their way through the chain. Those that a binding subscribes to by
//! name are its business, as rows of `kasho.ddl`; about the others the policy decides.

use kasho_plugin_sdk::Op;

use super::super::ddl::{Ddl, Decision, Verdict, is_local, judge};
use super::super::error::TransformError;
use super::Chain;
use crate::batch::{Batch, Cell, DdlDetail, Detail, Span};

/// The place of `text` in `kasho.ddl`.
const TEXT: usize = 3;

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
            speaks_of(&text, &table.to_lowercase())
                || detail.objects.iter().any(|object| {
                    let of = |own: &Option<String>, name: &str| own.as_deref() == Some(name);
                    of(&object.schema, schema) && of(&object.name, table)
                        || of(&object.was_in, schema) && of(&object.was, table)
                })
        };
        let moves = |schema: &str| {
            detail.renamed_schemas().any(|(from, to)| from == schema || to == schema)
        };
        let sources = self.generation.renames.sources();
        let found =
            sources.into_iter().find(|(schema, table)| concerns(schema, table) || moves(schema))?;
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

/// Whether a name stands in a text, as a word of it if it is one.
fn speaks_of(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    match name.chars().all(part) {
        true => text.split(|c| !part(c)).any(|word| word == name),
        false => text.contains(name),
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

#[cfg(test)]
mod tests {
    use kasho_plugin_sdk::batch::Image as Side;
    use serde_json::json;

    use super::super::super::Binding;
    use super::super::super::testing::{Guest, Setup, push, shown, transaction, users};
    use super::*;
    use crate::batch::{DdlObject, ddl_relation};

    fn batch(tag: &str, table: &str, text: &str) -> Batch {
        let mut batch = transaction();
        push(&mut batch, &ddl_relation(), Op::Ddl, &[tag, "table", table, text], &[]);
        let name = table.rsplit('.').next().map(str::to_owned);
        let object = DdlObject {
            kind: "table".into(),
            identity: table.into(),
            schema: Some("public".into()),
            name,
            ..DdlObject::default()
        };
        let detail = DdlDetail { objects: vec![object], ..DdlDetail::default() };
        batch.rows[0].detail = Some(Box::new(Detail::Ddl(Box::new(detail))));
        batch
    }

    fn pass(chain: &mut Chain, tag: &str, text: &str) -> Result<Vec<String>, String> {
        let mut batch = batch(tag, "public.orders", text);
        assert!(!chain.passes(&batch));
        chain.apply(&mut batch).map_err(|error| error.to_string())?;
        Ok(shown(&batch))
    }

    fn masker() -> Guest {
        Guest::new(&[("email", "mask"), ("id", "pass")]).masks("x", &[Side::New, Side::Old])
    }

    #[test]
    fn masks_decide_what_is_usual() {
        let literal = "ALTER TABLE orders ADD note text DEFAULT 'ada'";
        let mut open = Setup::new(&masker());
        open.config.transform.clear();
        let told = pass(&mut open.chain(&[&users()]), "ALTER TABLE", literal).unwrap();
        assert_eq!(told, [format!("ddl kasho.ddl [ALTER TABLE table public.orders {literal}] []")]);

        let mut closed = Setup::new(&masker()).chain(&[&users()]);
        let error = pass(&mut closed, "ALTER TABLE", literal).unwrap_err();
        assert!(error.contains("ALTER TABLE (public.orders) at 0/64:1"), "{error}");
        assert!(!error.contains("ada"), "{error}");
        let told = pass(&mut closed, "ALTER TABLE", "ALTER TABLE orders /* ada */ ADD n int");
        assert_eq!(
            told.unwrap(),
            ["ddl kasho.ddl [ALTER TABLE table public.orders ALTER TABLE orders ADD n int] []"]
        );
    }

    #[test]
    fn whoever_subscribes_decides_but_not_about_what_never_leaves() {
        let mut setup = Setup::new(&masker());
        let uses =
            [("text", "mask"), ("tag", "pass"), ("object_type", "pass"), ("identity", "pass")];
        let mut named = Guest::new(&uses).masks("x", &[Side::New]);
        named.wanted["ok"]["ops"] = json!(["ddl"]);
        setup.bind("ddl", &named, &["kasho.ddl"]);
        let mut chain = setup.chain(&[&users()]);
        let told = pass(&mut chain, "CREATE FUNCTION", "CREATE FUNCTION f() AS 'ada'").unwrap();
        assert_eq!(told, ["ddl kasho.ddl [CREATE FUNCTION table public.orders x] []"]);
        let told = pass(&mut chain, "CREATE USER MAPPING", "CREATE USER MAPPING …").unwrap();
        assert!(told.is_empty());
    }

    #[test]
    fn a_statement_about_a_table_of_another_name_does_not_leave() {
        let mut setup = Setup::new(&masker());
        setup.config.transform.clear();
        let mut names = Binding::new("names", "", &[]);
        names.rename.insert("public.users".to_owned(), "crm.people".to_owned());
        setup.config.transform.push(names);
        let mut chain = setup.chain(&[&users()]);
        let text = "CREATE INDEX ON orders (users_id)";
        assert_eq!(pass(&mut chain, "CREATE INDEX", text).unwrap().len(), 1);
        let text = "ALTER TABLE orders ADD FOREIGN KEY (x) REFERENCES public.Users";
        let error = pass(&mut chain, "ALTER TABLE", text).unwrap_err();
        assert!(error.contains("public.users, which leaves under other names"), "{error}");
        // Its schema goes elsewhere, or another one gets that name.
        for (from, to) in [("public", "old"), ("new", "public"), ("other", "another")] {
            let text = format!("ALTER SCHEMA {from} RENAME TO {to}");
            let mut batch = batch("ALTER SCHEMA", to, &text);
            let object = DdlObject {
                kind: "schema".into(),
                name: Some(to.into()),
                was: Some(from.into()),
                ..DdlObject::default()
            };
            let detail = DdlDetail { objects: vec![object], ..DdlDetail::default() };
            batch.rows[0].detail = Some(Box::new(Detail::Ddl(Box::new(detail))));
            let left = chain.apply(&mut batch).map_err(|error| error.to_string());
            let stops = left.is_err_and(|e| e.contains("public.users, which leaves under other"));
            assert_eq!(stops, from != "other", "{text}");
        }
    }
}
