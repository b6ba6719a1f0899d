//! A recorded sequence of dispatches: built once for a shape, run many times.

use super::compile::Pipelines;
use super::kernel::Kernel;
use crate::buffers::Buffer;
use crate::device::{Device, DeviceError};

/// Bytes from one dispatch's parameters to the next: every device's offset alignment divides it.
const SLOT_BYTES: usize = 256;
/// Bytes of parameters that a dispatch binds.
const PARAMETER_BYTES: u64 = 64;
/// Workgroups of one dispatch that every device allows.
const GROUPS_MAX: usize = 65_535;

/// One launch of a kernel, as its launcher describes it.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) kernel: Kernel,
    /// In the order of the shader's `Params`, without `first_group`.
    pub(crate) params: Vec<u32>,
    /// From binding 2 on.
    pub(crate) buffers: Vec<Buffer>,
    /// Number of workgroups.
    pub(crate) groups: usize,
    /// About as much work as this many multiply-adds.
    pub(crate) operations: u64,
}

/// The slot of a check whose outcome nobody asks for.
pub(crate) const NO_SLOT: u32 = u32::MAX;

pub(crate) struct Step {
    pub(crate) kernel: Kernel,
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    offset_bytes: u32,
    groups: u32,
    operations: u64,
}

/// Dispatches ready to be encoded.
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    parameters: wgpu::Buffer,
}

impl Program {
    /// Compiles what is missing and binds everything; `flags` takes the outcome of the checks.
    /// Dispatches that would take too long are cut into parts.
    pub(crate) fn new(pipelines: &mut Pipelines, flags: &Buffer, dispatches: &[Dispatch]) -> Result<Self, DeviceError> {
        let device = pipelines.device.clone();
        let parts: Vec<_> = dispatches.iter().flat_map(|dispatch| parts(&device, dispatch)).collect();
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let size_bytes = (parts.len().max(1) * SLOT_BYTES) as u64;
        let parameters = device.allocate_raw("kernel parameters", size_bytes, usage)?;
        device.queue.write_buffer(&parameters, 0, &words(&parts));
        let steps = parts.iter().enumerate().map(|(number, part)| {
            let offset_bytes = u32::try_from(number * SLOT_BYTES).expect("a pass has fewer than 2^24 dispatches");
            Ok(Step {
                kernel: part.dispatch.kernel,
                pipeline: pipelines.get(part.dispatch.kernel)?.pipeline.clone(),
                bindings: bind(pipelines, flags, &parameters, part.dispatch)?,
                offset_bytes,
                groups: part.groups,
                operations: part.operations(),
            })
        });
        Ok(Self { steps: steps.collect::<Result<_, DeviceError>>()?, parameters })
    }

    /// Replaces the parameters of all dispatches, which are those it was made of otherwise, from
    /// the next submission on.
    pub(crate) fn set_parameters(&self, device: &Device, dispatches: &[Dispatch]) {
        // Cut into as many parts as when it was made, whatever the pace is now.
        let mut steps = self.steps.iter();
        let mut parts = Vec::with_capacity(self.steps.len());
        for dispatch in dispatches {
            let mut first = 0;
            while first < dispatch.groups || first == 0 {
                let step = steps.next().expect("the dispatches are those that were bound");
                assert_eq!(step.kernel, dispatch.kernel);
                parts.push(Part { dispatch, first, groups: step.groups });
                first += step.groups.max(1) as usize;
            }
        }
        device.queue.write_buffer(&self.parameters, 0, &words(&parts));
    }
}

/// Some workgroups of a dispatch.
struct Part<'a> {
    dispatch: &'a Dispatch,
    first: usize,
    groups: u32,
}

impl Part<'_> {
    fn operations(&self) -> u64 {
        let all = self.dispatch.groups.max(1) as u64;
        (u128::from(self.dispatch.operations) * u128::from(self.groups) / u128::from(all)) as u64
    }
}

fn parts<'a>(device: &Device, dispatch: &'a Dispatch) -> Vec<Part<'a>> {
    let part = dispatch.groups.div_ceil(device.pace.parts(dispatch.operations)).clamp(1, GROUPS_MAX);
    let firsts = (0..dispatch.groups.max(1)).step_by(part);
    firsts.map(|first| Part { dispatch, first, groups: part.min(dispatch.groups - first) as u32 }).collect()
}

