//! Write Kasho plugins: small WASM programs that filter or rewrite change events.
//!
//! A whole plugin, which replaces every e-mail address of a table by a keyed hash:
//!
//! ```
//! use kasho_plugin_sdk::*;
//!
//! struct Mask { email: Col, bad: Reason }
//!
//! impl Plugin for Mask {
//!     fn new(cx: &mut Setup) -> Result<Self> {
//!         let emails = cx.domain("email");
//!         Ok(Mask {
//!             email: cx.mask("public.users.email")?.keyed(emails),
//!             bad: cx.reason("not an e-mail"),
//!         })
//!     }
//!
//!     fn row(&mut self, row: &mut Row) -> Verdict {
//!         let bad = self.bad;
//!         row.rewrite_hashed(self.email, |email, hash, out| {
//!             if !email.contains('@') {
//!                 return Err(bad);
//!             }
//!             Ok(write!(out, "{}@example.com", hash.short()))
//!         });
//!         Verdict::Keep
//!     }
//! }
//!
//! export_plugin!(Mask);
//! # #[cfg(feature = "testing")] {
//! use kasho_plugin_sdk::testing::{Fixture, insert, table};
//!
//! let mut fixture = Fixture::<Mask>::new(serde_json::Value::Null).unwrap();
//! let users = table("public.users(id int8 key, email text)");
//! fixture.relation(&users).unwrap();
//! let out = fixture.run(&users, &[insert([("id", "1"), ("email", "ada@lovelace.org")])]);
//! assert_eq!(out[0].after("id"), Value::Text("1"));
//! assert!(matches!(out[0].after("email"), Value::Text(fake) if fake.ends_with("@example.com")));
//! # }
//! ```
//!
//! `cargo build --release --target wasm32-unknown-unknown` makes the `.wasm` of a `cdylib`
//! crate. `README.md` goes through it step by step; `ABI.md` is the contract beneath, for
//! other languages. The same thing in one line is [`mask!`].

/// The guide's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Guide;

pub mod abi;
pub mod batch;
pub mod event;
#[cfg(feature = "fixtures")]
pub mod fixture;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
mod hash;
mod imports;
#[cfg(feature = "keys")]
pub mod keys;
pub mod moment;
mod out;
pub mod pattern;
mod plugin;
mod rows;
#[doc(hidden)]
pub mod session;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub mod testing;

pub use event::{Column, Identity, Op, Relation, Value, quote_identifier};
pub use hash::{Hash, Normaliser, Picks, Short};
pub use imports::Texts;
pub use out::{IntoPatch, Out, Patched, Scratch, Timestamp};
pub use plugin::{
    Col, Counter, Domain, Error, Level, Plugin, Reason, Result, Setup, Table, Verdict, log,
};
pub use rows::{Batch, Row};

/// Makes a plugin of a type: the exports of ABI 1, in a build for WebAssembly.
///
/// Natively it only checks that the type is a [`Plugin`].
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        const _: fn() = || {
            fn is_a_plugin<P: $crate::Plugin>() {}
            is_a_plugin::<$plugin>();
        };

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "an export keeps its name, which Rust calls unsafe")]
        mod kasho_exports {
            use super::*;
            use $crate::{guest, session::Session};

            ::std::thread_local! {
                static SESSION: ::std::cell::RefCell<Session<$plugin>> =
                    ::std::cell::RefCell::new(Session::default());
            }

            #[unsafe(no_mangle)]
            extern "C" fn kasho_abi_1() {}

            #[unsafe(no_mangle)]
            extern "C" fn kasho_alloc(size: u32) -> u32 {
                guest::alloc(size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn kasho_init(ptr: u32, len: u32) -> i64 {
                guest::init(&SESSION, ptr, len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn kasho_relation(ptr: u32, len: u32) -> i64 {
                guest::relation(&SESSION, ptr, len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn kasho_batch(ptr: u32, len: u32) -> i64 {
                guest::batch(&SESSION, ptr, len)
            }
        }
    };
}

/// Puts a JSON file into the plugin's custom section `kasho.plugin`, where the host reads
/// it without running anything: `metadata!("../transforms.json")`, a path as in
/// `include_bytes!`.
#[macro_export]
macro_rules! metadata {
    ($file:literal) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "a section has a name, which Rust calls unsafe")]
        const _: () = {
            #[used]
            #[unsafe(link_section = "kasho.plugin")]
            static SECTION: [u8; include_bytes!($file).len()] = *include_bytes!($file);
        };
    };
}

/// A plugin that masks one column, in one line.
///
/// ```
/// kasho_plugin_sdk::mask!("public.users.email", domain = "email", |email, hash| {
///     format!("{hash}@example.com")
/// });
/// ```
///
/// Without a domain: `mask!("public.users.phone", |phone| "x".repeat(phone.len()))`.
#[macro_export]
macro_rules! mask {
    ($column:literal, domain = $domain:literal, |$value:pat_param, $hash:pat_param| $new:expr) => {
        #[doc(hidden)]
        pub struct KashoMask {
            col: $crate::Col,
            domain: $crate::Domain,
        }

        impl $crate::Plugin for KashoMask {
            fn new(cx: &mut $crate::Setup<'_>) -> $crate::Result<Self> {
                Ok(KashoMask { domain: cx.domain($domain), col: cx.mask($column)? })
            }

            fn batch(&mut self, batch: &mut $crate::Batch<'_>) {
                batch.rewrite_hashed(self.col, self.domain, |$value, $hash, _| $new);
            }
        }

        $crate::export_plugin!(KashoMask);
    };
    ($column:literal, |$value:pat_param| $new:expr) => {
        #[doc(hidden)]
        pub struct KashoMask {
            col: $crate::Col,
        }

        impl $crate::Plugin for KashoMask {
            fn new(cx: &mut $crate::Setup<'_>) -> $crate::Result<Self> {
                Ok(KashoMask { col: cx.mask($column)? })
            }

            fn batch(&mut self, batch: &mut $crate::Batch<'_>) {
                batch.rewrite(self.col, |$value, _| $new);
            }
        }

        $crate::export_plugin!(KashoMask);
    };
}
