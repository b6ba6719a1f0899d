//! Our products and training steps beside those of others, taken in turns on the same machine.
//!
//! `cargo run --release --manifest-path gpu-kernels/benches/peers/Cargo.toml -- [--samples N] [--threads N] [--steps-only]
//! > rows.json` prints the rows that `docs/benchmarks/README.md` describes, with one thread and with all, or with N. PyTorch is Debian's
//! (`apt-get install python3-torch libopenblas0-pthread`), run by /usr/bin/python3. With
//! LLMC_STEP=PROGRAM, llm.c takes part: a program around its `train_gpt2.c` that is given layers, heads,
//! channels and vocabulary, and answers every line of its input as `torch_step.py --serve` does.

mod products;
mod row;
mod steps;

use row::Row;
use std::error::Error;

/// Samples of each side unless `--samples` says otherwise.
const SAMPLES: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| -> Result<Option<usize>, Box<dyn Error>> {
        match arguments.iter().position(|word| word == name) {
            Some(place) => Ok(Some(arguments.get(place + 1).ok_or(format!("{name} needs a number"))?.parse()?)),
            None => Ok(None),
        }
    };
    let samples = number("--samples")?.unwrap_or(SAMPLES);
    if samples < 5 {
        return Err("medians are taken of 5 samples or more".into());
    }
    let processors = std::thread::available_parallelism()?.get();
    let mut threads = number("--threads")?.map_or(vec![1, processors], |threads| vec![threads]);
    threads.dedup();
    let mut rows: Vec<Row> = Vec::new();
    for &threads in &threads {
        if !arguments.iter().any(|word| word == "--steps-only") {
            rows.extend(products::compare(threads, samples)?);
        }
        rows.extend(steps::compare(threads, samples)?);
    }
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}
