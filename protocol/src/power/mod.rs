//! Computing power: what a peer has proven that it can do.
//!
//! Power 1 is one processor core running the Whetstone benchmark at 10⁹
//! operations a second for one day: BOINC's GFLOPS-day, of which a credit is
//! 1/200. It is counted in millionths ([`MicroPower`]).
//!
//! A peer has *real* power, the sum of what it was credited, and *effective*
//! power, the daily average of it with a half-life of a week ([`average`]);
//! both apart for drilling and for training. Effective power gives the weight
//! in elections ([`weight()`]); [`history`] explains real power point by point.

pub mod average;
pub mod history;
mod record;
mod weight;

pub use average::Average;
pub use history::{Cause, Entry, History};
pub use record::{Branch, PowerRecord};
pub use weight::{drill_credit, weight};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whetstone operations in power 1: 10⁹ a second for a day of 86,400 s.
pub const WHETSTONE_OPERATIONS_PER_POWER: u64 = 86_400_000_000_000;

/// Power in millionths. Sums stop at the greatest value and differences at
/// zero: no history of credits can wrap a peer's power around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MicroPower(pub u64);

impl MicroPower {
    /// No power.
    pub const ZERO: Self = Self(0);

    /// So many whole units of power.
    pub const fn from_power(power: u64) -> Self {
        Self(power.saturating_mul(1_000_000))
    }

    /// The sum, or the greatest power that can be counted.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or none if `other` is greater.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// An equal share for each of `count`, rounded down; nothing if there is nobody.
    #[must_use]
    pub const fn shared_by(self, count: u32) -> Self {
        Self(if count == 0 { 0 } else { self.0 / count as u64 })
    }
}

impl fmt::Display for MicroPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
