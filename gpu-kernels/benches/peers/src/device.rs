//! Products and whole training steps on a graphics device beside those of burn's back end wgpu on the same one.

use crate::burn_step;
use crate::row::Row;
use crate::steps::Peer;
use burn::tensor::{Device as BurnDevice, Tensor, TensorData};
use manta_gpu_kernels::admission::{AdmittedDevice, Forms};
use manta_gpu_kernels::benchmark::{BenchmarkModel, DeviceProductBenchmark, ProductExtent};
use manta_gpu_kernels::device::{Device, DeviceChoice};
use manta_gpu_kernels::{ArithmeticSpec, GpuEngine, MicroBatchKey, OptimizerConfig, StepNumbers};
use std::error::Error;
use std::time::Instant;

/// What a sample takes at least, as far as repeats may help, and how many there may be.
const SAMPLE_MS_MIN: f64 = 100.0;
const REPEATS_MAX: usize = 64;
/// Rounds that are not timed: in them burn measures which of its kernels to take.
const WARM_UP: usize = 3;
const VOCAB_SIZE: usize = 256;
const SEQUENCES: usize = 4;
const LENGTH: usize = 256;

fn open(name: &str) -> Result<AdmittedDevice, Box<dyn Error>> {
    let choice = match name {
        "software" => DeviceChoice::Software,
        "hardware" => DeviceChoice::Hardware,
        _ => return Err(format!("--device takes software or hardware, not `{name}`").into()),
    };
    Ok(AdmittedDevice::admit(Device::open(&choice)?, Forms::default(), None)?)
}

/// What is compared, and where.
fn versions(device: &AdmittedDevice, theirs: &str) -> String {
    let report = device.device().report();
    format!("{theirs}; {} through {}, {}", report.name, report.backend, report.driver)
}

/// Matrices of numbers between -1 and 1.
fn matrix(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// burn's product of f32 matrices.
struct BurnProduct {
    device: BurnDevice,
    left: Tensor<2>,
    right: Tensor<2>,
}

impl BurnProduct {
    /// `right` is `[columns][depth]`, as we have it; burn gets it as `[depth][columns]`, as it likes it best.
    fn new(device: &BurnDevice, extent: ProductExtent, [left, right]: [&[f32]; 2]) -> Self {
        let ProductExtent { rows, columns, depth } = extent;
        let turned: Vec<f32> = (0..depth * columns).map(|i| right[i % columns * depth + i / columns]).collect();
        Self {
            device: device.clone(),
            left: Tensor::from_data(TensorData::new(left.to_vec(), [rows, depth]), device),
            right: Tensor::from_data(TensorData::new(turned, [depth, columns]), device),
        }
    }

    /// Multiplies so many times, and waits for the last.
    fn run(&self, times: usize) -> Result<(), Box<dyn Error>> {
        // All are kept until the end, so that none is left out.
        let products: Vec<Tensor<2>> = (0..times).map(|_| self.left.clone().matmul(self.right.clone())).collect();
        self.device.sync().map_err(|error| format!("burn: {error:?}"))?;
        drop(products);
        Ok(())
    }

    fn result(&self) -> Result<Vec<f32>, Box<dyn Error>> {
        let data = self.left.clone().matmul(self.right.clone()).into_data();
        data.try_to_vec().map_err(|error| format!("burn: {error:?}").into())
    }
}

/// Both must have computed the same product, but for the rounding of our operands.
fn check(ours: &[f32], theirs: &[f32]) -> Result<(), Box<dyn Error>> {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let error = square(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)).sqrt();
    let size = square(&mut theirs.iter().copied()).sqrt();
    // Seven bits of each operand, errors at random: well under a hundredth of the whole.
    match ours.len() == theirs.len() && error <= 0.02 * size {
        true => Ok(()),
        false => Err(format!("the products differ by {error} of {size}").into()),
    }
}

fn ms_of(times: usize, work: impl FnOnce(usize) -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    work(times)?;
    Ok(start.elapsed().as_secs_f64() * 1e3 / times as f64)
}

/// A square, a forward product, its way back, a weight gradient, and a product of more depth: those of the
/// example `gpu_bench`.
const EXTENTS: [[usize; 3]; 5] =
    [[512, 512, 512], [1024, 704, 128], [1024, 128, 704], [704, 128, 1024], [256, 256, 2048]];

