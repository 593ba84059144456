//! Kasho keeps a live, private copy of a PostgreSQL database.

pub mod ack;
pub mod batch;
pub mod error;
pub mod pipeline;
pub mod position;
pub mod sink;
pub mod source;
pub mod transform;
