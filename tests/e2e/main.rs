//! End-to-end tests on real servers.

fn main() {}
