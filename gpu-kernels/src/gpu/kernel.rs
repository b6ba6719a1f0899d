//! Shader sources and their forms: which text a kernel is made of, and how it is compiled.

use crate::device::{Device, DeviceError, block_on};
use std::collections::HashMap;
use std::fmt::Write;

/// One compiled function: an op and the constants it is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    PackRows { digits: u32, stochastic: bool },
    PackColumns { digits: u32, stochastic: bool },
    Matmul { left_digits: u32, right_digits: u32, tile: u32 },
    RmsNorm,
    RmsNormBackward,
    RmsNormWeightGradient,
    Rope,
    SoftmaxCausal,
    SoftmaxCausalBackward,
    GroupSum,
    Swiglu,
    SwigluBackward,
    CrossEntropy,
    Embedding,
    EmbeddingGradient,
    Add,
    SumPeak,
    Accumulate,
    SumOfSquares,
    GradientScale,
    AdamwPreview,
    Adamw,
    GemmOperand,
    GemmFold,
}

/// A deliberately wrong form of the arithmetic, to prove that the known-answer
/// vectors tell it from the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// A product and the sum after it are rounded once.
    Fused,
    /// Sums are folded in another order.
    Reassociated,
    /// Only numbers that f32 cannot hold normally are flushed.
    FlushesSubnormals,
    /// Flushing starts one power of two too high.
    FlushesEarly,
    /// Roundings go towards zero.
    Truncates,
    /// Ties go away from zero.
    TiesAway,
}

impl Flaw {
    pub(crate) const ALL: [Self; 6] =
        [Self::Fused, Self::Reassociated, Self::FlushesSubnormals, Self::FlushesEarly, Self::Truncates, Self::TiesAway];
}

/// How kernels are compiled; all forms without a flaw give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// f32 sums and products in integers.
    pub(crate) soft: bool,
    /// Dot products by plain integer arithmetic instead of the built-in.
    pub(crate) portable_dot: bool,
    pub(crate) flaw: Option<Flaw>,
}

macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("../../shaders/parts/", $name, ".wgsl"))
    };
}

// Texts that shaders share.
const CANONICAL: &str = part!("canonical");
const FUNCTIONS: &str = part!("functions");
const TREE: &str = part!("tree");
const HASH: &str = part!("hash");
const QUANTIZE: &str = part!("quantize");
const PACK: &str = part!("pack");
const SOFTMAX: &str = part!("softmax");
const CAUSAL: &str = part!("causal");
const ADAMW_UPDATE: &str = part!("adamw_update");
// The entries: what a thread or a workgroup computes is up to the op.
const ELEMENTS: &str = part!("elements");
const ROWS: &str = part!("rows");

/// What a shader consists of.
struct Source {
    name: &'static str,
    text: &'static str,
    /// Texts before it, after the canonical arithmetic.
    parts: &'static [&'static str],
    /// Access to each buffer from binding 2 on: r or w.
    access: &'static str,
}

macro_rules! source {
    ($name:literal, $access:literal $(, $part:ident)*) => {
        Source {
            name: $name,
            text: include_str!(concat!("../../shaders/", $name, ".wgsl")),
            parts: &[$($part),*],
            access: $access,
        }
    };
}

impl Kernel {
    /// Every kernel, and every number of digits it is compiled for.
    pub(crate) fn all() -> Vec<Self> {
        let mut kernels = vec![
            Self::RmsNorm,
            Self::RmsNormBackward,
            Self::RmsNormWeightGradient,
            Self::Rope,
            Self::SoftmaxCausal,
            Self::SoftmaxCausalBackward,
            Self::GroupSum,
            Self::Swiglu,
            Self::SwigluBackward,
            Self::CrossEntropy,
            Self::Embedding,
            Self::EmbeddingGradient,
            Self::Add,
            Self::SumPeak,
            Self::Accumulate,
            Self::SumOfSquares,
            Self::GradientScale,
            Self::AdamwPreview,
            Self::Adamw,
            Self::GemmOperand,
            Self::GemmFold,
        ];
        for digits in [1, 2] {
            for stochastic in [false, true] {
                kernels.extend([Self::PackRows { digits, stochastic }, Self::PackColumns { digits, stochastic }]);
            }
            for tile in [32, 64] {
                kernels.extend([1, 2].map(|right_digits| Self::Matmul { left_digits: digits, right_digits, tile }));
            }
        }
        kernels
    }

    fn source(self) -> Source {
        match self {
            Self::PackRows { .. } => source!("pack_rows", "rrww", HASH, QUANTIZE, PACK),
            Self::PackColumns { .. } => source!("pack_columns", "rrww", HASH, QUANTIZE, PACK),
            Self::Matmul { .. } => source!("matmul", "rrrrw"),
            Self::RmsNorm => source!("rms_norm", "rrww", FUNCTIONS, TREE, ROWS),
            Self::RmsNormBackward => source!("rms_norm_backward", "rrrrw", TREE, ROWS),
            Self::RmsNormWeightGradient => source!("rms_norm_weight_gradient", "rrrw", TREE),
            Self::Rope => source!("rope", "rrw", ELEMENTS),
            Self::SoftmaxCausal => source!("softmax_causal", "w", FUNCTIONS, TREE, ROWS, SOFTMAX, CAUSAL),
            Self::SoftmaxCausalBackward => source!("softmax_causal_backward", "rw", TREE, ROWS, CAUSAL),
            Self::GroupSum => source!("group_sum", "rw", ELEMENTS),
            Self::Swiglu => source!("swiglu", "rw", FUNCTIONS, ELEMENTS),
            Self::SwigluBackward => source!("swiglu_backward", "rrw", FUNCTIONS, ELEMENTS),
            Self::CrossEntropy => source!("cross_entropy", "wrw", FUNCTIONS, TREE, ROWS, SOFTMAX),
            Self::Embedding => source!("embedding", "rrw", ELEMENTS),
            Self::EmbeddingGradient => source!("embedding_gradient", "rrrw", ELEMENTS),
            Self::Add => source!("add", "rrw", ELEMENTS),
            Self::SumPeak => source!("sum_peak", "rr", ELEMENTS),
            Self::Accumulate => source!("accumulate", "rw", ELEMENTS),
            Self::SumOfSquares => source!("sum_of_squares", "rw", TREE, ROWS),
            Self::GradientScale => source!("gradient_scale", "rw", FUNCTIONS, TREE, ROWS),
            Self::AdamwPreview => source!("adamw_preview", "rrrrr", FUNCTIONS, ELEMENTS, ADAMW_UPDATE),
            Self::Adamw => source!("adamw", "rrwww", FUNCTIONS, ELEMENTS, ADAMW_UPDATE),
            Self::GemmOperand => source!("gemm_operand", "w", HASH, ELEMENTS),
            Self::GemmFold => source!("gemm_fold", "rw", HASH),
        }
    }

