//! Why a command is not carried out. Nothing can go wrong here.

use super::Phase;

/// The kind of a refusal; `control` turns it into a gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The state does not allow it: `FAILED_PRECONDITION`.
    FailedPrecondition,
    /// The request contradicts itself: `INVALID_ARGUMENT`.
    InvalidArgument,
    /// The world does not answer: `UNAVAILABLE`.
    Unavailable,
    /// The effect failed for a reason of our own: `INTERNAL`.
    Internal,
}

/// Why a command was not carried out, for the client to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Its kind.
    pub code: RefusalCode,
    /// What happened and what to do; names the state. No row value, no secret.
    pub text: String,
}

impl Refusal {
    /// A refusal because of the state of things.
    #[must_use]
    pub fn precondition(text: impl Into<String>) -> Refusal {
        Refusal { code: RefusalCode::FailedPrecondition, text: text.into() }
    }

    /// A refusal because the request is wrong in itself.
    #[must_use]
    pub fn argument(text: impl Into<String>) -> Refusal {
        Refusal { code: RefusalCode::InvalidArgument, text: text.into() }
    }
}

pub(super) fn wrong_state(call: &str, phase: &Phase, why: &str) -> Refusal {
    Refusal::precondition(format!("{call} refused in state {}: {why}", phase.state()))
}

pub(super) fn nothing_loaded(phase: &Phase) -> Refusal {
    let text = "nothing is loaded yet; StartBootstrap (`kasho bootstrap`) loads all of them";
    wrong_state("the load of single tables", phase, text)
}
