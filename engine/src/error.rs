//! What the service does about an error, decided in one place: the stations say which
//! of their errors heal by trying again, nobody else guesses from texts.

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The world may heal: reconnect with growing pauses, from what is durable.
    Retry,
    /// A person has to act: keep the slot, acknowledge nothing more, say why.
    Halt,
}
