//! Prints the devices of this machine and the parity suite of one of them, as JSON.
//!
//! `cargo run --release -p manta-gpu-kernels --example device_parity [name of the device] [steps]`;
//! without a name the best real device, or the software one if there is no other.

use manta_gpu_kernels::EngineError;
use manta_gpu_kernels::admission::parity_suite;
use manta_gpu_kernels::device::{Device, DeviceChoice, DeviceError, list_devices};

fn main() -> Result<(), EngineError> {
    let device = match std::env::args().nth(1) {
        Some(name) => Device::open(&DeviceChoice::Named(name))?,
        None => match Device::open(&DeviceChoice::Hardware) {
            Err(DeviceError::NoAdapter { .. }) => Device::open(&DeviceChoice::Software)?,
            outcome => outcome?,
        },
    };
    let steps = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(20);
    let report = parity_suite(&device, steps)?;
    let all = serde_json::json!({ "devices": list_devices(), "parity": report, "passed": report.passed() });
    println!("{all:#}");
    std::process::exit(i32::from(!report.passed()));
}
