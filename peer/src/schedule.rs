//! The learning rate over a run, as people ask for it, and where it then stands in the run's spec.

use manta_protocol::run::spec::DecaySpec;
use serde::{Deserialize, Serialize};

/// Steps of warm-up at most, where no number is given.
const WARMUP_STEPS_MAX: u32 = 200;
/// What is left of the learning rate at the end, where nothing is said.
const MIN_RATIO: f32 = 0.1;

/// How the learning rate goes on after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Curve {
    /// Stays, and falls on a straight line at the end
    #[default]
    Wsd,
    /// Stays, and falls by 1 - sqrt at the end
    WsdSqrt,
    /// Falls from the beginning, by half a period of a cosine
    Cosine,
    /// Stays
    Constant,
}

/// A schedule; what is `None` follows from the length of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    pub(crate) curve: Curve,
    /// Steps of linear warm-up.
    pub(crate) warmup_steps: Option<u32>,
    /// Steps of the fall, for curves that stay first.
    pub(crate) decay_steps: Option<u32>,
    /// The last learning rate as a share of the highest.
    pub(crate) min_ratio: Option<f32>,
}

/// A schedule in a run of so many steps: fields of the run's spec.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) warmup_steps: u32,
    pub(crate) decay_start_step: u32,
    pub(crate) final_fraction: f32,
    pub(crate) decay: DecaySpec,
}

impl Schedule {
    /// Lays the schedule into a run of `steps` optimiser steps.
    ///
    /// # Errors
    /// Names the option that does not fit the run or the curve.
    pub(crate) fn place(&self, steps: u32) -> Result<Placed, String> {
        let warmup_steps = self.warmup_steps.unwrap_or_else(|| (steps / 10).clamp(1, WARMUP_STEPS_MAX));
        if warmup_steps > steps {
            return Err(format!("--warmup {warmup_steps}: the run has {steps} steps only"));
        }
        let left = steps - warmup_steps;
        let stays_first = matches!(self.curve, Curve::Wsd | Curve::WsdSqrt);
        if self.decay_steps.is_some() && !stays_first {
            return Err("--decay: only the schedules wsd and wsd-sqrt have a decay of its own length".into());
        }
        if let Some(decay_steps) = self.decay_steps.filter(|steps| *steps > left) {
            return Err(format!("--decay {decay_steps}: {left} of the run's {steps} steps are left after warm-up"));
        }
        let ratio = self.min_ratio.unwrap_or(MIN_RATIO);
        if !(0.0..=1.0).contains(&ratio) {
            return Err(format!("--min-lr-ratio {ratio}: expected a number from 0 to 1"));
        }
        if self.curve == Curve::Constant && self.min_ratio.is_some() {
            return Err("--min-lr-ratio: the schedule constant does not fall".into());
        }
        // A given warm-up may leave less than the usual third.
        let decay_steps = self.decay_steps.unwrap_or_else(|| (steps / 3).min(left));
        let (decay_start_step, decay) = match self.curve {
            Curve::Wsd => (steps - decay_steps, DecaySpec::Linear),
            Curve::WsdSqrt => (steps - decay_steps, DecaySpec::OneMinusSqrt),
            Curve::Cosine => (warmup_steps, DecaySpec::Cosine),
            Curve::Constant => (steps, DecaySpec::Linear),
        };
        let final_fraction = if self.curve == Curve::Constant { 1.0 } else { ratio };
        Ok(Placed { warmup_steps, decay_start_step, final_fraction, decay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_laid_into_runs() {
        let place = |curve, steps| {
            let placed = Schedule { curve, ..Schedule::default() }.place(steps).expect("it fits");
            (placed.warmup_steps, placed.decay_start_step, placed.final_fraction, placed.decay)
        };
        assert_eq!(place(Curve::Wsd, 200), (20, 134, 0.1, DecaySpec::Linear));
        assert_eq!(place(Curve::WsdSqrt, 200), (20, 134, 0.1, DecaySpec::OneMinusSqrt));
        assert_eq!(place(Curve::Cosine, 200), (20, 20, 0.1, DecaySpec::Cosine));
        assert_eq!(place(Curve::Constant, 200), (20, 200, 1.0, DecaySpec::Linear));
        assert_eq!(place(Curve::Wsd, 1), (1, 1, 0.1, DecaySpec::Linear));
        assert_eq!(place(Curve::Cosine, 1_000_000).0, 200);
        let long_warmup = Schedule { warmup_steps: Some(9), ..Schedule::default() };
        assert_eq!(long_warmup.place(10).map(|placed| placed.decay_start_step), Ok(9));
        let own = Schedule { warmup_steps: Some(0), decay_steps: Some(10), min_ratio: Some(0.0), ..long_warmup };
        let expected = Placed { warmup_steps: 0, decay_start_step: 0, final_fraction: 0.0, decay: DecaySpec::Linear };
        assert_eq!(own.place(10), Ok(expected));
    }

    #[test]
    fn schedules_that_do_not_fit_name_the_option() {
        let plain = Schedule::default();
        let constant = Schedule { curve: Curve::Constant, ..plain };
        let cases = [
            (Schedule { warmup_steps: Some(11), ..plain }, "--warmup 11: the run has 10 steps"),
            (Schedule { warmup_steps: Some(4), decay_steps: Some(7), ..plain }, "--decay 7: 6 of the run's 10 steps"),
            (Schedule { decay_steps: Some(5), ..constant }, "--decay: only the schedules wsd"),
            (Schedule { curve: Curve::Cosine, decay_steps: Some(5), ..plain }, "--decay: only the schedules wsd"),
            (Schedule { min_ratio: Some(1.5), ..plain }, "--min-lr-ratio 1.5: expected a number from 0 to 1"),
            (Schedule { min_ratio: Some(f32::NAN), ..plain }, "--min-lr-ratio NaN"),
            (Schedule { min_ratio: Some(0.5), ..constant }, "--min-lr-ratio: the schedule constant"),
        ];
        for (schedule, part) in cases {
            let refused = schedule.place(10).expect_err(part);
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
}
