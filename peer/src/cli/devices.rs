//! `manta devices`.

use super::fit::Fit;
use super::{Error, format};
use crate::device::{Chosen, Wanted, cache_of};
use crate::optimizer::Optimizer;
use crate::preset::{PRESETS, Preset};
use clap::Args;
use manta_gpu_kernels::admission::{
    AdmissionReport, Forms, OpForm, TunedClass, check_and_keep, kept_report, kept_tunings,
};
use manta_gpu_kernels::device::{Device, DeviceChoice, DeviceKind, DeviceReport, MatrixUnit, list_devices};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Show what can compute here, and which device would be chosen.
#[derive(Args, Debug)]
#[command(after_help = "\
A device computes for others only after it has been admitted: each kernel must
give the bits of its native twin on known answers. `manta up` tests a device
when it first meets it; --check tests all of them again, after a new driver.

Examples:
  manta devices                               what there is
  manta devices --preset base --vocab 50000   whether such a model fits here, and how long a step takes")]
pub(super) struct DevicesArgs {
    /// Test every device now, whatever is known
    #[arg(long)]
    check: bool,

    #[arg(long, value_name = "NAME", value_parser = Preset::find, help = preset_help())]
    preset: Option<Preset>,

    /// Tokens of the tokenizer that --preset is meant with
    #[arg(long, value_name = "N", default_value_t = 256, requires = "preset", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    vocab: u32,

    /// The rule that --preset is meant to be trained with
    #[arg(long, value_name = "NAME", value_enum, default_value_t, requires = "preset")]
    optimizer: Optimizer,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn preset_help() -> String {
    format!("Tell what training takes on the processor: {}", PRESETS.map(|preset| preset.name).join(", "))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// What training the preset takes, if one was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<Fit>,
    devices: Vec<Entry>,
    /// What `--device auto` takes.
    chosen: String,
    /// `native` or `gpu`.
    chosen_kind: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    device: DeviceReport,
    /// `None` if it was never tested.
    admission: Option<AdmissionReport>,
    /// How its products are cut up, as far as that was measured.
    tunings: Vec<TunedClass>,
    /// Why it could not be tested.
    problem: Option<String>,
}

pub(super) fn run(arguments: &DevicesArgs, data_dir: &Path) -> Result<(), Error> {
    let cache = cache_of(data_dir);
    let devices = list_devices().into_iter().map(|device| entry(device, arguments.check, &cache)).collect();
    let chosen = Chosen::choose(&Wanted::Auto, Some(&cache))?;
    let (vocab_size, optimizer) = (arguments.vocab as usize, arguments.optimizer.into());
    let fit = arguments.preset.map(|preset| Fit::of(&preset, vocab_size, optimizer)).transpose()?;
    let report = Report { fit, devices, chosen: chosen.name(), chosen_kind: chosen.kind(), reason: chosen.why.clone() };
    let text = if arguments.json { format!("{}\n", serde_json::to_string(&report)?) } else { text(&report) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn entry(device: DeviceReport, check: bool, cache: &Path) -> Entry {
    if !check || device.unusable.is_some() {
        let admission = kept_report(cache, &device, Forms::default());
        let tunings = admission.as_ref().map(|report| kept_tunings(cache, report)).unwrap_or_default();
        return Entry { device, admission, tunings, problem: None };
    }
    eprintln!("testing {}; this takes seconds", device.name);
    // Two adapters of one name are one model with one driver: the first stands for both.
    let tested = Device::open(&DeviceChoice::Named(device.name.clone()))
        .map_err(|error| error.to_string())
        .and_then(|open| check_and_keep(&open, Forms::default(), Some(cache)).map_err(|error| error.to_string()));
    match tested {
        // Tilings are measured again with the next model.
        Ok(report) => Entry { device, admission: Some(report), tunings: Vec::new(), problem: None },
        Err(problem) => Entry { device, admission: None, tunings: Vec::new(), problem: Some(problem) },
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for entry in &report.devices {
        // Writing into a string does not fail.
        let _ = write_entry(&mut text, entry);
    }
    if report.devices.is_empty() {
        text += "no graphics devices were found; install a Vulkan driver if there should be one\n\n";
    }
    let _ = writeln!(text, "--device auto takes {} ({}): {}", report.chosen, report.chosen_kind, report.reason);
    if let Some(fit) = &report.fit {
        let _ = write!(text, "\n{fit}");
    }
    text
}

fn write_entry(text: &mut String, entry: &Entry) -> std::fmt::Result {
    let device = &entry.device;
    writeln!(text, "{}", device.name)?;
    writeln!(text, "  kind        {}, through {}", kind_name(device.kind), device.backend)?;
    writeln!(text, "  driver      {}", device.driver)?;
    if let Some(memory_bytes) = device.memory_bytes {
        writeln!(text, "  memory      {}", format::bytes(memory_bytes))?;
    }
    writeln!(
        text,
        "  limits      {} a binding, {} a buffer; workgroups of {} with {} shared, {} a dimension",
        format::bytes(device.binding_bytes_max),
        format::bytes(device.buffer_bytes_max),
        device.workgroup_invocations_max,
        format::bytes(device.workgroup_bytes_max.into()),
        device.workgroups_max,
    )?;
    if !device.matrix_units.is_empty() {
        let units: Vec<_> = device.matrix_units.iter().map(matrix_unit).collect();
        writeln!(text, "  matrices    {}; not used yet", units.join(", "))?;
    }
    writeln!(text, "  admission   {}", admission(entry))?;
    for TunedClass { class, chosen, multiply_adds, times, .. } in &entry.tunings {
        let batches = if class.batches > 1 { format!(", {} at a time", class.batches) } else { String::new() };
        let least_us = times.first().map_or(f64::INFINITY, |time| time.least_us);
        writeln!(
            text,
            "  product     {} x {} over {}{batches}: {chosen}; {:.1} billion multiply-adds/s",
            class.rows,
            class.columns,
            class.depth,
            *multiply_adds as f64 / least_us / 1e3,
        )?;
    }
    writeln!(text)
}

fn matrix_unit(unit: &MatrixUnit) -> String {
    let MatrixUnit { rows, columns, depth, operands, sums } = unit;
    format!("{rows} x {columns} over {depth} of {operands} into {sums}")
}

/// What is known of a device's arithmetic, in words.
fn admission(entry: &Entry) -> String {
    if let Some(problem) = entry.device.unusable.as_ref().or(entry.problem.as_ref()) {
        return format!("not possible: {problem}");
    }
    let Some(report) = &entry.admission else {
        return "not tested yet; `manta devices --check` does it".into();
    };
    if let Some(refused) = &report.refused {
        return format!("refused: {refused}");
    }
    let cases: usize = report.ops.iter().map(|op| op.cases).sum();
    let soft: Vec<_> = report.ops.iter().filter(|op| op.form == OpForm::SoftFloat).map(|op| op.op.as_str()).collect();
    let origin = if report.from_cache { "kept from an earlier test" } else { "tested now" };
    let mut text = format!(
        "admitted: {} kernels, {cases} known answers and a training run are right ({origin}, {:.1} s)",
        report.ops.len(),
        report.elapsed_ms as f64 / 1e3
    );
    if !soft.is_empty() {
        text += &format!("; floats made of integers in {}", soft.join(", "));
    }
    if report.portable_dot {
        text += "; dot products without the built-in";
    }
    text
}

fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Discrete => "discrete GPU",
        DeviceKind::Integrated => "integrated GPU",
        DeviceKind::Virtual => "virtual GPU",
        DeviceKind::Other => "other",
        DeviceKind::Software => "software, taken only when asked for",
    }
}
