//! Virtual time. One true clock, which only the schedule moves; every host
//! reads it with its own offset, as real clocks differ.

use manta_protocol::{Duration, Time};

/// When every simulation begins: a plausible Unix time, so that nothing in the
/// protocol meets the end of its range.
pub const EPOCH: Time = Time(1_790_000_000_000_000_000);

/// A host's clock: the true time with a constant offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalClock {
    /// Nanoseconds that this clock is ahead of (or behind) the true time.
    pub offset_ns: i64,
}

impl LocalClock {
    /// What the clock shows at the true time `now`.
    pub fn local(&self, now: Time) -> Time {
        Time(now.0.saturating_add_signed(self.offset_ns))
    }

    /// The true time at which the clock shows `local`, never before `now`.
    pub fn true_time(&self, local: Time, now: Time) -> Time {
        Time(local.0.saturating_add_signed(-self.offset_ns)).max(now)
    }
}

/// The true time that has passed since the beginning.
pub fn elapsed(now: Time) -> Duration {
    now.since(EPOCH)
}
