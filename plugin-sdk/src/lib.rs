//! Write Kasho plugins: small WASM programs that filter or rewrite change events.

pub mod abi;
pub mod batch;
pub mod event;
#[cfg(feature = "keys")]
pub mod keys;
pub mod pattern;

pub use event::{Column, Identity, Op, Relation, Value};
