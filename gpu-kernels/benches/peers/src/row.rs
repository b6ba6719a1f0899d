//! One row of a result file.

use manta_gpu_kernels::benchmark::median;
use serde::Serialize;
use std::error::Error;
use std::process::Command;

/// Samples of two sides, taken alternately.
#[derive(Serialize)]
pub struct Row {
    name: String,
    peer: String,
    unit: &'static str,
    better: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    ratio: f64,
    command: String,
    versions: String,
    hardware: String,
    date: String,
}

impl Row {
    /// A row of times, of which less is better.
    pub fn of_times(
        (name, peer, versions, command): (String, &str, String, &str),
        ours: Vec<f64>,
        theirs: Vec<f64>,
    ) -> Result<Self, Box<dyn Error>> {
        let ratio = median(&ours) / median(&theirs);
        eprintln!(
            "{name}: {:.3} ms, {peer} {:.3} ms: {:.2} times as fast",
            median(&ours),
            median(&theirs),
            1.0 / ratio
        );
        Ok(Self {
            name,
            peer: peer.into(),
            unit: "ms",
            better: "lower",
            ours,
            theirs,
            ratio,
            command: command.into(),
            versions,
            hardware: hardware()?,
            date: said_by("date", &["-u", "+%Y-%m-%d"])?,
        })
    }
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).args(arguments).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// The processor, and how busy the machine was.
fn hardware() -> Result<String, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or("?").trim().to_string()
    };
    let processors = text.lines().filter(|line| line.starts_with("processor")).count();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or("?");
    let (name, family, model) = (of("model name"), of("cpu family"), of("model\t"));
    Ok(format!("{processors} processors: {name} family {family} model {model}; load {load}"))
}
