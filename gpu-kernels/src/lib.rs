//! The exact arithmetic of a training step: bit for bit the same on every device.
//!
//! Products of matrices are exact integer sums, everything else is f32 under
//! the narrow rules of [`arithmetic`]. [`Engine`] trains one Llama-family model
//! with it; `docs/arithmetic.md` says the same in words, exactly enough to
//! implement it again.

pub mod admission;
pub mod arithmetic;
pub mod benchmark;
mod buffers;
mod cpu;
pub mod device;
pub mod drill;
mod error;
pub mod functions;
mod gpu;
pub mod model;
pub mod outer;
pub mod reduce;
pub mod reference;
pub mod schedule;
pub mod spec;
mod training;
pub mod whetstone;

pub use benchmark::{
    ProductExtent, ProductTiming, measure_device_multiply_adds_per_s, measure_multiply_adds_per_s, time_products,
};
pub use cpu::simd::SimdPath;
pub use error::EngineError;
pub use gpu::engine::GpuEngine;
pub use model::config::{ConfigError, ModelConfig, RopeScaling};
pub use model::engine::Engine;
pub use model::layout::{Layout, Tensor};
pub use model::options::{EngineOptions, MemoryPlan, Recompute};
pub use model::profile::{OpClass, Profile};
pub use model::state::TrainingState;
pub use model::step::{Evaluation, LossSum, MicroBatchKey, StepNumbers, StepReport};
pub use outer::{OuterConfig, OuterOptimizer, OuterReport, OuterState};
pub use schedule::DecayShape;
pub use spec::{ARITHMETIC_VERSION, ArithmeticSpec, OptimizerConfig, OptimizerKind};
pub use training::{LocalOutcome, LocalStep, LocalTraining, MicroBatch, TrainingEngine};
