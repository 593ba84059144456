//! A running chain: rows in, what may leave out.
//!
//! Rows are independent of one another, so a batch's rows of one relation go to a plugin
//! together, across transactions, and stay where they are: order cannot change. A plugin
//! that fails is started afresh and asked once more, then the rows are halved until the one
//! is found that it fails on, and the binding's policy decides about that one alone. A
//! deadline is never a row's fault. After an error the batch is of no use.

use std::mem::take;
use std::sync::Arc;

use kasho_plugin_sdk::Relation;
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::batch::{Decision, NO_SLOT};

use crate::batch::{Batch, Cell};
use crate::position::Position;

use super::config::{NewColumns, OnError};
use super::coverage;
use super::error::TransformError;
use super::exchange::{Fault, Link};
use super::figures::Figures;
use super::generation::Generation;
use super::instance::Failure;
use super::known::KnownPlans;
use super::loosen;
use super::outcome::Decided;
use super::plan::{LinkPlan, Policy, RelationPlan, impostor};
use super::rename::Targets;
use super::rows::{Buckets, Plans, as_delete, as_insert, first_rows, leave, prepare, weigh};

mod failed;
mod schema;
mod show;
mod truncate;

use failed::{Reason, mark_lossy};

/// Bytes of one call's block, about.
const BLOCK_BYTES: usize = 256 << 10;
/// Rows of one call, if the plugin asks for nothing else.
const ROWS: u32 = 1024;

/// A generation, running.
#[derive(Debug)]
pub struct Chain {
    generation: Arc<Generation>,
    links: Vec<Link>,
    policy: Policy,
    known: KnownPlans,
    /// Rows of some table may have been lost, whoever is bound to it now.
    lossy: bool,
    targets: Targets,
    /// Buffers that are kept from batch to batch; the plans with the descriptions they are
    /// of, for most batches have those of the one before.
    plans: Plans,
    planned: Vec<Arc<Relation>>,
    buckets: Buckets,
    /// The batch's cells as they came, where a row may have to be found again.
    originals: Vec<Cell>,
}

impl Chain {
    /// Runs a generation. Instances are started when they are first needed.
    #[must_use]
    pub fn new(generation: Arc<Generation>) -> Chain {
        let ready = generation.take_ready().map(|all| all.into_iter().map(Some).collect());
        let ready: Vec<_> =
            ready.unwrap_or_else(|| generation.bound.iter().map(|_| None).collect());
        let links = generation.bound.iter().cloned().zip(ready);
        let links = links.map(|(bound, instance)| Link::new(bound, instance)).collect();
        let mut known = KnownPlans::default();
        let mut targets = Targets::default();
        for plan in &generation.plans {
            known.keep(&plan.relation, Arc::clone(plan));
            // Of what was loaded no two have one name.
            let _ = targets.claim(plan);
        }
        let (plans, buckets) = (Plans::new(), Buckets::default());
        let policy = generation.policy;
        let lossy = generation.covered().tables.values().any(|table| table.lossy);
        let (planned, originals) = (Vec::new(), Vec::new());
        Chain {
            generation,
            links,
            policy,
            known,
            lossy,
            targets,
            plans,
            planned,
            buckets,
            originals,
        }
    }

    /// The generation that it runs.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Whether [`Chain::apply`] would leave this batch as it is, without calling anybody.
    #[must_use]
    pub fn passes(&self, batch: &Batch) -> bool {
        if batch.has_ddl() {
            return false;
        }
        let nothing = self.links.is_empty() && self.generation.renames.is_empty();
        (nothing && !self.policy.masks && self.policy.unruled.is_none() && !self.lossy)
            || batch.relations.iter().all(|r| self.known.find(r).is_some_and(|plan| plan.idle))
    }

