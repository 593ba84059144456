//! End-to-end tests on real servers: the engine as an operator runs it, PostgreSQL and
//! Redis as they are installed. Every test starts servers of its own, so that all run
//! at once and none sees another's rows.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

mod bad_input;
mod config;
mod control;
mod harness_works;
mod life;
mod plugins;
mod points;
mod readme;
mod sink;
mod snapshot;
mod states;
mod types;
mod wal;
mod world;
