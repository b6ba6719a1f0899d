//! When a unit may do its next block: at once while the trainer is idle; while it
//! works, only as fast as the unit's deadline needs.

use std::time::{Duration, Instant};

/// The part of its time after which a unit waits for nobody, in fourths.
const PATIENT_FOURTHS: u32 = 3;

/// The course of one unit.
#[derive(Debug)]
pub(crate) struct Pace {
    begun: Instant,
    /// Wall time until its deadline.
    within: Duration,
    /// Device time that it is expected to take.
    expected: Duration,
    /// Device time that it has taken.
    used: Duration,
}

impl Pace {
    pub(crate) fn new(begun: Instant, within: Duration, expected: Duration) -> Self {
        Self { begun, within, expected, used: Duration::ZERO }
    }

    /// Device time taken so far.
    pub(crate) fn used(&self) -> Duration {
        self.used
    }

    pub(crate) fn charge(&mut self, used: Duration) {
        self.used += used;
    }

    /// How long the next block should wait for a trainer that is busy: until as much
    /// of the expected time is due as was used, spread over most of the time there is.
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.begun);
        let patient = self.within * PATIENT_FOURTHS / 4;
        let share = self.used.as_secs_f64() / self.expected.as_secs_f64().max(1e-6);
        patient.mul_f64(share.min(1.0)).saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_beside_a_busy_trainer_is_spread_over_its_time() {
        let begun = Instant::now();
        let (within, block) = (Duration::from_secs(20), Duration::from_millis(20));
        let mut pace = Pace::new(begun, within, Duration::from_secs(1));
        let (mut now, mut longest) = (begun, Duration::ZERO);
        // It takes a tenth longer than expected.
        for _ in 0..55 {
            let wait = pace.patience(now);
            longest = longest.max(wait);
            now += wait + block;
            pace.charge(block);
        }
        assert!(now <= begun + within, "in time: {:?}", now - begun);
        assert!(now >= begun + within / 2, "not in haste: {:?}", now - begun);
        assert!(longest <= Duration::from_millis(400), "evenly: {longest:?}");
    }

    #[test]
    fn a_late_unit_waits_for_nobody() {
        let begun = Instant::now();
        let within = Duration::from_secs(4);
        let mut pace = Pace::new(begun, within, Duration::from_secs(1));
        pace.charge(Duration::from_secs(9));
        assert_eq!(pace.patience(begun), Duration::from_secs(3));
        assert_eq!(pace.patience(begun + Duration::from_secs(3)), Duration::ZERO);
        assert_eq!(Pace::new(begun, within, Duration::ZERO).patience(begun), Duration::ZERO);
    }
}
