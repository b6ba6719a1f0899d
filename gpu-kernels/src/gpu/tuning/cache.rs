//! Tilings on disk, one file for each (adapter, driver, shaders, form). A file that is missing or
//! damaged only costs the time of measuring again, and the latter is said.

use super::{CLASSES_MAX, Known};
use crate::admission::cache::{device_key, read_json, write_json};
use crate::admission::shader_hash;
use crate::device::DeviceReport;
use crate::gpu::kernel::Form;
use crate::gpu::tiling::Tiling;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
struct File {
    device: DeviceReport,
    shader_hash: String,
    known: Known,
}

fn path(directory: &Path, device: &DeviceReport, form: Form) -> PathBuf {
    let form = [u8::from(form.soft), u8::from(form.portable_dot)];
    directory.join(format!("tuning-{}.json", device_key("manta device tuning", device, &form)))
}

/// What is kept for exactly this device, its driver and these shaders.
///
/// # Errors
/// Why the file cannot be used.
pub(super) fn load(directory: &Path, device: &DeviceReport, form: Form) -> Result<Option<Known>, String> {
    let path = path(directory, device, form);
    let ignored = |problem: &str| format!("{} is ignored, and products are measured again: {problem}", path.display());
    let Some(file) = read_json::<File>(&path).map_err(|problem| ignored(&problem))? else { return Ok(None) };
    if (&file.device, file.shader_hash.as_str()) != (device, shader_hash()) {
        return Err(ignored("it is of another device or other shaders"));
    }
    let all = Tiling::all();
    let known = &file.known;
    let mut tilings = known.classes.iter().map(|entry| &entry.tiling).chain(known.verdicts.iter().map(|v| &v.tiling));
    if known.classes.len() > CLASSES_MAX || tilings.any(|tiling| !all.contains(tiling)) {
        return Err(ignored("it names unknown tilings"));
    }
    Ok(Some(file.known))
}

/// Keeps what is known: whole or not at all.
pub(super) fn store(directory: &Path, device: &DeviceReport, form: Form, known: &Known) {
    let file = File { device: device.clone(), shader_hash: shader_hash().to_owned(), known: known.clone() };
    write_json(&path(directory, device, form), &file);
}

/// Removes the file, if there is one.
pub(super) fn forget(directory: &Path, device: &DeviceReport, form: Form) {
    // One that stays costs nothing but that it is believed.
    let _ = std::fs::remove_file(path(directory, device, form));
}
