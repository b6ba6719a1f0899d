//! Arguments: the learning rate over a run.

use crate::schedule::{Curve, Schedule};
use clap::Args;

#[derive(Args, Debug)]
pub(super) struct ScheduleArgs {
    /// How the learning rate goes on after warm-up
    #[arg(long = "schedule", value_name = "NAME", value_enum, default_value_t)]
    curve: Curve,

    /// Steps over which the learning rate rises from 0 to the highest; a run has
    /// rounds times steps in a round [default: a tenth of the run, at most 200]
    #[arg(long, value_name = "STEPS")]
    warmup: Option<u32>,

    /// Steps of the fall at the end of wsd and wsd-sqrt [default: a third of the run]
    #[arg(long, value_name = "STEPS")]
    decay: Option<u32>,

    /// The last learning rate as a share of the highest, from 0 to 1 [default: 0.1]
    #[arg(long, value_name = "X", value_parser = ratio)]
    min_lr_ratio: Option<f32>,
}

impl ScheduleArgs {
    pub(super) fn schedule(&self) -> Schedule {
        let Self { curve, warmup, decay, min_lr_ratio } = *self;
        Schedule { curve, warmup_steps: warmup, decay_steps: decay, min_ratio: min_lr_ratio }
    }
}

fn ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1, such as 0.1".into()),
    }
}
