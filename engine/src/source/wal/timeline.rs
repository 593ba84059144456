//! Timelines: where a server's history left the ones before. What that means for a
//! checkpoint, whoever takes it over decides (`Promotion` of the sink). No I/O.
//!
//! What can go wrong: a line that is no switch point, which ends the start.
//! Format: `TIMELINE_HISTORY` in the PostgreSQL manual, 55.4, and the comments of
//! `timeline.c`: lines `timeline <tab> switch point <tab> reason`.

use super::super::error::SourceError;
use crate::position::Lsn;

/// The end of a timeline in a server's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchPoint {
    /// The timeline that ended.
    pub timeline: u32,
    /// The first LSN that is no longer of it.
    pub at: Lsn,
}

/// The switch points of a timeline history file, oldest first.
///
/// # Errors
/// A line that has not the form of one.
pub fn switch_points(history: &str) -> Result<Vec<SwitchPoint>, SourceError> {
    let lines = history.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = words.next()?.parse().ok()?;
        Some(SwitchPoint { timeline, at: words.next()?.parse().ok()? })
    };
    let bad = || SourceError::protocol("TIMELINE_HISTORY", "a line is no switch point");
    lines.map(|line| parse(line).ok_or_else(bad)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: &str =
        "1\t0/3000060\tno recovery target specified\n\n# x\n2\t0/5000000\tbefore 2000-01-01\n";

    #[test]
    fn a_history_is_read() {
        let points = switch_points(HISTORY).unwrap();
        let expected = [(1, 0x300_0060), (2, 0x500_0000)];
        assert_eq!(points, expected.map(|(timeline, at)| SwitchPoint { timeline, at: Lsn(at) }));
        assert!(switch_points("1 nonsense").is_err());
        assert_eq!(switch_points("").unwrap(), []);
    }
}
