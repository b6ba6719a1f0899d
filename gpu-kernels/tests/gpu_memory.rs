//! Memory stays the same over hundreds of steps on the software adapter: in a process of its own,
//! for the operating system counts by process.
//!
//! `MANTA_TEST_STEPS=10000 cargo test --release --test gpu_memory -- --nocapture` takes more of them.

use manta_gpu_kernels::admission::{AdmittedDevice, Forms};
use manta_gpu_kernels::device::{Device, DeviceChoice};
use manta_gpu_kernels::{
    ArithmeticSpec, GpuEngine, LocalStep, MicroBatch, MicroBatchKey, ModelConfig, OptimizerConfig, StepNumbers,
};

const RUN_SEED: [u8; 32] = [3; 32];
/// Steps between two looks at the memory.
const REPLAYED: u64 = 20;

/// Bytes of memory that the process has; none where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
}

fn nano() -> ModelConfig {
    ModelConfig {
        vocab_size: 31,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        max_position_embeddings: 16,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        rope_scaling: None,
        tie_word_embeddings: true,
        initializer_range: 0.05,
    }
}

/// Takes steps from number `first` on: replayed ones, and the last by itself.
fn train(engine: &mut GpuEngine, first: u64) {
    let tokens: Vec<u32> = (0..2 * 9).map(|place| (place * place + first as u32) % 31).collect();
    let key = |step| MicroBatchKey { run_seed: RUN_SEED, step, micro_batch: 0 };
    let batches: Vec<[MicroBatch<'_>; 1]> = (first..first + REPLAYED - 1)
        .map(|step| [MicroBatch { tokens: &tokens, sequences: 2, key: key(step) }])
        .collect();
    let numbered = (first..).map(StepNumbers::in_order).zip(&batches);
    let steps: Vec<LocalStep<'_>> =
        numbered.map(|(numbers, micro_batches)| LocalStep { micro_batches, numbers }).collect();
    assert_eq!(engine.train_steps(&steps).unwrap().outcomes.len(), steps.len());
    let last = first + REPLAYED - 1;
    engine.accumulate_gradient(&tokens, 2, &key(last)).unwrap();
    engine.apply_own_gradient(1, StepNumbers::in_order(last)).unwrap();
}

#[test]
fn memory_does_not_grow_with_steps() {
    let device = match Device::open(&DeviceChoice::Software) {
        Ok(device) => device,
        Err(error) if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("gpu")) => {
            eprintln!("skipped as MANTA_TEST_SKIP asks: {error}");
            return;
        }
        Err(error) => panic!("{error} (MANTA_TEST_SKIP=gpu skips this test)"),
    };
    let device = AdmittedDevice::admit(device, Forms::default(), None).unwrap();
    let spec = ArithmeticSpec { micro_batch_sequences: 2, sequence_length: 8, ..ArithmeticSpec::default() };
    let mut engine = GpuEngine::new(nano(), OptimizerConfig::default(), spec, &device).unwrap();
    engine.initialize(RUN_SEED).unwrap();
    let steps: u64 = std::env::var("MANTA_TEST_STEPS").map_or(300, |steps| steps.parse().unwrap());
    // What is set up lazily is there after the first hundred.
    (0..5).for_each(|round| train(&mut engine, REPLAYED * round));
    let (before, memory) = (engine.device().activity(), resident_bytes());
    let rounds = steps / REPLAYED;
    (5..5 + rounds).for_each(|round| train(&mut engine, REPLAYED * round));
    let after = engine.device().activity();
    assert_eq!(after.resources, before.resources, "buffers, bind groups and pipelines");
    // One for each replayed step, and two for the one by itself.
    assert_eq!(after.submissions - before.submissions, rounds * (REPLAYED + 1));
    let Some((before, after)) = memory.zip(resident_bytes()) else { return };
    println!("{before} bytes before {} steps, {after} after them", rounds * REPLAYED);
    assert!(after <= before + before / 100, "from {before} to {after} bytes");
}
