//! The gRPC face: every call becomes a command on the engine's mailbox.

pub mod proto;
