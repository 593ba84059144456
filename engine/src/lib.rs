//! Kasho keeps a live, private copy of a PostgreSQL database.

pub mod ack;
pub mod batch;
pub mod bootstrap;
pub mod control;
pub mod error;
pub mod position;
pub mod sink;
pub mod source;
