//! The weight matrices as the products see them, packed once per step.
//!
//! Matrices that share their input stand one below the other in the flat
//! vector and are multiplied as one: \[q; k; v\] and \[gate; up\].

use super::config::ModelConfig;
use super::layout::Layout;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::quantize::Rounding;
use crate::cpu::simd::Simd;
use rayon::prelude::*;
use std::ops::Range;

/// One linear map: `rows` outputs from `columns` inputs.
pub(crate) struct Linear {
    /// Its elements in the flat vector.
    pub(crate) range: Range<usize>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Packed along the inputs, for the forward product.
    pub(crate) forward: Packed,
    /// Packed along the outputs, for the gradient of the input.
    pub(crate) backward: Packed,
}

impl Linear {
    fn new(start: usize, rows: usize, columns: usize) -> Self {
        let range = start..start + rows * columns;
        Self { range, rows, columns, forward: Packed::default(), backward: Packed::default() }
    }
}

/// The parameters of one decoder block.
pub(crate) struct BlockWeights {
    pub(crate) input_norm: Range<usize>,
    pub(crate) query_key_value: Linear,
    pub(crate) output: Linear,
    pub(crate) attention_norm: Range<usize>,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

impl BlockWeights {
    fn linears(&mut self) -> [&mut Linear; 4] {
        [&mut self.query_key_value, &mut self.output, &mut self.gate_up, &mut self.down]
    }
}

/// All parameters, by their place in the computation.
pub(crate) struct Weights {
    pub(crate) embedding: Range<usize>,
    pub(crate) blocks: Vec<BlockWeights>,
    pub(crate) final_norm: Range<usize>,
    pub(crate) head: Linear,
    forward_packed: bool,
    backward_packed: bool,
}

impl Weights {
    pub(crate) fn new(config: &ModelConfig, layout: &Layout) -> Self {
        let range = |name: &str| layout.tensor(name).expect("the layout has every tensor of its model").range();
        let hidden = config.hidden_size;
        let blocks = (0..config.num_hidden_layers)
            .map(|block| {
                let part = |part: &str| range(&format!("model.layers.{block}.{part}.weight"));
                let linear = |name: &str, rows, columns| Linear::new(part(name).start, rows, columns);
                let joint = config.query_width() + 2 * config.key_value_width();
                BlockWeights {
                    input_norm: part("input_layernorm"),
                    query_key_value: linear("self_attn.q_proj", joint, hidden),
                    output: linear("self_attn.o_proj", hidden, config.query_width()),
                    attention_norm: part("post_attention_layernorm"),
                    gate_up: linear("mlp.gate_proj", 2 * config.intermediate_size, hidden),
                    down: linear("mlp.down_proj", hidden, config.intermediate_size),
                }
            })
            .collect();
        let embedding = range("model.embed_tokens.weight");
        let head_start = layout.tensor("lm_head.weight").map_or(embedding.start, |head| head.offset);
        Self {
            embedding,
            blocks,
            final_norm: range("model.norm.weight"),
            head: Linear::new(head_start, config.vocab_size, hidden),
            forward_packed: false,
            backward_packed: false,
        }
    }

    /// The parameters have changed.
    pub(crate) fn invalidate(&mut self) {
        self.forward_packed = false;
        self.backward_packed = false;
    }

    pub(crate) fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(BlockWeights::linears).chain([&mut self.head])
    }

    /// Packs what the coming pass needs and is not packed yet.
    pub(crate) fn pack(&mut self, simd: Simd, parameters: &[f32], digits: usize, with_backward: bool) {
        let (forward, backward) = (!self.forward_packed, with_backward && !self.backward_packed);
        let pack = |linear: &mut Linear| {
            let view = View::whole(&parameters[linear.range.clone()], linear.rows, linear.columns);
            if forward {
                linear.forward.pack_parallel(simd, view, Packing::right(Along::Rows, digits, Rounding::Nearest));
            }
            if backward {
                linear.backward.pack_parallel(simd, view, Packing::right(Along::Columns, digits, Rounding::Nearest));
            }
        };
        let Self { blocks, head, .. } = self;
        // A matrix alone has too few panels for many threads.
        let of_blocks = || blocks.par_iter_mut().for_each(|block| block.linears().into_iter().for_each(pack));
        rayon::join(of_blocks, || pack(head));
        self.forward_packed = true;
        self.backward_packed |= with_backward;
    }
}
