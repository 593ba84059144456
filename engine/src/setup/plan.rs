//! What is missing, as statements in the order they have to be run: role, grants,
//! publication, event triggers. A function of the facts; nothing can go wrong.

use std::collections::BTreeSet;

use super::facts::{Facts, Function, Table};
use super::{Plan, Spec, Step, mark, triggers};
use crate::quote::{identifier, literal};

/// What is to be done for `spec`.
#[must_use]
pub fn plan(facts: &Facts, spec: &Spec) -> Plan {
    let mut plan = Plan::default();
    server(facts, &mut plan);
    let chosen = chosen(facts, spec, &mut plan);
    role(facts, spec, &chosen, &mut plan);
    grants(facts, spec, &chosen, &mut plan);
    publication(facts, spec, &chosen, &mut plan);
    event_triggers(facts, spec, &mut plan);
    plan
}

fn server(facts: &Facts, plan: &mut Plan) {
    plan.notes.extend(facts.server.iter().map(|finding| finding.told()));
    // One for us, and one that a snapshot or a move to another server needs for a while.
    for (free, setting) in
        [(facts.spare.0, "max_replication_slots"), (facts.spare.1, "max_wal_senders")]
    {
        if free < 2 {
            plan.notes.push(format!(
                "only {free} free of {setting}, and 2 are needed; to mend it: raise it, and \
                 restart the server"
            ));
        }
    }
}

/// The tables that are published, or shall be, with their partitions.
fn chosen<'a>(facts: &'a Facts, spec: &Spec, plan: &mut Plan) -> Vec<&'a Table> {
    let exists = spec.publications.iter().any(|name| facts.publications.contains_key(name));
    let asked = |table: &Table| {
        let own = [&table.name, &table.plain];
        spec.tables.is_empty() || spec.tables.iter().any(|asked| own.contains(&asked))
    };
    for name in spec.tables.iter().filter(|name| {
        !facts.tables.iter().any(|table| table.name == **name || table.plain == **name)
    }) {
        plan.notes.push(format!("there is no table {name} that could be published"));
    }
    let roots: BTreeSet<&str> = match exists {
        true => facts.tables.iter().filter(|t| t.published).map(|t| t.root.as_str()).collect(),
        false => facts.tables.iter().filter(|t| asked(t)).map(|t| t.root.as_str()).collect(),
    };
    let mut bad: BTreeSet<&str> = BTreeSet::new();
    for table in facts.tables.iter().filter(|table| roots.contains(table.root.as_str())) {
        let Some((problem, mend)) = &table.problem else { continue };
        bad.insert(&table.root);
        let fate = match exists || spec.all_tables {
            true => "is published: its UPDATEs and DELETEs fail",
            false => "is left out: its UPDATEs and DELETEs would fail",
        };
        plan.notes.push(format!("table {} {fate} ({problem}); to mend it: {mend}", table.name));
    }
    if exists {
        bad.clear();
        let others = facts.tables.iter().filter(|table| table.name == table.root);
        let others = others.filter(|table| !roots.contains(table.root.as_str()));
        let names: Vec<&str> = others.map(|table| table.name.as_str()).collect();
        if !names.is_empty() {
            plan.notes.push(format!(
                "not published: {}; to add one: ALTER PUBLICATION {} ADD TABLE …;",
                names.join(", "),
                identifier(&spec.publications[0])
            ));
        }
    } else if spec.all_tables {
        bad.clear();
    }
    let wanted =
        |table: &&Table| roots.contains(table.root.as_str()) && !bad.contains(table.root.as_str());
    facts.tables.iter().filter(wanted).collect()
}

fn role(facts: &Facts, spec: &Spec, chosen: &[&Table], plan: &mut Plan) {
    let (role, name) = (&facts.role, identifier(&spec.role));
    let mut attributes = Vec::new();
    if !role.login && role.oid.is_some() {
        attributes.push("LOGIN");
    }
    if !(role.replication || role.superuser) {
        attributes.push("REPLICATION");
    }
    let bound = chosen.iter().any(|table| table.row_security && table.owner != spec.role);
    if bound && !(role.bypass || role.superuser) {
        attributes.push("BYPASSRLS");
    }
    if role.oid.is_none() {
        let sql = format!("CREATE ROLE {name} LOGIN {}", attributes.join(" "));
        plan.steps.push(Step::new("the role that reads", sql));
        plan.password = true;
        plan.steps.push(mark(&format!("ROLE {name}")));
        return;
    }
    for attribute in attributes {
        let what = match attribute {
            "BYPASSRLS" => "it sees every row of tables with row security",
            "REPLICATION" => "it may stream",
            _ => "it may log in",
        };
        plan.steps.push(Step::new(what, format!("ALTER ROLE {name} {attribute}")));
    }
}

