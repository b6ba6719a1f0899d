//! Admission reports on disk, one file for each (adapter, driver, shaders, arithmetic version, forced forms).
//!
//! A file that cannot be read or written only costs the tests' time again.

use super::{AdmissionReport, Forms, shader_hash};
use crate::device::DeviceReport;
use crate::spec::ARITHMETIC_VERSION;
use std::path::{Path, PathBuf};

/// Reports are a few kilobytes; larger files are none.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn path(directory: &Path, device: &DeviceReport, shader_hash: &str, forced: Forms) -> PathBuf {
    let mut hasher = blake3::Hasher::new_derive_key("manta device admission");
    for text in [&device.name, &device.driver, &device.backend, shader_hash] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.update(&ARITHMETIC_VERSION.to_le_bytes());
    hasher.update(&[u8::from(forced.soft_float), u8::from(forced.portable_dot)]);
    directory.join(format!("admission-{}.json", &hasher.finalize().to_hex()[..32]))
}

/// The report for exactly this device, its driver, these shaders and this arithmetic.
pub(super) fn load(directory: &Path, device: &DeviceReport, forced: Forms) -> Option<AdmissionReport> {
    let hash = shader_hash();
    let path = path(directory, device, &hash, forced);
    if std::fs::metadata(&path).ok()?.len() > FILE_BYTES_MAX {
        return None;
    }
    let mut report: AdmissionReport = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let fits = (&report.device, report.arithmetic_version, &report.shader_hash, report.forced)
        == (device, ARITHMETIC_VERSION, &hash, forced);
    report.from_cache = true;
    fits.then_some(report)
}

/// Keeps the report: whole or not at all.
pub(super) fn store(directory: &Path, report: &AdmissionReport) {
    let path = path(directory, &report.device, &report.shader_hash, report.forced);
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let Ok(text) = serde_json::to_vec_pretty(report) else { return };
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&temporary, text))
        .and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        // Nothing is lost but time; a partial file must not stay.
        let _ = std::fs::remove_file(temporary);
    }
}
