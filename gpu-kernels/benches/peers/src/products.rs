//! Products at training shapes beside those of rten-gemm, gemm and OpenBLAS.

use crate::openblas::OpenBlas;
use crate::row::Row;
use manta_gpu_kernels::SimdPath;
use manta_gpu_kernels::benchmark::{ProductBenchmark, TRAINING_PRODUCTS, processor_ms};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedAMatrix, PackedBMatrix};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use std::error::Error;
use std::time::{Duration, Instant};

/// Multiply-adds of a sample at least: a tenth of a second and more, so that a system that has woken two threads on one
/// processor has moved one of them away for most of it.
const MULTIPLY_ADDS: usize = 40_000_000_000;

/// Waits until no thread of this process works: OpenBLAS's wait for more by turning in circles, for some 25 ms,
/// on processors that whoever is measured next needs.
fn rest() {
    let mut before_ms = f64::NEG_INFINITY;
    let mut now_ms = processor_ms();
    while now_ms - before_ms >= 1.0 {
        std::thread::sleep(Duration::from_millis(10));
        (before_ms, now_ms) = (now_ms, processor_ms());
    }
}

/// Milliseconds on the clock and of the processor, one `work` of `repeats`.
fn time_ms(repeats: usize, mut work: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<[f64; 2], Box<dyn Error>> {
    rest();
    let (start, before_ms) = (Instant::now(), processor_ms());
    for _ in 0..repeats {
        work()?;
    }
    let wall_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok([wall_ms, processor_ms() - before_ms].map(|ms| ms / repeats as f64))
}

/// rten-gemm's kernels for this processor.
#[derive(Default)]
struct Rten {
    integers: GemmExecutor<u8, i8, i32>,
    floats: GemmExecutor<f32>,
}

/// Others' products of one shape.
struct Peers<'a> {
    shape: [usize; 3],
    threads: usize,
    rten: &'a Rten,
    integer_operands: (PackedAMatrix<u8>, PackedBMatrix<i8>),
    float_operands: (PackedAMatrix<f32>, PackedBMatrix<f32>),
    /// A\[m, k\] and B\[n, k\].
    plain: [Vec<f32>; 2],
    integer_out: Vec<i32>,
    out: Vec<f32>,
}

impl<'a> Peers<'a> {
    fn new(rten: &'a Rten, shape: [usize; 3], threads: usize) -> Self {
        let [m, n, k] = shape;
        let Rten { integers, floats } = rten;
        let a = NdTensor::from_fn([m, k], |[i, j]| ((i * 31 + j * 7) % 255) as u8);
        let b = NdTensor::from_fn([k, n], |[i, j]| (((i * 13 + j * 5) % 255) as i16 - 127) as i8);
        let (float_a, float_b) = (a.map(|&x| f32::from(x)), b.map(|&x| f32::from(x)));
        Self {
            shape,
            threads,
            integer_operands: (integers.prepack_a(a.view()), integers.prepack_b(b.view())),
            float_operands: (floats.prepack_a(float_a.view()), floats.prepack_b(float_b.view())),
            plain: [float_a.to_vec(), float_b.transposed().to_vec()],
            rten,
            integer_out: vec![0; m * n],
            out: vec![0.0; m * n],
        }
    }

    /// rten-gemm on packed u8 and i8, to i32.
    fn rten_integers(&mut self) -> Result<(), Box<dyn Error>> {
        let (a, b) = &self.integer_operands;
        let inputs = (GemmInputA::Packed(a), GemmInputB::Packed(b));
        let outcome = self.rten.integers.gemm(&mut self.integer_out, inputs.0, inputs.1, GemmOptions::default());
        outcome.map_err(|error| format!("rten-gemm: {error:?}").into())
    }

    /// rten-gemm on packed f32.
    fn rten_floats(&mut self) -> Result<(), Box<dyn Error>> {
        let (a, b) = &self.float_operands;
        let inputs = (GemmInputA::Packed(a), GemmInputB::Packed(b));
        let outcome = self.rten.floats.gemm(&mut self.out, inputs.0, inputs.1, GemmOptions::default());
        outcome.map_err(|error| format!("rten-gemm: {error:?}").into())
    }

