//! What is refused of `[[transform]]`, of keys and of the plugins' settings, each with its
//! line and column, in a table that is committed.

use std::path::Path;

use kasho_plugin_sdk::testing::Refusals;

use super::Config;

const HEAD: &str = "[source]\nurl = 'u'\n[redis]\nurl = 'r'\n";

/// The problems of these lines, which stand below the others.
fn refused(lines: &str) -> String {
    Config::parse(&format!("{HEAD}{lines}"), Path::new("kasho.toml"), &|_| None)
        .expect_err(lines)
        .to_string()
}

/// A whole transform with these lines beside.
fn transform(lines: &str) -> String {
    refused(&format!(
        "[[transform]]\nname = 'mask'\nplugin = 'mask.wasm'\ntables = ['public.users']\n{lines}"
    ))
}

#[test]
fn every_refused_setting_of_a_chain_stands_in_the_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/refusals/settings.txt");
    let mut table = Refusals::new(file, "Settings of [[transform]], [keys] and [plugins].");
    table.section("TOML");
    for lines in ["[[transform]]\nname = 'mask\n", "[[transform]]\nname = a\n", "[transform\n"] {
        table.case(format!("{lines:?}"), refused(lines));
    }
    table.section("A transform");
    for lines in [
        "[[transform]]\nplugin = 'a'\n",
        "[[transform]]\nname = 'a'\n",
        "[[transform]]\nname = 'a'\nplugin = 'b'\n",
        "[[transform]]\nname = ''\nplugin = 'b'\ntables = ['c.d']\n",
        "[[transform]]\nname = 'a'\n[transform.rename]\n'b.c' = 'd.e'\n[transform.rules]\n'x' = 1\n",
    ] {
        table.case(format!("{lines:?}"), refused(lines));
    }
    table.section("A setting of a transform");
    each_setting(&mut table);
    table.section("New names");
    for line in [
        "'public.*' = 'public.people'",
        "'public.users' = 'people'",
        "'users' = 'public.people'",
        "'public.users.email' = ''",
        "'public.users' = 'public.a'\n'public.\"users\"' = 'public.a'",
    ] {
        table.case(format!("{line:?}"), transform(&format!("[transform.rename]\n{line}\n")));
    }
    table.section("Other names");
    for line in ["'public.users' = ['a']", "'public.users.email' = []"] {
        table.case(format!("{line:?}"), transform(&format!("[transform.also_called]\n{line}\n")));
    }
    table.section("Keys");
    for lines in [
        "[keys]\nk1 = 'c0ffee'\n",
        "[keys]\nk1 = { flie = 'k1.key' }\n",
        "[keys]\nk1 = { env = 'KASHO_NO_SUCH_KEY' }\n",
        "[keys]\nk1 = { file = '/nowhere/k1.key' }\n",
        "[plugins]\npoll_ms = 0\n",
        "[plugins]\nprobe_rows = 2000\n",
        "[plugins]\non_regression = 'rollbak'\n",
    ] {
        table.case(format!("{lines:?}"), refused(lines));
    }
    let keys = "[keys]\nk1 = { file = '/dev/null' }\nk2 = { file = '/dev/null' }\n";
    let of_two = "[[transform]]\nname = 'a'\nplugin = 'b'\ntables = ['c.d']\n";
    table.case("a transform that says no key, of two", refused(&format!("{keys}{of_two}")));
    let two = "[keys]\nk1 = { file = '/dev/null' }\nk2 = { file = '/dev/null' }\n";
    table.case("two empty keys", refused(two));
    table.finish();
}

fn each_setting(table: &mut Refusals) {
    for line in [
        "tabels = ['public.users']",
        "on_eror = 'halt'",
        "on_error = 'stop'",
        "on_error = 'pass'",
        "on_error = 'drop'",
        "on_error = 'dead_letter'",
        "new_columns = 'pass'",
        "sha256 = 'c0ffee'",
        "key = 'k9'",
        "memory_mib = 0",
        "memory_mib = 4096",
        "deadline_ms = -1",
        "init_ms = 'long'",
        "max_rows = 65537",
        "max_file_mib = 257",
    ] {
        table.case(line, transform(&format!("{line}\n")));
    }
    let tables = "[[transform]]\nname = 'mask'\nplugin = 'mask.wasm'\ntables = ['users']\n";
    table.case("tables = ['users']", refused(tables));
    let twice = "[[transform]]\nname = 'mask'\nplugin = 'a.wasm'\ntables = ['a.b']\n";
    table.case("a name twice", refused(&format!("{twice}{twice}")));
    let rename =
        |to: &str| format!("[[transform]]\nname = '{to}'\n[transform.rename]\n'a.b' = 'a.{to}'\n");
    table.case("a table renamed in two ways", refused(&format!("{}{}", rename("c"), rename("d"))));
    let open = Config::parse(
        &format!("unruled_tables = 'pass'\n{HEAD}"),
        Path::new("kasho.toml"),
        &|_| None,
    );
    table.case("unruled_tables = 'pass'", open.unwrap_err());
}
