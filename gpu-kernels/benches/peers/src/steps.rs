//! Whole training steps beside those of PyTorch and llm.c in f32.

use crate::row::{Row, processor_ms};
use manta_gpu_kernels::EngineOptions;
use manta_gpu_kernels::benchmark::{BenchmarkModel, StepBenchmark};
use serde_json::Value;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// Steps that are not timed.
const WARM_UP: usize = 2;

/// A program that takes a step for every line of its input and says how long it took.
struct Peer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    about: Value,
}

impl Peer {
    fn start(command: &mut Command, threads: usize) -> Result<Self, Box<dyn Error>> {
        let mut child = command
            .env("OPENBLAS_NUM_THREADS", threads.to_string())
            .env("OMP_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let first = lines.next().ok_or_else(|| format!("{command:?} did not start"))??;
        Ok(Self { child, lines, about: serde_json::from_str(&first)? })
    }

    fn torch(model: &str, vocab_size: usize, threads: usize) -> Result<Self, Box<dyn Error>> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/torch_step.py");
        let numbers = [vocab_size, threads, 0].map(|number| number.to_string());
        let mut command = Command::new("/usr/bin/python3");
        Self::start(command.arg(script).arg(model).args(numbers).arg("--serve"), threads)
    }

    /// A program that was built elsewhere, for llm.c is no part of this.
    fn llm_c(program: &str, vocab_size: usize, threads: usize) -> Result<Self, Box<dyn Error>> {
        Self::start(Command::new(program).args(["6", "6", "384"]).arg(vocab_size.to_string()), threads)
    }

    /// One step: milliseconds on the clock and of the processor.
    fn step_ms(&mut self) -> Result<[f64; 2], Box<dyn Error>> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input)?;
        input.flush()?;
        let answer: Value = serde_json::from_str(&self.lines.next().ok_or("the peer ended")??)?;
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

/// Models of 10M to 30M parameters; one micro-batch of 1,024 tokens and the
/// optimiser's step. llm.c takes part where LLMC_STEP names the program.
pub fn compare(threads: usize, samples: usize) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for (model, name, vocab_size) in [
        (BenchmarkModel::Small, "small", 256),
        (BenchmarkModel::Small, "small", 8192),
        (BenchmarkModel::Medium, "medium", 256),
    ] {
        let torch = Peer::torch(name, vocab_size, threads)?;
        let version = torch.about["torch"].as_str().unwrap_or("?");
        let versions = format!("PyTorch {version} of Debian with OpenBLAS");
        rows.extend(beside((model, vocab_size), ("PyTorch f32", versions, torch), threads, samples)?);
    }
    if let Ok(program) = std::env::var("LLMC_STEP") {
        let vocab_size = 8192;
        let llm_c = Peer::llm_c(&program, vocab_size, threads)?;
        let millions = llm_c.about["parameters"].as_f64().unwrap_or(f64::NAN) / 1e6;
        let versions =
            format!("llm.c, train_gpt2.c, -Ofast -march=native -fopenmp; GPT-2 of {millions:.1}M parameters");
        let peer = ("llm.c f32", versions, llm_c);
        rows.extend(beside((BenchmarkModel::Small, vocab_size), peer, threads, samples)?);
    }
    Ok(rows)
}

fn beside(
    (model, vocab_size): (BenchmarkModel, usize),
    (name, versions, mut peer): (&str, String, Peer),
    threads: usize,
    samples: usize,
) -> Result<[Row; 2], Box<dyn Error>> {
    let mut ours = StepBenchmark::new(model, vocab_size, EngineOptions { threads, ..Default::default() })?;
    for _ in 0..WARM_UP {
        ours.run()?;
        peer.step_ms()?;
    }
    let (mut wall, mut processor) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..samples {
        let before_ms = processor_ms();
        wall[0].push(ours.run()?.step_ns as f64 / 1e6);
        processor[0].push(processor_ms() - before_ms);
        let [wall_ms, peer_processor_ms] = peer.step_ms()?;
        wall[1].push(wall_ms);
        processor[1].push(peer_processor_ms);
    }
    let millions = ours.parameters() as f64 / 1e6;
    let what =
        format!("training step, {millions:.1}M parameters, vocabulary {vocab_size}, 1024 tokens, {threads} threads");
    let ([ours_wall, their_wall], [ours_processor, their_processor]) = (wall, processor);
    let of_processor = format!("{what}, processor time");
    Ok([
        Row::of_times((what, name, versions.clone()), ours_wall, their_wall)?,
        Row::of_times((of_processor, name, versions), ours_processor, their_processor)?,
    ])
}
