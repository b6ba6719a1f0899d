//! How an engine runs on this machine, and what memory it then takes: told before any is asked for.

use super::config::ModelConfig;
use super::layout::Layout;
use super::muon::{self, Shape};
use super::weights::Weights;
use super::workspace::{Workspace, packed_bytes, scratch_bytes};
use crate::cpu::simd::{Simd, SimdPath};
use crate::error::EngineError;
use crate::spec::{ArithmeticSpec, OptimizerKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Whether the way back computes the activations of each block again from the block's input,
/// instead of keeping those of all blocks (Chen et al., 2016, with one segment a block).
///
/// The bits are the same, so every machine chooses for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Only where keeping them does not fit the memory allowed.
    #[default]
    Auto,
    /// Whatever memory there is.
    Always,
    /// Models whose activations cannot be kept are refused.
    Never,
}

impl Recompute {
    /// Every choice with its name.
    const NAMES: [(Self, &str); 3] = [(Self::Auto, "auto"), (Self::Always, "always"), (Self::Never, "never")];
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(choice, _)| choice == self).map_or("auto", |(_, name)| name))
    }
}

impl FromStr for Recompute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|&(choice, _)| choice).ok_or_else(|| format!("`{text}` is not one of auto, always, never"))
    }
}

/// How the engine runs; nothing here changes a bit of what it computes.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Number of threads; 0 for one on each processor.
    pub threads: usize,
    /// Which instruction set to use.
    pub simd: SimdPath,
    /// Models that would need more memory are refused.
    pub memory_bytes_max: u64,
    /// Whether activations are computed again on the way back.
    pub recompute: Recompute,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { threads: 0, simd: SimdPath::Auto, memory_bytes_max: 16 << 30, recompute: Recompute::Auto }
    }
}

/// Memory that an engine takes for training, in bytes, and what it does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// With the activations of all blocks kept.
    pub keeping_bytes: u64,
    /// With those of one block at a time.
    pub recomputing_bytes: u64,
    /// Whether the engine computes them again.
    pub recomputes: bool,
}

impl MemoryPlan {
    /// Of two needs and the memory allowed.
    pub(crate) fn choose(recompute: Recompute, keeping_bytes: u64, recomputing_bytes: u64, bytes_max: u64) -> Self {
        let recomputes = match recompute {
            Recompute::Auto => keeping_bytes > bytes_max,
            Recompute::Always => true,
            Recompute::Never => false,
        };
        Self { keeping_bytes, recomputing_bytes, recomputes }
    }

    /// Of a valid model on the processor.
    ///
    /// Every tensor is counted as it is allocated; what the system's allocator and the
    /// program itself take comes on top. A path that the machine lacks counts as the
    /// portable one, which takes most.
    pub fn of(
        model: &ModelConfig,
        arithmetic: &ArithmeticSpec,
        optimizer: OptimizerKind,
        options: &EngineOptions,
    ) -> Self {
        let simd = options.simd.resolve().unwrap_or(Simd::Portable);
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let layout = Layout::new(model);
        let digits = arithmetic.weight_digits;
        let mut weights = Weights::new(model, &layout);
        let packed: u64 = weights
            .linears()
            .map(|linear| {
                packed_bytes(simd, linear.rows, linear.columns, digits)
                    + packed_bytes(simd, linear.columns, linear.rows, digits)
            })
            .sum();
        // Parameters, two moments, the gradient, and that of the micro-batch at hand.
        let vectors = 5 * 4 * layout.len() as u64;
        let scratch = scratch_bytes(simd, model, arithmetic, threads);
        let angles = 4 * (arithmetic.sequence_length * model.head_dim) as u64;
        let muon = muon::Workspace::bytes(simd, Shape::all(optimizer, &layout).map(|(_, shape)| shape));
        let fixed = vectors + packed + scratch + angles + muon;
        let workspace = |recomputes| Workspace::bytes(simd, model, arithmetic, recomputes);
        Self::choose(options.recompute, fixed + workspace(false), fixed + workspace(true), options.memory_bytes_max)
    }

    /// What is taken as planned.
    pub fn bytes(&self) -> u64 {
        if self.recomputes { self.recomputing_bytes } else { self.keeping_bytes }
    }

    /// Refuses a plan for more than `limit_bytes`.
    pub(crate) fn check(&self, limit_bytes: u64) -> Result<(), EngineError> {
        let needed_bytes = self.bytes();
        if needed_bytes <= limit_bytes {
            return Ok(());
        }
        let advice = match self.recomputes {
            false if self.recomputing_bytes <= limit_bytes => "let it compute activations again (`recompute` = auto)",
            _ => "choose a smaller model, vocabulary or micro-batch, or a machine with more memory",
        };
        Err(EngineError::Memory { needed_bytes, limit_bytes, advice })
    }
}
