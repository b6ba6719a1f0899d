//! Time as a number that the driver hands in; nothing here reads a clock.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

/// A span of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Duration(pub u64);

impl Time {
    /// Whole milliseconds since the Unix epoch.
    pub fn as_unix_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The span from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Duration {
    /// A span of milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// A span of seconds.
    pub const fn from_s(s: u64) -> Self {
        Self::from_ms(s.saturating_mul(1_000))
    }

    /// The span `count` times over.
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// Whole milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl Add for Duration {
    type Output = Duration;

    fn add(self, span: Duration) -> Duration {
        Duration(self.0.saturating_add(span.0))
    }
}

impl Sub for Duration {
    type Output = Duration;

    fn sub(self, span: Duration) -> Duration {
        Duration(self.0.saturating_sub(span.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of time, so that hostile expiries cannot wrap.
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(span.0))
    }
}
