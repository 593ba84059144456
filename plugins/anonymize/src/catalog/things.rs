//! Transforms that stand for companies, goods, text, time and money.

use kasho_plugin_sdk::Normaliser::{self, Exact, Trim};

use super::{BY, Entry, KEYED, Kind, Maker, Makes, Opt, UNIQUE, Unique, opt};
use crate::dictionary::{
    ADJECTIVES, CARD_KINDS, COMPANY_KINDS, CURRENCIES, LAST, MATERIALS, MONTHS, NOUNS, PRODUCTS,
    WEEKDAYS, WORDS,
};
use crate::make::fake::Part::{Capital, Lower, Range, Suffix, Text, Word};

const COUNT: &[Opt] = &[opt("count", Kind::Integer, "3", "Words.")];
const WORD_COUNT: &[Opt] = &[opt("words", Kind::Integer, "8", "Words.")];
const SENTENCES: &[Opt] = &[opt("sentences", Kind::Integer, "4", "Sentences of 5 to 12 words.")];
const LENGTH: &[Opt] = &[opt("length", Kind::Integer, "10", "Characters.")];
const MOST: &[Opt] =
    &[opt("max_length", Kind::Integer, "", "Characters at most: cut where a word ends.")];

pub(super) static ENTRIES: &[Entry] = &[
    Entry::fake(
        "fake_company",
        &["FakeCompany"],
        ("company", Trim),
        &[Word(&LAST), Text(" "), Word(&COMPANY_KINDS), Suffix(' ')],
    )
    .doc("A company.")
    .example("", "text", "Analytical Engines Ltd."),
    Entry::fake(
        "fake_product",
        &["FakeProduct"],
        ("product", Trim),
        &[Word(&PRODUCTS), Suffix(' ')],
    )
    .doc("A kind of goods.")
    .example("", "text", "Engine"),
    Entry::fake(
        "fake_product_name",
        &["FakeProductName"],
        ("product", Trim),
        &[
            Capital(&ADJECTIVES),
            Text(" "),
            Word(&MATERIALS),
            Text(" "),
            Word(&PRODUCTS),
            Suffix(' '),
        ],
    )
    .doc("What goods are called in a shop.")
    .example("", "text", "Difference Engine No. 2"),
    Entry::fake(
        "fake_product_description",
        &["FakeProductDescription"],
        ("product", Trim),
        &[
            Capital(&ADJECTIVES),
            Text(" "),
            Lower(&PRODUCTS),
            Text(" of "),
            Lower(&MATERIALS),
            Text(", "),
            Word(&ADJECTIVES),
            Text(" like the "),
            Word(&NOUNS),
            Text("."),
            Suffix(' '),
        ],
    )
    .doc("A sentence about goods.")
    .example("", "text", "Tabulates polynomials."),
    Entry::fake("fake_word", &["FakeWord"], ("text", Exact), &[Word(&WORDS), Suffix(' ')])
        .doc("A word.")
        .example("", "text", "poetical"),
    Entry::fake("fake_words", &["FakeWords"], ("text", Exact), &[])
        .doc("So many words.")
        .made(Makes::Text, Maker::Words)
        .unique(Unique::No)
        .with(&[COUNT, MOST, KEYED, BY])
        .example("", "text", "poetical science notes"),
    Entry::fake("fake_sentence", &["FakeSentence"], ("text", Exact), &[])
        .doc("A sentence.")
        .made(Makes::Text, Maker::Sentence)
        .unique(Unique::No)
        .with(&[WORD_COUNT, MOST, KEYED, BY])
        .example("words = 5", "text", "It can follow analysis."),
    Entry::fake("fake_paragraph", &["FakeParagraph"], ("text", Exact), &[])
        .doc("A paragraph.")
        .made(Makes::Text, Maker::Paragraph)
        .unique(Unique::No)
        .with(&[SENTENCES, MOST, KEYED, BY])
        .example("sentences = 2, max_length = 100", "varchar(100)", "It can follow analysis."),
    Entry::fake("fake_characters", &["FakeCharacters"], ("text", Exact), &[])
        .doc("So many lower case letters.")
        .made(Makes::Text, Maker::Characters)
        .unique(Unique::No)
        .with(&[LENGTH, KEYED, BY])
        .example("", "text", "abc"),
    Entry::fake("fake_character", &["FakeCharacter"], ("text", Exact), &[])
        .doc("One lower case letter.")
        .made(Makes::Text, Maker::Characters)
        .small()
        .example("by = \"row\"", "text", "x"),
    Entry::fake("fake_digits", &["FakeDigits"], ("text", Exact), &[])
        .doc("So many digits.")
        .made(Makes::Text, Maker::Digits)
        .unique(Unique::No)
        .with(&[LENGTH, KEYED, BY])
        .example("length = 6", "text", "123"),
    Entry::fake("fake_month", &["FakeMonth"], ("month", Normaliser::Lower), &[Word(&MONTHS)])
        .doc("A month's name.")
        .small()
        .example("by = \"row\"", "text", "December"),
    Entry::fake("fake_month_num", &["FakeMonthNum"], ("month", Exact), &[])
        .doc("A month's number.")
        .small()
        .made(Makes::Integer, Maker::Fake(&[Range(1, 12)]))
        .example("by = \"row\"", "int4", "12"),
    Entry::fake(
        "fake_week_day",
        &["FakeWeekDay"],
        ("weekday", Normaliser::Lower),
        &[Word(&WEEKDAYS)],
    )
    .doc("A weekday's name.")
    .small()
    .example("by = \"row\"", "text", "Sunday"),
    Entry::fake("fake_year", &["FakeYear"], ("year", Exact), &[])
        .doc("A year between 1950 and 2025.")
        .small()
        .made(Makes::Integer, Maker::Fake(&[Range(1950, 2025)]))
        .example("by = \"row\"", "int4", "1815"),
    Entry::fake(
        "fake_credit_card_type",
        &["FakeCreditCardType"],
        ("card_type", Normaliser::Lower),
        &[Word(&CARD_KINDS)],
    )
    .doc("A brand of cards.")
    .small()
    .example("by = \"row\"", "text", "Visa"),
    Entry::fake("fake_credit_card_num", &["FakeCreditCardNum"], ("card", Trim), &[])
        .doc("A card number with a right check digit, in the value's shape if it is one.")
        .made(Makes::Text, Maker::Card)
        .unique(Unique::Permutation)
        .with(&[KEYED, UNIQUE, BY])
        .example("", "text", "4111 1111 1111 1111"),
    Entry::fake("fake_currency", &["FakeCurrency"], ("currency", Trim), &[Word(&CURRENCIES)])
        .doc("The three letters of a currency.")
        .small()
        .example("by = \"row\"", "bpchar(3)", "GBP"),
    Entry::fake("bool", &["Bool"], ("bool", Exact), &[])
        .doc("True or false.")
        .small()
        .made(Makes::Bool, Maker::Bool)
        .example("by = \"row\"", "bool", "t"),
];
