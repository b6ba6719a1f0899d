//! `manta bench`: how fast a device is, and whether it computes what it should.

use super::{Error, format};
use crate::device::{Chosen, Machine, Wanted, cache_of};
use clap::Args;
use manta_gpu_kernels::admission::{Forms, ParityReport, parity_suite};
use manta_gpu_kernels::benchmark::{ProcessorReport, measure_processor};
use manta_gpu_kernels::device::{Device, DeviceChoice, DeviceReport};
use manta_gpu_kernels::drill::GemmDriller;
use manta_gpu_kernels::whetstone::measure_whetstone_operations_per_s;
use manta_gpu_kernels::{EngineError, SimdPath};
use manta_protocol::drill::GemmClass;
use manta_protocol::drill::unit::OPERATIONS_PER_WHETSTONE;
use serde::Serialize;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// How long the benchmarks of drilling run each, in milliseconds.
const MEASURE_MS: u64 = 300;

/// Measure a device, or prove that it computes the exact arithmetic.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta bench                                 speed of what `auto` takes
  manta bench --device native                 also peaks, products and whole steps, with where their time goes
  manta bench --self-check --device gpu --json
                                              every kernel in every form, and whole runs, bit for bit")]
pub(super) struct BenchArgs {
    /// Compare every kernel and whole runs on the device with the native engine
    #[arg(long)]
    self_check: bool,

    /// What to measure: auto, native, gpu, software, or a part of a device's name
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Wanted,

