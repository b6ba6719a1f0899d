//! Trains a nano model on a text synchronously, alone and by local rounds, and
//! prints the validation loss of each: a table of outer learning rates and momenta.
//!
//! `cargo run --release -p manta-gpu-kernels --example local_rounds TEXT [steps a round] [rounds] [members] [learning rate] [seed]`

mod comparison;

use comparison::{Comparison, Settings};
use manta_gpu_kernels::OuterConfig;

/// Learning rates and momenta that are tried.
const OUTER: [(f32, f32); 12] = [
    (1.0, 0.0),
    (0.7, 0.0),
    (0.7, 0.3),
    (1.0, 0.3),
    (0.7, 0.5),
    (1.0, 0.5),
    (0.5, 0.7),
    (0.7, 0.7),
    (0.1, 0.9),
    (0.2, 0.9),
    (0.4, 0.9),
    (0.7, 0.9),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a text of at least 100 kB")?;
    let number = |place, default| std::env::args().nth(place).map_or(Ok(default), |text| text.parse::<u64>());
    let text: Vec<u32> = std::fs::read(path)?.into_iter().map(u32::from).collect();
    if text.len() < 100_000 {
        return Err(format!("the text has {} bytes, less than 100,000", text.len()).into());
    }
    let (steps_per_round, rounds, members) = (number(2, 10)?.max(1), number(3, 60)?.max(1), number(4, 2)?.max(1));
    let settings = Settings {
        vocab_size: 256,
        sequence_length: 64,
        steps_per_round,
        rounds,
        members,
        learning_rate: std::env::args().nth(5).map_or(Ok(4e-3), |text| text.parse())?,
        run_seed: [number(6, 1)? as u8; 32],
    };
    let comparison = Comparison::new(settings, &text);
    println!("{members} members, {rounds} rounds of {steps_per_round} steps; validation loss in nats a byte");
    println!("untrained   {:.4}", comparison.untrained()?);
    println!("synchronous {:.4}", comparison.synchronous()?);
    println!("alone       {:.4}", comparison.alone()?);
    for (learning_rate, momentum) in OUTER {
        let loss = comparison.local_rounds(OuterConfig { learning_rate, momentum })?;
        println!("outer learning rate {learning_rate}, momentum {momentum}: {loss:.4}");
    }
    Ok(())
}
