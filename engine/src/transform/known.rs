//! What a running chain remembers of relations: the plans it made, and a map by the
//! server's ids that costs next to nothing to ask.
//!
//! A description that comes again as the same object is known by its address; one that
//! only reads the same is known by its content. Nothing can go wrong here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use kasho_plugin_sdk::Relation;

use super::plan::RelationPlan;

/// Descriptions of one table that are kept.
const VERSIONS: usize = 8;

/// A map by relation id. Ids are the source's own OIDs, no stranger chooses them: they need
/// no keyed hash, which would cost as much as the rest of a short call's bookkeeping.
pub(super) type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

/// Spreads an id over all bits.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, n: u32) {
        // 2^64 divided by the golden ratio: neighbours end up far apart.
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// A description of a table as it came, and what was planned for it.
type Known = (Arc<Relation>, Arc<RelationPlan>);

/// The plans of a chain.
#[derive(Debug, Default)]
pub(super) struct KnownPlans(ById<Vec<Known>>);

impl KnownPlans {
    /// The plan of this very description.
    #[inline]
    pub(super) fn find(&self, relation: &Arc<Relation>) -> Option<&Arc<RelationPlan>> {
        let known = self.0.get(&relation.id)?;
        known.iter().find(|(r, _)| Arc::ptr_eq(r, relation)).map(|(_, plan)| plan)
    }

    /// The plan of a description that reads like this one.
    pub(super) fn alike(&self, relation: &Relation) -> Option<&Arc<RelationPlan>> {
        let known = self.0.get(&relation.id)?;
        known.iter().find(|(r, _)| **r == *relation).map(|(_, plan)| plan)
    }

    /// Remembers a plan, and forgets the oldest of a table that has many.
    pub(super) fn keep(&mut self, relation: &Arc<Relation>, plan: Arc<RelationPlan>) {
        let known = self.0.entry(relation.id).or_default();
        if known.len() == VERSIONS {
            known.remove(0);
        }
        known.push((Arc::clone(relation), plan));
    }

    /// Forgets all plans.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::super::plan::Policy;
    use super::super::testing::{table, users};
    use super::*;

    fn plan(relation: &Arc<Relation>) -> Arc<RelationPlan> {
        let policy = Policy { masks: false, unruled: None, ddl: None };
        Arc::new(RelationPlan::new(relation, Vec::new(), &[], policy))
    }

    #[test]
    fn a_description_is_known_by_address_and_by_content() {
        let (relation, again) = (users(), users());
        let mut known = KnownPlans::default();
        known.keep(&relation, plan(&relation));
        assert!(known.find(&relation).is_some() && known.find(&again).is_none());
        assert!(known.alike(&again).is_some());
        assert!(known.alike(&table(7, "users", &["id!"])).is_none());
        for _ in 0..VERSIONS {
            known.keep(&again, plan(&again));
        }
        assert!(known.find(&relation).is_none(), "the oldest is forgotten");
        known.clear();
        assert!(known.find(&again).is_none());
    }

    #[test]
    fn neighbouring_ids_do_not_meet() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let mut seen = [0_u8; 1024];
        for id in 16_384_u32..17_408 {
            seen[usize::try_from(hasher.hash_one(id) % 1024).unwrap()] += 1;
        }
        assert!(seen.iter().all(|n| *n == 1), "an odd factor permutes the low bits");
    }
}
