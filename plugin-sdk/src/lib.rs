//! Write Kasho plugins: small WASM programs that filter or rewrite change events.

pub mod event;

pub use event::{Column, Identity, Op, Relation, Value};
