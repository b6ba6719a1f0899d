//! Products at training shapes beside rten-gemm's, of 8-bit integers and of f32.

use crate::row::Row;
use manta_gpu_kernels::SimdPath;
use manta_gpu_kernels::benchmark::{ProductBenchmark, TRAINING_SHAPES};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use std::error::Error;
use std::time::Instant;

fn time_ms(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
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
        let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for round in 0..=samples {
            let ours_ms = time_ms(|| ours.multiply());
            let pack_ms = time_ms(|| ours.pack());
            let integer_ms = time_ms(|| {
                pool.install(|| {
                    let (a, b) = (GemmInputA::Packed(&packed_a), GemmInputB::Packed(&packed_b));
                    integers.gemm(&mut out, a, b, GemmOptions::default()).expect("shapes fit");
                });
            });
            let float_ms = time_ms(|| {
                pool.install(|| {
                    let (a, b) = (GemmInputA::Packed(&packed_float_a), GemmInputB::Packed(&packed_float_b));
                    floats.gemm(&mut float_out, a, b, GemmOptions::default()).expect("shapes fit");
                });
            });
            // The first round warms up.
            if round > 0 {
                for (times, ms) in times.iter_mut().zip([ours_ms, pack_ms, integer_ms, float_ms]) {
                    times.push(ms);
                }
            }
        }
        let [ours_ms, pack_ms, integer_ms, float_ms] = times;
        let what = format!("product {name} [{m}, {n}, {k}], {threads} threads");
        let version = |kernel: &str| format!("rten-gemm 0.27.0, kernel {kernel}");
        rows.push(Row::of_times(
            (format!("8-bit {what}, operands packed"), "rten-gemm u8·i8", version(integers.kernel_name())),
            ours_ms.clone(),
            integer_ms,
        )?);
        rows.push(Row::of_times(
            (format!("8-bit {what}, operands packed, against f32"), "rten-gemm f32", version(floats.kernel_name())),
            ours_ms.clone(),
            float_ms.clone(),
        )?);
        rows.push(Row::of_times(
            (
                format!("8-bit {what}, left operand rounded and packed from f32, against f32 packed"),
                "rten-gemm f32",
                version(floats.kernel_name()),
            ),
            ours_ms.iter().zip(&pack_ms).map(|(product, pack)| product + pack).collect(),
            float_ms,
        )?);
    }
    Ok(rows)
}
