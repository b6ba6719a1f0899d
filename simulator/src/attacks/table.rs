//! All attacks, and how an outcome is judged.

use super::{beacon, cost, leases, lies, shares};
use manta_protocol::Seed;
use serde::Serialize;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Times as many tasks as in the tests.
    pub times: u64,
}

/// One attack as it went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub attack: &'static str,
    /// What the attacker does, and against which defence.
    pub what: &'static str,
    /// What is measured.
    pub measure: &'static str,
    /// What theory says.
    pub predicted: f64,
    /// What came out.
    pub measured: f64,
    /// The measure must be at least this.
    pub at_least: f64,
    /// The measure must be at most this.
    pub at_most: f64,
    /// Tasks, heights or elections that were looked at.
    pub trials: u64,
    /// The seed.
    pub seed: u64,
    /// Whether the measure lies within its bounds.
    pub ok: bool,
}

/// What an attack is about, besides its numbers.
#[derive(Clone, Copy)]
pub(super) struct About {
    pub(super) attack: &'static str,
    pub(super) what: &'static str,
    pub(super) measure: &'static str,
}

impl About {
    /// An outcome that is good within these bounds.
    pub(super) fn outcome(self, predicted: f64, measured: f64, bounds: [f64; 2], trials: u64) -> Outcome {
        let Self { attack, what, measure } = self;
        let [at_least, at_most] = bounds;
        let ok = (at_least..=at_most).contains(&measured);
        Outcome { attack, what, measure, predicted, measured, at_least, at_most, trials, seed: 0, ok }
    }
}

type Attack = fn(Seed, Scale) -> Result<Vec<Outcome>, String>;

const ATTACKS: [Attack; 13] = [
    shares::sybil,
    shares::one_owner,
    lies::collusion,
    lies::copycat,
    lies::griefing,
    lies::trusted_liar,
    lies::withheld_reveal,
    beacon::grinding,
    beacon::last_revealer,
    cost::wash_trading,
    cost::redundancy,
    cost::probation,
    leases::lied_leases,
];

/// Runs every attack.
///
/// # Errors
/// A scenario could not be carried out at all.
pub fn table(seed: u64, scale: Scale) -> Result<Vec<Outcome>, String> {
    run(&ATTACKS, seed, scale)
}

const CANARIES: [Attack; 6] =
    [shares::plain_seats, shares::split_owner, lies::oracle, lies::crowd, beacon::chosen_key, leases::loud_liar];

/// Runs the measurements with a defence taken away: each has to be out of bounds.
///
/// # Errors
/// A scenario could not be carried out at all.
pub fn canaries(seed: u64, scale: Scale) -> Result<Vec<Outcome>, String> {
    run(&CANARIES, seed, scale)
}

fn run(attacks: &[Attack], seed: u64, scale: Scale) -> Result<Vec<Outcome>, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes = Vec::new();
    let one = |number: u64| attacks[number as usize](Seed::from_number(seed).child("attack", number), scale);
    crate::in_order(0, attacks.len() as u64, threads, one, |found| {
        outcomes.extend(found.into_iter().map(|outcome| Outcome { seed, ..outcome }));
        true
    })?;
    Ok(outcomes)
}