fn words(parts: &[Part<'_>]) -> Vec<u8> {
    let mut words = vec![0; parts.len() * SLOT_BYTES];
    for (slot, part) in words.chunks_exact_mut(SLOT_BYTES).zip(parts) {
        let first = u32::try_from(part.first).expect("tensors have fewer than 2^32 elements");
        let params = [first].into_iter().chain(part.dispatch.params.iter().copied());
        assert!(4 * (1 + part.dispatch.params.len()) as u64 <= PARAMETER_BYTES);
        for (place, word) in slot.chunks_exact_mut(4).zip(params) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
    words
}

fn bind(
    pipelines: &mut Pipelines,
    flags: &Buffer,
    parameters: &wgpu::Buffer,
    dispatch: &Dispatch,
) -> Result<wgpu::BindGroup, DeviceError> {
    let device = pipelines.device.clone();
    let pipeline = pipelines.get(dispatch.kernel)?;
    assert_eq!(dispatch.buffers.len(), pipeline.buffers, "buffers of `{}`", dispatch.kernel.name());
    let parameters =
        wgpu::BufferBinding { buffer: parameters, offset: 0, size: std::num::NonZeroU64::new(PARAMETER_BYTES) };
    let mut entries = vec![
        wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(parameters) },
        wgpu::BindGroupEntry { binding: 1, resource: flags.binding() },
    ];
    let buffers = (2..).zip(&dispatch.buffers);
    entries.extend(buffers.map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.binding() }));
    let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
    device.note_resource();
    Ok(device.device.create_bind_group(&descriptor))
}

/// Commands on their way to a device: submitted in pieces, so that none takes too long.
pub(crate) struct Commands<'a> {
    device: &'a Device,
    encoder: wgpu::CommandEncoder,
    /// Recorded since the last submission, and in all.
    pending: u64,
    operations: u64,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(device: &'a Device) -> Self {
        Self { device, encoder: device.encoder(), pending: 0, operations: 0 }
    }

    /// Sets a whole tensor to zero.
    pub(crate) fn clear(&mut self, buffer: &Buffer) {
        self.encoder.clear_buffer(&buffer.raw, 0, None);
    }

    /// Copies `count` words.
    pub(crate) fn copy(&mut self, from: (&Buffer, usize), to: (&Buffer, usize), count: usize) {
        assert!(from.1 + count <= from.0.len && to.1 + count <= to.0.len);
        let bytes = |words: usize| 4 * words as u64;
        self.encoder.copy_buffer_to_buffer(
            &from.0.raw,
            bytes(from.0.first + from.1),
            &to.0.raw,
            bytes(to.0.first + to.1),
            bytes(count),
        );
    }

    /// Appends a program's dispatches in their order.
    pub(crate) fn run(&mut self, program: &Program) {
        let mut steps = program.steps.as_slice();
        while !steps.is_empty() {
            let limit = self.device.pace.submission_operations();
            if self.pending >= limit {
                self.flush();
            }
            let mut pass = self.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            while let Some((step, rest)) = steps.split_first()
                && self.pending < limit
            {
                step.encode(&mut pass);
                self.pending += step.operations;
                self.operations += step.operations;
                steps = rest;
            }
        }
    }

    /// Submits what is recorded so far.
    pub(crate) fn flush(&mut self) {
        let encoder = std::mem::replace(&mut self.encoder, self.device.encoder());
        self.device.submit(encoder);
        self.pending = 0;
    }

    /// Submits everything.
    pub(crate) fn submit(self) -> wgpu::SubmissionIndex {
        self.device.submit(self.encoder)
    }

    /// Submits everything and reads the first `lens[i]` words of `buffers[i]` after it.
    pub(crate) fn submit_and_read(self, reads: &[(&Buffer, usize)]) -> Result<Vec<Vec<u32>>, DeviceError> {
        let start = std::time::Instant::now();
        let contents = self.device.submit_and_read(self.encoder, reads)?;
        self.device.pace.observe(self.operations, start.elapsed());
        Ok(contents)
    }
}

impl Step {
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[self.offset_bytes]);
        pass.dispatch_workgroups(self.groups, 1, 1);
    }
}
