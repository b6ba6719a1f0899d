//! Admission reports on disk, one file for each (adapter, driver, shaders, arithmetic version, forced forms).
//!
//! A file that cannot be read or written only costs the tests' time again.

use super::{AdmissionReport, Forms, shader_hash};
use crate::device::DeviceReport;
use crate::spec::ARITHMETIC_VERSION;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Reports are a few kilobytes; larger files are none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Names a device with its driver and the shaders, and what else is in `parts`.
pub(crate) fn device_key(context: &'static str, device: &DeviceReport, parts: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for text in [device.name.as_str(), &device.driver, &device.backend, shader_hash()] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.update(&ARITHMETIC_VERSION.to_le_bytes()).update(parts);
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The content of a small file; none if there is no such file.
///
/// # Errors
/// Why it cannot be used.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let bytes = match std::fs::metadata(path) {
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(format!("{} bytes instead of at most {FILE_BYTES_MAX}", found.len()));
        }
        Ok(_) => std::fs::read(path).map_err(|error| error.to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
}

/// Writes a file: whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, content: &T) {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let Ok(text) = serde_json::to_vec_pretty(content) else { return };
    let directory = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written =
        directory.and_then(|()| std::fs::write(&temporary, text)).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing is lost but time; a partial file must not stay.
        let _ = std::fs::remove_file(temporary);
    }
}

fn path(directory: &Path, device: &DeviceReport, forced: Forms) -> PathBuf {
    let forced = [u8::from(forced.soft_float), u8::from(forced.portable_dot)];
    directory.join(format!("admission-{}.json", device_key("manta device admission", device, &forced)))
}

/// The report for exactly this device, its driver, these shaders and this arithmetic.
pub(super) fn load(directory: &Path, device: &DeviceReport, forced: Forms) -> Option<AdmissionReport> {
    let mut report: AdmissionReport = read_json(&path(directory, device, forced)).ok().flatten()?;
    let fits = (&report.device, report.arithmetic_version, report.shader_hash.as_str(), report.forced)
        == (device, ARITHMETIC_VERSION, shader_hash(), forced);
    report.from_cache = true;
    fits.then_some(report)
}

/// Keeps the report: whole or not at all.
pub(super) fn store(directory: &Path, report: &AdmissionReport) {
    write_json(&path(directory, &report.device, report.forced), report);
}
