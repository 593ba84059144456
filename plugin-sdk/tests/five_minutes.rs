//! The plugin of `README.md`, as it stands there, and its own test.

#![allow(elided_lifetimes_in_paths, reason = "authors write `&mut Row`, and so does the README")]

#[path = "five_minutes/plugin.rs"]
mod plugin;

#[test]
fn the_readme_has_this_very_plugin() {
    let block = format!("```rust\n{}```", include_str!("five_minutes/plugin.rs"));
    assert!(include_str!("../README.md").contains(&block), "write it into the README again");
}
