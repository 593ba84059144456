//! The transform station: every row passes through a chain of WASM plugins, or does not
//! leave.
//!
//! A *plugin* is one `.wasm`; a *binding* attaches it to tables with rules and a policy
//! ([`Config`]); the ordered bindings, compiled and checked against the tables they speak
//! of, are a [`Generation`] ([`load`]); the pipeline holds a [`Chains`], which takes the
//! newest generation from a [`Handle`] where a transaction begins; [`reload`] watches the
//! folder and hands over new ones.
//!
//! What can go wrong: a configuration that would let something out unmasked, a plugin
//! that is no plugin ([`LoadError`], all of them at once); and, later, a plugin that fails
//! on a row, a table nobody named ([`TransformError`]). Whatever a guest does, its failure
//! is an error and never an empty result. What a guest says in words is treated as row
//! data and passes a gate before anybody reads it.

mod archive;
mod called;
mod catalog;
mod chain;
mod check;
mod config;
mod coverage;
mod ddl;
mod description;
mod draft;
mod error;
mod exchange;
mod figures;
mod gate;
mod generation;
mod handle;
mod host;
mod imports;
pub mod inspect;
mod instance;
mod keys;
mod known;
mod load;
mod loosen;
mod meter;
mod missing;
mod outcome;
mod places;
mod plan;
mod probe;
pub mod reload;
mod rename;
mod rows;
mod samples;
mod seal;
mod seen;
mod store;
mod token;
mod wasi;

pub use archive::{Archive, Kept, KeySources};
pub use catalog::{Catalog, ForeignKey};
pub use chain::Chain;
pub use config::{Binding, Config, KeySource, NewColumns, OnError, OnRegression, Plugins, Unruled};
pub use coverage::{Action, Coverage, TableCoverage};
pub use ddl::{Ddl, Decision, Decisions};
pub use description::{Description, Example, Setting, Transform, describe};
pub use error::{LoadError, Stop, TransformError};
pub use figures::{CALL_SECONDS, Calls, Figures};
pub use generation::{Generation, PluginInfo, Run};
pub use handle::{Chains, Handle, Refused, Report};
pub use host::Host;
pub use keys::{Key, KeyError};
pub use load::{Options, Rejected, candidate, load, restore};
pub use meter::{Measured, Meter};
pub use missing::{Missing, missing};
pub use places::Places;
pub use seal::{DeadKey, RowKey};
pub use token::{Encoding, Opener, TokenError};

#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod evil;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod guarded;
#[cfg(test)]
mod older;
#[cfg(test)]
mod puppet;
#[cfg(test)]
mod real;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod renamed;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
