//! Our products and training steps beside those of others, taken in turns on the same machine.
//!
//! `cargo run --release --manifest-path gpu-kernels/benches/peers/Cargo.toml -- [--samples N] [--threads N]
//! [--only steps|products] [--llm-c CHECKOUT] > rows.json` prints the rows that
//! `docs/benchmarks/README.md` describes, with one thread and with all, or with N. `--device
//! software|hardware` instead compares products and steps on a graphics device with those of burn there.
//!
//! PyTorch and OpenBLAS are Debian's (`apt-get install python3-torch libopenblas0-pthread`);
//! PyTorch is run by /usr/bin/python3. llm.c takes part if a checkout of it is given.

mod burn_step;
mod device;
mod openblas;
mod products;
mod row;
mod steps;

use row::Row;
use std::error::Error;
use std::path::Path;

/// Samples of each side unless `--samples` says otherwise.
const SAMPLES: usize = 5;
/// What can be asked for alone.
const PARTS: [&str; 2] = ["products", "steps"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, model, vocabulary, device] = &arguments[..]
        && word == "--serve-burn"
    {
        return burn_step::serve(model, vocabulary.parse()?, device);
    }
    let value = |name: &str| -> Result<Option<&String>, Box<dyn Error>> {
        let place = arguments.iter().position(|word| word == name);
        place.map(|place| arguments.get(place + 1).ok_or_else(|| format!("{name} needs a value").into())).transpose()
    };
    let samples = value("--samples")?.map_or(Ok(SAMPLES), |number| number.parse())?;
    if samples < 5 {
        return Err("medians are taken of 5 samples or more".into());
    }
    let only = value("--only")?;
    if only.is_some_and(|only| !PARTS.contains(&only.as_str())) {
        return Err(format!("--only takes one of {PARTS:?}").into());
    }
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    let llm_c = value("--llm-c")?.map(|checkout| steps::build_llm_c(Path::new(checkout))).transpose()?;
    let processors = std::thread::available_parallelism()?.get();
    let mut threads = match value("--threads")? {
        Some(threads) => vec![threads.parse()?],
        None => vec![1, processors],
    };
    threads.dedup();
    let run = "cargo run --release --manifest-path gpu-kernels/benches/peers/Cargo.toml --";
    let command = format!("{run} {}", arguments.join(" "));
    let mut rows: Vec<Row> = Vec::new();
    if let Some(name) = value("--device")? {
        if wanted("products") {
            rows.extend(device::products(name, samples, &command)?);
        }
        if wanted("steps") {
            rows.extend(device::steps(name, samples, &command)?);
        }
        threads.clear();
    }
    for &threads in &threads {
        if wanted("products") {
            rows.extend(products::compare(threads, samples, &command)?);
        }
        if wanted("steps") {
            rows.extend(steps::compare(threads, samples, llm_c.as_deref(), &command)?);
        }
    }
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}
