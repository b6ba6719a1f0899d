//! What training takes of a device's memory, told before any is asked for. Counts what
//! `model.rs`, `workspace.rs` and the engine allocate.

use super::muon;
use super::ops::matmul::{packed_words, window_words_min};
use super::pass::SLOTS;
use super::tiling::PIECE;
use super::workspace::{Extent, left_extent, right_extent};
use crate::buffers::WINDOW_STEP;
use crate::cpu::adamw::NORM_BLOCK;
use crate::device::{DeviceError, DeviceReport};
use crate::model::config::ModelConfig;
use crate::model::layout::Layout;
use crate::model::muon::Shape;
use crate::model::options::{MemoryPlan, Recompute};
use crate::model::step::LAYER_SITES;
use crate::model::weights::Weights;
use crate::spec::{ArithmeticSpec, OptimizerKind};

/// Some buffers of one size.
struct Buffers {
    tensor: &'static str,
    count: usize,
    words: usize,
    /// Whether kernels bind windows of it, so that it may be larger than a binding.
    windowed: bool,
}

/// Buffers that kernels bind whole.
fn whole(tensor: &'static str, count: usize, words: usize) -> Buffers {
    Buffers { tensor, count, words, windowed: false }
}

fn windowed(tensor: &'static str, count: usize, words: usize) -> Buffers {
    Buffers { tensor, count, words, windowed: true }
}

/// Digits and exponents of a packed matrix, and the rows of it that are bound at once at least.
fn packed(count: usize, rows: usize, k: usize, digits: u8) -> [Buffers; 3] {
    let words = packed_words(rows, k, digits.into(), 1);
    [
        windowed("packed digits", count, words),
        windowed("packed exponents", count, rows),
        whole("rows of packed digits", 0, words.min(window_words_min(k, digits.into()))),
    ]
}

/// Words of a matrix that are bound at once at least: packed along its columns, a piece of each.
fn rows_at_once(rows: usize, columns: usize) -> usize {
    PIECE.min(rows) * columns + WINDOW_STEP
}

/// All that an engine holds between passes; the largest first.
fn of_model(config: &ModelConfig, spec: &ArithmeticSpec, optimizer: OptimizerKind) -> Vec<Buffers> {
    let layout = Layout::new(config);
    let mut buffers = vec![
        windowed("parameters", 1, layout.len()),
        windowed("moments and gradients", 4, layout.len()),
        whole("rotary angles", 1, config.max_position_embeddings * config.head_dim),
        whole("norm sums", 1, layout.len().div_ceil(NORM_BLOCK)),
        whole("check flags", 1, SLOTS),
        whole("rounding keys", 1, 2 * (config.num_hidden_layers + 1) * LAYER_SITES as usize),
    ];
    let muon = muon::Extent::of(Shape::all(optimizer, &layout).map(|(_, shape)| shape));
    if muon.matrix > 0 {
        buffers.extend([windowed("directions", 1, muon.matrix), windowed("square of directions", 2, muon.square)]);
        for [words, scales] in [muon.packed_matrix, muon.packed_square] {
            buffers.extend([whole("packed digits", 1, words), whole("packed exponents", 1, scales)]);
        }
    }
    for linear in Weights::new(config, &layout).linears() {
        buffers.extend(packed(1, linear.rows, linear.columns, spec.weight_digits));
        buffers.extend(packed(1, linear.columns, linear.rows, spec.weight_digits));
        buffers.push(whole("rows of a weight", 0, rows_at_once(linear.rows, linear.columns)));
    }
    buffers
}

