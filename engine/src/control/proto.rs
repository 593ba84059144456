//! The generated messages and services. Nothing is written by hand here.
#![expect(missing_docs, reason = "generated from proto/, which is documented")]
#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated"
)]

/// `kasho.proto`.
pub mod kasho {
    tonic::include_proto!("kasho");
}

/// `change_stream.proto`: services only, their messages are those of [`kasho`].
pub mod change_stream {
    tonic::include_proto!("change_stream");
}

/// Both files as a descriptor set, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
