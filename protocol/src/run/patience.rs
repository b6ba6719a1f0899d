//! How long a member waits for the others within a step.
//!
//! A member whose trainer hangs still says that it is alive, and a chunk may be
//! lost without notice: only a deadline ends such a run. It must not end the
//! run of members that are merely slow, so it follows what steps take here:
//!
//! - It counts from the last thing that came (a chunk, a report), so a slow link
//!   that still delivers is no stall.
//! - It is ten times the longest step so far, at least 30 s. A step lasts as
//!   long as its slowest member, so whoever kept up once may slow down tenfold.
//! - Before the first step is whole nothing is known of the others: it is ten
//!   times our own computing time, at least 10 min.
//! - Sums are waited for half as long again and reports twice as long, so that
//!   the member that misses the cause itself speaks first.
//! - Who sends a little now and then cannot stretch all this without end: one
//!   wait lasts at most an hour, or ten times our own longest computing time.

use crate::time::{Duration, Time};

/// Shortest time without any progress that counts as a stall.
const STALL_MIN: Duration = Duration::from_s(30);
/// The same before the first step is whole.
const FIRST_STEP_MIN: Duration = Duration::from_s(10 * 60);
/// Longest wait, however it goes on, unless our own computing takes long too.
const WAIT_MAX: Duration = Duration::from_s(3600);
/// How many times slower than everything so far a member may be.
const SLOWER_MAX: u64 = 10;

/// What a member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The others' values of the own chunks.
    Values,
    /// The sums of the others' chunks.
    Sums,
    /// The others' reports of a round.
    Reports,
}

/// The times from which the deadlines follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    step_began: Time,
    wait_began: Time,
    progress_at: Time,
    longest_computing: Duration,
    longest_step: Option<Duration>,
}

impl Patience {
    pub(crate) fn new(now: Time) -> Self {
        Self { step_began: now, wait_began: now, progress_at: now, longest_computing: Duration(0), longest_step: None }
    }

    /// The own computing of a step begins.
    pub(crate) fn step_begins(&mut self, now: Time) {
        self.step_began = now;
    }

    /// The own values are out: from here on it is the others' turn.
    pub(crate) fn computed(&mut self, now: Time) {
        self.longest_computing = self.longest_computing.max(now.since(self.step_began));
        self.wait_begins(now);
    }

    /// All sums of the step are here.
    pub(crate) fn step_whole(&mut self, now: Time) {
        self.longest_step = self.longest_step.max(Some(now.since(self.step_began)));
    }

    /// A wait for the others begins.
    pub(crate) fn wait_begins(&mut self, now: Time) {
        self.wait_began = now;
        self.progress_at = now;
    }

    /// Something that was waited for has come.
    pub(crate) fn progress(&mut self, now: Time) {
        self.progress_at = now;
    }

    /// Whether the wait for `what` has lasted too long.
    pub(crate) fn is_over(&self, what: Awaited, now: Time) -> bool {
        let own = self.longest_computing.times(SLOWER_MAX);
        let stall = match self.longest_step {
            Some(longest) => longest.times(SLOWER_MAX).max(STALL_MIN),
            None => own.max(FIRST_STEP_MIN),
        };
        let halves = match what {
            Awaited::Values => 2,
            Awaited::Sums => 3,
            Awaited::Reports => 4,
        };
        let stalled = Duration(stall.times(halves).0 / 2);
        now.since(self.progress_at) > stalled || now.since(self.wait_began) > WAIT_MAX.max(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time(1_000_000_000_000);

    fn at(seconds: u64) -> Time {
        T0 + Duration::from_s(seconds)
    }

    /// Ready to wait after computing for `own_s`; steps took `step_s` if any was whole.
    fn waiting(own_s: u64, step_s: Option<u64>) -> Patience {
        let mut patience = Patience::new(T0);
        patience.longest_step = step_s.map(Duration::from_s);
        patience.longest_computing = Duration::from_s(own_s);
        patience.wait_begins(T0);
        patience
    }

    #[test]
    fn the_deadline_follows_what_steps_take_and_has_bounds() {
        let cases = [
            ("quick steps: at least 30 s", 0, Some(1), Awaited::Values, 30),
            ("the cause is named first", 0, Some(1), Awaited::Sums, 45),
            ("and reports last", 0, Some(1), Awaited::Reports, 60),
            ("ten times the longest step", 5, Some(20), Awaited::Values, 200),
            ("nothing is known before the first step", 0, None, Awaited::Values, 600),
            ("a first step that is slow for us, too", 120, None, Awaited::Values, 1_200),
            ("a stretched step cannot be stretched on", 1, Some(3_000), Awaited::Values, 3_600),
            ("unless we are as slow", 1_000, Some(3_000), Awaited::Values, 10_000),
        ];
        for (why, own_s, step_s, what, limit_s) in cases {
            let patience = waiting(own_s, step_s);
            assert!(!patience.is_over(what, at(limit_s)), "{why}");
            assert!(patience.is_over(what, at(limit_s) + Duration(1)), "{why}");
        }
    }

    #[test]
    fn a_trickle_is_progress_but_not_for_ever() {
        let mut patience = waiting(1, Some(1));
        let over = (0..10_000).step_by(20).find(|second| {
            let over = patience.is_over(Awaited::Values, at(*second));
            patience.progress(at(*second));
            over
        });
        assert_eq!(over, Some(3_620), "an hour, though something came each 20 s");
    }
}
