//! The helpers of templates, on text. Nothing can go wrong.

/// Letters and digits in lower case, a `-` for each run of anything else between them.
pub(crate) fn slugify(text: &str) -> String {
    let mut slug = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() => slug.extend(c.to_lowercase()),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

/// What stands before the first `mark`; nothing if there is none, so that a value without one
/// does not leave whole.
pub(crate) fn before<'t>(text: &'t str, mark: &str) -> &'t str {
    text.split_once(mark).map_or("", |(before, _)| before)
}

/// What stands behind the first `mark`; nothing if there is none.
pub(crate) fn after<'t>(text: &'t str, mark: &str) -> &'t str {
    text.split_once(mark).map_or("", |(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers() {
        assert_eq!(slugify("  Grüße, O'Neill & Söhne! "), "grüße-o-neill-söhne");
        assert_eq!(slugify("--"), "");
        assert_eq!((before("a@b@c", "@"), after("a@b@c", "@")), ("a", "b@c"));
        assert_eq!((before("abc", "@"), after("abc", "@")), ("", ""));
    }
}
