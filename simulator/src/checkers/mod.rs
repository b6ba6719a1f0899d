//! What must hold in every history. The checkers see what really happened on
//! each machine, not only what the machines say.
//!
//! - [`lineage`]: every batch counts once, sums are of whom they should be, to
//!   the bit, and members agree on every exchange.
//! - [`agreement`]: no view without a quorum, no two of one number, no promise
//!   forgotten.
//! - [`promises`]: a machine is promised to one user at a time, and runs only
//!   what it was promised for.
//!
//! Nobody honest is blamed, no timer is due in the past, no queue outgrows its bound.

pub mod agreement;
pub mod lineage;
pub mod promises;

use agreement::Agreement;
use lineage::Lineage;
use promises::Promises;

/// Violations that are kept; the first one ends the simulation anyway.
const VIOLATIONS_MAX: usize = 16;

/// The judge of a simulation.
#[derive(Default)]
pub struct Checkers {
    violations: Vec<String>,
    /// Batches, sums and states.
    pub lineage: Lineage,
    /// Views and ballots.
    pub agreement: Agreement,
    /// Reservations.
    pub promises: Promises,
}

impl Checkers {
    /// What was found wrong, in order.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Something is wrong.
    pub fn violation(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// Takes a checker's judgement.
    pub fn judge(&mut self, judgement: Result<(), String>) {
        if let Err(what) = judgement {
            self.violation(what);
        }
    }

    /// A bound of a queue: `what` holds `count`.
    pub fn bound(&mut self, what: &str, count: usize, max: usize) {
        if count > max {
            self.violation(format!("{what}: {count}, at most {max} are allowed"));
        }
    }
}
