//! The guide shows the plugin that `kasho plugin new` writes, to the letter, and a fixture
//! that is one.

use kasho_plugin_sdk::fixture::FixtureFile;

#[test]
fn the_guide_has_the_templates_very_plugin() {
    let block = format!("```rust\n{}```", include_str!("../templates/rust/src/lib.rs"));
    assert!(include_str!("../README.md").contains(&block), "write it into the guide again");
}

#[test]
fn the_guides_fixture_can_be_read() {
    let guide = include_str!("../README.md");
    let blocks = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let fixtures: Vec<&str> = blocks.filter(|block| block.contains("[[row]]")).collect();
    assert_eq!(fixtures.len(), 1);
    let file = FixtureFile::parse(fixtures[0]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((file.rows.len(), file.fuel), (4, Some(20_000)));
}
