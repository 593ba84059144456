//! What takes away all that setup made, and the slot. A function of the facts; what can go
//! wrong is that somebody still reads the slot, or that something is not of setup's making:
//! that is said and left alone.

use super::facts::Facts;
use super::{Plan, Spec, Step, triggers};
use crate::quote::{identifier, literal};

/// What is to be done.
#[must_use]
pub fn teardown(facts: &Facts, spec: &Spec) -> Plan {
    let mut plan = Plan::default();
    match facts.slot {
        Some(Some(pid)) => plan.notes.push(format!(
            "replication slot {} is being read by the process {pid}: stop the engine first, then run \
             this again",
            spec.slot
        )),
        Some(None) => plan.steps.push(Step::new(
            "the replication slot, with the log that it keeps",
            format!("SELECT pg_drop_replication_slot({})", literal(&spec.slot)),
        )),
        None => {}
    }
    // Before the schema, so that what goes with it is told to nobody.
    for name in triggers::NAMES {
        if facts.triggers.iter().any(|there| there == name) {
            let sql = format!("DROP EVENT TRIGGER IF EXISTS {name}");
            plan.steps.push(Step::new("an event trigger", sql));
        }
    }
    for name in triggers::FUNCTIONS.iter().filter(|name| facts.functions.contains_key(**name)) {
        let sql = format!("DROP FUNCTION IF EXISTS kasho.{name}()");
        plan.steps.push(Step::new("a function of theirs", sql));
    }
    match facts.others.as_slice() {
        // Whoever puts something there meanwhile keeps it.
        [] if facts.schema => {
            plan.steps.push(Step::new("their schema", "DROP SCHEMA IF EXISTS kasho"));
        }
        [] => {}
        others => {
            let others = others.join(", ");
            plan.notes.push(format!("schema kasho stays: there are others in it: {others}"));
        }
    }
    for name in &spec.publications {
        let sql = format!("DROP PUBLICATION IF EXISTS {}", identifier(name));
        match facts.publications.get(name) {
            Some(true) => plan.steps.push(Step::new("a publication", sql)),
            Some(false) => plan.notes.push(format!(
                "publication {name} stays: kasho setup has not made it; to drop it: {sql};"
            )),
            None => {}
        }
    }
    role(facts, spec, &mut plan);
    plan
}

fn role(facts: &Facts, spec: &Spec, plan: &mut Plan) {
    let (role, name) = (&facts.role, identifier(&spec.role));
    let kept = match role {
        role if role.oid.is_none() => return,
        role if role.me => "it is the one that asks",
        role if role.superuser => "it is a superuser",
        role if role.owns => "objects are its own",
        role if !role.marked => "kasho setup has not made it",
        _ => {
            plan.steps
                .push(Step::new("its grants in this database", format!("DROP OWNED BY {name}")));
            plan.steps.push(Step::new("the role", format!("DROP ROLE {name}")));
            return;
        }
    };
    plan.notes.push(format!("role {} stays: {kept}", spec.role));
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Function, Role};
    use super::*;

    fn spec() -> Spec {
        Spec {
            role: "kasho".into(),
            slot: "it's".into(),
            publications: vec!["p".into(), "other".into()],
            all_tables: false,
            tables: Vec::new(),
            triggers: true,
        }
    }

    #[test]
    fn everything_goes_and_nothing_else() {
        let facts = Facts {
            slot: Some(None),
            schema: true,
            functions: [("ddl_drop".to_owned(), Function::default())].into(),
            triggers: vec!["theirs".into(), "kasho_ddl_drop".into()],
            publications: [("p".to_owned(), true)].into(),
            role: Role { oid: Some(1), marked: true, ..Role::default() },
            ..Facts::default()
        };
        let plan = teardown(&facts, &spec());
        let sql: Vec<&str> = plan.steps.iter().map(|step| step.sql.as_str()).collect();
        assert_eq!(
            sql,
            [
                "SELECT pg_drop_replication_slot('it''s')",
                "DROP EVENT TRIGGER IF EXISTS kasho_ddl_drop",
                "DROP FUNCTION IF EXISTS kasho.ddl_drop()",
                "DROP SCHEMA IF EXISTS kasho",
                "DROP PUBLICATION IF EXISTS \"p\"",
                "DROP OWNED BY \"kasho\"",
                "DROP ROLE \"kasho\"",
            ]
        );
        assert_eq!(teardown(&Facts::default(), &spec()), Plan::default());
    }

    #[test]
    fn what_setup_has_not_made_stays_and_is_said() {
        let facts = Facts {
            schema: true,
            others: vec!["table kasho.applied".into()],
            publications: [("p".to_owned(), false)].into(),
            role: Role { oid: Some(1), ..Role::default() },
            ..Facts::default()
        };
        let plan = teardown(&facts, &spec());
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        for (note, part) in plan.notes.iter().zip(["kasho.applied", "publication p", "role kasho"])
        {
            assert!(note.contains(part), "{note}");
        }
        assert_eq!(plan.notes.len(), 3);
    }

    #[test]
    fn what_is_in_use_stays_and_is_said() {
        let role = Role { oid: Some(1), owns: true, ..Role::default() };
        let facts = Facts { slot: Some(Some(7)), role, ..Facts::default() };
        let plan = teardown(&facts, &spec());
        assert!(plan.steps.is_empty());
        assert_eq!(plan.notes.len(), 2);
    }
}