    /// Optimiser steps of each run of --self-check
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    steps: u64,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--self-check --json` prints.
#[derive(Serialize)]
struct SelfCheck {
    passed: bool,
    device: DeviceReport,
    seconds: f64,
    #[serde(flatten)]
    parity: ParityReport,
}

/// What `--json` prints without it.
#[derive(Serialize)]
struct Speed {
    device: String,
    kind: &'static str,
    multiply_adds_per_s: u64,
    /// Of one thread of the processor.
    whetstone_operations_per_s: u64,
    /// Of work units that measure power: operands and digest are part of them.
    gemm_operations_per_s: u64,
    /// The class whose units take about a second.
    gemm_class: u8,
    /// Cores of 10⁹ Whetstone operations a second that these are worth.
    power: f64,
    /// Peaks, products and whole steps, if the processor computes.
    processor: Option<ProcessorReport>,
}

/// `data_dir` keeps admissions of devices, if there is one.
pub(super) fn run(arguments: &BenchArgs, data_dir: Option<&Path>) -> Result<(), Error> {
    if arguments.self_check { self_check(arguments) } else { speed(arguments, data_dir) }
}

fn speed(arguments: &BenchArgs, data_dir: Option<&Path>) -> Result<(), Error> {
    let chosen = Chosen::choose(&arguments.device, data_dir.map(cache_of).as_deref())?;
    let machine = Machine::measure(&chosen, 0)?;
    let gemm_operations_per_s = gemm_operations_per_s(&chosen)?;
    let processor = match chosen.device {
        Some(_) => None,
        None => Some(measure_processor(SimdPath::Auto, 0)?),
    };
    let speed = Speed {
        device: machine.description,
        kind: machine.kind,
        multiply_adds_per_s: machine.listed.multiply_adds_per_s,
        whetstone_operations_per_s: measure_whetstone_operations_per_s(MEASURE_MS),
        gemm_operations_per_s,
        gemm_class: GemmClass::for_speed(gemm_operations_per_s).number(),
        power: gemm_operations_per_s as f64 / OPERATIONS_PER_WHETSTONE as f64 / 1e9,
        processor,
    };
    let text = if arguments.json { serde_json::to_string(&speed)? } else { speed.text() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn gemm_operations_per_s(chosen: &Chosen) -> Result<u64, EngineError> {
    let mut driller = match &chosen.device {
        Some(device) => GemmDriller::on_device(device)?,
        None => GemmDriller::native(0, SimdPath::Auto)?,
    };
    driller.measure_operations_per_s(MEASURE_MS)
}

impl Speed {
    fn text(&self) -> String {
        let billion = |rate: u64| rate as f64 / 1e9;
        let Self { device, kind, gemm_class, power, .. } = self;
        let processor = self.processor.as_ref().map(processor_text).unwrap_or_default();
        format!(
            "{device} ({kind}): {:.1} billion exact multiply-adds a second\n  \
             drilling: {:.1} billion operations a second, class {gemm_class}: the power of {power:.1} cores of a billion \
             Whetstone operations a second\n  \
             Whetstone: {:.2} billion operations a second on one thread of the processor{processor}",
            billion(self.multiply_adds_per_s),
            billion(self.gemm_operations_per_s),
            billion(self.whetstone_operations_per_s),
        )
    }
}

/// Peaks, products at training shapes, and one step, line by line.
fn processor_text(report: &ProcessorReport) -> String {
    let billion = |rate: u64| rate as f64 / 1e9;
    let mut text = String::new();
    if let Some(peak) = &report.peak {
        text += &format!(
            "\n  peak from registers: {:.1} billion integer and {:.1} billion f32 multiply-adds a second",
            billion(peak.integer_multiply_adds_per_s),
            billion(peak.float_multiply_adds_per_s)
        );
    }
    for product in &report.products {
        let [rows, columns, k] = product.shape;
        let percent = product.fraction_of_peak.map(|part| format!(", {:.0} % of the peak", 100.0 * part));
        text += &format!(
            "\n  product {} [{rows}, {columns}, {k}]: {:.1} billion multiply-adds a second{}; packing {:.2} ns an element",
            product.name,
            billion(product.multiply_adds_per_s),
            percent.unwrap_or_default(),
            product.pack_ns_per_element
        );
    }
    let step = &report.step;
    text += &format!(
        "\n  training {:.1}M parameters: {} tokens/s; one step:",
        step.parameters as f64 / 1e6,
        format::rate(step.tokens_per_s)
    );
    let total_ns = step.profile.total_ns().max(1);
    for (class, &spent_ns) in &step.profile.spent_ns {
        let percent = 100.0 * spent_ns as f64 / total_ns as f64;
        text += &format!("\n    {:>8.2} ms {percent:>5.1} %  {}", spent_ns as f64 / 1e6, class.name());
    }
    text
}

fn self_check(arguments: &BenchArgs) -> Result<(), Error> {
    let choice = match &arguments.device {
        Wanted::Auto | Wanted::Gpu => DeviceChoice::Hardware,
        Wanted::Software => DeviceChoice::Software,
        Wanted::Named(name) => DeviceChoice::Named(name.clone()),
        Wanted::Native => {
            return Err("--self-check compares a graphics device with the native engine; \
                        name one with --device gpu, software or a part of its name"
                .into());
        }
    };
    let device = Device::open(&choice).map_err(|error| format!("{error}; --device software tests without a GPU"))?;
    eprintln!("testing {}: wrong arithmetic, every kernel in three forms, whole runs", device.report().name);
    let begun = Instant::now();
    let parity = parity_suite(&device, arguments.steps)?;
    let report = SelfCheck {
        passed: parity.passed(),
        device: device.report().clone(),
        seconds: begun.elapsed().as_secs_f64(),
        parity,
    };
    let text = if arguments.json { serde_json::to_string(&report)? } else { text(&report) };
    writeln!(std::io::stdout(), "{text}")?;
    match problems(&report.parity).as_slice() {
        [] => Ok(()),
        problems => {
            Err(format!("{} does not compute the exact arithmetic: {}", report.device.name, problems.join("; ")).into())
        }
    }
}

/// Everything that has wrong bits, by op and case.
fn problems(parity: &ParityReport) -> Vec<String> {
    let refused = parity.admissions.iter().filter_map(|admission| admission.refused.clone());
    let runs = parity.runs.iter().filter(|run| !run.equal);
    let runs = runs.map(|run| format!("run `{}` with {} ends with other bits", run.name, forms(run.forms)));
    let flaws = parity.flaws.iter().filter(|flaw| !flaw.missed.is_empty());
    let flaws = flaws.map(|flaw| format!("known answers of {} did not see: {}", flaw.missed.join(", "), flaw.flaw));
    refused.chain(runs).chain(flaws).collect()
}

/// The forms of kernels, in words.
fn forms(forms: Forms) -> &'static str {
    match forms {
        Forms { soft_float: true, .. } => "floats made of integers",
        Forms { portable_dot: true, .. } => "portable dot products",
        _ => "the device's own arithmetic",
    }
}

fn text(report: &SelfCheck) -> String {
    let parity = &report.parity;
    let mut text = format!("{} ({}, {})\n", report.device.name, report.device.backend, report.device.driver);
    for admission in &parity.admissions {
        let cases: usize = admission.ops.iter().map(|op| op.cases).sum();
        let state = admission.refused.as_deref().unwrap_or("right");
        let (forms, ops) = (forms(admission.forced), admission.ops.len());
        text += &format!("  {forms}: {ops} kernels, {cases} known answers: {state}\n");
        let given_up = admission.ops.iter().filter_map(|op| Some((&op.op, op.problem.as_ref()?)));
        for (op, problem) in given_up {
            text += &format!("    {op}: {problem}\n");
        }
    }
    for run in &parity.runs {
        let state = if run.equal { "equal bits" } else { "OTHER BITS" };
        text += &format!(
            "  {}: {} steps of `{}`: {state}; {} tokens/s, natively {}\n",
            forms(run.forms),
            run.steps,
            run.name,
            format::rate(run.device_tokens_per_s),
            format::rate(run.native_tokens_per_s)
        );
    }
    text += &format!("  {} kinds of wrong arithmetic were told from the right one\n", parity.flaws.len());
    text += &format!("{} in {:.1} s", if report.passed { "passed" } else { "FAILED" }, report.seconds);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_bits_are_named_by_op_and_case() {
        let parity = serde_json::from_value(serde_json::json!({
            "admissions": [],
            "runs": [{ "name": "tied", "forms": { "soft_float": true, "portable_dot": false }, "steps": 2,
                       "equal": false, "device_tokens_per_s": 1.0, "native_tokens_per_s": 2.0 }],
            "flaws": [],
        }));
        let parity: ParityReport = parity.expect("a report");
        assert!(!parity.passed());
        assert!(problems(&parity).iter().any(|problem| problem.contains("run `tied`")), "{:?}", problems(&parity));
    }
}
