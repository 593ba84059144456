//! How large entries of a stream are at most, zone by zone, as their writer noted it: whoever
//! knows that may read a page by its number of entries, past Lua, and still bounds its bytes.
//! Pure.
//!
//! What can go wrong: nothing that is written down here is ever untrue later, for entries do
//! not change. Of what was written by somebody who noted nothing, nothing is known.

use std::fmt;

use crate::sink::id::Id;
use crate::sink::store::NewEntry;

/// What an entry has beside table and data, at most.
const BESIDE: usize = 64;
/// Zones at most: then the two oldest become one.
const ZONES: usize = 8;
/// Sizes that differ by less than this factor stand in one zone.
const ALIKE: usize = 4;

/// Entries behind `after`, through `through`: none of them is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) after: Id,
    pub(super) through: Id,
    /// Bytes.
    pub(super) largest: usize,
}

/// Zones of a stream, in its order. Between them nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    zones: Vec<Zone>,
}

impl Sizes {
    /// One zone.
    pub(super) fn of(zone: Zone) -> Sizes {
        Sizes { zones: vec![zone] }
    }

    /// As [`Sizes`] writes itself. Whatever else it is, nothing is known then.
    pub(super) fn parse(text: &str) -> Sizes {
        let zone = |text: &str| {
            let mut words = text.split(' ');
            let (after, through) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Zone { after, through, largest: words.next()?.parse().ok()? })
        };
        Sizes { zones: text.split(',').map(zone).collect::<Option<_>>().unwrap_or_default() }
    }

    /// The zone of what comes next behind `after`.
    pub(super) fn behind(&self, after: Id) -> Option<Zone> {
        self.zones.iter().rev().find(|zone| zone.after <= after && after < zone.through).copied()
    }

    /// Notes the newest entries.
    pub(super) fn note(&mut self, newest: Zone) {
        match self.zones.last_mut() {
            Some(last) if last.through == newest.after && last.alike(&newest) => last.take(newest),
            _ => self.zones.push(newest),
        }
        if self.zones.len() > ZONES {
            let second = self.zones.remove(1);
            let first = &mut self.zones[0];
            // Where nothing is known of what lies between them, the older one is forgotten.
            match first.through == second.after {
                true => first.take(second),
                false => *first = second,
            }
        }
    }
}

/// What is noted of the load's sizes: an entry's id, and the largest through it.
pub(super) fn measured(noted: &str) -> Option<Zone> {
    let (through, largest) = noted.split_once(' ')?;
    let (through, largest) = (through.parse().ok()?, largest.parse().ok()?);
    Some(Zone { after: Id::ZERO, through, largest })
}

/// Bytes of the largest one; 0 if there are none.
pub(super) fn largest(entries: &[NewEntry<'_>]) -> usize {
    let sizes = entries.iter().map(|entry| entry.table.len() + entry.data.len() + BESIDE);
    sizes.max().unwrap_or(0)
}

impl Zone {
    fn alike(&self, other: &Zone) -> bool {
        let (small, large) = (self.largest.min(other.largest), self.largest.max(other.largest));
        large < small.saturating_mul(ALIKE)
    }

    fn take(&mut self, next: Zone) {
        (self.through, self.largest) = (next.through, self.largest.max(next.largest));
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Zone { after, through, largest }) in self.zones.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{after} {through} {largest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(after: u64, through: u64, largest: usize) -> Zone {
        let id = |high| Id { high, low: 0 };
        Zone { after: id(after), through: id(through), largest }
    }

    fn noted(zones: &[Zone]) -> Sizes {
        let mut sizes = Sizes::default();
        zones.iter().for_each(|zone| sizes.note(*zone));
        sizes
    }

    #[test]
    fn entries_of_like_sizes_stand_in_one_zone_and_a_large_one_in_its_own() {
        let sizes = noted(&[zone(0, 4, 100), zone(4, 9, 300), zone(9, 10, 5000), zone(10, 20, 90)]);
        assert_eq!(sizes.zones, [zone(0, 9, 300), zone(9, 10, 5000), zone(10, 20, 90)]);
        assert_eq!(sizes.behind(Id { high: 5, low: 3 }), Some(zone(0, 9, 300)));
        assert_eq!(sizes.behind(Id { high: 9, low: 0 }), Some(zone(9, 10, 5000)));
        assert_eq!(sizes.behind(Id { high: 20, low: 0 }), None, "that is the newest");
    }

    #[test]
    fn nothing_is_known_of_what_nobody_noted() {
        let sizes = noted(&[zone(0, 4, 100), zone(6, 9, 100)]);
        assert_eq!(sizes.zones.len(), 2);
        assert_eq!(sizes.behind(Id { high: 4, low: 0 }), None);
        assert_eq!(sizes.behind(Id { high: 6, low: 0 }), Some(zone(6, 9, 100)));
    }

    #[test]
    fn the_oldest_zones_become_one() {
        let sizes = (0..=8).map(|n| zone(n, n + 1, if n % 2 == 0 { 100 } else { 1000 }));
        let sizes = noted(&sizes.collect::<Vec<_>>());
        assert_eq!(sizes.zones.len(), ZONES);
        assert_eq!(sizes.zones[0], zone(0, 2, 1000));
        // Not over a gap.
        let sizes = (0..=8).map(|n| zone(2 * n, 2 * n + 1, 100)).collect::<Vec<_>>();
        assert_eq!(noted(&sizes).zones[0], zone(2, 3, 100));
    }

    #[test]
    fn they_are_read_as_they_are_written() {
        let sizes = noted(&[zone(0, 4, 100), zone(6, 9, 5000)]);
        assert_eq!(sizes.to_string(), "0-0 4-0 100,6-0 9-0 5000");
        assert_eq!(Sizes::parse(&sizes.to_string()), sizes);
        for other in ["", "4-0 100", "0-0 4-0", "0-0 4-0 100,", "x"] {
            assert_eq!(Sizes::parse(other), Sizes::default(), "{other:?}");
        }
    }
}
