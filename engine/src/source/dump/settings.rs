//! The settings that a dump says it was made under. What they do to values is undone
//! where a value still tells (time zone, bytea); the others are refused by name.

/// Why a setting cannot be read under, and what to do: none if it can.
pub(super) fn refusal(name: &str, value: &str) -> Option<&'static str> {
    let plain: String = value.chars().filter(|c| !matches!(c, '\'' | '"' | ' ')).collect();
    let plain = plain.to_ascii_lowercase();
    match name {
        "client_encoding" if !matches!(plain.as_str(), "utf8" | "utf-8" | "unicode") => Some(
            "its text is in another encoding than the stream's; take the dump with pg_dump \
             --encoding=UTF8",
        ),
        "standard_conforming_strings" if !truth(&plain) => Some(
            "backslashes in its strings mean something else; take the dump with \
             PGOPTIONS='-c standard_conforming_strings=on'",
        ),
        "datestyle" if !plain.starts_with("iso") => {
            Some("its dates cannot be told for certain; take the dump with datestyle ISO")
        }
        "intervalstyle" if plain != "postgres" => Some(
            "its intervals have another text than the stream's; take the dump with intervalstyle \
             postgres",
        ),
        "extra_float_digits" if plain.parse::<i32>().is_ok_and(|digits| digits < 1) => Some(
            "its floating point numbers are rounded; take the dump without --extra-float-digits",
        ),
        _ => None,
    }
}

/// As PostgreSQL reads a Boolean setting.
fn truth(value: &str) -> bool {
    matches!(value, "on" | "true" | "t" | "yes" | "y" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_dump_writes_is_read_and_what_loses_something_is_refused() {
        for (name, value) in [
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("statement_timeout", "0"),
            ("row_security", "off"),
            ("timezone", "America/New_York"),
            ("bytea_output", "escape"),
            ("datestyle", "ISO, DMY"),
            ("intervalstyle", "postgres"),
            ("extra_float_digits", "3"),
            ("default_tablespace", ""),
        ] {
            assert_eq!(refusal(name, value), None, "{name}");
        }
        for (name, value) in [
            ("client_encoding", "LATIN1"),
            ("client_encoding", "SQL_ASCII"),
            ("standard_conforming_strings", "off"),
            ("datestyle", "German"),
            ("intervalstyle", "iso_8601"),
            ("extra_float_digits", "0"),
        ] {
            assert!(refusal(name, value).is_some_and(|remedy| remedy.contains("take the dump")));
        }
    }
}
