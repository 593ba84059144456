//! The original's transforms and what they are called here.
//!
//! Its names are CamelCase and case-sensitive; options keep theirs. What it only declares,
//! and refuses itself, is carried over where this one has it. What goes wrong is a type or
//! an option that nobody knows, and a template that does more than put columns together.

use toml::Value;

use super::yaml::{Data, Node};

/// A kind of transform: its name there and here, and its options.
type Kind = (&'static str, &'static str, &'static [&'static str]);

const KINDS: [Kind; 48] = [
    ("FakeName", "fake_name", &[]),
    ("FakeFirstName", "fake_first_name", &[]),
    ("FakeLastName", "fake_last_name", &[]),
    ("FakeEmail", "fake_email", &[]),
    ("FakeSSN", "fake_ssn", &[]),
    ("FakeDateOfBirth", "fake_date_of_birth", &[]),
    ("FakePhone", "fake_phone", &[]),
    ("FakeGender", "fake_gender", &[]),
    ("FakeTitle", "fake_title", &[]),
    ("FakeJobTitle", "fake_job_title", &[]),
    ("FakeIndustry", "fake_industry", &[]),
    ("FakeDomainName", "fake_domain_name", &[]),
    ("FakeUsername", "fake_username", &[]),
    ("FakePassword", "fake_password", &[]),
    ("FakeStreetAddress", "fake_street_address", &[]),
    ("FakeStreet", "fake_street", &[]),
    ("FakeCity", "fake_city", &[]),
    ("FakeState", "fake_state", &[]),
    ("FakeStateAbbr", "fake_state_abbr", &[]),
    ("FakeZip", "fake_zip", &[]),
    ("FakeCountry", "fake_country", &[]),
    ("FakeLatitude", "fake_latitude", &[]),
    ("FakeLongitude", "fake_longitude", &[]),
    ("FakeCompany", "fake_company", &[]),
    ("FakeProduct", "fake_product", &[]),
    ("FakeProductName", "fake_product_name", &[]),
    ("FakeProductDescription", "fake_product_description", &[]),
    ("FakeParagraph", "fake_paragraph", &[]),
    ("FakeWord", "fake_word", &[]),
    ("FakeSentence", "fake_sentence", &[]),
    ("FakeWords", "fake_words", &[]),
    ("FakeCharacters", "fake_characters", &[]),
    ("FakeCharacter", "fake_character", &[]),
    ("FakeDigits", "fake_digits", &[]),
    ("FakeMonth", "fake_month", &[]),
    ("FakeMonthNum", "fake_month_num", &[]),
    ("FakeWeekDay", "fake_week_day", &[]),
    ("FakeYear", "fake_year", &[]),
    ("FakeCreditCardType", "fake_credit_card_type", &[]),
    ("FakeCreditCardNum", "fake_credit_card_num", &[]),
    ("FakeCurrency", "fake_currency", &[]),
    ("Bool", "bool", &[]),
    ("Regex", "regex", &["pattern", "replacement"]),
    ("Template", "template", &["template"]),
    ("PasswordBcrypt", "password_bcrypt", &["cleartext", "use_salt", "cost"]),
    ("PasswordScrypt", "password_scrypt", &["cleartext", "use_salt", "n", "r", "p"]),
    ("PasswordPBKDF2", "password_pbkdf2", &["cleartext", "use_salt", "iterations", "hash"]),
    (
        "PasswordArgon2id",
        "password_argon2id",
        &["cleartext", "use_salt", "time", "memory", "threads"],
    ),
];

/// What a rule becomes, and what is to be known of it.
type Rule = (Value, Option<&'static str>);

/// A rule: a type's name, or a mapping of `type` and its options.
///
/// # Errors
/// The line of what is wrong, and why.
pub(super) fn rule(node: &Node) -> Result<Rule, (usize, String)> {
    if let Some(kind) = node.text() {
        let (_, name, options) = known(kind, node.line)?;
        return match options.is_empty() {
            true => Ok((Value::String((*name).to_owned()), None)),
            false => Err((node.line, format!("`{kind}` needs options: {}", options.join(", ")))),
        };
    }
    let Some(entries) = node.map().filter(|entries| !entries.is_empty()) else {
        return Err((node.line, "a rule is a type, or a mapping with `type`".to_owned()));
    };
    let kind = entries.iter().find(|(key, _)| key.text() == Some("type"));
    let Some((_, kind)) = kind else {
        return Err((node.line, "the rule has no `type`".to_owned()));
    };
    let written = kind.text().unwrap_or_default();
    let (_, name, options) = known(written, kind.line)?;
    let mut rule = toml::Table::new();
    rule.insert("transform".to_owned(), Value::String((*name).to_owned()));
    for (key, value) in entries.iter().filter(|(key, _)| key.text() != Some("type")) {
        let option = key.text().unwrap_or_default();
        if !options.contains(&option) {
            let option = super::name(key);
            return Err((key.line, format!("`{written}` has no option {option}")));
        }
        let value = scalar(value).ok_or((value.line, format!("`{option}` is no plain value")))?;
        if let (Some(text), "template" | "cleartext") = (value.as_str(), option) {
            template(text).map_err(|wrong| (key.line, wrong))?;
        }
        rule.insert(option.to_owned(), value);
    }
    let note = match *name {
        "regex" => Some(
            "a value that the pattern does not match left as it was there, and is an error here: see \
             on_no_match",
        ),
        _ => None,
    };
    let value =
        if rule.len() == 1 { Value::String((*name).to_owned()) } else { Value::Table(rule) };
    Ok((value, note))
}

fn known(written: &str, line: usize) -> Result<&'static Kind, (usize, String)> {
    if let Some(kind) = KINDS.iter().find(|(name, ..)| *name == written) {
        return Ok(kind);
    }
    let near = KINDS.iter().find(|(name, ..)| name.eq_ignore_ascii_case(written));
    let near = near.map(|(name, ..)| format!("; did you mean `{name}`?")).unwrap_or_default();
    let written = super::super::printable(written);
    Err((line, format!("there is no type `{written}`{near}")))
}

fn scalar(node: &Node) -> Option<Value> {
    Some(match &node.data {
        Data::Text(text) => Value::String(text.clone()),
        Data::Integer(n) => Value::Integer(*n),
        Data::Float(x) => Value::Float(*x),
        Data::Bool(truth) => Value::Boolean(*truth),
        Data::Null | Data::Map(_) | Data::Other => return None,
    })
}

/// Whether a template only puts columns together: what else Go's templates can do is left
/// out here.
fn template(text: &str) -> Result<(), String> {
    let known = ["index", "lower", "upper", "slugify", "before", "after"];
    for action in text.split("{{").skip(1) {
        let inside = action.split("}}").next().unwrap_or_default();
        let inside = inside.trim_matches('-').trim();
        let word = inside.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if !inside.starts_with('.') && !known.contains(&word) {
            return Err(format!(
                "the template says `{}`, which is left out here: there are .column, index, lower, \
                 upper, slugify, before and after",
                super::super::printable(word)
            ));
        }
    }
    Ok(())
}
