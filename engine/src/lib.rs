//! Kasho keeps a live, private copy of a PostgreSQL database.

pub mod ack;
pub mod apply;
pub mod batch;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod control;
pub mod ddl;
pub mod engine;
pub mod error;
pub mod http;
pub mod load;
pub mod log;
pub mod pipeline;
pub mod position;
pub mod quote;
pub mod reader;
pub mod setup;
pub mod sink;
pub mod source;
pub mod sync;
pub mod systemd;
pub mod transform;
mod trust;
pub mod verify;
