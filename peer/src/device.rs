//! What computes: the native kernels on the processor, or an admitted graphics
//! device; which one is chosen, and why.

use crate::host;
use manta_gpu_kernels::admission::{AdmittedDevice, Forms};
use manta_gpu_kernels::device::{Device, DeviceChoice, DeviceKind, DeviceReport, list_devices};
use manta_gpu_kernels::{EngineError, measure_device_multiply_adds_per_s, measure_multiply_adds_per_s};
use manta_protocol::market::listing;
use manta_protocol::wire::limits::TEXT_BYTES_MAX;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How long a machine's speed is measured for its listing.
const MEASURE_MS: u64 = 150;
/// Longest name on the command line: adapters' names are shorter.
const NAME_BYTES_MAX: usize = 256;

/// What the person asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The best graphics device that is admitted, else the processor.
    #[default]
    Auto,
    /// The processor, by the native kernels.
    Native,
    /// The best graphics device, and nothing else.
    Gpu,
    /// The software adapter of the graphics system.
    Software,
    /// The graphics device whose name contains this.
    Named(String),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "gpu" => Ok(Self::Gpu),
            "software" => Ok(Self::Software),
            name if (3..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) => {
                Ok(Self::Named(name.into()))
            }
            _ => Err("expected auto, native, gpu, software, or at least three letters of a device's name; \
                      `manta devices` lists them"
                .into()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Gpu => "gpu",
            Self::Software => "software",
            Self::Named(name) => name,
        })
    }
}

/// Where admission reports are kept within a data directory.
pub(crate) fn cache_of(data_dir: &Path) -> PathBuf {
    data_dir.join("devices")
}

/// What was chosen.
#[derive(Clone)]
pub(crate) struct Chosen {
    /// `None` for the native kernels.
    pub(crate) device: Option<AdmittedDevice>,
    /// Why this and not another, for people.
    pub(crate) why: String,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chosen").field("device", &self.name()).field("why", &self.why).finish()
    }
}

impl Chosen {
    /// The native kernels.
    pub(crate) fn native(why: &str) -> Self {
        Self { device: None, why: why.into() }
    }

    /// Chooses; a device that was not admitted yet is tested now, which takes
    /// seconds, and its report is kept in `cache`.
    ///
    /// # Errors
    /// What was asked for is missing, refused, or computes something else; with advice.
    pub(crate) fn choose(wanted: &Wanted, cache: Option<&Path>) -> Result<Self, String> {
        let choice = match wanted {
            Wanted::Auto => return Ok(Self::automatic(list_devices(), cache)),
            Wanted::Native => return Ok(Self::native("asked for")),
            Wanted::Gpu => DeviceChoice::Hardware,
            Wanted::Software => DeviceChoice::Software,
            Wanted::Named(name) => DeviceChoice::Named(name.clone()),
        };
        let device = admit(&choice, cache).map_err(|error| {
            format!(
                "--device {wanted}: {error}; `manta devices --check` shows what there is, --device native needs none"
            )
        })?;
        Ok(Self { device: Some(device), why: "asked for".into() })
    }

    /// The first of `found` that is real and admitted, else the processor.
    fn automatic(found: Vec<DeviceReport>, cache: Option<&Path>) -> Self {
        let mut why = Vec::new();
        for report in found {
            if report.kind == DeviceKind::Software {
                why.push(format!("{} is software, which is slower than the native kernels", report.name));
                continue;
            }
            if let Some(problem) = report.unusable {
                why.push(problem);
                continue;
            }
            match admit(&DeviceChoice::Named(report.name.clone()), cache) {
                Ok(device) => {
                    return Self { device: Some(device), why: "the best graphics device, and admitted".into() };
                }
                Err(error) => why.push(error.to_string()),
            }
        }
        if why.is_empty() {
            why.push("no graphics device was found".into());
        }
        Self { device: None, why: why.join("; ") }
    }

    fn report(&self) -> Option<&DeviceReport> {
        self.device.as_ref().map(|device| &device.report().device)
    }

    /// Name of the device or the processor.
    pub(crate) fn name(&self) -> String {
        self.report().map_or_else(host::processor_name, |report| report.name.clone())
    }

