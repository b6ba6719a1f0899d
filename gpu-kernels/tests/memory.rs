//! What the engine allocates is what it foretells. In a process of its own, for every allocation counts.

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, MemoryPlan, MicroBatchKey, ModelConfig, OptimizerConfig, OptimizerKind,
    Recompute, SimdPath, StepNumbers,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, which knows how much is held now, and the most that was.
struct Counting;

static HELD: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size() as u64;
        PEAK.fetch_max(HELD.fetch_add(size, Ordering::Relaxed) + size, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that an engine held in a step of two micro-batches, and what was foretold.
fn peak_and_plan(
    model: &ModelConfig,
    spec: &ArithmeticSpec,
    (kind, simd): (OptimizerKind, SimdPath),
    recompute: Recompute,
) -> (u64, u64) {
    let sequences = spec.micro_batch_sequences;
    let places = 0..sequences * (spec.sequence_length + 1);
    let tokens: Vec<u32> = places.map(|place| (place * place % model.vocab_size) as u32).collect();
    let options = EngineOptions { threads: 2, simd, recompute, ..Default::default() };
    let plan = MemoryPlan::of(model, spec, kind, &options).bytes();
    let optimizer = OptimizerConfig { kind, ..Default::default() };
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut engine = Engine::new(model.clone(), optimizer, spec.clone(), options).unwrap();
    engine.initialize([1; 32]);
    for micro_batch in 0..2 {
        let key = MicroBatchKey { run_seed: [1; 32], step: 0, micro_batch };
        engine.accumulate_gradient(&tokens, sequences, &key).unwrap();
    }
    engine.apply_own_gradient(2, StepNumbers::in_order(0)).unwrap();
    engine.evaluate(&tokens, sequences).unwrap();
    (PEAK.load(Ordering::Relaxed) - before, plan)
}

/// The bound is that of the plan: all tensors are counted exactly; threads, names of tensors and
/// queues of jobs are not, and take some tens of kilobytes.
#[test]
fn engines_take_the_memory_that_was_foretold() {
    let wide = ModelConfig {
        vocab_size: 3001,
        hidden_size: 128,
        intermediate_size: 344,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 256,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        rope_scaling: None,
        tie_word_embeddings: true,
        initializer_range: 0.05,
    };
    let deep = ModelConfig { vocab_size: 257, num_hidden_layers: 8, tie_word_embeddings: false, ..wide.clone() };
    let short = ArithmeticSpec { micro_batch_sequences: 3, sequence_length: 130, ..Default::default() };
    let two_digits = ArithmeticSpec {
        activation_digits: 2,
        weight_digits: 2,
        gradient_digits: 2,
        attention_digits: 2,
        micro_batch_sequences: 3,
        sequence_length: 130,
        ..Default::default()
    };
    // What Muon takes is much more than the tolerance here.
    let square = ModelConfig {
        hidden_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 16,
        num_key_value_heads: 16,
        ..wide.clone()
    };
    let cases = [
        (&wide, &short, (OptimizerKind::Adamw, SimdPath::Auto)),
        (&wide, &short, (OptimizerKind::Adamw, SimdPath::Portable)),
        (&deep, &two_digits, (OptimizerKind::Adamw, SimdPath::Auto)),
        (&square, &short, (OptimizerKind::Muon, SimdPath::Auto)),
    ];
    for (model, spec, how) in cases {
        let both = [Recompute::Never, Recompute::Always].map(|recompute| {
            let (peak, plan) = peak_and_plan(model, spec, how, recompute);
            let ratio = peak as f64 / plan as f64;
            println!("{how:?} {recompute}: {peak} bytes, {plan} foretold, {ratio:.4}");
            assert!((0.97..=1.03).contains(&ratio), "{peak} bytes, {plan} foretold");
            peak
        });
        assert!(both[1] < both[0]);
    }
}
