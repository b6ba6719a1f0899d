//! One kernel at a time on a device, beside its native twin.

use crate::buffers::{Buffer, bits};
use crate::cpu::attention::BlockScratch;
use crate::cpu::pool::Pool;
use crate::cpu::random::Key;
use crate::cpu::simd::{Simd, SimdPath};
use crate::device::Device;
use crate::error::EngineError;
use crate::gpu::compile::Pipelines;
use crate::gpu::kernel::Form;
use crate::gpu::program::{Commands, Dispatch, Program};

/// What outputs are filled with before a kernel runs: a NaN.
pub(crate) const GARBAGE: u32 = 0x7fc0_beef;
/// The slot in which tested kernels report.
pub(crate) const SLOT: u32 = 1;
/// Slots that one run may report in.
const SLOTS: usize = 128;

/// The bits that a device and its native twin gave.
pub(crate) struct Outcome {
    pub(crate) found: Vec<u32>,
    pub(crate) expected: Vec<u32>,
}

/// Runs kernels of one form.
pub(crate) struct Bench {
    pub(crate) device: Device,
    pipelines: Pipelines,
    flags: Buffer,
    /// Key pairs that `keys` was made of.
    pub(crate) key_pairs: [Key; 2],
    pub(crate) keys: Buffer,
    pub(crate) pool: Pool<BlockScratch>,
    pub(crate) simd: Simd,
}

impl Bench {
    pub(crate) fn new(device: &Device, form: Form) -> Result<Self, EngineError> {
        let key_pairs = [[0x1234_5678, 0x9abc_def0], [0xdead_beef, 0x0bad_cafe]];
        Ok(Self {
            device: device.clone(),
            pipelines: Pipelines::new(device.clone(), form, Vec::new(), None),
            flags: device.allocate("check flags", SLOTS + 1)?,
            keys: device.upload("rounding keys", key_pairs.as_flattened())?,
            key_pairs,
            pool: Pool::new(1)?,
            simd: SimdPath::Auto.resolve()?,
        })
    }

    /// A tensor with these values.
    pub(crate) fn floats(&self, values: &[f32]) -> Result<Buffer, EngineError> {
        self.words(&bits(values))
    }

    /// A tensor with these words.
    pub(crate) fn words(&self, words: &[u32]) -> Result<Buffer, EngineError> {
        Ok(self.device.upload("a test tensor", words)?)
    }

    /// A tensor full of garbage.
    pub(crate) fn garbage(&self, len: usize) -> Result<Buffer, EngineError> {
        self.words(&vec![GARBAGE; len])
    }

    /// Runs `dispatches` and returns the contents of `outputs`, one after
    /// another, and whether a check failed.
    pub(crate) fn run(&mut self, dispatches: &[Dispatch], outputs: &[&Buffer]) -> Result<Vec<u32>, EngineError> {
        self.run_checks(dispatches, outputs, 1)
    }

    /// [`Bench::run`] for dispatches that report in slots 1 to `checks`.
    pub(crate) fn run_checks(
        &mut self,
        dispatches: &[Dispatch],
        outputs: &[&Buffer],
        checks: usize,
    ) -> Result<Vec<u32>, EngineError> {
        let program = Program::new(&mut self.pipelines, &self.flags, dispatches)?;
        let mut commands = Commands::new(&self.device);
        commands.clear(&self.flags);
        commands.run(&program);
        let mut reads: Vec<(&Buffer, usize)> = outputs.iter().map(|buffer| (*buffer, buffer.len)).collect();
        reads.push((&self.flags, checks + 1));
        let mut contents = commands.submit_and_read(&reads)?;
        let flags = contents.pop().unwrap_or_default();
        let mut found = contents.concat();
        found.extend(flags.iter().skip(1).map(|&flag| u32::from(flag != 0)));
        Ok(found)
    }
}

/// The bits of native outputs, and whether their range check fails.
pub(crate) fn expect(outputs: &[&[f32]], peak: u32) -> Vec<u32> {
    let mut expected = bits(&outputs.concat());
    expected.push(u32::from(peak >= crate::arithmetic::RANGE_LIMIT_BITS));
    expected
}
