//! What `train` and `demo` have in common: the text, the model, the length.

use super::{Error, files};
use crate::preset::{PRESETS, Preset};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct Recipe {
    /// A text file, a folder or a quoted glob such as 'books/**/*.txt'
    /// [default: the Rust sources of Manta's own dependencies]
    #[arg(long, value_name = "PATH")]
    pub(super) data: Option<PathBuf>,

    /// Rounds; all members compare their parameters after each
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,

    /// Optimiser steps in a round; gradients are averaged at each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps_per_round: u32,

    /// Let every machine take N optimiser steps by itself, then average how far they
    /// went: N times less traffic (DiLoCo). A round is then one such exchange
    #[arg(long, value_name = "N", conflicts_with = "steps_per_round", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) local_steps: Option<u32>,

    #[arg(long, value_name = "NAME", default_value = "tiny", value_parser = preset, help = preset_help())]
    pub(super) preset: Preset,

    /// Equal seed, data and number of peers give an equal model, bit for bit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,

    /// If the output folder holds something else, move that aside
    #[arg(long)]
    pub(super) overwrite: bool,
}

impl Recipe {
    /// Optimiser steps of a round.
    pub(super) fn steps(&self) -> u32 {
        self.local_steps.unwrap_or(self.steps_per_round)
    }

    /// The data as another process would name it.
    ///
    /// # Errors
    /// When the path cannot be made absolute.
    pub(super) fn data(&self) -> Result<Option<PathBuf>, Error> {
        self.data.as_deref().map(files::absolute).transpose()
    }
}

fn preset(name: &str) -> Result<Preset, String> {
    Preset::find(name)
}

fn preset_help() -> String {
    let presets = PRESETS.map(|preset| format!("\n- {}: {}", preset.name, preset.about));
    format!("Size of the model{}", presets.concat())
}
