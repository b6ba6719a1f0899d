//! Pipelines: kernels compiled on a device when they are first needed.

use super::kernel::{Form, Kernel};
use super::tiling::{ProductShape, Tiling};
use super::tuning::SharedTuning;
use crate::device::{Device, DeviceError, DeviceKind, block_on};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A kernel on a device.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// Number of buffers from binding 2 on.
    pub(crate) buffers: usize,
}

/// All that have been compiled on a device, in whatever form.
pub(crate) type Compiled = Mutex<HashMap<(Kernel, Form), Pipeline>>;

/// Kernels of one form, compiled when they are first needed.
pub(crate) struct Pipelines {
    pub(crate) device: Device,
    form: Form,
    /// Kernels that need the integer form although the others do not.
    soft_kernels: Vec<&'static str>,
    /// Without it, products take the default tiling.
    tuning: Option<SharedTuning>,
    /// What every product takes that may be split so.
    #[cfg(test)]
    pub(crate) forced: Option<Tiling>,
}

impl Pipelines {
    pub(crate) fn new(
        device: Device,
        form: Form,
        soft_kernels: Vec<&'static str>,
        tuning: Option<SharedTuning>,
    ) -> Self {
        Self {
            device,
            form,
            soft_kernels,
            tuning,
            #[cfg(test)]
            forced: None,
        }
    }

    /// The tiling for products of this shape, with space for so many words of sums of parts.
    pub(crate) fn tiling(&mut self, shape: &ProductShape, sum_words: usize) -> Tiling {
        #[cfg(test)]
        if let Some(tiling) = self.forced.filter(|tiling| shape.may_split(tiling, sum_words)) {
            return tiling;
        }
        match self.tuning.clone() {
            Some(tuning) => tuning.tiling(self, shape, sum_words),
            None => Tiling::DEFAULT,
        }
    }

    /// All tilings that may be used on this device.
    pub(crate) fn tilings(&self) -> Vec<Tiling> {
        Tiling::candidates(self.device.report().kind == DeviceKind::Software, self.device.extras.subgroups)
    }

    /// The kernel, compiled.
    pub(crate) fn get(&self, kernel: Kernel) -> Result<Pipeline, DeviceError> {
        let soft = self.form.soft || self.soft_kernels.contains(&kernel.name());
        let shared_exchange = self.form.shared_exchange || !self.device.extras.subgroups;
        let form = Form { soft, shared_exchange, ..self.form };
        // Held while compiling, so that nobody compiles the same.
        let mut compiled = self.device.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = compiled.get(&(kernel, form)) {
            return Ok(known.clone());
        }
        let pipeline = compile(&self.device, kernel, form)?;
        compiled.insert((kernel, form), pipeline.clone());
        Ok(pipeline)
    }
}

fn compile(device: &Device, kernel: Kernel, form: Form) -> Result<Pipeline, DeviceError> {
    let access = kernel.access();
    device.check()?;
    let raw = &device.device;
    let scope = raw.push_error_scope(wgpu::ErrorFilter::Validation);
    let entry = |binding, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    };
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true), entry(1, storage(false), false)];
    entries.extend((2..).zip(access.bytes()).map(|(binding, access)| {
        let read_only = access == b'r';
        entry(binding, storage(read_only), false)
    }));
    let layout = raw.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name()),
        source: wgpu::ShaderSource::Wgsl(kernel.text(form).into()),
    };
    // SAFETY: the texts are our own (tests have naga validate each of them), every loop counts
    // up to a bound, and every index follows from extents that the launchers assert and from
    // tokens that are checked before they are uploaded.
    let module = unsafe { raw.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline_layout = raw.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = raw.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name()),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Kernels write it before they read it.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    match block_on(scope.pop()) {
        Some(error) => Err(DeviceError::Kernel { kernel: kernel.name(), problem: error.to_string() }),
        None => {
            device.note_resource();
            Ok(Pipeline { pipeline, layout, buffers: access.len() })
        }
    }
}