    /// gemm on f32; it packs by itself.
    fn gemm_floats(&mut self) {
        let ([m, n, k], [a, b]) = (self.shape, &self.plain);
        let parallelism = if self.threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(0) };
        let (columns, depth) = (n as isize, k as isize);
        // SAFETY: the matrices are as long as their shapes and strides say.
        unsafe {
            let out = self.out.as_mut_ptr();
            let (left, right) = ((a.as_ptr(), 1, depth), (b.as_ptr(), depth, 1));
            #[rustfmt::skip]
            gemm::gemm(m, n, k, out, 1, columns, false, left.0, left.1, left.2, right.0, right.1, right.2,
                0.0, 1.0, false, false, false, parallelism);
        }
    }

    /// OpenBLAS on f32; it packs by itself.
    fn openblas_floats(&mut self, openblas: &OpenBlas) -> Result<(), Box<dyn Error>> {
        openblas.product(self.shape, &self.plain[0], &self.plain[1], &mut self.out)
    }

    /// gemm and OpenBLAS must have computed the same product.
    fn check(&mut self, openblas: &OpenBlas) -> Result<(), Box<dyn Error>> {
        self.gemm_floats();
        let gemm = std::mem::replace(&mut self.out, vec![0.0; self.shape[0] * self.shape[1]]);
        self.openblas_floats(openblas)?;
        // Operands up to 255 and 127, so sums of up to a thousand products are near 2²⁵.
        let differ = gemm.iter().zip(&self.out).position(|(a, b)| (a - b).abs() > 1e-4 * (1 << 25) as f32);
        match differ {
            Some(place) => Err(format!("gemm and OpenBLAS differ at {place}").into()),
            None => Ok(()),
        }
    }
}

/// Ours takes packed operands to f32, rounded and scaled; rten's take packed
/// operands to i32 or f32, and gemm and OpenBLAS take plain f32.
pub fn compare(threads: usize, samples: usize, command: &str) -> Result<Vec<Row>, Box<dyn Error>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let openblas = OpenBlas::load(threads)?;
    let rten = Rten::default();
    let mut rows = Vec::new();
    for (name, role, shape @ [m, n, k]) in TRAINING_PRODUCTS {
        let mut ours = ProductBenchmark::new(shape, role, SimdPath::Auto, threads)?;
        let mut peers = Peers::new(&rten, shape, threads);
        pool.install(|| peers.check(&openblas).map_err(|error| error.to_string()))?;
        let repeats = (MULTIPLY_ADDS / (m * n * k)).max(1);
        let mut times: [[Vec<f64>; 2]; 6] = Default::default();
        for round in 0..=samples {
            let mut in_pool = |work: fn(&mut Peers<'_>) -> Result<(), Box<dyn Error>>| {
                time_ms(repeats, || {
                    pool.install(|| work(&mut peers).map_err(|error| error.to_string())).map_err(Into::into)
                })
            };
            let theirs = [
                in_pool(|peers| peers.rten_integers())?,
                in_pool(|peers| peers.rten_floats())?,
                in_pool(|peers| {
                    peers.gemm_floats();
                    Ok(())
                })?,
            ];
            let openblas_ms = time_ms(repeats, || peers.openblas_floats(&openblas))?;
            let ours_ms = time_ms(repeats, || {
                ours.multiply();
                Ok(())
            })?;
            let whole_ms = time_ms(repeats, || {
                ours.pack();
                ours.multiply();
                Ok(())
            })?;
            // The first round warms up.
            if round > 0 {
                let all = [ours_ms, whole_ms, theirs[0], theirs[1], theirs[2], openblas_ms];
                for (times, sample) in times.iter_mut().zip(all) {
                    times[0].push(sample[0]);
                    times[1].push(sample[1]);
                }
            }
        }
        let of_rten = |kernel: &str| format!("rten-gemm 0.27, kernel {kernel}");
        let peer_names = [
            ("rten-gemm u8·i8", of_rten(rten.integers.kernel_name())),
            ("rten-gemm f32", of_rten(rten.floats.kernel_name())),
            ("gemm f32", "gemm 0.19, feature x86-v4".to_owned()),
            ("OpenBLAS f32", openblas.version.clone()),
        ];
        for (part, of) in ["", ", processor time"].into_iter().enumerate() {
            let [ours, whole, theirs @ ..] = times.each_ref().map(|times| times[part].clone());
            let what = format!("8-bit product {name} [{m}, {n}, {k}], {threads} threads{of}");
            for (place, ((peer, version), theirs)) in peer_names.iter().zip(theirs).enumerate() {
                let about = (format!("{what}, operands packed"), *peer, version.clone(), command);
                rows.push(Row::of_times(about, ours.clone(), theirs.clone())?);
                if place > 0 {
                    let rounded = format!("{what}, left operand rounded and packed from f32");
                    rows.push(Row::of_times((rounded, *peer, version.clone(), command), whole.clone(), theirs)?);
                }
            }
        }
    }
    Ok(rows)
}
