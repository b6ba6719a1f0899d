//! Everything that can go wrong in the engine, each with what was expected and found.

use crate::arithmetic::RANGE_LIMIT;
use crate::cpu::simd::SimdPath;
use crate::device::DeviceError;
use crate::model::config::ConfigError;

/// Why the engine refuses to go on. No call that fails has changed parameters,
/// optimiser state or the accumulated gradient.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The model's shape is not one that the arithmetic covers.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The graphics device failed; nothing of the run is lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A field of the arithmetic specification or the optimiser is out of range.
    #[error("field `{field}`: {problem}")]
    Spec {
        /// The offending field.
        field: &'static str,
        /// What was wrong and what is accepted.
        problem: String,
    },
    /// The model would need more memory than allowed.
    #[error("the model needs {needed_bytes} bytes of memory, but only {limit_bytes} are allowed; {advice}")]
    Memory {
        /// What [`crate::MemoryPlan`] foretells.
        needed_bytes: u64,
        /// `EngineOptions::memory_bytes_max`.
        limit_bytes: u64,
        /// What to do about it.
        advice: &'static str,
    },
    /// The machine lacks the instruction set that was asked for.
    #[error("this machine has no {path:?} instructions; use SimdPath::Auto")]
    SimdMissing {
        /// The path asked for.
        path: SimdPath,
    },
    /// The operating system refused to start threads.
    #[error("cannot start the kernel threads: {problem}; ask for fewer")]
    Threads {
        /// The system's words.
        problem: String,
    },
    /// A token is not in the vocabulary.
    #[error("token {token} at place {place} is not under the vocabulary size {vocab_size}")]
    Token {
        /// Index in the slice given.
        place: usize,
        /// The value found there.
        token: u32,
        /// Number of tokens there are.
        vocab_size: usize,
    },
    /// A slice has the wrong length, or a count is out of range.
    #[error("{what}: expected {expected}, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// The accepted lengths.
        expected: String,
        /// The length given.
        found: usize,
    },
    /// A vector from outside holds NaN, infinity or a number of 2⁴⁰ or more.
    #[error("{what}[{index}] = {value} is not a finite number under {RANGE_LIMIT:e} in magnitude")]
    Value {
        /// Which vector.
        what: &'static str,
        /// Where in it.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// An op's output left the range of the arithmetic.
    #[error("op `{op}`{} gave a value outside of ±{RANGE_LIMIT:e}: training diverges; lower the learning rate", layer_suffix(*.layer))]
    Range {
        /// The op, as named in `docs/arithmetic.md`.
        op: &'static str,
        /// The decoder block, where the op belongs to one.
        layer: Option<usize>,
    },
}

fn layer_suffix(layer: Option<usize>) -> String {
    layer.map_or_else(String::new, |layer| format!(" of layer {layer}"))
}
