//! What sort of change a command tag stands for, as far as it matters whether it may leave.
//! Nothing can go wrong: a tag that is not listed is of the kind of which least may leave.

/// Sorts of schema changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tables, columns, indexes, constraints, types, schemas, sequences, views: how rows look.
    Structure,
    /// A table made of a query's rows: its structure counts, its query must never run again.
    Query,
    /// Functions, triggers, rules, policies and whatever else may hold code.
    Code,
    /// Rights, owners and comments, and what fills a materialized view anew, from the tables
    /// of its own server: nothing of rows depends on them.
    Remark,
    /// Of this server alone, and often with secrets: user mappings, foreign servers and
    /// tables, subscriptions, publications, extensions' own business. Never published.
    Local,
}

/// The kind of changes with this command tag.
#[must_use]
pub fn kind(tag: &str) -> Kind {
    let (verb, object) = tag.split_once(' ').unwrap_or((tag, ""));
    match (verb, object) {
        ("SELECT", "INTO") | ("CREATE", "TABLE AS") => Kind::Query,
        ("GRANT" | "REVOKE" | "COMMENT", _)
        | ("SECURITY", "LABEL")
        | ("REFRESH", "MATERIALIZED VIEW")
        | ("ALTER", "DEFAULT PRIVILEGES") => Kind::Remark,
        (
            _,
            "PUBLICATION" | "SUBSCRIPTION" | "SERVER" | "USER MAPPING" | "FOREIGN DATA WRAPPER",
        )
        | (_, "FOREIGN TABLE" | "FOREIGN SCHEMA" | "ROLE" | "DATABASE" | "TABLESPACE" | "SYSTEM")
        | (_, "EVENT TRIGGER")
        | ("REINDEX" | "CLUSTER" | "VACUUM" | "ANALYZE", _) => Kind::Local,
        ("CREATE" | "ALTER" | "DROP", "TABLE" | "INDEX" | "TYPE" | "DOMAIN" | "SCHEMA")
        | ("CREATE" | "ALTER" | "DROP", "SEQUENCE" | "VIEW" | "MATERIALIZED VIEW") => {
            Kind::Structure
        }
        _ => Kind::Code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sorted() {
        for (tag, expected) in [
            ("CREATE TABLE", Kind::Structure),
            ("ALTER MATERIALIZED VIEW", Kind::Structure),
            ("CREATE TABLE AS", Kind::Query),
            ("SELECT INTO", Kind::Query),
            ("CREATE FUNCTION", Kind::Code),
            ("CREATE POLICY", Kind::Code),
            ("REFRESH MATERIALIZED VIEW", Kind::Remark),
            ("a tag of the future", Kind::Code),
            ("GRANT", Kind::Remark),
            ("COMMENT", Kind::Remark),
            ("CREATE USER MAPPING", Kind::Local),
            ("ALTER SUBSCRIPTION", Kind::Local),
            ("IMPORT FOREIGN SCHEMA", Kind::Local),
        ] {
            assert_eq!(kind(tag), expected, "{tag}");
        }
    }
}
