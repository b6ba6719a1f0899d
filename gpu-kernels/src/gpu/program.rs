//! A recorded sequence of dispatches: built once for a shape, run many times.

use super::kernel::{Kernel, Pipelines};
use crate::buffers::Buffer;
use crate::device::{Device, DeviceError};

/// Bytes from one dispatch's parameters to the next: every device's offset alignment divides it.
const SLOT_BYTES: usize = 256;
/// Bytes of parameters that a dispatch binds.
const PARAMETER_BYTES: u64 = 64;
/// Workgroups along one dimension that every device allows.
const GROUPS_MAX: u32 = 65_535;

/// One launch of a kernel, as its launcher describes it.
pub(crate) struct Dispatch {
    pub(crate) kernel: Kernel,
    /// In the order of the shader's `Params`.
    pub(crate) params: Vec<u32>,
    /// From binding 2 on.
    pub(crate) buffers: Vec<Buffer>,
    /// Number of workgroups.
    pub(crate) groups: usize,
}

/// The slot of a check whose outcome nobody asks for.
pub(crate) const NO_SLOT: u32 = u32::MAX;

struct Step {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    offset_bytes: u32,
    groups: [u32; 2],
}

/// Dispatches ready to be encoded.
pub(crate) struct Program {
    steps: Vec<Step>,
    parameters: wgpu::Buffer,
    words: Vec<u8>,
}

impl Program {
    /// Compiles what is missing and binds everything; `flags` takes the outcome of the checks.
    pub(crate) fn new(pipelines: &mut Pipelines, flags: &Buffer, dispatches: &[Dispatch]) -> Result<Self, DeviceError> {
        let device = pipelines.device.clone();
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let size_bytes = (dispatches.len().max(1) * SLOT_BYTES) as u64;
        let parameters = device.allocate_raw("kernel parameters", size_bytes, usage)?;
        let mut words = vec![0; dispatches.len() * SLOT_BYTES];
        let mut steps = Vec::with_capacity(dispatches.len());
        for (number, dispatch) in dispatches.iter().enumerate() {
            let start = number * SLOT_BYTES;
            for (place, word) in words[start..].chunks_exact_mut(4).zip(&dispatch.params) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            steps.push(bind(pipelines, &device, flags, &parameters, dispatch, start as u32)?);
        }
        Ok(Self { steps, parameters, words })
    }

    /// Records the dispatches in order.
    pub(crate) fn encode(&self, device: &Device, encoder: &mut wgpu::CommandEncoder) {
        device.queue.write_buffer(&self.parameters, 0, &self.words);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for step in &self.steps {
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.bindings, &[step.offset_bytes]);
            pass.dispatch_workgroups(step.groups[0], step.groups[1], 1);
        }
    }
}

fn bind(
    pipelines: &mut Pipelines,
    device: &Device,
    flags: &Buffer,
    parameters: &wgpu::Buffer,
    dispatch: &Dispatch,
    offset_bytes: u32,
) -> Result<Step, DeviceError> {
    let pipeline = pipelines.get(dispatch.kernel)?;
    assert!(dispatch.params.len() as u64 * 4 <= PARAMETER_BYTES);
    assert_eq!(dispatch.buffers.len(), pipeline.buffers, "buffers of `{}`", dispatch.kernel.name());
    let parameters =
        wgpu::BufferBinding { buffer: parameters, offset: 0, size: std::num::NonZeroU64::new(PARAMETER_BYTES) };
    let mut entries = vec![
        wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(parameters) },
        wgpu::BindGroupEntry { binding: 1, resource: flags.raw.as_entire_binding() },
    ];
    entries.extend(
        (2..)
            .zip(&dispatch.buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.raw.as_entire_binding() }),
    );
    let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
    Ok(Step {
        bindings: device.device.create_bind_group(&descriptor),
        pipeline: pipeline.pipeline.clone(),
        offset_bytes,
        groups: grid(dispatch.groups),
    })
}

/// Folds a number of workgroups into two dimensions; kernels ignore those beyond the number.
fn grid(groups: usize) -> [u32; 2] {
    let groups = u32::try_from(groups).expect("tensors have fewer than 2^32 elements");
    if groups <= GROUPS_MAX { [groups, 1] } else { [GROUPS_MAX, groups.div_ceil(GROUPS_MAX)] }
}