/// All that a training pass holds.
fn of_pass(config: &ModelConfig, spec: &ArithmeticSpec, extent: &Extent) -> Vec<Buffers> {
    let (tokens, layers) = (extent.tokens(), config.num_hidden_layers);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.query_width(), config.key_value_width());
    let (streams, blocks) = extent.kept(layers);
    let query_heads = extent.query_heads_at_once(config);
    let scores = query_heads * extent.length * extent.score_stride();
    let ((left_words, left_scales), (right_words, right_scales)) =
        (left_extent(config, spec, extent), right_extent(config, spec, extent));
    let mut buffers = vec![
        whole("residual stream", streams, tokens * hidden),
        whole("gate and up", blocks, 2 * tokens * inner),
        whole("queries", blocks, tokens * queries),
        whole("keys", 2 * blocks, tokens * keys),
        whole("reciprocal roots", 2 * blocks + 1, tokens),
        whole("gradient of gate and up", 1, 2 * tokens * inner),
        whole("gradient of queries", 1, tokens * queries),
        whole("gradient of keys", 2, tokens * keys),
        whole("attention scores", 2, scores),
        whole("parts of key gradients", 1, query_heads * extent.length * config.head_dim),
        whole("token segments", 1, config.vocab_size + 1),
        // With residual branch and the stream's gradient.
        whole("normalised stream", 3, tokens * hidden),
        whole("queries, keys and values", 1, tokens * (queries + 2 * keys)),
        whole("attention heads", 2, tokens * queries),
        whole("SwiGLU output", 1, tokens * inner),
        windowed("logits", 1, tokens * config.vocab_size),
        whole("rows of logits", 0, rows_at_once(tokens, config.vocab_size)),
        whole("tokens", 4, tokens),
        windowed("packed digits", 1, left_words),
        windowed("packed exponents", 1, left_scales),
        windowed("packed digits", 1, right_words),
        windowed("packed exponents", 1, right_scales),
        whole("attention heads at once", 0, query_heads * extent.words_of_head(config) + WINDOW_STEP),
    ];
    // The longest of what is packed along the rows and along the tokens.
    let (longest, digits) = (config.vocab_size.max(2 * inner).max(tokens), spec.logit_gradient_digits);
    buffers.push(whole("rows of packed digits", 0, left_words.min(window_words_min(longest, digits.into()))));
    let digits = spec.activation_digits;
    for (count, width) in [(2 * blocks + 1, hidden), (blocks, queries), (blocks, inner)] {
        buffers.extend(packed(count, width, tokens, digits));
    }
    buffers
}

/// Refuses what the device cannot hold in one buffer, or bind.
fn check(buffers: &[Buffers], device: &DeviceReport, advice: impl Fn() -> String) -> Result<(), DeviceError> {
    for &Buffers { tensor, words, windowed, .. } in buffers {
        let needed_bytes = 4 * words as u64;
        let own_max = if windowed { u64::MAX } else { device.binding_bytes_max };
        let limit_bytes = own_max.min(device.buffer_bytes_max);
        if needed_bytes > limit_bytes {
            return Err(DeviceError::Binding { tensor, needed_bytes, limit_bytes, advice: advice() });
        }
    }
    Ok(())
}

/// The largest number under `end` that fits, where all smaller ones do.
fn largest(end: usize, fits: impl Fn(&usize) -> bool) -> usize {
    let (mut fitting, mut end) = (0, end);
    while fitting + 1 < end {
        let middle = fitting.midpoint(end);
        if fits(&middle) { fitting = middle } else { end = middle }
    }
    fitting
}

