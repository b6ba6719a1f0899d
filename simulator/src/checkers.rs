//! What must hold in every history. The checkers see what really happened on
//! each machine, not only what the machines say.
//!
//! - Each rank's batch of a step is computed once and is in each chunk's sum
//!   once, added in rank order to the bit.
//! - All members agree on each round's parameters, and hold what they report.
//! - A machine is promised to one user at a time, and runs only what it was
//!   promised for.
//! - Nobody honest is blamed, no timer is due in the past, no queue outgrows
//!   its bound.

use manta_protocol::run::RunSpec;
use manta_protocol::{Hash, PeerId, RunId, Time};
use std::collections::BTreeMap;

/// Violations that are kept; the first one ends the simulation anyway.
const VIOLATIONS_MAX: usize = 16;

/// To whom a machine is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Held { user: PeerId, spec: Hash, until: Time },
    Running(RunId),
}

/// The judge of a simulation.
#[derive(Default)]
pub struct Checkers {
    violations: Vec<String>,
    gradients: BTreeMap<(RunId, u64, usize), Vec<f32>>,
    asked: BTreeMap<(PeerId, PeerId, Hash), Time>,
    promises: BTreeMap<PeerId, Promise>,
    agreed: BTreeMap<(RunId, u32), Hash>,
    held: BTreeMap<(RunId, u32, PeerId), Hash>,
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

    /// A bound of a queue: `what` holds `count`.
    pub fn bound(&mut self, what: &str, count: usize, max: usize) {
        if count > max {
            self.violation(format!("{what}: {count}, at most {max} are allowed"));
        }
    }

    /// A rank has computed the gradient of a step.
    pub fn gradient(&mut self, run: RunId, step: u64, rank: usize, values: &[f32]) {
        if self.gradients.insert((run, step, rank), values.to_vec()).is_some() {
            self.violation(format!("batch of step {step}, rank {rank} was computed twice"));
        }
        // No member is more than a step behind another.
        self.gradients.retain(|(of, at, _), _| *of != run || at + 3 > step);
    }

    /// A chunk of `range` was added up on some machine.
    pub fn reduced(&mut self, run: RunId, step: u64, ranks: usize, range: std::ops::Range<usize>, sum: &[f32]) {
        let mut expected = vec![0.0f32; range.len()];
        for rank in 0..ranks {
            let Some(values) = self.gradients.get(&(run, step, rank)) else {
                return self.violation(format!("step {step} was reduced before rank {rank} computed its batch"));
            };
            expected.iter_mut().zip(&values[range.clone()]).for_each(|(sum, value)| *sum += value);
        }
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        if bits(&expected) != bits(sum) {
            self.violation(format!(
                "step {step}, elements {range:?}: the sum is not that of every rank's batch once, in rank order"
            ));
        }
    }

    /// A member hashed its parameters after a round: what it really holds.
    pub fn hashed(&mut self, run: RunId, round: u32, peer: PeerId, hash: Hash) {
        self.held.insert((run, round, peer), hash);
    }

    /// A member's node says that all agree on a round.
    pub fn round_done(&mut self, run: RunId, round: u32, members: &[(PeerId, Hash)]) {
        for (peer, reported) in members {
            let held = self.held.get(&(run, round, *peer)).copied();
            let agreed = *self.agreed.entry((run, round)).or_insert(*reported);
            if held != Some(*reported) {
                self.violation(format!("round {round}: {peer:?} reports {reported:?} and holds {held:?}"));
            }
            if agreed != *reported {
                self.violation(format!("round {round}: {peer:?} holds {reported:?}, another {agreed:?}"));
            }
        }
    }

    /// A request of `user` reached `machine`, to be held until `until` of its clock.
    pub fn reserve_arrived(&mut self, machine: PeerId, user: PeerId, spec: Hash, until: Time) {
        self.asked.insert((machine, user, spec), until);
    }

