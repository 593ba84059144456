//! Tables that a chain is shown before any of their rows comes, for their rows pass it
//! elsewhere: those of a dump. Nothing can go wrong here: of a table whose rows would not
//! pass, nothing is noted.

use std::sync::Arc;

use kasho_plugin_sdk::Relation;

use super::Chain;
use crate::position::Position;

impl Chain {
    /// Notes of tables what their rows would show if they came now, as rows of a load. One
    /// whose rows would not pass shows nothing.
    pub fn show(&mut self, relations: &[Arc<Relation>]) {
        loop {
            let masked = self.policy.masks;
            for relation in relations {
                let _ = self.plan(relation, Position::Bootstrap(0));
            }
            // What was decided before the first mask was found is decided anew.
            if self.policy.masks == masked {
                return;
            }
        }
    }
}
