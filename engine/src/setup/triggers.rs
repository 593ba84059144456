//! The event triggers: their statements, and whether they stand as they should. Nothing can
//! go wrong here.

use super::Step;
use crate::ddl::scan;

/// The statements that install them, as an operator runs them by hand.
pub const SQL: &str = include_str!("../../../config/sql/ddl.sql");

/// What a function of theirs is made of begins and ends with this.
const BODY: &str = "$kasho$";

/// Their names, each enabled for sessions in replica role too.
pub(super) const NAMES: [&str; 4] =
    ["kasho_ddl_1_path", "kasho_ddl_2_end", "kasho_ddl_drop", "kasho_ddl_rewrite"];

/// Each function with its body.
pub(super) fn functions() -> Vec<(&'static str, &'static str)> {
    let mut parts = SQL.split(BODY);
    let mut found = Vec::new();
    while let (Some(head), Some(body)) = (parts.next(), parts.next()) {
        let name = head.rsplit_once("FUNCTION kasho.").and_then(|(_, rest)| rest.split_once('('));
        if let Some((name, _)) = name.filter(|_| head.contains("RETURNS event_trigger")) {
            found.push((name, body));
        }
    }
    found
}

/// The statements one by one. `superuser`: only a superuser may fix the language of messages,
/// by which the text of what a function runs is found; without that it may be unknown.
pub(super) fn steps(superuser: bool) -> Vec<Step> {
    let statements = scan(SQL).unwrap_or_default();
    let steps = statements.iter().map(|statement| {
        let sql = &SQL[statement.range.clone()];
        let words: Vec<&str> = statement.words().take(6).collect();
        let what = match words.first() {
            Some(&"DO") => "event triggers: fire, for every session".to_owned(),
            _ => {
                let line = sql.lines().next().unwrap_or_default();
                format!("event triggers: {}", line.trim_end_matches(" AS $kasho$"))
            }
        };
        Step::new(what, if superuser { sql.to_owned() } else { sql.replace(LANGUAGE, "") })
    });
    steps.collect()
}

const LANGUAGE: &str = " SET lc_messages = 'C'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_taken_apart_whole() {
        let names: Vec<&str> = functions().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["ddl_path", "ddl_drop", "ddl_rewrite", "ddl_end"]);
        assert!(functions().iter().all(|(_, body)| body.trim().ends_with("END")));
        let steps = steps(true);
        assert_eq!(steps.len(), 8);
        assert!(steps.iter().any(|step| step.sql.contains(LANGUAGE)));
        assert!(!super::steps(false).iter().any(|step| step.sql.contains("lc_messages")));
        for name in NAMES {
            assert!(SQL.contains(&format!("'{name}'")), "{name}");
        }
    }
}
