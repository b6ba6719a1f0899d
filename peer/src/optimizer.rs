//! The rule that turns gradients into steps, as people ask for it.

use manta_gpu_kernels::OptimizerKind;
use manta_protocol::run::spec::OptimizerKindSpec;
use serde::{Deserialize, Serialize};

/// A rule by its name on the command line and in orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Optimizer {
    /// AdamW for all parameters
    #[default]
    Adamw,
    /// Muon for the matrices of the blocks, AdamW for embedding, head and norms
    Muon,
}

impl Optimizer {
    /// How much larger than a preset's the highest learning rate is where none is given: Muon, whose
    /// steps are of AdamW's size, bears four times that and learns much more by it (`docs/quality.md`).
    pub(crate) fn times_the_rate(self) -> f32 {
        match self {
            Self::Adamw => 1.0,
            Self::Muon => 4.0,
        }
    }
}

impl From<Optimizer> for OptimizerKindSpec {
    fn from(optimizer: Optimizer) -> Self {
        match optimizer {
            Optimizer::Adamw => Self::Adamw,
            Optimizer::Muon => Self::Muon,
        }
    }
}

impl From<Optimizer> for OptimizerKind {
    fn from(optimizer: Optimizer) -> Self {
        kind(optimizer.into())
    }
}

/// The rule as the engine takes it.
pub(crate) fn kind(spec: OptimizerKindSpec) -> OptimizerKind {
    match spec {
        OptimizerKindSpec::Adamw => OptimizerKind::Adamw,
        OptimizerKindSpec::Muon => OptimizerKind::Muon,
    }
}
