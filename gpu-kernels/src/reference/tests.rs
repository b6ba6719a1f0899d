//! The reference checked against what needs no reference: finite differences,
//! closed forms, causality.

use super::*;
use crate::model::config::ModelConfig;
use crate::model::layout::Layout;
use crate::model::step::StepNumbers;
use crate::schedule::DecayShape;
use crate::spec::{OptimizerConfig, OptimizerKind};

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Uniform in −1..1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Grouped queries, a head width that is not hidden / heads, odd widths.
fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 13,
        hidden_size: 10,
        intermediate_size: 14,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 16,
        rope_theta: 100.0,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: tied,
        initializer_range: 0.02,
    }
}

/// Gains about 1 and weights large enough that every nonlinearity matters.
fn parameters(config: &ModelConfig, random: &mut Random) -> Vec<f32> {
    let layout = Layout::new(config);
    let gain = |tensor: &crate::model::layout::Tensor| if tensor.shape.len() == 1 { 1.0 } else { 0.0 };
    layout
        .tensors()
        .iter()
        .flat_map(|t| std::iter::repeat_n(gain(t), t.len()))
        .map(|mean| mean + 0.6 * random.signed())
        .collect()
}

fn tokens(count: usize, config: &ModelConfig, random: &mut Random) -> Vec<u32> {
    (0..count).map(|_| random.below(config.vocab_size) as u32).collect()
}

#[test]
fn gradient_equals_finite_differences() {
    for tied in [true, false] {
        let config = config(tied);
        let mut random = Random(1);
        let mut decoder = Decoder::<f64>::new(&config, &parameters(&config, &mut random));
        let (inputs, targets) = (tokens(21, &config, &mut random), tokens(21, &config, &mut random));
        let batch = Batch { inputs: &inputs, targets: &targets, sequences: 3 };
        let (_, gradient) = decoder.loss_and_gradient(batch);
        let mut loss_at = |index: usize, shift: f64| {
            let before = decoder.parameters[index];
            decoder.parameters[index] += shift;
            let loss = decoder.loss(batch);
            decoder.parameters[index] = before;
            loss
        };
        for tensor in Layout::new(&config).tensors() {
            let analytic = &gradient[tensor.range()];
            let rms = (analytic.iter().map(|g| g * g).sum::<f64>() / analytic.len() as f64).sqrt();
            assert!(rms > 1e-4, "{}: the gradient is too small to be checked: {rms}", tensor.name);
            for _ in 0..16 {
                let index = tensor.offset + random.below(tensor.len());
                // The five-point central difference: its error is of order h⁴.
                let h = 1e-3;
                let difference = 8.0 * (loss_at(index, h) - loss_at(index, -h));
                let numeric = (difference - (loss_at(index, 2.0 * h) - loss_at(index, -2.0 * h))) / (12.0 * h);
                let error = (numeric - gradient[index]).abs() / gradient[index].abs().max(rms);
                // Measured: at most 5.7e-9.
                assert!(error < 1e-6, "{}[{index}]: {numeric} against {}", tensor.name, gradient[index]);
            }
        }
    }
}

#[test]
fn uniform_model_loses_the_logarithm_of_the_vocabulary() {
    let config = config(false);
    let mut random = Random(2);
    let mut decoder = Decoder::<f64>::new(&config, &parameters(&config, &mut random));
    let head = decoder.layout().tensor("lm_head.weight").unwrap().range();
    decoder.parameters[head].fill(0.0);
    let (inputs, targets) = (tokens(10, &config, &mut random), tokens(10, &config, &mut random));
    let loss = decoder.loss(Batch { inputs: &inputs, targets: &targets, sequences: 2 });
    assert!((loss - (config.vocab_size as f64).ln()).abs() < 1e-14, "{loss}");
}

