//! End-to-end tests on real servers: the engine as an operator runs it, PostgreSQL and
//! Redis as they are installed. Every test starts servers of its own, so that all run
//! at once and none sees another's rows.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

mod apply;
mod authoring;
mod bad_input;
mod by_dump;
mod catalogue;
mod compat;
mod config;
mod container;
mod control;
mod ddl;
mod dump;
mod event_path;
mod filters;
mod generations;
mod grpc_tls;
mod guard;
mod harness_works;
mod identity;
mod letters;
mod life;
mod limit;
mod manual;
mod operating;
mod oracle;
mod plugins;
mod points;
mod policies;
mod pressure;
mod readme;
mod setup;
mod shutdown;
mod sink;
mod snapshot;
mod states;
mod status;
mod sync;
mod transforms;
mod types;
mod verify;
mod versions;
mod wal;
mod world;
mod zero;
