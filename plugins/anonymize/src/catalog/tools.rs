//! Transforms that work on the value itself, or on the row.

use kasho_plugin_sdk::Normaliser::Exact;

use super::{BY, Entry, KEYED, Kind, Maker, Makes, Opt, Unique, opt};

const MASK: &[Opt] = &[
    opt("keep_first", Kind::Integer, "0", "Characters kept at the beginning."),
    opt("keep_last", Kind::Integer, "0", "Characters kept at the end."),
    opt("char", Kind::Text, "\"*\"", "What stands in place of each of the others."),
];
const CONSTANT: &[Opt] =
    &[opt("value", Kind::Text, "", "The text, as PostgreSQL prints the type.")];
const REGEX: &[Opt] = &[
    opt("pattern", Kind::Text, "", "What is looked for (Rust's `regex-lite`)."),
    opt("replacement", Kind::Text, "", "What each match becomes; `$1` is a group."),
    opt(
        "on_no_match",
        Kind::Text,
        "\"error\"",
        "For a value without a match: error, null or constant.",
    ),
    opt("constant", Kind::Text, "", "The text of `on_no_match = \"constant\"`."),
];
const HASH: &[Opt] = &[opt("length", Kind::Integer, "32", "Hexadecimal digits, 8 to 32.")];
const DOMAIN: &[Opt] =
    &[opt("domain", Kind::Text, "", "Same value, same result in every column of the domain.")];
const SHIFT: &[Opt] =
    &[opt("days", Kind::Integer, "30", "Days to go back or forth at most, never 0.")];
const NOISE: &[Opt] = &[
    opt("ratio", Kind::Number, "0.1", "Most that is added or taken, as a part of the value."),
    opt("amount", Kind::Number, "", "The same as a number, in place of `ratio`."),
];
const CHOICE: &[Opt] = &[opt("values", Kind::Texts, "", "The texts to choose from.")];
const JSON: &[Opt] = &[opt(
    "paths",
    Kind::Rules,
    "",
    "What leaves, each with its rule: `a.b`, `list[*].x`, `*` for any name.",
)];
const TEMPLATE: &[Opt] = &[opt(
    "template",
    Kind::Text,
    "",
    "Text with `{{.column}}`, through `lower`, `upper`, `slugify`, `before`, `after`.",
)];
const PASSWORD: &[Opt] = &[
    opt("cleartext", Kind::Text, "", "The new password: a text or a template."),
    opt("use_salt", Kind::Flag, "true", "A salt for each cleartext; one for all if false."),
    opt("salt_per_value", Kind::Flag, "false", "A salt, and so the whole cost, for each value."),
];
const FORMAT: &[Opt] =
    &[opt("format", Kind::Text, "\"hex\"", "`hex(salt)$hex(hash)`, or \"phc\" for `$name$…`.")];
const BCRYPT: &[Opt] = &[opt("cost", Kind::Integer, "10", "Rounds as a power of two, 4 to 20.")];
const SCRYPT: &[Opt] = &[
    opt("n", Kind::Integer, "131072", "Cost, a power of two."),
    opt("r", Kind::Integer, "8", "Block size; memory is 128 × n × r bytes."),
    opt("p", Kind::Integer, "1", "Parallelism."),
];
const PBKDF2: &[Opt] = &[
    opt("iterations", Kind::Integer, "600000", "Rounds."),
    opt("hash", Kind::Text, "\"SHA256\"", "SHA256, SHA384 or SHA512."),
];
const ARGON2: &[Opt] = &[
    opt("time", Kind::Integer, "3", "Passes."),
    opt("memory", Kind::Integer, "65536", "Memory, KiB."),
    opt("threads", Kind::Integer, "4", "Lanes."),
];

const fn password(
    name: &'static str,
    aliases: &'static [&'static str],
    maker: Maker,
    options: &'static [&'static [Opt]],
) -> Entry {
    Entry::plain(name, aliases, maker).keyed("password", Exact).with(options)
}

