//! `${NAME}` in the texts of a configuration, and the variables that stand in for keys
//! the file leaves out. What can go wrong: a variable that is not set, a brace that
//! does not close.

/// Where variables are looked up: the process' environment, or a test's.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of the original, and one of their kind, with the keys they stand in for.
/// The file wins.
pub(super) const STAND_INS: [(&str, &str, &str); 6] = [
    ("PRIMARY_DATABASE_URL", "source", "url"),
    ("REPLICATION_SLOT_NAME", "source", "slot"),
    ("KV_URL", "redis", "url"),
    ("REPLICA_DATABASE_URL", "apply", "target"),
    ("GRPC_PORT", "grpc", "listen"),
    ("HTTP_PORT", "http", "listen"),
];

/// Replaces each `${NAME}`; `$$` is a dollar, and a dollar before anything else is one
/// too.
///
/// # Errors
/// What is wrong, without the text: it may hold a secret.
pub(super) fn substitute(text: &str, env: Env<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or("\"${\" without \"}\"")?;
            out.push_str(&variable(name, env)?);
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(name: &str, env: Env<'_>) -> Result<String, String> {
    let named = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
    if !named || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err("\"${…}\" does not hold the name of a variable; write $$ for a dollar".into());
    }
    env(name).ok_or_else(|| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "USER_1").then(|| "ada${x}$$".to_owned())
    }

    #[test]
    fn variables_are_replaced_once() {
        assert_eq!(substitute("a${USER_1}b", &env).unwrap(), "aada${x}$$b");
        assert_eq!(substitute("$$ $${USER_1} 5$ $1 é", &env).unwrap(), "$ ${USER_1} 5$ $1 é");
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_else() {
        assert!(substitute("secret${NOPE}", &env).unwrap_err().contains("NOPE"));
        for text in ["secret${NOPE", "secret${}", "secret${1}", "secret${a b}"] {
            let error = substitute(text, &env).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
