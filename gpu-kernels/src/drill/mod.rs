//! The gemm work unit: an exact integer product that follows from a seed alone,
//! and a digest of it that is the same on every device.
//!
//! C = A·Bᵀ with A of `rows` × `depth` and B of `columns` × `depth` integers from
//! −127 to 127, drawn by the counter-based hash `mix`. Each row of C is folded to
//! 32 bits on the device that computed it, so that not the product but one word a
//! row leaves it; the digest is blake3 over shape, seed and these words. The fold
//! passes every element through `mix`, which no algebra moves across a sum: who
//! leaves an element out has to guess it. `docs/drilling.md` says it to the byte.
//!
//! Who must show that it did the work, although others know the digest already, is
//! given a challenge and owes a second digest of the same words, keyed with it.
//!
//! The product is made by the very kernels that train. These round sums to 24
//! bits, so `depth` is at most 1,024: then no sum reaches 2²⁴ and all are exact.
//! Work is done in blocks of rows, between which a caller may pause or stop it.

mod device;
mod native;
#[cfg(test)]
mod tests;

use crate::admission::AdmittedDevice;
use crate::cpu::random::{Key, key_from};
use crate::cpu::simd::SimdPath;
use crate::error::EngineError;
use device::DeviceGemm;
use native::NativeGemm;
use std::time::{Duration, Instant};

/// Longest contracted axis: 127² · 1,024 < 2²⁴.
pub const GEMM_DEPTH_MAX: usize = 1024;
/// Most columns of the product, so that memory stays small.
pub const GEMM_COLUMNS_MAX: usize = 1 << 14;
/// Most rows of the product: words of an operand are counted in 32 bits.
pub const GEMM_ROWS_MAX: usize = 1 << 23;

/// Domain of the keys that a seed is stretched to.
const KEYS_CONTEXT: &str = "manta 2026-11 gemm keys v1";
/// Domain of the digest.
const DIGEST_CONTEXT: &str = "manta 2026-11 gemm digest v1";

/// How long a block of rows should take: others who want the device wait no longer.
const BLOCK_TIME: Duration = Duration::from_millis(20);

/// The sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    /// Rows of A and of C.
    pub rows: usize,
    /// Rows of B, columns of C.
    pub columns: usize,
    /// Length of the contracted axis: a multiple of 4.
    pub depth: usize,
}

impl GemmShape {
    /// Operations of the product: a multiplication and an addition for each of its terms.
    pub fn operations(&self) -> u64 {
        2 * self.rows as u64 * self.columns as u64 * self.depth as u64
    }

    fn check(&self) -> Result<(), EngineError> {
        let sizes = [
            ("rows of a gemm unit", self.rows, GEMM_ROWS_MAX),
            ("columns of a gemm unit", self.columns, GEMM_COLUMNS_MAX),
            ("depth of a gemm unit", self.depth, GEMM_DEPTH_MAX),
        ];
        for (what, found, limit) in sizes {
            if !(1..=limit).contains(&found) {
                return Err(EngineError::Length { what, expected: format!("1 to {limit}"), found });
            }
        }
        if !self.depth.is_multiple_of(4) {
            let expected = "a multiple of 4".into();
            return Err(EngineError::Length { what: "depth of a gemm unit", expected, found: self.depth });
        }
        Ok(())
    }
}

/// What a seed is stretched to.
#[derive(Clone, Copy)]
struct Keys {
    left: Key,
    right: Key,
    fold: u32,
}

impl Keys {
    fn new(seed: &[u8; 32]) -> Self {
        let bytes = blake3::derive_key(KEYS_CONTEXT, seed);
        let key = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            key_from(&eight)
        };
        Self { left: key(0), right: key(8), fold: key(16)[0] }
    }
}

/// What a unit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmDigests {
    /// The same for everyone who executes the unit.
    pub digest: [u8; 32],
    /// A second digest of the same words, keyed with the challenge that was given;
    /// zero without one.
    pub check: [u8; 32],
}

/// Both digests so far.
struct Digests {
    digest: blake3::Hasher,
    check: Option<blake3::Hasher>,
}

impl Digests {
    fn new(shape: &GemmShape, seed: &[u8; 32], challenge: Option<&[u8; 32]>) -> Self {
        let digest = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        let mut digests = Self { digest, check: challenge.map(blake3::Hasher::new_keyed) };
        for size in [shape.rows, shape.columns, shape.depth] {
            digests.update(&(size as u32).to_le_bytes());
        }
        digests.update(seed);
        digests
    }

    fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        if let Some(check) = &mut self.check {
            check.update(bytes);
        }
    }

    /// Takes the folds of the next rows.
    fn rows(&mut self, folds: &[u32]) {
        for fold in folds {
            self.update(&fold.to_le_bytes());
        }
    }

    fn finish(self) -> GemmDigests {
        let check = self.check.map_or([0; 32], |check| *check.finalize().as_bytes());
        GemmDigests { digest: *self.digest.finalize().as_bytes(), check }
    }
}

/// Executes gemm units on the processor or on a graphics device.
pub struct GemmDriller {
    machine: Machine,
    /// Rows that took about [`BLOCK_TIME`] lately, times columns and depth: terms.
    block_terms: usize,
}

enum Machine {
    Native(Box<NativeGemm>),
    Device(Box<DeviceGemm>),
}

/// Rows of one product that are computed in one go.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
}

impl GemmDriller {
    /// On the processor, with `threads` threads, 0 for one on each processor.
    ///
    /// # Errors
    /// An instruction set that the machine lacks, or threads that cannot be started.
    pub fn native(threads: usize, simd: SimdPath) -> Result<Self, EngineError> {
        Ok(Self::on(Machine::Native(Box::new(NativeGemm::new(threads, simd)?))))
    }

    /// On a graphics device that has passed its tests.
    ///
    /// # Errors
    /// The device is lost or out of memory.
    pub fn on_device(device: &AdmittedDevice) -> Result<Self, EngineError> {
        Ok(Self::on(Machine::Device(Box::new(DeviceGemm::new(device)?))))
    }

    fn on(machine: Machine) -> Self {
        Self { machine, block_terms: 1 << 24 }
    }

    /// The digests of the unit of `seed`, the second one keyed with `challenge`;
    /// `None` if it was stopped.
    ///
    /// `may_go_on` is asked before each block of rows, of about 20 ms each; it may
    /// wait as long as it likes, and stops the unit by answering `false`.
    ///
    /// # Errors
    /// A shape out of bounds, or a device that is lost or out of memory.
    pub fn execute(
        &mut self,
        shape: &GemmShape,
        seed: &[u8; 32],
        challenge: Option<&[u8; 32]>,
        may_go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<GemmDigests>, EngineError> {
        shape.check()?;
        let keys = Keys::new(seed);
        match &mut self.machine {
            Machine::Native(native) => native.begin(shape, &keys),
            Machine::Device(device) => device.begin(shape, &keys)?,
        }
        let mut digests = Digests::new(shape, seed, challenge);
        let mut first = 0;
        while first < shape.rows {
            if !may_go_on() {
                return Ok(None);
            }
            let rows = (self.block_terms / (shape.columns * shape.depth)).clamp(1, shape.rows - first);
            let begun = Instant::now();
            let block = Block { first, rows };
            let done = match &mut self.machine {
                Machine::Native(native) => native.block(shape, &keys, block)?,
                Machine::Device(device) => device.block(shape, &keys, block)?,
            };
            digests.rows(&done);
            first += done.len();
            self.adapt(done.len() * shape.columns * shape.depth, begun.elapsed());
        }
        Ok(Some(digests.finish()))
    }

    /// Sizes the next block by how long this one took; it at most doubles, as first
    /// blocks also pay for what is set up lazily.
    fn adapt(&mut self, terms: usize, elapsed: Duration) {
        let aim = terms as f64 * BLOCK_TIME.as_secs_f64() / elapsed.as_secs_f64().max(1e-6);
        self.block_terms = (aim as usize).clamp(1, self.block_terms.saturating_mul(2));
    }

    /// Operations per second of whole units of growing size, measured until one
    /// takes `duration_ms`.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub fn measure_operations_per_s(&mut self, duration_ms: u64) -> Result<u64, EngineError> {
        let mut shape = GemmShape { rows: 64, columns: 1024, depth: GEMM_DEPTH_MAX };
        loop {
            let begun = Instant::now();
            self.execute(&shape, &[0; 32], None, &mut || true)?;
            let elapsed = begun.elapsed();
            if elapsed >= Duration::from_millis(duration_ms) || shape.rows >= GEMM_ROWS_MAX {
                return Ok((shape.operations() as f64 / elapsed.as_secs_f64().max(1e-9)) as u64);
            }
            // Columns grow first: with few of them the operands cost more than the product.
            if shape.columns < GEMM_COLUMNS_MAX / 2 { shape.columns *= 2 } else { shape.rows *= 2 }
        }
    }
}
