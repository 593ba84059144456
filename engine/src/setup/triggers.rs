//! The event triggers: their statements, and whether they stand as they should. Nothing can
//! go wrong here.

use super::Step;
use super::facts::Function;

/// The statements that install them, as an operator runs them by hand.
pub const SQL: &str = include_str!("../../../config/sql/ddl.sql");

/// What a function of theirs is made of begins and ends with this.
const BODY: &str = "$kasho$";

/// Their names, each enabled for sessions in replica role too.
pub(super) const NAMES: [&str; 5] = [
    "kasho_ddl_1_path",
    "kasho_ddl_2_end",
    "kasho_ddl_drop",
    "kasho_ddl_rewrite",
    "kasho_ddl_start",
];

/// The functions that they call.
pub(super) const FUNCTIONS: [&str; 5] =
    ["ddl_path", "ddl_start", "ddl_drop", "ddl_rewrite", "ddl_end"];

/// Each function as it should be.
pub(super) fn functions() -> Vec<(&'static str, Function)> {
    let mut parts = SQL.split(BODY);
    let mut found = Vec::new();
    while let (Some(head), Some(body)) = (parts.next(), parts.next()) {
        let name = head.rsplit_once("FUNCTION kasho.").and_then(|(_, rest)| rest.split_once('('));
        if let Some((name, options)) = name.filter(|_| head.contains("RETURNS event_trigger")) {
            let setting = options.split_once("SET ").and_then(|(_, rest)| rest.rsplit_once(" AS"));
            let settings = setting.map(|(setting, _)| setting.replacen(" = ", "=", 1));
            let wanted = Function {
                body: body.to_owned(),
                definer: options.contains("SECURITY DEFINER"),
                settings: settings.unwrap_or_default(),
                trusted: true,
            };
            found.push((name, wanted));
        }
    }
    found
}

/// What installs them. One step, and one transaction: nobody gets between a function that is
/// replaced and its new owner.
pub(super) fn step() -> Step {
    let begin = SQL.find("\nBEGIN;").map_or(0, |at| at + 1);
    Step::new("event triggers that tell of schema changes", SQL[begin..].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_taken_apart_whole() {
        let functions = functions();
        let names: Vec<&str> = functions.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, FUNCTIONS);
        for (name, function) in &functions {
            assert!(function.body.trim().ends_with("END"), "{name}");
            let (definer, settings) = match *name {
                "ddl_path" => (false, ""),
                _ => (true, "search_path=pg_catalog, pg_temp"),
            };
            assert_eq!((function.definer, function.settings.as_str()), (definer, settings));
            assert!(SQL.contains(&format!("ALTER FUNCTION kasho.{name}() OWNER TO CURRENT_USER;")));
        }
        let sql = step().sql;
        assert!(sql.starts_with("BEGIN;") && sql.ends_with("COMMIT;"), "{sql}");
        for name in NAMES {
            assert!(SQL.contains(&format!("'{name}'")), "{name}");
        }
    }
}