    /// Passes every row of a batch through the chain: values are rewritten, rows dropped
    /// or changed in kind, columns removed.
    ///
    /// # Errors
    /// [`TransformError`]; nothing of the batch may be published then.
    pub fn apply(&mut self, batch: &mut Batch) -> Result<(), TransformError> {
        let plans = self.resolve(batch)?;
        if batch.has_ddl() {
            self.schema_changes(batch)?;
        }
        if plans.iter().any(Option::is_some) {
            self.carry(batch, &plans)?;
        }
        self.plans = plans;
        Ok(())
    }

    fn carry(&mut self, batch: &mut Batch, plans: &Plans) -> Result<(), TransformError> {
        self.keep_originals(batch, plans);
        let mut buckets = take(&mut self.buckets);
        let seen = buckets.fill(batch, plans, 0);
        if seen.truncates {
            self.truncates(batch, plans)?;
        }
        let prepares = plans.iter().flatten().any(|plan| plan.prepares(seen.old));
        if prepares {
            prepare(batch, plans)?;
        }
        for at in 0..self.links.len() {
            if at > 0 || seen.truncates || prepares {
                buckets.fill(batch, plans, at);
            }
            for (rows, plan) in buckets.each(plans, at) {
                self.pour(batch, at, plan, rows)?;
            }
        }
        leave(batch, plans);
        mark_lossy(batch, plans);
        self.buckets = buckets;
        Ok(())
    }

