//! Where the time of a step goes, by class of operation.
//!
//! The thread that leads a step reads the clock between operations, which costs
//! some tens of nanoseconds each: cheap enough to be always on.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Classes of operations. Each ends on all threads before the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpClass {
    /// Rounding and packing weights, forward and backward, once a step.
    PackWeights,
    /// Rounding and packing the inputs of linear maps along the tokens; along their rows, the op that writes them does it.
    PackActivations,
    /// Rounding (stochastically) and packing gradients, but for rows that an op has just written.
    PackGradients,
    /// Products of linear maps.
    Products,
    /// RMSNorm, with packing the rows that it gives, and its way back.
    Norms,
    /// Rotary embedding, taking heads apart and together, and packing the rows that this gives.
    Rotary,
    /// Attention with its own packing and products.
    Attention,
    /// SwiGLU and its way back, with packing the rows that they give.
    Gates,
    /// Loss and the gradient of the logits, with packing its rows.
    CrossEntropy,
    /// Embedding rows and their gradient.
    Embedding,
    /// Adding branches to the stream.
    Residuals,
    /// Adding up micro-batches.
    GradientSums,
    /// Norm of the gradient, and the step.
    Optimizer,
}

impl OpClass {
    /// All classes.
    pub const ALL: [Self; 13] = [
        Self::PackWeights,
        Self::PackActivations,
        Self::PackGradients,
        Self::Products,
        Self::Norms,
        Self::Rotary,
        Self::Attention,
        Self::Gates,
        Self::CrossEntropy,
        Self::Embedding,
        Self::Residuals,
        Self::GradientSums,
        Self::Optimizer,
    ];

    /// What people read.
    pub fn name(self) -> &'static str {
        match self {
            Self::PackWeights => "packing weights",
            Self::PackActivations => "packing activations",
            Self::PackGradients => "packing gradients",
            Self::Products => "products",
            Self::Norms => "norms",
            Self::Rotary => "rotary embedding, heads",
            Self::Attention => "attention",
            Self::Gates => "SwiGLU",
            Self::CrossEntropy => "cross-entropy",
            Self::Embedding => "embedding",
            Self::Residuals => "residuals",
            Self::GradientSums => "sums of gradients",
            Self::Optimizer => "optimizer",
        }
    }
}

/// Nanoseconds on the clock by class of operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Every class that took time.
    pub spent_ns: BTreeMap<OpClass, u64>,
}

impl Profile {
    /// All classes together, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.spent_ns.values().sum()
    }
}

/// Adds up time from lap to lap. Only the thread that leads a step uses it.
pub(crate) struct Laps {
    begun: Instant,
    last_ns: AtomicU64,
    spent_ns: [AtomicU64; OpClass::ALL.len()],
}

impl Laps {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), last_ns: AtomicU64::new(0), spent_ns: Default::default() }
    }

    fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// The next lap begins now.
    pub(crate) fn start(&self) {
        self.last_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    /// A lap in an operation of `class` ends, the next one begins.
    pub(crate) fn end(&self, class: OpClass) {
        let now_ns = self.now_ns();
        let lap_ns = now_ns.saturating_sub(self.last_ns.swap(now_ns, Ordering::Relaxed));
        self.spent_ns[class as usize].fetch_add(lap_ns, Ordering::Relaxed);
    }

    /// What was spent since this was asked last.
    pub(crate) fn take(&self) -> Profile {
        let spent = OpClass::ALL.map(|class| (class, self.spent_ns[class as usize].swap(0, Ordering::Relaxed)));
        Profile { spent_ns: spent.into_iter().filter(|&(_, spent_ns)| spent_ns > 0).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_go_to_their_class_and_are_taken_once() {
        for (number, class) in OpClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
        let laps = Laps::new();
        laps.start();
        let mut sum = 0u64;
        while laps.begun.elapsed().as_micros() < 200 {
            sum = std::hint::black_box(sum + 1);
        }
        laps.end(OpClass::Norms);
        let profile = laps.take();
        assert_eq!(profile.spent_ns.keys().collect::<Vec<_>>(), [&OpClass::Norms]);
        assert!(profile.total_ns() > 100_000, "{profile:?}");
        assert_eq!(laps.take(), Profile::default());
        let text = serde_json::to_string(&profile).unwrap();
        assert!(text.contains("\"norms\":"), "{text}");
    }
}