fn grants(facts: &Facts, spec: &Spec, chosen: &[&Table], plan: &mut Plan) {
    let (role, name) = (&facts.role, identifier(&spec.role));
    if role.superuser {
        return;
    }
    let mut grant = |what: &str, sql: String| plan.steps.push(Step::new(what, sql));
    if !role.connect {
        let database = identifier(&facts.database);
        grant("it may connect", format!("GRANT CONNECT ON DATABASE {database} TO {name}"));
    }
    let made = role.oid.is_none();
    if !(role.messages || made) {
        let sql = format!(
            "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname = \
             'pg_logical_emit_message' LOOP EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', \
             f, {}); END LOOP; END $$",
            literal(&spec.role)
        );
        grant("it may write the messages that heartbeats are", sql);
    }
    let schemas: BTreeSet<&str> =
        chosen.iter().filter(|table| !table.usage).map(|table| table.schema.as_str()).collect();
    for schema in schemas {
        let sql = format!("GRANT USAGE ON SCHEMA {} TO {name}", identifier(schema));
        grant("it may name the published tables", sql);
    }
    let tables: Vec<&str> =
        chosen.iter().filter(|table| !table.select).map(|table| table.name.as_str()).collect();
    for some in tables.chunks(100) {
        let sql = format!("GRANT SELECT ON {} TO {name}", some.join(", "));
        grant("it may read the published tables", sql);
    }
    let published = |of: &str| chosen.iter().any(|table| table.name == of);
    let sequences = facts.sequences.iter().filter(|(_, table)| published(table));
    let sequences: Vec<&str> = sequences.map(|(sequence, _)| sequence.as_str()).collect();
    for some in sequences.chunks(100) {
        let sql = format!("GRANT SELECT ON SEQUENCE {} TO {name}", some.join(", "));
        grant("it may read their sequences", sql);
    }
    // What their owners make later: partitions, and tables of a publication for all tables.
    let future = chosen.iter().filter(|table| !(table.future || role.reads_all));
    let future: BTreeSet<(&str, &str)> =
        future.map(|table| (table.owner.as_str(), table.schema.as_str())).collect();
    for (owner, schema) in future {
        let (owner, schema) = (identifier(owner), identifier(schema));
        let sql = format!(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO \
             {name}"
        );
        grant("it may read what is made later", sql);
    }
}

fn publication(facts: &Facts, spec: &Spec, chosen: &[&Table], plan: &mut Plan) {
    let Some(first) = spec.publications.first() else { return };
    for name in spec.publications[1..].iter().filter(|n| !facts.publications.contains_key(*n)) {
        plan.notes.push(format!(
            "publication {name} does not exist; to mend it: CREATE PUBLICATION {} FOR TABLE …;",
            identifier(name)
        ));
    }
    // Which tables an existing one has is its maker's choice.
    if spec.publications.iter().any(|name| facts.publications.contains_key(name)) {
        return;
    }
    let name = identifier(first);
    if spec.all_tables {
        let sql = format!("CREATE PUBLICATION {name} FOR ALL TABLES");
        plan.steps.push(Step::new("every table there is and will be", sql));
        plan.steps.push(mark(&format!("PUBLICATION {name}")));
        return;
    }
    let roots = chosen.iter().filter(|table| table.name == table.root);
    let roots: Vec<&str> = roots.map(|table| table.name.as_str()).collect();
    if roots.is_empty() {
        plan.notes.push("there is no table that could be published yet".to_owned());
        plan.steps.push(Step::new("a publication", format!("CREATE PUBLICATION {name}")));
        plan.steps.push(mark(&format!("PUBLICATION {name}")));
        return;
    }
    let sql = format!("CREATE PUBLICATION {name} FOR TABLE {}", roots.join(", "));
    plan.steps.push(Step::new("the tables that can be followed", sql));
    plan.steps.push(mark(&format!("PUBLICATION {name}")));
}

