//! Shader sources and their forms: which text a kernel is made of.

use super::tiling::{Product, Tiling};
use std::fmt::Write;

/// One compiled function: an op and the constants it is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    PackRows {
        digits: u32,
        stochastic: bool,
        /// Elements are read in fours.
        fours: bool,
    },
    PackColumns {
        digits: u32,
        stochastic: bool,
    },
    Matmul(Product),
    MatmulSum,
    /// The product as one would write it first, for comparisons of speed.
    MatmulNaive,
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
    MuonDirection,
    MuonNorm,
    MuonScale,
    MuonCombine,
    MuonPreview,
    Muon,
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
    /// Threads of a row exchange values in shared memory instead of by shuffles.
    pub(crate) shared_exchange: bool,
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
const EXCHANGE: &str = part!("exchange_shuffled");
const EXCHANGE_SHARED: &str = part!("exchange_shared");
const HASH: &str = part!("hash");
const QUANTIZE: &str = part!("quantize");
const PACK: &str = part!("pack");
const ROUND_SUM: &str = part!("round_sum");
const PACK_WORDS: &str = part!("pack_words");
const PACK_FOURS: &str = part!("pack_fours");
const SOFTMAX: &str = part!("softmax");
const CAUSAL: &str = part!("causal");
const ADAMW_UPDATE: &str = part!("adamw_update");
const MUON_UPDATE: &str = part!("muon_update");
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
    /// Every kernel, so that their texts tell whether any has changed.
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
            Self::MuonDirection,
            Self::MuonNorm,
            Self::MuonScale,
            Self::MuonCombine,
            Self::MuonPreview,
            Self::Muon,
            Self::GemmOperand,
            Self::GemmFold,
            Self::MatmulSum,
            Self::MatmulNaive,
        ];
        for digits in [1, 2] {
            for stochastic in [false, true] {
                kernels.extend([false, true].map(|fours| Self::PackRows { digits, stochastic, fours }));
                kernels.push(Self::PackColumns { digits, stochastic });
            }
        }
        // The other numbers of digits differ in constants alone.
        for tiling in Tiling::all() {
            let product = |digits, wide| Product::new([digits, digits], wide, tiling);
            kernels.extend([Self::Matmul(product(1, false)), Self::Matmul(product(2, true))]);
        }
        kernels
    }

    fn source(self) -> Source {
        match self {
            Self::PackRows { fours: true, .. } => {
                source!("pack_rows", "rrww", HASH, QUANTIZE, PACK, PACK_FOURS, EXCHANGE, ROWS)
            }
            Self::PackRows { .. } => source!("pack_rows", "rrww", HASH, QUANTIZE, PACK, PACK_WORDS, EXCHANGE, ROWS),
            Self::PackColumns { .. } => {
                source!("pack_columns", "rrww", HASH, QUANTIZE, PACK, PACK_WORDS, EXCHANGE, ROWS)
            }
            Self::Matmul(_) => source!("matmul", "rrrrw", ROUND_SUM),
            Self::MatmulSum => source!("matmul_sum", "rrrw", ROUND_SUM, ELEMENTS),
            Self::MatmulNaive => source!("matmul_naive", "rrrrw", ELEMENTS),
            Self::RmsNorm => source!("rms_norm", "rrww", FUNCTIONS, EXCHANGE, TREE, ROWS),
            Self::RmsNormBackward => source!("rms_norm_backward", "rrrrw", EXCHANGE, TREE, ROWS),
            Self::RmsNormWeightGradient => source!("rms_norm_weight_gradient", "rrrw", EXCHANGE, TREE, ROWS),
            Self::Rope => source!("rope", "rrw", EXCHANGE, ROWS),
            Self::SoftmaxCausal => source!("softmax_causal", "w", FUNCTIONS, EXCHANGE, TREE, ROWS, SOFTMAX, CAUSAL),
            Self::SoftmaxCausalBackward => source!("softmax_causal_backward", "rw", EXCHANGE, TREE, ROWS, CAUSAL),
            Self::GroupSum => source!("group_sum", "rw", EXCHANGE, ROWS),
            Self::Swiglu => source!("swiglu", "rw", FUNCTIONS, EXCHANGE, ROWS),
            Self::SwigluBackward => source!("swiglu_backward", "rrw", FUNCTIONS, EXCHANGE, ROWS),
            Self::CrossEntropy => source!("cross_entropy", "wrw", FUNCTIONS, EXCHANGE, TREE, ROWS, SOFTMAX),
            Self::Embedding => source!("embedding", "rrw", EXCHANGE, ROWS),
            Self::EmbeddingGradient => source!("embedding_gradient", "rrrw", ELEMENTS),
            Self::Add => source!("add", "rrw", ELEMENTS),
            Self::SumPeak => source!("sum_peak", "rr", ELEMENTS),
            Self::Accumulate => source!("accumulate", "rw", ELEMENTS),
            Self::SumOfSquares => source!("sum_of_squares", "rw", EXCHANGE, TREE, ROWS),
            Self::GradientScale => source!("gradient_scale", "rw", FUNCTIONS, EXCHANGE, TREE, ROWS),
            Self::AdamwPreview => source!("adamw_preview", "rrrrr", FUNCTIONS, ELEMENTS, ADAMW_UPDATE),
            Self::Adamw => source!("adamw", "rrwww", FUNCTIONS, ELEMENTS, ADAMW_UPDATE),
            Self::MuonDirection => source!("muon_direction", "rrrw", ELEMENTS, MUON_UPDATE),
            Self::MuonNorm => source!("muon_norm", "rw", FUNCTIONS, EXCHANGE, TREE, ROWS),
            Self::MuonScale => source!("muon_scale", "rrw", ELEMENTS),
            Self::MuonCombine => source!("muon_combine", "rw", ELEMENTS),
            Self::MuonPreview => source!("muon_preview", "rrrrr", ELEMENTS, MUON_UPDATE),
            Self::Muon => source!("muon", "rrwww", ELEMENTS, MUON_UPDATE),
            Self::GemmOperand => source!("gemm_operand", "w", HASH, ELEMENTS),
            Self::GemmFold => source!("gemm_fold", "rw", HASH),
        }
    }

    /// The op's name: that of its shader and of its native twin.
    pub(crate) fn name(self) -> &'static str {
        self.source().name
    }

    /// The op's name with what it is compiled for.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Matmul(product) => {
                format!("matmul {}x{} digits, {}", product.left_digits, product.right_digits, product.tiling)
            }
            Self::PackRows { digits, .. } | Self::PackColumns { digits, .. } => {
                format!("{} {digits} digits", self.name())
            }
            _ => self.name().to_owned(),
        }
    }

    /// The whole text that is compiled.
    pub(crate) fn text(self, form: Form) -> String {
        let source = self.source();
        let mut text = header(self, form);
        for part in [CANONICAL].iter().chain(source.parts) {
            let shared = form.shared_exchange && *part == EXCHANGE;
            text.push_str(if shared { EXCHANGE_SHARED } else { part });
            text.push('\n');
        }
        match self {
            Self::Matmul(product) => text.push_str(&product.fill(source.text)),
            _ => text.push_str(source.text),
        }
        text
    }

    /// Access to each buffer from binding 2 on: r or w.
    pub(crate) fn access(self) -> &'static str {
        self.source().access
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
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "const SOFT: bool = {soft};\nconst ROUNDING: u32 = {rounding}u;\nconst FUSED: bool = {};\n\
         const FLUSH_BITS: u32 = {}u;\nconst FOLD_UPWARDS: bool = {};\n",
        flaw == Some(Flaw::Fused),
        flush_field << 23,
        flaw == Some(Flaw::Reassociated),
    );
    match kernel {
        Kernel::PackRows { digits, stochastic, .. } | Kernel::PackColumns { digits, stochastic } => {
            let (below, limit) = if digits == 1 { (6, 127) } else { (13, 16_384) };
            let _ = write!(
                text,
                "const DIGITS: u32 = {digits}u;\nconst STOCHASTIC: bool = {stochastic};\n\
                 const BELOW: u32 = {below}u;\nconst LIMIT: i32 = {limit};\n"
            );
        }
        Kernel::Matmul(product) => text.push_str(&product.header(form.portable_dot)),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::naga::front::wgsl::parse_str;
    use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

    #[test]
    fn every_text_that_is_compiled_without_checks_is_valid() {
        let own = Form::default();
        let forms = [
            own,
            Form { soft: true, ..own },
            Form { portable_dot: true, ..own },
            Form { shared_exchange: true, ..own },
        ];
        for kernel in Kernel::all() {
            for form in forms {
                let text = kernel.text(form);
                let module = parse_str(&text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&text)));
                let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
                validator.subgroup_stages(wgpu::naga::valid::ShaderStages::COMPUTE);
                validator.subgroup_operations(wgpu::naga::valid::SubgroupOperationSet::all());
                let outcome = validator.validate(&module);
                assert!(outcome.is_ok(), "{kernel:?} {form:?}: {outcome:?}");
            }
        }
    }
}
