//! Products at training shapes beside rten-gemm's, of 8-bit integers and of f32.

use crate::row::{Row, processor_ms};
use manta_gpu_kernels::SimdPath;
use manta_gpu_kernels::benchmark::{ProductBenchmark, TRAINING_SHAPES};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use std::error::Error;
use std::time::Instant;

/// Multiply-adds of a sample at least: enough for the system's account of processor time.
const MULTIPLY_ADDS: usize = 8_000_000_000;

/// Milliseconds on the clock and of the processor, one `work` of `repeats`.
fn time_ms(repeats: usize, mut work: impl FnMut()) -> [f64; 2] {
    let (start, before_ms) = (Instant::now(), processor_ms());
    for _ in 0..repeats {
        work();
    }
    let wall_ms = start.elapsed().as_secs_f64() * 1e3;
    [wall_ms, processor_ms() - before_ms].map(|ms| ms / repeats as f64)
}

/// Ours takes packed operands to f32, rounded and scaled; rten's take packed
/// operands to i32 or f32. All own their threads for the time of a sample.
pub fn compare(threads: usize, samples: usize) -> Result<Vec<Row>, Box<dyn Error>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let integers = GemmExecutor::<u8, i8, i32>::new();
    let floats = GemmExecutor::<f32>::new();
    let mut rows = Vec::new();
    for (name, shape @ [m, n, k]) in TRAINING_SHAPES {
        let mut ours = ProductBenchmark::new(shape, SimdPath::Auto, threads)?;
        let a = NdTensor::from_fn([m, k], |[i, j]| ((i * 31 + j * 7) % 255) as u8);
        let b = NdTensor::from_fn([k, n], |[i, j]| (((i * 13 + j * 5) % 255) as i16 - 127) as i8);
        let (float_a, float_b) = (a.map(|&x| f32::from(x)), b.map(|&x| f32::from(x)));
        let (packed_a, packed_b) = (integers.prepack_a(a.view()), integers.prepack_b(b.view()));
        let (packed_float_a, packed_float_b) = (floats.prepack_a(float_a.view()), floats.prepack_b(float_b.view()));
        let (mut out, mut float_out) = (vec![0i32; m * n], vec![0.0f32; m * n]);
        let repeats = (MULTIPLY_ADDS / (m * n * k)).max(1);
        let mut times: [[Vec<f64>; 2]; 4] = Default::default();
        for round in 0..=samples {
            let ours_ms = time_ms(repeats, || ours.multiply());
            let whole_ms = time_ms(repeats, || {
                ours.pack();
                ours.multiply();
            });
            let integer_ms = time_ms(repeats, || {
                pool.install(|| {
                    let (a, b) = (GemmInputA::Packed(&packed_a), GemmInputB::Packed(&packed_b));
                    integers.gemm(&mut out, a, b, GemmOptions::default()).expect("shapes fit");
                });
            });
            let float_ms = time_ms(repeats, || {
                pool.install(|| {
                    let (a, b) = (GemmInputA::Packed(&packed_float_a), GemmInputB::Packed(&packed_float_b));
                    floats.gemm(&mut float_out, a, b, GemmOptions::default()).expect("shapes fit");
                });
            });
            // The first round warms up.
            if round > 0 {
                for (times, [wall_ms, processor_ms]) in times.iter_mut().zip([ours_ms, whole_ms, integer_ms, float_ms])
                {
                    times[0].push(wall_ms);
                    times[1].push(processor_ms);
                }
            }
        }
        let version = |kernel: &str| format!("rten-gemm 0.27.0, kernel {kernel}");
        let (integer_version, float_version) = (version(integers.kernel_name()), version(floats.kernel_name()));
        for (part, of) in ["", ", processor time"].into_iter().enumerate() {
            let [ours, whole, integer, float] = times.each_ref().map(|times| times[part].clone());
            let what = format!("8-bit product {name} [{m}, {n}, {k}], {threads} threads{of}");
            let packed = format!("{what}, operands packed");
            rows.push(Row::of_times(
                (packed.clone(), "rten-gemm u8·i8", integer_version.clone()),
                ours.clone(),
                integer,
            )?);
            rows.push(Row::of_times((packed, "rten-gemm f32", float_version.clone()), ours, float.clone())?);
            let rounded = format!("{what}, left operand rounded and packed from f32, theirs packed");
            rows.push(Row::of_times((rounded, "rten-gemm f32", float_version.clone()), whole, float)?);
        }
    }
    Ok(rows)
}
