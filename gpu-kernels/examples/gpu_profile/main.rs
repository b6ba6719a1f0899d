//! Where a training step's time goes on a graphics device, dispatch by dispatch, and what each
//! tiling of a product takes beside a naive one. Prints JSON.
//!
//! `cargo run --release -p manta-gpu-kernels --example gpu_profile -- [software|hardware|NAME]`

use manta_gpu_kernels::admission::{AdmittedDevice, Forms};
use manta_gpu_kernels::device::{Device, DeviceChoice};
use manta_gpu_kernels::{
    ArithmeticSpec, GpuEngine, MicroBatchKey, ModelConfig, OptimizerConfig, ProductExtent, time_products,
};
use std::collections::BTreeMap;
use std::error::Error;

/// Rounds of every product.
const ROUNDS: usize = 5;

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 256,
        hidden_size: 128,
        intermediate_size: 352,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 128,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let choice = match std::env::args().nth(1).as_deref() {
        None | Some("software") => DeviceChoice::Software,
        Some("hardware") => DeviceChoice::Hardware,
        Some(name) => DeviceChoice::Named(name.into()),
    };
    let device = AdmittedDevice::admit(Device::open(&choice)?, Forms::default(), None)?;
    eprintln!("admitted in {} ms", device.report().elapsed_ms);
    for (rows, columns, depth) in [(512, 512, 512)] {
        let extent = ProductExtent { rows, columns, depth };
        let begun = std::time::Instant::now();
        for timing in time_products(&device, extent, ROUNDS)? {
            println!(
                "{rows} x {columns} x {depth}: {:>44} {:>10.0} us {:>8.3} G/s equal {} chosen {}",
                timing.name,
                timing.median_us,
                timing.multiply_adds_per_s * 1e-9,
                timing.equal,
                timing.chosen
            );
        }
        println!("{:.1} s", begun.elapsed().as_secs_f64());
    }
    let spec = ArithmeticSpec { micro_batch_sequences: 8, sequence_length: 128, ..ArithmeticSpec::default() };
    let begun = std::time::Instant::now();
    let sequences = spec.micro_batch_sequences;
    let tokens: Vec<u32> = (0..(sequences * 129) as u32).map(|i| i * i % 251).collect();
    let mut engine = GpuEngine::new(model(), OptimizerConfig::default(), spec, &device)?;
    engine.initialize([1; 32])?;
    let key = MicroBatchKey { run_seed: [1; 32], step: 0, micro_batch: 0 };
    let mut kernels: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    engine.profile(&tokens, sequences, &key)?;
    println!("first pass after {:.1} s", begun.elapsed().as_secs_f64());
    for (kernel, time) in engine.profile(&tokens, sequences, &key)? {
        let entry = kernels.entry(kernel).or_default();
        entry.0 += 1;
        entry.1 += time.as_secs_f64() * 1e3;
    }
    for class in device.tuned_classes() {
        println!("{class:?}");
    }
    let start = std::time::Instant::now();
    engine.accumulate_gradient(&tokens, sequences, &key)?;
    println!("whole pass {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let total: f64 = kernels.values().map(|entry| entry.1).sum();
    let mut rows: Vec<_> = kernels.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (kernel, (count, ms)) in rows {
        println!("{ms:8.2} ms {:5.1} % {count:4} {kernel}", 100.0 * ms / total);
    }
    println!("{total:8.2} ms");
    Ok(())
}