    /// The op's name: that of its shader and of its native twin.
    pub(crate) fn name(self) -> &'static str {
        self.source().name
    }

    /// The whole text that is compiled.
    pub(crate) fn text(self, form: Form) -> String {
        let source = self.source();
        let mut text = header(self, form);
        for part in [CANONICAL].iter().chain(source.parts).chain([&source.text]) {
            text.push_str(part);
            text.push('\n');
        }
        text
    }
}

/// The constants that the texts expect.
fn header(kernel: Kernel, form: Form) -> String {
    // Flaws are those of the device's own sums and products.
    let flaw = if form.soft { None } else { form.flaw };
    let rounding = match flaw {
        Some(Flaw::Truncates) => 1,
        Some(Flaw::TiesAway) => 2,
        _ => 0,
    };
    let flush_field = match flaw {
        Some(Flaw::FlushesSubnormals) => 1u32,
        Some(Flaw::FlushesEarly) => 28,
        _ => 27,
    };
    let soft = form.soft || rounding != 0;
    let mut text = format!(
        "const SOFT: bool = {soft};\nconst ROUNDING: u32 = {rounding}u;\nconst FUSED: bool = {};\n\
         const FLUSH_BITS: u32 = {}u;\nconst FOLD_UPWARDS: bool = {};\n",
        flaw == Some(Flaw::Fused),
        flush_field << 23,
        flaw == Some(Flaw::Reassociated),
    );
    // Writing to a string does not fail.
    let _ = match kernel {
        Kernel::PackRows { digits, stochastic } | Kernel::PackColumns { digits, stochastic } => {
            let (below, limit) = if digits == 1 { (6, 127) } else { (13, 16_384) };
            write!(
                text,
                "const DIGITS: u32 = {digits}u;\nconst STOCHASTIC: bool = {stochastic};\n\
                 const BELOW: u32 = {below}u;\nconst LIMIT: i32 = {limit};\n"
            )
        }
        Kernel::Matmul { left_digits, right_digits, tile } => write!(
            text,
            "const TILE: u32 = {tile}u;\nconst LEFT_DIGITS: u32 = {left_digits}u;\nconst RIGHT_DIGITS: u32 = {right_digits}u;\n\
             const BUILTIN_DOT: bool = {};\n",
            !form.portable_dot
        ),
        _ => Ok(()),
    };
    text
}

/// A kernel on a device.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// Number of buffers from binding 2 on.
    pub(crate) buffers: usize,
}

/// Kernels of one form, compiled when they are first needed.
pub(crate) struct Pipelines {
    pub(crate) device: Device,
    form: Form,
    /// Kernels that need the integer form although the others do not.
    soft_kernels: Vec<&'static str>,
    compiled: HashMap<Kernel, Pipeline>,
}

impl Pipelines {
    pub(crate) fn new(device: Device, form: Form, soft_kernels: Vec<&'static str>) -> Self {
        Self { device, form, soft_kernels, compiled: HashMap::new() }
    }

    /// The kernel, compiled.
    pub(crate) fn get(&mut self, kernel: Kernel) -> Result<&Pipeline, DeviceError> {
        if !self.compiled.contains_key(&kernel) {
            let soft = self.form.soft || self.soft_kernels.contains(&kernel.name());
            let pipeline = compile(&self.device, kernel, Form { soft, ..self.form })?;
            self.compiled.insert(kernel, pipeline);
        }
        Ok(&self.compiled[&kernel])
    }
}

fn compile(device: &Device, kernel: Kernel, form: Form) -> Result<Pipeline, DeviceError> {
    let source = kernel.source();
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
    entries.extend((2..).zip(source.access.bytes()).map(|(binding, access)| {
        let read_only = access == b'r';
        entry(binding, storage(read_only), false)
    }));
    let layout = raw.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(source.name),
        source: wgpu::ShaderSource::Wgsl(kernel.text(form).into()),
    };
    // Loops of ours end, and bounding them again would cost more than they do.
    let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
    // SAFETY: bounds are still checked; every loop counts up to a bound.
    let module = unsafe { raw.create_shader_module_trusted(descriptor, checks) };
    let pipeline_layout = raw.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = raw.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(source.name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    match block_on(scope.pop()) {
        Some(error) => Err(DeviceError::Kernel { kernel: source.name, problem: error.to_string() }),
        None => Ok(Pipeline { pipeline, layout, buffers: source.access.len() }),
    }
}