fn event_triggers(facts: &Facts, spec: &Spec, plan: &mut Plan) {
    let same = |(name, wanted): &(&str, Function)| facts.functions.get(*name) == Some(wanted);
    let stand = triggers::functions().iter().all(same)
        && triggers::NAMES.iter().all(|name| facts.triggers.iter().any(|there| there == name));
    if spec.triggers && facts.open_messages {
        plan.notes.push(
            "every role may write logical messages, and with them what looks like a schema change; \
             where roles of this database are not trusted with its schema: REVOKE EXECUTE ON \
             FUNCTION pg_logical_emit_message FROM PUBLIC, once for each of its forms, then run \
             this again"
                .to_owned(),
        );
    }
    if !spec.triggers || stand {
        return;
    }
    if facts.superuser {
        plan.steps.push(triggers::step());
    } else {
        plan.notes.push(
            "event triggers for schema changes are not installed as they should be, and need a \
             superuser; to mend it: have one run config/sql/ddl.sql. Without them a schema change \
             is noticed with the next row of its table, and has to be made on targets by hand"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Role;
    use super::*;

    fn table(name: &str, problem: Option<&str>) -> Table {
        Table {
            name: format!("public.{name}"),
            plain: format!("public.{name}"),
            schema: "public".into(),
            owner: "app".into(),
            root: format!("public.{name}"),
            row_security: false,
            select: false,
            usage: true,
            future: false,
            published: false,
            problem: problem.map(|problem| (problem.to_owned(), "a key".to_owned())),
        }
    }

    fn facts() -> Facts {
        let role = Role { connect: true, messages: true, ..Role::default() };
        let tables = vec![table("good", None), table("bad", Some("no primary key"))];
        Facts { spare: (5, 5), superuser: true, role, tables, ..Facts::default() }
    }

    fn spec() -> Spec {
        Spec {
            role: "kasho".into(),
            slot: "kasho_slot".into(),
            publications: vec!["kasho_pub".into()],
            all_tables: false,
            tables: Vec::new(),
            triggers: false,
        }
    }

    #[test]
    fn tables_that_would_fail_are_left_out_and_named() {
        let plan = plan(&facts(), &spec());
        let sql: Vec<&str> = plan.steps.iter().map(|step| step.sql.as_str()).collect();
        assert_eq!(
            sql,
            [
                "CREATE ROLE \"kasho\" LOGIN REPLICATION",
                "COMMENT ON ROLE \"kasho\" IS 'made by kasho setup'",
                "GRANT SELECT ON public.good TO \"kasho\"",
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"app\" IN SCHEMA \"public\" GRANT SELECT ON \
                 TABLES TO \"kasho\"",
                "CREATE PUBLICATION \"kasho_pub\" FOR TABLE public.good",
                "COMMENT ON PUBLICATION \"kasho_pub\" IS 'made by kasho setup'",
            ]
        );
        assert_eq!(plan.notes.len(), 1);
        assert!(plan.notes[0].starts_with("table public.bad is left out"), "{:?}", plan.notes);
        assert!(plan.script().contains("SET lock_timeout = '2000ms';"));
    }

    #[test]
    fn what_is_there_is_not_made_again() {
        let mut facts = facts();
        facts.role = Role {
            oid: Some(7),
            login: true,
            replication: true,
            connect: true,
            messages: true,
            ..Role::default()
        };
        facts.publications.insert("kasho_pub".into(), true);
        let good = &mut facts.tables[0];
        (good.select, good.future, good.published) = (true, true, true);
        let plan = plan(&facts, &spec());
        assert_eq!(plan.steps, []);
        assert_eq!(
            plan.notes,
            ["not published: public.bad; to add one: ALTER PUBLICATION \"kasho_pub\" ADD TABLE …;"]
        );
        assert!(plan.script().ends_with("-- nothing is left to do\n"));
    }

    #[test]
    fn row_security_needs_a_role_that_sees_every_row() {
        let mut facts = facts();
        facts.tables[0].row_security = true;
        let first = plan(&facts, &spec()).steps.remove(0);
        assert_eq!(first.sql, "CREATE ROLE \"kasho\" LOGIN REPLICATION BYPASSRLS");
        facts.tables[0].owner = "kasho".into();
        let first = plan(&facts, &spec()).steps.remove(0);
        assert_eq!(first.sql, "CREATE ROLE \"kasho\" LOGIN REPLICATION");
    }
}
