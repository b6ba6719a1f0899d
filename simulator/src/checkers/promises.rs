//! Reservations: a machine is promised to one user at a time, and runs only
//! what it was promised for.

use manta_protocol::{Hash, PeerId, RunId, Time};
use std::collections::BTreeMap;

/// To whom a machine is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Held { user: PeerId, spec: Hash, until: Time },
    Running(RunId),
}

/// What every machine has promised to users.
#[derive(Default)]
pub struct Promises {
    asked: BTreeMap<(PeerId, PeerId, Hash), Time>,
    made: BTreeMap<PeerId, Promise>,
}

impl Promises {
    /// A request of `user` reached `machine`, to be held until `until` of its clock.
    pub fn reserve_arrived(&mut self, machine: PeerId, user: PeerId, spec: Hash, until: Time) {
        self.asked.insert((machine, user, spec), until);
    }

    /// `machine` says yes to `user` at `now` of its clock. An own order's hold
    /// ends at `own_until`, for no message shows it.
    ///
    /// # Errors
    /// The machine is promised to somebody else.
    pub fn accepted(
        &mut self,
        machine: PeerId,
        user: PeerId,
        spec: Hash,
        own_until: Time,
        now: Time,
    ) -> Result<(), String> {
        let until =
            if machine == user { own_until } else { self.asked.get(&(machine, user, spec)).copied().unwrap_or(now) };
        match self.made.insert(machine, Promise::Held { user, spec, until }) {
            Some(Promise::Running(run)) => Err(format!("{machine:?} runs {run:?} and is promised again")),
            // What a user's order gives back to its own machine, no message shows.
            Some(Promise::Held { user: other, spec: held, until })
                if (other, held) != (user, spec) && other != machine && until > now =>
            {
                Err(format!("{machine:?} is held by {other:?} and promised to {user:?}"))
            }
            _ => Ok(()),
        }
    }

    /// `user` gives `machine` back.
    pub fn released(&mut self, machine: PeerId, user: PeerId, spec: Hash) {
        if matches!(self.made.get(&machine), Some(Promise::Held { user: by, spec: held, .. }) if *by == user && *held == spec)
        {
            self.made.remove(&machine);
        }
    }

    /// `machine` stopped: a hold lives in memory only, and nobody is hurt by its end.
    pub fn stopped(&mut self, machine: PeerId) {
        self.made.remove(&machine);
    }

    /// `machine` begins a run at `now` of its clock, for one of these users.
    ///
    /// # Errors
    /// It was promised to none of them for it.
    pub fn started(
        &mut self,
        machine: PeerId,
        users: &[PeerId],
        spec: Hash,
        run: RunId,
        now: Time,
    ) -> Result<(), String> {
        match self.made.insert(machine, Promise::Running(run)) {
            Some(Promise::Held { user, spec: held, until }) if users.contains(&user) && held == spec && until > now => {
                Ok(())
            }
            other => Err(format!("{machine:?} begins {run:?} without a standing promise to {users:?}: {other:?}")),
        }
    }

    /// `machine` goes on with a run after a restart.
    ///
    /// # Errors
    /// It has promised itself to somebody else since.
    pub fn resumed(&mut self, machine: PeerId, run: RunId) -> Result<(), String> {
        match self.made.insert(machine, Promise::Running(run)) {
            None => Ok(()),
            Some(other) => Err(format!("{machine:?} resumes {run:?} and is promised: {other:?}")),
        }
    }

    /// `machine` is done with its run, well or not.
    ///
    /// # Errors
    /// It does not run it.
    pub fn closed(&mut self, machine: PeerId, run: RunId) -> Result<(), String> {
        match self.made.remove(&machine) {
            Some(Promise::Running(running)) if running == run => Ok(()),
            _ => Err(format!("{machine:?} closes {run:?}, which it does not run")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn hash(text: &str) -> Hash {
        Hash::of(text.as_bytes())
    }

    #[test]
    fn a_machine_promised_to_two_is_seen() {
        let mut promises = Promises::default();
        promises.reserve_arrived(A, B, hash("x"), Time(100));
        promises.accepted(A, B, hash("x"), Time(0), Time(10)).expect("free");
        promises.accepted(A, A, hash("y"), Time(200), Time(99)).expect_err("still held");
        let mut late = Promises::default();
        late.reserve_arrived(A, B, hash("x"), Time(100));
        late.accepted(A, B, hash("x"), Time(0), Time(10)).expect("free");
        late.accepted(A, A, hash("y"), Time(200), Time(100)).expect("an expired promise binds nobody");
        late.started(A, &[B], hash("y"), RunId([1; 32]), Time(150)).expect_err("it is another's");
    }
}