    /// Whether it is what: `native`, `gpu`, or `software` for a graphics adapter on the processor.
    pub(crate) fn kind(&self) -> &'static str {
        match self.report() {
            None => "native",
            Some(report) if report.kind == DeviceKind::Software => "software",
            Some(_) => "gpu",
        }
    }

    fn measure(&self, threads: usize) -> Result<listing::Device, EngineError> {
        let (kind, units, multiply_adds_per_s) = match &self.device {
            None => {
                let speed = measure_multiply_adds_per_s(MEASURE_MS, threads)?;
                let units = if threads == 0 { host::hardware_threads() } else { threads };
                (listing::DeviceKind::Cpu, u32::try_from(units).unwrap_or(u32::MAX), speed)
            }
            Some(device) => (listing::DeviceKind::Gpu, 1, measure_device_multiply_adds_per_s(device, MEASURE_MS)?),
        };
        Ok(listing::Device {
            kind,
            name: clip(&self.name()),
            units,
            memory_bytes: self.memory_bytes(),
            multiply_adds_per_s,
        })
    }

    /// Memory for a model. Beside a device's, the processor's counts, too: it
    /// holds what is needed to go on without the device.
    fn memory_bytes(&self) -> u64 {
        let host_bytes = host::available_memory_bytes();
        match self.report() {
            None => host_bytes,
            Some(report) => report.memory_bytes.unwrap_or(host_bytes).min(host_bytes),
        }
    }

    fn describe(&self, listed: &listing::Device) -> String {
        match self.report() {
            None => describe_native(listed),
            Some(report) => format!("{} ({}, {})", report.name, report.backend, report.driver),
        }
    }
}

/// What computes, as others are told.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// `native`, `gpu` or `software`.
    pub(crate) kind: &'static str,
    /// Name and driver, or name and threads.
    pub(crate) description: String,
    /// Why it was chosen.
    pub(crate) why: String,
    /// As listings have it.
    pub(crate) listed: listing::Device,
    /// What is left when the graphics device fails.
    native: Option<listing::Device>,
}

impl Machine {
    /// Measures what was chosen, and the processor beside it; takes a moment.
    ///
    /// # Errors
    /// The device has failed, or threads cannot be started.
    pub(crate) fn measure(chosen: &Chosen, threads: usize) -> Result<Self, EngineError> {
        let listed = chosen.measure(threads)?;
        let native = chosen.device.is_some().then(|| Chosen::native("").measure(threads)).transpose()?;
        let (kind, description, why) = (chosen.kind(), chosen.describe(&listed), chosen.why.clone());
        Ok(Self { kind, description, why, listed, native })
    }

    /// The graphics device has failed: only the processor is left.
    pub(crate) fn retreat(&mut self, problem: &str) {
        let Some(native) = self.native.take() else { return };
        self.why = format!("{} has failed: {problem}", self.description);
        self.kind = "native";
        self.description = describe_native(&native);
        self.listed = native;
    }
}

fn describe_native(listed: &listing::Device) -> String {
    format!("native CPU, {} threads: {}", listed.units, listed.name)
}

fn admit(choice: &DeviceChoice, cache: Option<&Path>) -> Result<AdmittedDevice, EngineError> {
    let device = Device::open(choice)?;
    let admitted = AdmittedDevice::admit(device, Forms::default(), cache)?;
    if let Some(warning) = admitted.tuning_warning() {
        tracing::warn!("{warning}");
    }
    Ok(admitted)
}

/// As much of `text` as a listing takes.
pub(crate) fn clip(text: &str) -> String {
    let mut clipped = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if clipped.len() + character.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        clipped.push(character);
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, kind: DeviceKind, unusable: Option<&str>) -> DeviceReport {
        DeviceReport {
            name: name.into(),
            kind,
            driver: "driver 1".into(),
            backend: "Vulkan".into(),
            memory_bytes: Some(1 << 30),
            binding_bytes_max: 1 << 27,
            buffer_bytes_max: 1 << 28,
            workgroup_bytes_max: 1 << 14,
            workgroup_invocations_max: 256,
            workgroups_max: 65_535,
            matrix_units: Vec::new(),
            unusable: unusable.map(str::to_owned),
        }
    }

    #[test]
    fn every_choice_is_spelled_as_it_is_read() {
        for text in ["auto", "native", "gpu", "software", "RTX 4090"] {
            assert_eq!(text.parse::<Wanted>().map(|wanted| wanted.to_string()), Ok(text.into()));
        }
        for bad in ["", "x", "gp", "a\nbc"] {
            assert!(bad.parse::<Wanted>().is_err_and(|error| error.contains("manta devices")), "{bad:?}");
        }
    }

    #[test]
    fn auto_takes_neither_software_nor_what_cannot_run_and_says_why() {
        let found = vec![
            report("Small", DeviceKind::Integrated, Some("Small: maxComputeWorkgroupSizeX is 128")),
            report("Soft", DeviceKind::Software, None),
        ];
        let chosen = Chosen::automatic(found, None);
        assert!(chosen.device.is_none());
        assert!(
            chosen.why.contains("maxComputeWorkgroupSizeX") && chosen.why.contains("Soft is software"),
            "{chosen:?}"
        );
        assert_eq!(Chosen::automatic(Vec::new(), None).why, "no graphics device was found");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_with_advice() {
        let wanted = Wanted::Named("no such adapter".into());
        let error = Chosen::choose(&wanted, None).expect_err("it does not exist");
        assert!(error.contains("no such adapter") && error.contains("manta devices --check"), "{error}");
    }

    #[test]
    fn names_are_cut_to_what_a_listing_takes() {
        assert_eq!(clip("plain\u{7}"), "plain");
        assert!(clip(&"ü".repeat(100)).len() <= TEXT_BYTES_MAX);
    }
}