    /// The plan of each relation here; none where nothing is to be done.
    fn resolve(&mut self, batch: &Batch) -> Result<Plans, TransformError> {
        let mut plans = take(&mut self.plans);
        let same = plans.len() == batch.relations.len()
            && self.planned.len() == batch.relations.len()
            && self.planned.iter().zip(&batch.relations).all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            return Ok(plans);
        }
        plans.clear();
        self.planned.clear();
        for relation in &batch.relations {
            match self.known.find(relation) {
                Some(plan) => plans.push((!plan.idle).then(|| Arc::clone(plan))),
                None => return self.acquaint(batch),
            }
        }
        self.planned.clone_from(&batch.relations);
        Ok(plans)
    }

    /// The same, where some relation is new: bindings are asked about it if it has rows.
    fn acquaint(&mut self, batch: &Batch) -> Result<Plans, TransformError> {
        let first = first_rows(batch);
        'again: loop {
            let mut plans: Plans = vec![None; batch.relations.len()];
            for (index, row) in first.iter().enumerate() {
                let Some(row) = row else { continue };
                let relation = &batch.relations[index];
                let plan = match self.known.find(relation) {
                    Some(plan) => Arc::clone(plan),
                    None => {
                        let masked = self.policy.masks;
                        let position = batch.rows[*row].position;
                        let plan = self.plan(relation, position);
                        let plan = plan.map_err(|reason| TransformError::Table {
                            table: relation.qualified(),
                            position,
                            reason,
                        })?;
                        if self.policy.masks != masked {
                            continue 'again;
                        }
                        plan
                    }
                };
                plans[index] = (!plan.idle).then_some(plan);
            }
            return Ok(plans);
        }
    }

    /// Asks every binding that names a relation about it.
    fn plan(
        &mut self,
        relation: &Arc<Relation>,
        position: Position,
    ) -> Result<Arc<RelationPlan>, String> {
        let plan = match self.known.alike(relation).map(Arc::clone) {
            Some(plan) => plan,
            None => self.ask(relation, position)?,
        };
        let rewrites = |l: &LinkPlan| l.used(Use::Mask).chain(l.used(Use::Drop)).next().is_some();
        if !self.policy.masks && plan.links.iter().flatten().any(|l| rewrites(l)) {
            // From here on tables without a rule do not pass; what was decided is decided anew.
            self.policy.masks = true;
            self.known.clear();
            return Ok(plan);
        }
        self.known.keep(relation, Arc::clone(&plan));
        Ok(plan)
    }

    fn ask(
        &mut self,
        relation: &Arc<Relation>,
        position: Position,
    ) -> Result<Arc<RelationPlan>, String> {
        let mut links = Vec::new();
        for link in &mut self.links {
            if !link.bound.names(relation) {
                links.push(None);
                continue;
            }
            let bound = Arc::clone(&link.bound);
            let name = &bound.name;
            let instance = link
                .innocent(&self.generation.host)
                .map_err(|f| format!("transform `{name}`: {f}"))?;
            let answer = bound.ask(&self.generation.host, instance, relation);
            links.push(answer.map_err(|unfit| format!("transform `{name}`: {unfit}"))?);
        }
        let policies: Vec<NewColumns> =
            self.links.iter().map(|l| l.bound.config.new_columns).collect();
        let losing: Vec<OnError> = self.links.iter().map(|l| l.bound.config.on_error).collect();
        let before = self.generation.coverage.find(relation.id, &relation.qualified());
        let seen = self.generation.seen.before(relation.id, position, self.generation.viewer());
        let lost = before.is_some_and(|(_, table)| table.lossy)
            || seen.is_some_and(|sight| sight.covered.lossy);
        let plan = RelationPlan::new(relation, links, &policies, self.policy);
        let names: Vec<&str> = self.links.iter().map(|l| &*l.bound.name).collect();
        let plan = plan.renamed(&self.generation.renames, &names).losing(&losing, lost);
        let plan = Arc::new(plan);
        self.guard(&plan, position)?;
        Ok(plan)
    }

    /// A table that comes under another description lets out nothing that it did not:
    /// patterns would let a renamed column pass. What the generation before covered and this
    /// one could not be held against, it keeps to.
    fn guard(&mut self, plan: &RelationPlan, position: Position) -> Result<(), String> {
        if let Some(reason) = impostor(&plan.relation) {
            return Err(reason);
        }
        self.targets.claim(plan)?;
        let names: Vec<&str> = self.links.iter().map(|l| &*l.bound.name).collect();
        let (name, now) = (plan.relation.qualified(), coverage::table(plan, &names));
        let of_load = self.generation.coverage.find(now.id, &name);
        if let Some((table, kept)) = of_load.filter(|(_, table)| table.kept) {
            loosen::breaks((table, kept), (&name, &now))?;
        }
        let (generation, of_load) = (&self.generation, of_load.filter(|(_, table)| !table.kept));
        let sight = generation.seen.before(now.id, position, generation.viewer());
        let before = sight.as_ref().map(|sight| (&sight.name, &sight.covered)).or(of_load);
        if let Some((table, before)) = before {
            loosen::renames((table, before), (&name, &now))?;
        }
        let told = sight.is_none() && of_load.is_some_and(|(table, c)| *table == name && *c == now);
        if !now.closed && !told {
            generation.seen.note(&generation.digest, position, (name, now), sight.as_ref());
        }
        Ok(())
    }

    /// Cuts rows into calls.
    fn pour(
        &mut self,
        batch: &mut Batch,
        at: usize,
        plan: &Arc<LinkPlan>,
        rows: &[u32],
    ) -> Result<(), TransformError> {
        let bound = &self.links[at].bound;
        let most = bound.needs.max_rows.unwrap_or(ROWS).clamp(1, bound.config.max_rows) as usize;
        let largest = bound.ceilings.memory_bytes / 4;
        let (mut from, mut bytes) = (0, 0);
        for (i, row) in rows.iter().enumerate() {
            let (sum, max) = weigh(batch, plan, *row);
            if max > largest {
                self.run(batch, at, plan, &rows[from..i], true)?;
                let reason = Reason::told(format!(
                    "too large: a value of {max} bytes, the limit is a quarter of memory_mib, \
                     which can be raised"
                ));
                self.row_error(batch, at, plan, *row, reason)?;
                (from, bytes) = (i + 1, 0);
                continue;
            }
            if i - from == most || bytes + sum > BLOCK_BYTES {
                self.run(batch, at, plan, &rows[from..i], true)?;
                (from, bytes) = (i, 0);
            }
            bytes += sum;
        }
        self.run(batch, at, plan, &rows[from..], true)
    }

    /// One call, if there are rows; if it fails, in halves down to the row that it fails on.
    fn run(
        &mut self,
        batch: &mut Batch,
        at: usize,
        plan: &Arc<LinkPlan>,
        rows: &[u32],
        retry: bool,
    ) -> Result<(), TransformError> {
        if rows.is_empty() {
            return Ok(());
        }
        match self.obtain(batch, at, plan, rows, retry)? {
            Ok(decided) => self.settle(batch, at, plan, &decided),
            Err(failure) => match rows {
                [row] => self.row_error(batch, at, plan, *row, Reason::told(failure.to_string())),
                _ => {
                    let (left, right) = rows.split_at(rows.len() / 2);
                    self.run(batch, at, plan, left, false)?;
                    self.run(batch, at, plan, right, false)
                }
            },
        }
    }

    /// Calls, and once more on a fresh instance; ten times the deadline after a deadline.
    fn obtain(
        &mut self,
        batch: &mut Batch,
        at: usize,
        plan: &Arc<LinkPlan>,
        rows: &[u32],
        mut retry: bool,
    ) -> Result<Result<Vec<Decided>, Failure>, TransformError> {
        let link = &mut self.links[at];
        let usual = link.bound.ceilings.deadline_ms;
        let mut deadline = usual;
        loop {
            let failure = match link.call(&self.generation.host, batch, plan, rows, deadline) {
                Ok(decided) => return Ok(Ok(decided)),
                Err(Fault::Start(failure)) => return Err(start_error(link, &failure)),
                Err(Fault::Call(failure)) => failure,
            };
            if let Some(meter) = self.generation.host.meter() {
                meter.fail(failure.to_string());
            }
            let binding = &link.bound.config.name;
            tracing::warn!(%binding, table = %plan.relation.qualified(), rows = rows.len(), "plugin failed: {failure}");
            match failure {
                Failure::Deadline { .. } if deadline == usual => {
                    Figures::add(&link.bound.figures.late, 1);
                    deadline = usual.saturating_mul(10);
                }
                Failure::Deadline { .. } => {
                    let position = batch.rows[rows[0] as usize].position;
                    let (binding, plugin) = named(link);
                    let (table, reason) = (plan.relation.qualified(), failure.to_string());
                    return Err(TransformError::Deadline {
                        binding,
                        plugin,
                        table,
                        position,
                        reason,
                    });
                }
                // It would be as long again.
                Failure::TooLong { .. } if rows.len() > 1 => return Ok(Err(failure)),
                _ if retry => retry = false,
                _ => return Ok(Err(failure)),
            }
        }
    }

    /// Acts on the decisions; patches are in the rows already.
    fn settle(
        &mut self,
        batch: &mut Batch,
        at: usize,
        plan: &Arc<LinkPlan>,
        decided: &[Decided],
    ) -> Result<(), TransformError> {
        let drops = decided.iter().filter(|decided| decided.decision == Decision::Drop).count();
        if drops > 0 {
            Figures::add(&self.links[at].bound.figures.dropped, drops);
        }
        for decided in decided {
            match decided.decision {
                Decision::Keep => {}
                // Readers may have what it was when it was set aside, and its letter is closed.
                Decision::Drop if failed::came_again(batch, decided.row).is_some() => {
                    as_delete(batch, plan, decided.row);
                }
                Decision::Drop => batch.rows[decided.row as usize].dropped = true,
                Decision::Error => {
                    let reason = self.reason(at, plan, decided);
                    self.row_error(batch, at, plan, decided.row, reason)?;
                }
                Decision::AsInsert => {
                    if let Err(reason) = as_insert(batch, plan, decided.row) {
                        self.row_error(batch, at, plan, decided.row, Reason::told(reason))?;
                    }
                }
                Decision::AsDelete => as_delete(batch, plan, decided.row),
            }
        }
        Ok(())
    }
}

fn named(link: &Link) -> (String, String) {
    (link.bound.config.name.clone(), link.bound.config.plugin.clone())
}

fn start_error(link: &Link, failure: &Failure) -> TransformError {
    let (binding, plugin) = named(link);
    TransformError::Start { binding, plugin, reason: failure.to_string() }
}
