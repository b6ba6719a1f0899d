//! How long work takes, by estimate: no dispatch and no submission may be so long that an
//! operating system takes the device for hung (Windows waits 2 s).

use crate::device::DeviceKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds that a dispatch should stay under; longer ones are cut into parts.
const DISPATCH_MS_MAX: u64 = 250;
/// Milliseconds of work that one submission should stay under.
const SUBMISSION_MS_MAX: u64 = 1000;
/// Work that takes less, by the clock or by estimate, says nothing of a device's speed.
const OBSERVED_MIN: Duration = Duration::from_millis(20);
/// Whatever was observed, a device is not taken to be slower or faster than this.
const OPERATIONS_PER_S: std::ops::RangeInclusive<u64> = 10_000_000..=10_000_000_000_000;

/// Operations per second, as far as is known. An operation is about one multiply-add.
pub(crate) struct Pace {
    operations_per_s: AtomicU64,
}

impl Pace {
    /// Before anything was observed: what the slowest of a kind manage.
    pub(crate) fn new(kind: DeviceKind) -> Self {
        let operations_per_s = match kind {
            DeviceKind::Discrete => 100_000_000_000,
            DeviceKind::Integrated | DeviceKind::Virtual => 10_000_000_000,
            DeviceKind::Software | DeviceKind::Other => 200_000_000,
        };
        Self { operations_per_s: AtomicU64::new(operations_per_s) }
    }

    /// Learns from work that was waited for: half of a difference, for waiting has other reasons, too.
    pub(crate) fn observe(&self, operations: u64, elapsed: Duration) {
        let known = self.operations_per_s.load(Ordering::Relaxed);
        let estimated = Duration::from_secs_f64(operations as f64 / known as f64);
        if elapsed.min(estimated) < OBSERVED_MIN {
            return;
        }
        let found = (operations as f64 / elapsed.as_secs_f64()) as u64;
        let found = found.clamp(*OPERATIONS_PER_S.start(), *OPERATIONS_PER_S.end());
        self.operations_per_s.store(known.midpoint(found), Ordering::Relaxed);
    }

    /// Takes the device to be as slow as this.
    #[cfg(test)]
    pub(crate) fn set(&self, operations_per_s: u64) {
        self.operations_per_s.store(operations_per_s, Ordering::Relaxed);
    }

    fn operations_in(&self, ms: u64) -> u64 {
        self.operations_per_s.load(Ordering::Relaxed) / 1000 * ms
    }

    /// Parts that a dispatch is cut into.
    pub(crate) fn parts(&self, operations: u64) -> usize {
        usize::try_from(operations.div_ceil(self.operations_in(DISPATCH_MS_MAX))).unwrap_or(usize::MAX).max(1)
    }

    /// Operations of a submission.
    pub(crate) fn submission_operations(&self) -> u64 {
        self.operations_in(SUBMISSION_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_cut_and_slow_work_is_learnt_from() {
        let pace = Pace::new(DeviceKind::Software);
        assert_eq!((pace.parts(0), pace.parts(50_000_000), pace.parts(50_000_001)), (1, 1, 2));
        pace.observe(1_000_000_000, Duration::from_millis(1));
        pace.observe(1_000, Duration::from_secs(1));
        assert_eq!(pace.parts(50_000_001), 2, "short work says nothing");
        pace.observe(20_000_000, Duration::from_secs(1));
        assert_eq!(pace.submission_operations(), 110_000_000);
        pace.observe(290_000_000, Duration::from_secs(1));
        assert_eq!(pace.submission_operations(), 200_000_000);
        for _ in 0..60 {
            pace.observe(100_000_000_000, Duration::from_secs(60_000));
        }
        assert_eq!(pace.parts(10_000_000), 4, "never slower than the least");
    }
}