pub(super) static ENTRIES: &[Entry] = &[
    Entry::plain("pass", &[], Maker::Pass)
        .doc("The value itself.")
        .unique(Unique::Exact)
        .made(Makes::Any, Maker::Pass),
    Entry::plain("null", &[], Maker::Null)
        .doc("NULL.")
        .made(Makes::Any, Maker::Null)
        .unique(Unique::Null),
    Entry::plain("constant", &[], Maker::Constant)
        .doc("Always the same text.")
        .made(Makes::Values, Maker::Constant)
        .with(&[CONSTANT])
        .example("value = \"0\"", "int4", "42"),
    Entry::plain("mask", &[], Maker::Mask)
        .doc("All but the first and last characters hidden; the whole of a short value.")
        .with(&[MASK])
        .example("keep_last = 4", "text", "123-45-6789"),
    Entry::plain("regex", &["Regex"], Maker::Regex)
        .doc("Every match replaced; what the pattern does not match stays.")
        .with(&[REGEX])
        .example("pattern = \"[0-9]\", replacement = \"#\"", "text", "Flat 7, 21 Baker Street"),
    Entry::plain("hash", &[], Maker::Hash)
        .doc("Hexadecimal digits of the keyed hash; a uuid in a `uuid` column.")
        .made(Makes::Uuid, Maker::Hash)
        .unique(Unique::Length)
        .keyed("hash", Exact)
        .with(&[HASH, KEYED])
        .example("", "text", "ada@lovelace.org"),
    Entry::plain("token", &[], Maker::Token)
        .doc("Another text for every text, one to one: 26 characters and 1.6 for each byte.")
        .unique(Unique::Exact)
        .keyed("token", Exact)
        .with(&[DOMAIN])
        .example("", "text", "AB-1815"),
    Entry::plain("digits", &[], Maker::Permute)
        .doc("Other digits, one to one, everything between them kept; a number as long as before.")
        .made(Makes::Integer, Maker::Permute)
        .unique(Unique::Exact)
        .version(2)
        .keyed("digits", Exact)
        .with(&[DOMAIN])
        .example("", "int8", "1234567"),
    Entry::plain("uuid", &[], Maker::Uuid)
        .doc("Another uuid of the same version, one to one.")
        .made(Makes::Uuid, Maker::Uuid)
        .unique(Unique::Exact)
        .keyed("uuid", Exact)
        .with(&[DOMAIN])
        .example("", "uuid", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
    Entry::plain("shift_date", &[], Maker::Shift)
        .doc("The date moved by some days, the time of day kept; by a column, intervals stay.")
        .made(Makes::Date, Maker::Shift)
        .keyed("date", Exact)
        .with(&[SHIFT, KEYED, BY])
        .example("by = \"row\"", "timestamp", "1987-06-05 12:30:00"),
    Entry::plain("noise", &[], Maker::Noise)
        .doc("A number near the value, with as many decimals.")
        .version(2)
        .made(Makes::Numeric, Maker::Noise)
        .keyed("noise", Exact)
        .with(&[NOISE, KEYED, BY])
        .example("by = \"row\"", "numeric", "1234.56"),
    Entry::plain("choice", &[], Maker::Choice)
        .doc("One of some texts.")
        .made(Makes::Values, Maker::Choice)
        .keyed("choice", Exact)
        .with(&[CHOICE, KEYED, BY])
        .example("values = [\"red\", \"green\", \"blue\"], by = \"row\"", "text", "black"),
    Entry::plain("json", &[], Maker::Json)
        .doc("Of JSON only what is listed, each by its rule; the rest byte for byte.")
        .version(2)
        .made(Makes::Json, Maker::Json)
        .with(&[JSON])
        .example(
            "paths = { id = \"pass\", name = \"fake_name\" }",
            "jsonb",
            "{\"id\": 7, \"ip\": \"::1\", \"name\": \"Ada\"}",
        ),
    Entry::plain("template", &["Template"], Maker::Template)
        .doc("Text put together from the row's columns as their own rules left them, its own as it came.")
        .version(2)
        .with(&[TEMPLATE])
        .unique(Unique::Field)
        .example("template = \"user-{{.id}}@example.com\"", "text", "ada@lovelace.org"),
    password("password_bcrypt", &["PasswordBcrypt"], Maker::Bcrypt, &[PASSWORD, BCRYPT, DOMAIN])
        .doc("The bcrypt hash (`$2a$`) of a new password.")
        .example("cleartext = \"test\", cost = 4", "text", "$2b$12$…"),
    password(
        "password_scrypt",
        &["PasswordScrypt"],
        Maker::Scrypt,
        &[PASSWORD, SCRYPT, FORMAT, DOMAIN],
    )
    .doc("The scrypt hash of a new password.")
    .example("cleartext = \"test\", n = 1024", "text", "…"),
    password(
        "password_pbkdf2",
        &["PasswordPBKDF2"],
        Maker::Pbkdf2,
        &[PASSWORD, PBKDF2, FORMAT, DOMAIN],
    )
    .doc("The PBKDF2 hash of a new password.")
    .example("cleartext = \"test\", iterations = 1000", "text", "…"),
    password(
        "password_argon2id",
        &["PasswordArgon2id"],
        Maker::Argon2id,
        &[PASSWORD, ARGON2, FORMAT, DOMAIN],
    )
    .doc("The Argon2id hash of a new password.")
    .example(
        "cleartext = \"test\", memory = 256, threads = 1, format = \"phc\"",
        "text",
        "$argon2id$…",
    ),
];
