//! What the rules do not speak of, and would stop the stream: for whoever writes them.
//!
//! A configuration is loaded as a candidate is, but for what it lacks: that is the answer
//! here and no error. Everything else that is wrong with it is one ([`missing`]).

use std::sync::Arc;

use kasho_plugin_sdk::{Column, Relation};

use super::catalog::Catalog;
use super::config::Config;
use super::draft::Draft;
use super::error::LoadError;
use super::host::Host;
use super::load::links;
use super::places;
use super::plan::Fate;

/// A table that lacks rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The table.
    pub relation: Arc<Relation>,
    /// Its bindings; none names it if there is none.
    pub bindings: Vec<String>,
    /// Places of the columns that nobody speaks of.
    pub columns: Vec<usize>,
}

impl Missing {
    /// The columns.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().map(|place| &self.relation.columns[*place])
    }
}

/// Every table that lacks rules, in the order of the catalogue, and what else does not fit
/// the tables.
///
/// # Errors
/// What is wrong with settings, plugins and rules, whatever the tables are.
pub fn missing(
    host: &Arc<Host>,
    config: &Config,
    catalog: &Catalog,
) -> Result<(Vec<Missing>, Vec<LoadError>), Vec<LoadError>> {
    let placed = |mut errors: Vec<LoadError>| {
        places::place(config, &mut errors);
        errors
    };
    let (mut links, _) = links(host, config).map_err(placed)?;
    let names: Vec<String> = links.iter().map(|(bound, _)| bound.config.name.clone()).collect();
    let mut draft = Draft::new((host, config, catalog), Vec::new());
    draft.check_needs(&links);
    draft.check_renames();
    let (plans, _) = draft.plan(&mut links);
    let mut missing = Vec::new();
    for plan in plans.iter().filter(|plan| !plan.relation.is_virtual()) {
        let bindings: Vec<String> = plan
            .links
            .iter()
            .zip(&names)
            .filter(|(l, _)| l.is_some())
            .map(|(_, n)| n.clone())
            .collect();
        let unnamed = bindings.is_empty() && matches!(plan.fate, Fate::Halt(_));
        let columns: Vec<usize> = match unnamed {
            true => (0..plan.relation.columns.len()).collect(),
            false => plan.unruled.clone(),
        };
        if !columns.is_empty() {
            let relation = Arc::clone(&plan.relation);
            missing.push(Missing { relation, bindings, columns });
        }
    }
    // Told above, and better.
    let told = |error: &LoadError| missing.iter().any(|m| m.relation.qualified() == error.at);
    let others = draft.errors.into_iter().filter(|e| !(e.binding.is_none() && told(e))).collect();
    Ok((missing, placed(others)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::testing::{Guest, Setup, catalog, host, said, table, users};
    use super::*;

    #[test]
    fn columns_and_tables_without_rules_are_found() {
        let setup = Setup::new(&Guest::new(&[("email", "mask")]));
        let (users, orders) = (users(), table(8, "orders", &["id!", "total"]));
        let tables = catalog(&[&users, &orders]);
        let (found, others) = missing(&host(), &setup.config, &tables).unwrap();
        assert!(others.is_empty(), "{}", said(&others));
        assert_eq!(found.len(), 2);
        assert_eq!(
            (&found[0].relation, &found[0].bindings[..]),
            (&users, &["mask".to_owned()][..])
        );
        assert_eq!(found[0].columns, [0]);
        assert_eq!((&found[1].relation, found[1].bindings.len()), (&orders, 0));
        assert_eq!(
            found[1].columns().map(|c| c.name.as_str()).collect::<Vec<_>>(),
            ["id", "total"]
        );
        let whole = Setup::new(&Guest::new(&[("email", "mask"), ("id", "pass")]));
        let (found, _) = missing(&host(), &whole.config, &catalog(&[&users])).unwrap();
        assert!(found.is_empty());
    }

    #[test]
    fn what_else_is_wrong_is_told_beside_it() {
        let typo =
            Guest::new(&[("email", "mask"), ("id", "pass")]).names("public.users", &["emial"]);
        let setup = Setup::new(&typo);
        let (found, others) = missing(&host(), &setup.config, &catalog(&[&users()])).unwrap();
        assert!(said(&others).contains("emial"), "{}", said(&others));
        assert!(found.iter().all(|missing| missing.bindings.is_empty()), "{found:?}");
        let mut broken = Setup::new(&typo);
        broken.binding().plugin = "none.wasm".to_owned();
        assert!(
            said(&missing(&host(), &broken.config, &catalog(&[])).unwrap_err())
                .contains("none.wasm")
        );
    }
}
