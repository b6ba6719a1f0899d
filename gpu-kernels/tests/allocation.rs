//! A training step in its steady state takes no memory from the system.

use manta_gpu_kernels::{
    ArithmeticSpec, Engine, EngineOptions, MicroBatchKey, ModelConfig, OptimizerConfig, OptimizerKind, StepNumbers,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn step(engine: &mut Engine, tokens: &[u32], step: u64) {
    for micro_batch in 0..2 {
        let key = MicroBatchKey { run_seed: [1; 32], step, micro_batch };
        engine.accumulate_gradient(tokens, 2, &key).expect("a healthy micro-batch");
    }
    engine.apply_own_gradient(2, StepNumbers::in_order(step)).expect("a healthy step");
}

/// One thread, so that it is certain which scratch memory is used when.
#[test]
fn steps_after_the_first_allocate_nothing_of_their_own() {
    let model = ModelConfig {
        vocab_size: 97,
        hidden_size: 64,
        intermediate_size: 112,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 96,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        rope_scaling: None,
        tie_word_embeddings: false,
        initializer_range: 0.05,
    };
    let spec = ArithmeticSpec { micro_batch_sequences: 2, sequence_length: 80, ..Default::default() };
    let options = EngineOptions { threads: 1, ..Default::default() };
    // Which takes whatever memory AdamW takes, and more.
    let optimizer = OptimizerConfig { kind: OptimizerKind::Muon, ..Default::default() };
    let mut engine = Engine::new(model, optimizer, spec, options).expect("a valid model");
    engine.initialize([1; 32]);
    let tokens: Vec<u32> = (0..2 * 81u32).map(|place| place * place % 97).collect();
    step(&mut engine, &tokens, 0);
    step(&mut engine, &tokens, 1);
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    for number in 2..5 {
        step(&mut engine, &tokens, number);
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before.0;
    let bytes = BYTES.load(Ordering::Relaxed) - before.1;
    // The pool's queue of jobs (crossbeam's injector) takes a block of about 1.5 KB for every 63 calls
    // into it, of which a step makes a few. A tensor of this model has at least 10 KB.
    assert!(allocations <= 2 && bytes <= 4096, "{allocations} allocations of {bytes} bytes");
}
