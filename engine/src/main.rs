//! The `kasho` program.

fn main() {}