/// Plans training of a valid model on a device.
///
/// # Errors
/// A tensor that is larger than the device's buffers or bindings, or more in all than its
/// memory, where it tells how much it has.
pub(crate) fn plan(
    config: &ModelConfig,
    (spec, optimizer): (&ArithmeticSpec, OptimizerKind),
    device: &DeviceReport,
    recompute: Recompute,
) -> Result<MemoryPlan, DeviceError> {
    let extent = |recomputes| Extent {
        sequences: spec.micro_batch_sequences,
        length: spec.sequence_length,
        logit_rows: spec.micro_batch_tokens(),
        training: true,
        recomputes,
        binding_words_max: device.binding_words_max(),
    };
    let model = of_model(config, spec, optimizer);
    let passes = [false, true].map(|recomputes| of_pass(config, spec, &extent(recomputes)));
    let smaller = "choose a smaller model, or the native CPU";
    check(&model, device, || smaller.to_owned())?;
    check(&passes[0], device, || {
        let fits = |sequences: &usize| {
            let pass = of_pass(config, spec, &Extent { sequences: *sequences, ..extent(false) });
            check(&pass, device, String::new).is_ok()
        };
        let length = spec.sequence_length;
        match largest(spec.micro_batch_sequences, fits) {
            0 => format!("not even one sequence of {length} tokens fits: choose shorter ones, or {smaller}"),
            most => {
                format!("micro-batches of up to {most} sequences of {length} tokens fit: choose such, or {smaller}")
            }
        }
    })?;
    let bytes = |buffers: &[Buffers]| -> u64 { buffers.iter().map(|b| 4 * (b.count * b.words) as u64).sum() };
    let memory_bytes = device.memory_bytes.unwrap_or(u64::MAX);
    let [keeping, recomputing] = [0, 1].map(|pass| bytes(&model) + bytes(&passes[pass]));
    let plan = MemoryPlan::choose(recompute, keeping, recomputing, memory_bytes);
    if plan.bytes() > memory_bytes {
        return Err(DeviceError::OutOfMemory { tensor: "the whole of training", needed_bytes: plan.bytes() });
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::software_adapter;
    use crate::gpu::compile::Pipelines;
    use crate::gpu::engine::GpuEngine;
    use crate::gpu::kernel::Form;
    use crate::model::step::{MicroBatchKey, StepNumbers};
    use crate::spec::OptimizerConfig;

    /// All tensors are counted exactly; kernel parameters and read-backs are not, and take some
    /// tens of kilobytes here.
    #[test]
    fn a_device_gives_the_memory_that_was_foretold() {
        let Some(device) = software_adapter() else { return };
        let config = ModelConfig {
            vocab_size: 2000,
            hidden_size: 128,
            intermediate_size: 344,
            num_hidden_layers: 5,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 32,
            max_position_embeddings: 64,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            initializer_range: 0.05,
        };
        let one = ArithmeticSpec { micro_batch_sequences: 2, sequence_length: 64, ..ArithmeticSpec::default() };
        let two = ArithmeticSpec { sequence_length: 50, activation_digits: 2, gradient_digits: 2, ..one.clone() };
        let cases = [(one.clone(), OptimizerKind::Adamw), (two, OptimizerKind::Adamw), (one, OptimizerKind::Muon)];
        for (spec, kind) in cases {
            let used = [Recompute::Never, Recompute::Always].map(|recompute| {
                let plan = plan(&config, (&spec, kind), device.report(), recompute).unwrap().bytes();
                let before = device.activity().buffer_bytes;
                let pipelines = Pipelines::new(device.clone(), Form::default(), Vec::new(), None);
                let optimizer = OptimizerConfig { kind, ..OptimizerConfig::default() };
                let mut engine =
                    GpuEngine::with_pipelines(config.clone(), optimizer, spec.clone(), pipelines, recompute).unwrap();
                engine.initialize([1; 32]).unwrap();
                let tokens: Vec<u32> = (0..2 * (spec.sequence_length as u32 + 1)).collect();
                let key = MicroBatchKey { run_seed: [1; 32], step: 0, micro_batch: 0 };
                engine.accumulate_gradient(&tokens, 2, &key).unwrap();
                engine.apply_own_gradient(1, StepNumbers::in_order(0)).unwrap();
                let used = device.activity().buffer_bytes - before;
                let ratio = used as f64 / plan as f64;
                println!("{recompute}: {used} bytes, {plan} foretold, {ratio:.4}");
                assert!((0.97..=1.03).contains(&ratio), "{used} bytes, {plan} foretold");
                used
            });
            assert!(used[1] < used[0]);
        }
    }
}
