//! Transforms that stand for people and where they live.

use kasho_plugin_sdk::Normaliser::{Exact, Lower, Trim};

use super::{BY, Entry, KEYED, Kind, Maker, Makes, Opt, Unique, opt};
use crate::dictionary::{
    ADJECTIVES, CITIES, COUNTRIES, FIRST, GENDERS, INDUSTRIES, JOB_AREAS, JOB_LEVELS, JOB_ROLES,
    LAST, NOUNS, STATE_CODES, STATES, STREET_KINDS, STREETS, TITLES,
};
use crate::make::fake::Part::{Chars, Digits, Lower as Small, Range, Suffix, Text, Word, Zero};
use crate::make::fake::{EMAIL, NAME};

const YEARS: &[Opt] = &[
    opt("from", Kind::Integer, "1940", "First year."),
    opt("to", Kind::Integer, "2005", "Last year."),
];

pub(super) static ENTRIES: &[Entry] = &[
    Entry::fake("fake_name", &["FakeName"], ("person", Trim), &NAME)
        .doc("First and last name.")
        .example("", "text", "Ada Lovelace"),
    Entry::fake(
        "fake_first_name",
        &["FakeFirstName"],
        ("person", Trim),
        &[Word(&FIRST), Suffix(' ')],
    )
    .doc("A first name.")
    .example("", "text", "Ada"),
    Entry::fake("fake_last_name", &["FakeLastName"], ("person", Trim), &[Word(&LAST), Suffix(' ')])
        .doc("A last name.")
        .example("", "text", "Lovelace"),
    Entry::fake("fake_email", &["FakeEmail"], ("email", Lower), &EMAIL)
        .doc("An e-mail address at a host that is kept for examples.")
        .example("unique = true", "text", "ada@lovelace.org"),
    Entry::fake("fake_phone", &["FakePhone"], ("phone", Trim), &[])
        .doc("Other digits in the same shape; ten digits in place of what is no phone number.")
        .made(Makes::Text, Maker::Phone)
        .unique(Unique::Permutation)
        .example("", "text", "+1 (415) 555-0132"),
    Entry::fake("fake_ssn", &["FakeSSN"], ("ssn", Trim), &[])
        .doc(
            "A social security number of a range that is never issued, in the value's shape; with \
             `unique` any nine digits, so that some may be somebody's.",
        )
        .made(Makes::Text, Maker::Ssn)
        .unique(Unique::Permutation)
        .example("", "text", "123-45-6789"),
    Entry::fake("fake_date_of_birth", &["FakeDateOfBirth"], ("birth", Exact), &[])
        .doc("A day between two years.")
        .made(Makes::Date, Maker::Birth)
        .unique(Unique::No)
        .with(&[YEARS, KEYED, BY])
        .example("", "date", "1987-06-05"),
    Entry::fake("fake_gender", &["FakeGender"], ("gender", Lower), &[Word(&GENDERS)])
        .doc("A gender.")
        .small()
        .example("by = \"row\"", "text", "female"),
    Entry::fake("fake_title", &["FakeTitle"], ("title", Trim), &[Word(&TITLES)])
        .doc("A form of address.")
        .small()
        .example("by = \"row\"", "text", "Dr."),
    Entry::fake(
        "fake_job_title",
        &["FakeJobTitle"],
        ("job", Trim),
        &[Word(&JOB_LEVELS), Text(" "), Word(&JOB_AREAS), Text(" "), Word(&JOB_ROLES), Suffix(' ')],
    )
    .doc("A job title.")
    .example("", "text", "Countess"),
    Entry::fake(
        "fake_industry",
        &["FakeIndustry"],
        ("industry", Trim),
        &[Word(&INDUSTRIES), Suffix(' ')],
    )
    .doc("An industry.")
    .example("", "text", "Computing"),
    Entry::fake(
        "fake_domain_name",
        &["FakeDomainName"],
        ("host", Lower),
        &[Small(&ADJECTIVES), Small(&NOUNS), Suffix('-'), Text(".example")],
    )
    .doc("A domain name below `.example`, which nobody can own.")
    .example("", "text", "lovelace.org"),
    Entry::fake(
        "fake_username",
        &["FakeUsername"],
        ("username", Lower),
        &[Small(&ADJECTIVES), Small(&NOUNS), Digits(3), Suffix('_')],
    )
    .doc("A user name.")
    .example("", "text", "ada1815"),
    Entry::fake("fake_password", &["FakePassword"], ("password", Exact), &[Chars(16)])
        .doc("Sixteen letters and digits.")
        .unique(Unique::Bits)
        .with(&[KEYED, BY])
        .example("", "text", "hunter2"),
    Entry::fake(
        "fake_street_address",
        &["FakeStreetAddress"],
        ("address", Trim),
        &[Range(1, 9999), Text(" "), Word(&STREETS), Text(" "), Word(&STREET_KINDS), Suffix(' ')],
    )
    .doc("House number and street.")
    .example("", "text", "12 St James's Square"),
    Entry::fake(
        "fake_street",
        &["FakeStreet"],
        ("address", Trim),
        &[Word(&STREETS), Text(" "), Word(&STREET_KINDS), Suffix(' ')],
    )
    .doc("A street.")
    .example("", "text", "St James's Square"),
    Entry::fake("fake_city", &["FakeCity"], ("city", Trim), &[Word(&CITIES), Suffix(' ')])
        .doc("A city.")
        .example("", "text", "London"),
    Entry::fake("fake_state", &["FakeState"], ("state", Trim), &[Word(&STATES)])
        .doc("A state of the USA.")
        .small()
        .example("by = \"row\"", "text", "Ohio"),
    Entry::fake("fake_state_abbr", &["FakeStateAbbr"], ("state", Trim), &[Word(&STATE_CODES)])
        .doc("The two letters of a state of the USA.")
        .small()
        .example("by = \"row\"", "bpchar(2)", "OH"),
    Entry::fake("fake_zip", &["FakeZip"], ("zip", Trim), &[Zero(1, 99_999, 5)])
        .doc("Five digits.")
        .small()
        .example("", "text", "94105"),
    Entry::fake("fake_country", &["FakeCountry"], ("country", Trim), &[Word(&COUNTRIES)])
        .doc("A country.")
        .small()
        .example("by = \"row\"", "text", "England"),
    Entry::fake("fake_latitude", &["FakeLatitude"], ("latitude", Exact), &[])
        .doc("Degrees between -90 and 90, six decimals.")
        .made(Makes::Number, Maker::Degrees(90))
        .unique(Unique::No)
        .with(&[KEYED, BY])
        .example("", "float8", "51.507222"),
    Entry::fake("fake_longitude", &["FakeLongitude"], ("longitude", Exact), &[])
        .doc("Degrees between -180 and 180, six decimals.")
        .made(Makes::Number, Maker::Degrees(180))
        .unique(Unique::No)
        .with(&[KEYED, BY])
        .example("", "float8", "-0.1275"),
];
