//! Rules that a plugin of this repository refuses, as an operator sees them: with the line
//! and column that they stand at.

use crate::config::Config;

use super::super::real::setup;
use super::super::testing::{Setup, users};
use super::{refusals, told};

const HEAD: &str = "[source]\nurl = 'u'\n[redis]\nurl = 'r'\n[[transform]]\nname = 'mask'\n\
                    plugin = 'anonymize.wasm'\ntables = ['public.users']\n[transform.rules]\n";

/// What is said of a file with these rules, which begin at its tenth line.
fn refused(rules: &str, keyed: bool) -> String {
    let mut setup: Setup = setup("");
    let path = setup.folder.path().join("kasho.toml");
    let config = Config::parse(&format!("{HEAD}{rules}"), &path, &|_| None).unwrap();
    setup.config.transform = config.chain().transform;
    if !keyed {
        setup.config.keys.clear();
    }
    told(&setup, &setup.refusal(&[&users()]))
}

#[test]
fn every_refused_rule_has_its_line_and_column() {
    let about = "Rules as they stand in the file: what follows begins at line 10.";
    let mut table = refusals("rules.txt", about);
    for rules in [
        "'public.users.id' = 'pass'\n'public.users.email' = 'fake_mail'\n",
        "'public.users.id' = 'pass'\n  'public.users.email' = { transform = 'hash', length = 4 }\n",
        "'public.users.id' = 'pass'\n[transform.rules.'public.users.email']\ntransform = 'mask'\nchr = 'x'\n",
        "'public.users.id' = 'pass'\n'public.users.emial' = 'fake_email'\n",
        "'public.*.id' = 'pass'\n'public.*.phone' = 'fake_phone'\n",
        "'public.users.id' = 'drop'\n'public.users.email' = 'fake_email'\n",
        "'public.users.email' = 'fake_email'\n",
        "'users.email' = 'fake_email'\n",
    ] {
        table.case(format!("{rules:?}"), refused(rules, true));
    }
    let keyless = "'public.users.id' = 'pass'\n'public.users.email' = 'fake_email'\n";
    table.case("a keyed fake, and no key", refused(keyless, false));
    table.finish();
}
