//! The guide shows the plugin that `kasho plugin new` writes, to the letter.

#[test]
fn the_guide_has_the_templates_very_plugin() {
    let block = format!("```rust\n{}```", include_str!("../templates/rust/src/lib.rs"));
    assert!(include_str!("../README.md").contains(&block), "write it into the guide again");
}
