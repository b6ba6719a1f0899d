//! Whole training steps beside those of PyTorch, burn and llm.c in f32.

use crate::row::Row;
use manta_gpu_kernels::EngineOptions;
use manta_gpu_kernels::benchmark::{BenchmarkModel, StepBenchmark, processor_ms};
use serde_json::Value;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Steps that are not timed.
const WARM_UP: usize = 2;

/// A program that takes a step for every line of its input and says how long it took.
pub struct Peer {
    pub name: &'static str,
    pub versions: String,
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Peer {
    /// Starts it; `versions` is made of what it says first.
    fn start(
        name: &'static str,
        command: &mut Command,
        threads: usize,
        versions: impl FnOnce(&Value) -> String,
    ) -> Result<Self, Box<dyn Error>> {
        let threads = threads.to_string();
        for variable in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(variable, &threads);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let first = lines.next().ok_or_else(|| format!("{command:?} did not start"))??;
        let versions = versions(&serde_json::from_str(&first)?);
        Ok(Self { name, versions, child, lines })
    }

    fn torch(model: &str, vocab_size: usize, threads: usize) -> Result<Self, Box<dyn Error>> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/torch_step.py");
        let numbers = [vocab_size, threads, 0].map(|number| number.to_string());
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(model).args(numbers).arg("--serve");
        Self::start("PyTorch f32", &mut command, threads, |about| {
            format!("PyTorch {} of Debian with OpenBLAS", about["torch"].as_str().unwrap_or("?"))
        })
    }

    /// burn on a graphics device, `software` or `hardware`.
    pub fn burn_on_device(model: &str, vocab_size: usize, device: &str) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--serve-burn", model, &vocab_size.to_string(), device]);
        Self::start("burn-wgpu f32", &mut command, std::thread::available_parallelism()?.get(), |_| {
            "burn 0.22, back end wgpu with autotune and fusion; gradients clipped tensor by tensor".into()
        })
    }

    fn burn(model: &str, vocab_size: usize, threads: usize) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--serve-burn", model, &vocab_size.to_string(), "native"]);
        Self::start("burn f32", &mut command, threads, |_| {
            "burn 0.22, back end flex with feature x86-v4; gradients clipped tensor by tensor".into()
        })
    }

    fn llm_c(program: &Path, vocab_size: usize, threads: usize) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(program);
        command.args(["6", "6", "384"]).arg(vocab_size.to_string());
        Self::start("llm.c f32", &mut command, threads, |about| {
            let millions = about["parameters"].as_f64().unwrap_or(f64::NAN) / 1e6;
            format!("llm.c, train_gpt2.c, -O3 -Ofast -march=native -fopenmp; GPT-2 of {millions:.1}M parameters")
        })
    }

    /// One step: milliseconds on the clock and of the processor.
    pub fn step_ms(&mut self) -> Result<[f64; 2], Box<dyn Error>> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input)?;
        input.flush()?;
        let line = self.lines.next().ok_or_else(|| format!("{} ended", self.name))??;
        let answer: Value = serde_json::from_str(&line)?;
        // A step that learns nothing would be no step.
        if !answer["loss"].as_f64().is_some_and(f64::is_finite) {
            return Err(format!("{} answers without a loss: {line}", self.name).into());
        }
        let ms = |key: &str| answer[key].as_f64().map(|ns| ns / 1e6).ok_or("the peer's answer has no time");
        Ok([ms("wall_ns")?, ms("processor_ns")?])
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Compiles `llmc_step.c` against a checkout of llm.c, which is no part of this.
///
/// # Errors
/// There is no compiler, or no such checkout.
pub fn build_llm_c(checkout: &Path) -> Result<PathBuf, Box<dyn Error>> {
    if !checkout.join("train_gpt2.c").is_file() {
        return Err(format!("{} is no checkout of https://github.com/karpathy/llm.c", checkout.display()).into());
    }
    let program = std::env::current_exe()?.with_file_name("llmc_step");
    let mut command = Command::new("cc");
    command.args(["-O3", "-Ofast", "-march=native", "-fopenmp", "-DOMP", "-w", "-I"]).arg(checkout);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/llmc_step.c")).arg("-o").arg(&program).arg("-lm");
    match command.status()?.success() {
        true => Ok(program),
        false => Err(format!("{command:?} failed").into()),
    }
}

/// Models of 10M to 30M parameters; one micro-batch of 1,024 tokens and the optimiser's
/// step. llm.c takes part where `llm_c` is its program, and with several threads only
/// the model that it can take part in is compared.
pub fn compare(
    threads: usize,
    samples: usize,
    llm_c: Option<&Path>,
    command: &str,
) -> Result<Vec<Row>, Box<dyn Error>> {
    const LLM_C_VOCAB_SIZE: usize = 8192;
    let mut rows = Vec::new();
    for (model, name, vocab_size) in [
        (BenchmarkModel::Small, "small", LLM_C_VOCAB_SIZE),
        (BenchmarkModel::Small, "small", 256),
        (BenchmarkModel::Medium, "medium", 256),
    ] {
        if threads > 1 && vocab_size != LLM_C_VOCAB_SIZE {
            continue;
        }
        let mut peers = vec![Peer::torch(name, vocab_size, threads)?, Peer::burn(name, vocab_size, threads)?];
        if let Some(program) = llm_c.filter(|_| vocab_size == LLM_C_VOCAB_SIZE) {
            peers.push(Peer::llm_c(program, vocab_size, threads)?);
        }
        rows.extend(beside((model, vocab_size), peers, (threads, samples), command)?);
    }
    Ok(rows)
}

fn beside(
    (model, vocab_size): (BenchmarkModel, usize),
    mut peers: Vec<Peer>,
    (threads, samples): (usize, usize),
    command: &str,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut ours = StepBenchmark::new(model, vocab_size, EngineOptions { threads, ..Default::default() })?;
    let mut ours_ms: [Vec<f64>; 2] = Default::default();
    let mut theirs_ms: Vec<[Vec<f64>; 2]> = peers.iter().map(|_| Default::default()).collect();
    for round in 0..WARM_UP + samples {
        let before_ms = processor_ms();
        let step_ms = ours.run()?.step_ns as f64 / 1e6;
        let ours_sample = [step_ms, processor_ms() - before_ms];
        let sides = std::iter::once(&mut ours_ms).chain(&mut theirs_ms);
        let theirs = peers.iter_mut().map(Peer::step_ms).collect::<Result<Vec<_>, _>>()?;
        for (times, sample) in sides.zip(std::iter::once(ours_sample).chain(theirs)) {
            if round >= WARM_UP {
                times[0].push(sample[0]);
                times[1].push(sample[1]);
            }
        }
    }
    let millions = ours.parameters() as f64 / 1e6;
    let what =
        format!("training step, {millions:.1}M parameters, vocabulary {vocab_size}, 1024 tokens, {threads} threads");
    let mut rows = Vec::new();
    for (peer, theirs_ms) in peers.iter().zip(theirs_ms) {
        for (part, of) in ["", ", processor time"].into_iter().enumerate() {
            let about = (format!("{what}{of}"), peer.name, peer.versions.clone(), command);
            rows.push(Row::of_times(about, ours_ms[part].clone(), theirs_ms[part].clone())?);
        }
    }
    Ok(rows)
}
