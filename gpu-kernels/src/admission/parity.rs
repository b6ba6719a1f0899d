//! The parity suite without a test harness: every kernel in every form, and
//! whole runs beside the native engine. For bare machines with a GPU and no toolchain.

use super::{AdmissionReport, AdmittedDevice, FlawReport, Forms, check_device, prove_vectors};
use crate::device::Device;
use crate::error::EngineError;
use crate::gpu::engine::GpuEngine;
use crate::model::config::ModelConfig;
use crate::model::engine::Engine;
use crate::model::options::EngineOptions;
use crate::model::step::{MicroBatchKey, StepNumbers};
use crate::spec::{ArithmeticSpec, OptimizerConfig, OptimizerKind};
use crate::training::TrainingEngine;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A run on the device beside the same run on the CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// What was trained.
    pub name: String,
    /// The forms of the kernels.
    pub forms: Forms,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Whether losses, parameters, optimiser state, evaluation and next-token logits have equal bits.
    pub equal: bool,
    /// Tokens per second on the device, forward, backward and optimiser.
    pub device_tokens_per_s: f64,
    /// The same on the CPU.
    pub native_tokens_per_s: f64,
}

/// All that the suite found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParityReport {
    /// Known-answer tests in the device's own form, with portable dot products, and with integer floats.
    pub admissions: Vec<AdmissionReport>,
    /// Whole runs.
    pub runs: Vec<RunReport>,
    /// What the known answers make of wrong arithmetic.
    pub flaws: Vec<FlawReport>,
}

impl ParityReport {
    /// Whether everything has the right bits in every form, and wrong arithmetic was seen.
    pub fn passed(&self) -> bool {
        self.admissions.iter().all(AdmissionReport::admitted)
            && self.runs.iter().all(|run| run.equal)
            && self.flaws.iter().all(|flaw| flaw.missed.is_empty())
    }
}

fn model(hidden_size: usize, heads: (usize, usize), tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 61,
        hidden_size,
        intermediate_size: 2 * hidden_size + 7,
        num_hidden_layers: 2,
        num_attention_heads: heads.0,
        num_key_value_heads: heads.1,
        head_dim: 10,
        max_position_embeddings: 48,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings,
        initializer_range: 0.05,
    }
}

/// Names, models and specifications that differ in what they reach.
fn runs() -> Vec<(&'static str, ModelConfig, ArithmeticSpec, OptimizerKind)> {
    let spec = ArithmeticSpec { micro_batch_sequences: 2, sequence_length: 33, ..ArithmeticSpec::default() };
    let two = ArithmeticSpec {
        activation_digits: 2,
        weight_digits: 2,
        gradient_digits: 2,
        attention_digits: 2,
        sequence_length: 13,
        ..spec.clone()
    };
    vec![
        ("tied, odd sizes, one digit", model(37, (3, 1), true), spec.clone(), OptimizerKind::Adamw),
        ("Muon, untied, tall and wide matrices", model(22, (4, 1), false), spec.clone(), OptimizerKind::Muon),
        ("untied, grouped queries, default digits", model(64, (4, 2), false), spec, OptimizerKind::Adamw),
        ("untied, two digits everywhere", model(29, (2, 2), false), two, OptimizerKind::Adamw),
    ]
}

/// Runs the whole suite on `device`: every kernel's known answers in all three
/// forms, and `steps` optimiser steps of several models in each.
///
/// # Errors
/// The device is lost or out of memory. Wrong answers are no errors but in the report.
pub fn parity_suite(device: &Device, steps: u64) -> Result<ParityReport, EngineError> {
    let forms = [
        Forms::default(),
        Forms { portable_dot: true, ..Forms::default() },
        Forms { soft_float: true, ..Forms::default() },
    ];
    let mut report = ParityReport { admissions: Vec::new(), runs: Vec::new(), flaws: prove_vectors(device)? };
    for forms in forms {
        let admission = check_device(device, forms)?;
        let admitted = AdmittedDevice::from_report(device.clone(), admission.clone(), None);
        report.admissions.push(admission);
        let Ok(admitted) = admitted else { continue };
        for (name, model, spec, kind) in runs() {
            report.runs.push(compare(&admitted, (name, model, spec, kind), steps)?);
        }
    }
    Ok(report)
}

/// Trains the same on both.
fn compare(
    device: &AdmittedDevice,
    (name, model, spec, kind): (&'static str, ModelConfig, ArithmeticSpec, OptimizerKind),
    steps: u64,
) -> Result<RunReport, EngineError> {
    let optimizer = OptimizerConfig { kind, learning_rate: 1e-2, warmup_steps: 2, ..OptimizerConfig::default() };
    let mut native = Engine::new(model.clone(), optimizer.clone(), spec.clone(), EngineOptions::default())?;
    let mut gpu = GpuEngine::new(model, optimizer, spec, device)?;
    let (expected, native_tokens_per_s) = trace(&mut native, steps)?;
    let (found, device_tokens_per_s) = trace(&mut gpu, steps)?;
    let forms = device.report().forced;
    let equal = expected == found;
    Ok(RunReport { name: name.into(), forms, steps, equal, device_tokens_per_s, native_tokens_per_s })
}

/// Everything that comes out of a run, and its speed without the first step, which compiles kernels.
fn trace(engine: &mut dyn TrainingEngine, steps: u64) -> Result<(Vec<u8>, f64), EngineError> {
    let run_seed = [9; 32];
    engine.initialize(run_seed)?;
    let (sequences, row) = (engine.arithmetic().micro_batch_sequences, engine.arithmetic().sequence_length + 1);
    let vocab_size = engine.config().vocab_size as u64;
    let mut bytes = Vec::new();
    let (mut start, mut counted) = (Instant::now(), 0);
    let mut tokens = Vec::new();
    for step in 0..steps {
        if step == 1 {
            (start, counted) = (Instant::now(), 0);
        }
        for micro_batch in 0..2 {
            let place = |at: u64| (at * at / 3 + at / 7 + (2 * step + micro_batch) * 5) % vocab_size;
            tokens = (0..(sequences * row) as u64).map(|at| place(at) as u32).collect();
            let key = MicroBatchKey { run_seed, step, micro_batch };
            let loss = engine.accumulate_gradient(&tokens, sequences, &key)?;
            counted += loss.tokens;
            bytes.extend(loss.fixed.to_le_bytes());
        }
        let report = engine.apply_own_gradient(2, StepNumbers::in_order(step))?;
        bytes.extend(report.gradient_norm.to_le_bytes());
    }
    let tokens_per_s = counted as f64 / start.elapsed().as_secs_f64().max(1e-9);
    bytes.extend(engine.parameter_hash()?);
    bytes.extend(engine.optimizer_hash()?);
    let evaluation = engine.evaluate(&tokens, sequences)?;
    bytes.extend(evaluation.loss.fixed.to_le_bytes());
    bytes.extend(evaluation.hits.to_le_bytes());
    let logits = engine.next_token_logits(&tokens[..row - 1])?;
    bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    Ok((bytes, tokens_per_s))
}