/// 8-bit products with their operands packed before, and with both packed each time, beside f32 products.
///
/// # Errors
/// There is no such device, or the two products differ.
pub fn products(name: &str, samples: usize, command: &str) -> Result<Vec<Row>, Box<dyn Error>> {
    let (device, burn) = (open(name)?, burn_step::device(name)?);
    let versions = versions(&device, "burn 0.22, back end wgpu with autotune and fusion");
    let mut rows = Vec::new();
    for [m, n, k] in EXTENTS {
        let (left, right) = (matrix(m * k, 1), matrix(n * k, 2));
        let extent = ProductExtent { rows: m, columns: n, depth: k };
        let ours = DeviceProductBenchmark::new(&device, extent, [&left, &right])?;
        let theirs = BurnProduct::new(&burn, extent, [&left, &right]);
        check(&ours.result()?, &theirs.result()?)?;
        type Side<'a> = Box<dyn Fn(usize) -> Result<(), Box<dyn Error>> + 'a>;
        let sides: [Side<'_>; 3] = [
            Box::new(|times| Ok(ours.run(times, false)?)),
            Box::new(|times| Ok(ours.run(times, true)?)),
            Box::new(|times| theirs.run(times)),
        ];
        let mut repeats = [1; 3];
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..WARM_UP + samples {
            for (side, work) in sides.iter().enumerate() {
                let taken_ms = ms_of(repeats[side], work)?;
                match round >= WARM_UP {
                    true => times[side].push(taken_ms),
                    false => repeats[side] = ((SAMPLE_MS_MIN / taken_ms).ceil() as usize).clamp(1, REPEATS_MAX),
                }
            }
        }
        let [packed, whole, theirs] = times;
        for (ours, what) in [(packed, "operands packed"), (whole, "both operands rounded and packed from f32")] {
            let name = format!("8-bit product [{m}, {n}, {k}] on the {name} adapter, {what}");
            rows.push(Row::of_times((name, "burn-wgpu f32", versions.clone(), command), ours, theirs.clone())?);
        }
        eprintln!("  {}", ours.tiling());
    }
    Ok(rows)
}

/// Steps of the smallest model: one micro-batch of 1,024 tokens and the optimiser's step.
///
/// # Errors
/// There is no such device, or burn fails on it.
pub fn steps(name: &str, samples: usize, command: &str) -> Result<Vec<Row>, Box<dyn Error>> {
    let device = open(name)?;
    let mut theirs = Peer::burn_on_device("tiny", VOCAB_SIZE, name)?;
    let spec = ArithmeticSpec { micro_batch_sequences: SEQUENCES, sequence_length: LENGTH, ..Default::default() };
    let mut engine =
        GpuEngine::new(BenchmarkModel::Tiny.config(VOCAB_SIZE), OptimizerConfig::default(), spec, &device)?;
    engine.initialize([1; 32])?;
    let mut times: [Vec<f64>; 2] = Default::default();
    for round in 0..WARM_UP + samples {
        let step = round as u64;
        let places = (0..(SEQUENCES * (LENGTH + 1)) as u64).map(|place| place + step * 7919);
        let tokens: Vec<u32> = places.map(|at| ((at * at / 3 + at / 5) % VOCAB_SIZE as u64) as u32).collect();
        let start = Instant::now();
        engine.accumulate_gradient(&tokens, SEQUENCES, &MicroBatchKey { run_seed: [1; 32], step, micro_batch: 0 })?;
        engine.apply_own_gradient(1, StepNumbers::in_order(step))?;
        let ours_ms = start.elapsed().as_secs_f64() * 1e3;
        let [theirs_ms, _] = theirs.step_ms()?;
        if round >= WARM_UP {
            times[0].push(ours_ms);
            times[1].push(theirs_ms);
        }
    }
    let [ours, theirs_ms] = times;
    let millions = engine.layout().len() as f64 / 1e6;
    let what = format!(
        "training step on the {name} adapter, {millions:.1}M parameters, vocabulary {VOCAB_SIZE}, {} tokens",
        SEQUENCES * LENGTH
    );
    let about = (what, theirs.name, versions(&device, &theirs.versions), command);
    Ok(vec![Row::of_times(about, ours, theirs_ms)?])
}