#[test]
fn logits_depend_on_the_past_of_their_own_sequence_only() {
    let config = config(true);
    let mut random = Random(3);
    let decoder = Decoder::<f64>::new(&config, &parameters(&config, &mut random));
    let length = 6;
    let inputs = tokens(2 * length, &config, &mut random);
    let before = decoder.logits(&inputs, 2);
    let changed_at = 3;
    let mut changed = inputs.clone();
    changed[changed_at] = (changed[changed_at] + 1) % config.vocab_size as u32;
    let after = decoder.logits(&changed, 2);
    for position in 0..2 * length {
        let row = position * config.vocab_size..(position + 1) * config.vocab_size;
        let same = before[row.clone()] == after[row];
        assert_eq!(same, !(changed_at..length).contains(&position), "position {position}");
    }
}

#[test]
fn a_lone_sequence_and_a_batch_agree() {
    let config = config(false);
    let mut random = Random(4);
    let decoder = Decoder::<f64>::new(&config, &parameters(&config, &mut random));
    let inputs = tokens(18, &config, &mut random);
    let batched = decoder.logits(&inputs, 3);
    let alone: Vec<f64> = inputs.chunks(6).flat_map(|sequence| decoder.logits(sequence, 1)).collect();
    assert_eq!(batched, alone);
}

#[test]
fn single_precision_follows_double() {
    let config = config(true);
    let mut random = Random(5);
    let parameters = parameters(&config, &mut random);
    let (inputs, targets) = (tokens(21, &config, &mut random), tokens(21, &config, &mut random));
    let batch = Batch { inputs: &inputs, targets: &targets, sequences: 3 };
    let (loss64, gradient64) = Decoder::<f64>::new(&config, &parameters).loss_and_gradient(batch);
    let (loss32, gradient32) = Decoder::<f32>::new(&config, &parameters).loss_and_gradient(batch);
    // Measured: 6e-9 of the loss, 8.1e-7 of the gradient.
    assert!((loss32.to_f64() - loss64).abs() < 1e-5 * loss64, "{loss32} against {loss64}");
    let error: f64 = gradient32.iter().zip(&gradient64).map(|(&a, b)| (a.to_f64() - b).powi(2)).sum::<f64>().sqrt();
    let norm: f64 = gradient64.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(error < 1e-5 * norm, "error {error} of a gradient of norm {norm}");
}

/// A constant rate, no weight decay.
fn optimizer() -> OptimizerConfig {
    OptimizerConfig {
        kind: OptimizerKind::Adamw,
        learning_rate: 0.125,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_clip_norm: 1.0,
        warmup_steps: 0,
        decay_start_step: 100,
        total_steps: 100,
        final_fraction: 1.0,
        decay: DecayShape::Linear,
    }
}

#[test]
fn first_step_moves_every_parameter_by_the_rate_and_decays_matrices_only() {
    let layout = Layout::new(&config(true));
    let gradient: Vec<f64> = (0..layout.len()).map(|i| if i % 2 == 0 { 1e-3 } else { -1e-3 }).collect();
    let mut parameters = vec![2.0; layout.len()];
    AdamW::new(&OptimizerConfig { weight_decay: 0.5, ..optimizer() }, &layout).step(
        &mut parameters,
        &gradient,
        StepNumbers::in_order(0),
    );
    for tensor in layout.tensors() {
        let decayed = if tensor.shape.len() == 2 { 2.0 - 0.125 * 0.5 * 2.0 } else { 2.0 };
        for i in tensor.range() {
            // With both corrections the first step is the sign of the gradient, epsilon aside.
            let expected = decayed - 0.125 * gradient[i].signum();
            assert!((parameters[i] - expected).abs() < 1e-5, "{}: {} against {expected}", tensor.name, parameters[i]);
        }
    }
}

#[test]
fn clipping_bounds_the_norm_and_spares_small_gradients() {
    let layout = Layout::new(&config(true));
    // A large epsilon, so that the length of the step depends on the length of the gradient.
    let config = OptimizerConfig { epsilon: 0.1, ..optimizer() };
    let element = 1.0 / (layout.len() as f64).sqrt();
    let after = |scale: f64| {
        let mut parameters = vec![0.0; layout.len()];
        let norm = AdamW::new(&config, &layout).step(
            &mut parameters,
            &vec![scale * element; layout.len()],
            StepNumbers::in_order(0),
        );
        assert!((norm - scale).abs() < 1e-12 * scale, "{norm} against {scale}");
        parameters[0]
    };
    assert!((after(10.0) - after(1.0)).abs() < 1e-15);
    assert!((after(0.5) - after(1.0)).abs() > 1e-3);
}

