//! Timelines: where a server's history left the one that a checkpoint belongs to.
//!
//! What can go wrong: after an asynchronous promotion the new timeline uses LSNs again
//! that the old one had used for other transactions; going on would mix the two. No I/O.
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

/// The switch point that parts a checkpoint from the server, if there is one: something
/// that the checkpoint holds lies beyond it, so this server never had it.
///
/// `timeline` is the checkpoint's, `confirmed` its confirmed end LSN, and `last_commit`
/// the commit LSN of the last entry. A commit record *at* the switch point is beyond it,
/// an end *at* it is not.
#[must_use]
pub fn diverged(
    history: &[SwitchPoint],
    server_timeline: u32,
    timeline: u32,
    confirmed: Lsn,
    last_commit: Lsn,
) -> Option<SwitchPoint> {
    if server_timeline == timeline {
        return None;
    }
    let is_ancestor = history.iter().any(|point| point.timeline == timeline);
    if !is_ancestor {
        return Some(SwitchPoint { timeline: server_timeline, at: Lsn::ZERO });
    }
    let later = history.iter().filter(|point| point.timeline >= timeline);
    later.copied().find(|point| confirmed > point.at || last_commit >= point.at)
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

    #[test]
    fn only_what_lies_beyond_a_switch_point_parts() {
        let points = switch_points(HISTORY).unwrap();
        let at = |timeline, confirmed, last| {
            diverged(&points, 3, timeline, Lsn(confirmed), Lsn(last)).map(|p| p.timeline)
        };
        assert_eq!(at(3, u64::MAX, u64::MAX), None);
        assert_eq!(at(1, 0x300_0060, 0x300_0010), None);
        assert_eq!(at(1, 0x300_0061, 0x300_0010), Some(1));
        assert_eq!(at(1, 0x300_0000, 0x300_0060), Some(1));
        assert_eq!(at(2, 0x400_0000, 0x4ff_ffff), None);
        assert_eq!(at(2, 0x500_0001, 0), Some(2));
        // A timeline that this server never passed through.
        assert_eq!(at(4, 0, 0), Some(3));
    }
}