    /// `machine` says yes to `user` at `now` of its clock. An own order's hold
    /// ends at `own_until`, for no message shows it.
    pub fn accepted(&mut self, machine: PeerId, user: PeerId, spec: Hash, own_until: Time, now: Time) {
        let until =
            if machine == user { own_until } else { self.asked.get(&(machine, user, spec)).copied().unwrap_or(now) };
        match self.promises.get(&machine) {
            Some(Promise::Running(run)) => self.violation(format!("{machine:?} runs {run:?} and is promised again")),
            // What a user's order gives back to its own machine, no message shows.
            Some(Promise::Held { user: other, spec: held, until })
                if (*other, *held) != (user, spec) && *other != machine && *until > now =>
            {
                self.violation(format!("{machine:?} is held by {other:?} and promised to {user:?}"));
            }
            _ => {}
        }
        self.promises.insert(machine, Promise::Held { user, spec, until });
    }

    /// `user` gives `machine` back.
    pub fn released(&mut self, machine: PeerId, user: PeerId, spec: Hash) {
        if matches!(self.promises.get(&machine), Some(Promise::Held { user: by, spec: held, .. }) if *by == user && *held == spec)
        {
            self.promises.remove(&machine);
        }
    }

    /// `machine` begins a run at `now` of its clock.
    pub fn started(&mut self, machine: PeerId, owner: PeerId, spec: &RunSpec, run: RunId, now: Time) {
        let promised = matches!(self.promises.get(&machine),
            Some(Promise::Held { user, spec: held, until }) if *user == owner && *held == spec.hash() && *until > now);
        if !promised {
            self.violation(format!("{machine:?} begins {run:?} of {owner:?} without a standing promise"));
        }
        self.promises.insert(machine, Promise::Running(run));
    }

    /// `machine` is done with its run, well or not.
    pub fn closed(&mut self, machine: PeerId, run: RunId) {
        if self.promises.remove(&machine) != Some(Promise::Running(run)) {
            self.violation(format!("{machine:?} closes {run:?}, which it does not run"));
        }
    }

    /// The hash that was agreed on after `round`.
    pub fn agreed(&self, run: RunId, round: u32) -> Option<Hash> {
        self.agreed.get(&(run, round)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const RUN: RunId = RunId([3; 32]);

    fn hash(text: &str) -> Hash {
        Hash::of(text.as_bytes())
    }

    #[test]
    fn a_machine_promised_to_two_is_seen() {
        let mut checkers = Checkers::default();
        checkers.reserve_arrived(A, B, hash("x"), Time(100));
        checkers.accepted(A, B, hash("x"), Time(0), Time(10));
        checkers.accepted(A, A, hash("y"), Time(200), Time(99));
        assert_eq!(checkers.violations().len(), 1);
        let mut late = Checkers::default();
        late.reserve_arrived(A, B, hash("x"), Time(100));
        late.accepted(A, B, hash("x"), Time(0), Time(10));
        late.accepted(A, A, hash("y"), Time(200), Time(100));
        assert!(late.violations().is_empty(), "an expired promise binds nobody");
    }

    #[test]
    fn a_sum_without_a_rank_or_in_another_order_is_seen() {
        let values = [1.0e8f32, 1.0, -1.0e8];
        for (sum, wrong) in [(values[0] + values[1] + values[2], 0), (values[2] + values[0] + values[1], 1), (1.0e8, 1)]
        {
            let mut checkers = Checkers::default();
            values.iter().enumerate().for_each(|(rank, value)| checkers.gradient(RUN, 0, rank, &[*value]));
            checkers.reduced(RUN, 0, 3, 0..1, &[sum]);
            assert_eq!(checkers.violations().len(), wrong, "{sum}");
        }
    }

    #[test]
    fn a_report_that_is_not_what_is_held_is_seen() {
        let mut checkers = Checkers::default();
        checkers.hashed(RUN, 0, A, hash("a"));
        checkers.hashed(RUN, 0, B, hash("b"));
        checkers.round_done(RUN, 0, &[(A, hash("a")), (B, hash("a"))]);
        assert_eq!(checkers.violations().len(), 1);
    }
}