#[test]
fn schedule_rises_stays_and_falls() {
    let config = OptimizerConfig {
        learning_rate: 1.0,
        warmup_steps: 4,
        decay_start_step: 8,
        total_steps: 16,
        final_fraction: 0.5,
        ..optimizer()
    };
    for (step, rate) in [(0, 0.25), (3, 1.0), (4, 1.0), (8, 1.0), (12, 0.75), (16, 0.5), (99, 0.5)] {
        assert_eq!(learning_rate_at(&config, step), rate, "step {step}");
    }
}

#[test]
fn adamw_descends_the_loss() {
    let config = config(true);
    let mut random = Random(6);
    let mut decoder = Decoder::<f32>::new(&config, &parameters(&config, &mut random));
    let (inputs, targets) = (tokens(12, &config, &mut random), tokens(12, &config, &mut random));
    let batch = Batch { inputs: &inputs, targets: &targets, sequences: 2 };
    let mut adamw = AdamW::new(&OptimizerConfig { learning_rate: 0.02, ..optimizer() }, decoder.layout());
    let before = decoder.loss(batch);
    for step in 0..60 {
        let (_, gradient) = decoder.loss_and_gradient(batch);
        adamw.step(&mut decoder.parameters, &gradient, StepNumbers::in_order(step));
    }
    let after = decoder.loss(batch);
    assert!(after < 0.1 * before, "memorising 12 tokens: {before} to {after}");
}

/// Rotations around a diagonal matrix stay, and its entries follow the scalar polynomial.
#[test]
fn newton_schulz_is_a_polynomial_of_singular_values() {
    let polynomial = |x: f64| 3.4445 * x - 4.775 * x.powi(3) + 2.0315 * x.powi(5);
    let fifth = |x: f64| (0..5).fold(x, |x, _| polynomial(x));
    let (large, small) = (0.8, 0.05);
    let (sine, cosine) = 0.3f64.sin_cos();
    let around = |large: f64, small: f64| [cosine * large, -sine * small, 0.0, sine * large, cosine * small, 0.0];
    for rows in [2, 3] {
        let arranged = |matrix: [f64; 6]| match rows {
            2 => matrix.to_vec(),
            _ => [0, 3, 1, 4, 2, 5].map(|place| matrix[place]).to_vec(),
        };
        let found = newton_schulz(&arranged(around(large, small)), rows);
        let expected = arranged(around(fifth(large), fifth(small)));
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} against {expected:?}");
    }
}

#[test]
fn muon_turns_the_momentum_into_steps_of_one_size_and_leaves_the_rest_to_adamw() {
    let layout = Layout::new(&config(false));
    let mut random = Random(7);
    let gradient: Vec<f64> = (0..layout.len()).map(|_| 1e-4 * f64::from(random.signed())).collect();
    let config = OptimizerConfig { weight_decay: 0.5, ..optimizer() };
    let (mut found, mut plain) = (vec![2.0; layout.len()], vec![2.0; layout.len()]);
    Muon::new(&config, &layout).step(&mut found, &gradient, StepNumbers::in_order(0));
    AdamW::new(&config, &layout).step(&mut plain, &gradient, StepNumbers::in_order(0));
    for tensor in layout.tensors() {
        let range = tensor.range();
        if !tensor.is_block_matrix() {
            assert_eq!(found[range.clone()], plain[range], "{}", tensor.name);
            continue;
        }
        let steps = range.map(|at| (found[at] - 2.0 * (1.0 - 0.125 * 0.5)) / 0.125);
        let rms = (steps.map(|step| step * step).sum::<f64>() / tensor.len() as f64).sqrt();
        // An orthogonal matrix of r ≤ c has Σ = r, so its mean square times c is 1; singular values are 0.68 to 1.21,
        // or smaller where they were less than a fiftieth of the norm.
        assert!((0.1..0.2 * 1.21).contains(&rms), "{}: {rms}", tensor.name);
    }
}
