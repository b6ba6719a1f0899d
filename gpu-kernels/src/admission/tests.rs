//! The kernels against their native twins, and the vectors against wrong kernels.

use super::bench::Bench;
use super::cases::SUITES;
use crate::device::{Device, DeviceChoice};
use crate::gpu::kernel::Form;

/// The software adapter; none if the environment says aloud to skip.
fn device() -> Option<Device> {
    match Device::open(&DeviceChoice::Software) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("gpu")) => {
            eprintln!("skipped as MANTA_TEST_SKIP asks: {error}");
            None
        }
        Err(error) => panic!("{error} (or set MANTA_TEST_SKIP=gpu)"),
    }
}

#[test]
fn every_kernel_equals_its_twin() {
    let Some(device) = device() else { return };
    for form in
        [Form::default(), Form { portable_dot: true, ..Form::default() }, Form { soft: true, ..Form::default() }]
    {
        let mut bench = Bench::new(&device, form).unwrap();
        let mut wrong = Vec::new();
        for suite in SUITES {
            let outcomes = (suite.run)(&mut bench).unwrap();
            for (number, outcome) in outcomes.iter().enumerate() {
                if outcome.found != outcome.expected {
                    let at = outcome.found.iter().zip(&outcome.expected).position(|(a, b)| a != b);
                    let pair = at.map(|at| (outcome.found[at], outcome.expected[at]));
                    let count = outcome.found.iter().zip(&outcome.expected).filter(|(a, b)| a != b).count();
                    wrong.push(format!("{} case {number} at {at:?}: {pair:x?}, {count} differ", suite.op));
                }
            }
        }
        assert!(wrong.is_empty(), "{form:?}\n{}", wrong.join("\n"));
    }
}
