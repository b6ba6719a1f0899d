//! The forward pass: tokens to logits.

use super::engine::Model;
use super::profile::OpClass;
use super::step::check_range;
use super::weights::{BlockWeights, Linear};
use super::workspace::{BlockSaved, Workspace, heads_under_way};
use crate::arithmetic::from_host;
use crate::cpu::attention::{Attention, HeadScratch, Inputs, Memory};
use crate::cpu::embedding::gather;
use crate::cpu::matmul::product_parallel;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::quantize::Rounding;
use crate::cpu::reduce::add_to;
use crate::cpu::rmsnorm::RmsNorm;
use crate::cpu::rope::{HeadLayout, Turn, merge};
use crate::cpu::rows::Written;
use crate::cpu::swiglu;
use crate::error::EngineError;
use rayon::prelude::*;

/// The shape of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub(crate) sequences: usize,
    pub(crate) length: usize,
}

impl Batch {
    pub(crate) fn tokens(&self) -> usize {
        self.sequences * self.length
    }
}

/// Which logits are wanted, and whether a way back follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// All logits, and everything saved for the way back.
    Train,
    /// All logits.
    Evaluate,
    /// Only those after the last token.
    NextToken,
}

/// Elements that one task of an element-wise op computes.
pub(crate) const TASK_ELEMENTS: usize = 4096;

impl Model<'_> {
    pub(crate) fn norm(&self, weight: &std::ops::Range<usize>) -> RmsNorm<'_> {
        let weight = &self.parameters[weight.clone()];
        RmsNorm { simd: self.simd, weight, epsilon: self.config.rms_norm_eps }
    }

    pub(crate) fn attention(&self, batch: Batch) -> Attention {
        Attention {
            simd: self.simd,
            length: batch.length,
            head_dim: self.config.head_dim,
            query_heads: self.config.num_attention_heads,
            key_heads: self.config.num_key_value_heads,
            scale: from_host(1.0 / (self.config.head_dim as f64).sqrt()),
            digits: self.spec.attention_digits.into(),
            gradient_digits: self.spec.gradient_digits.into(),
        }
    }

    /// Where queries, keys and values lie in the rows of the joint matrix.
    pub(crate) fn joint_layouts(&self, batch: Batch) -> [HeadLayout; 3] {
        let (queries, keys) = (self.config.query_width(), self.config.key_value_width());
        let layout = |heads, first| HeadLayout {
            simd: self.simd,
            length: batch.length,
            head_dim: self.config.head_dim,
            heads,
            row_width: queries + 2 * keys,
            first,
        };
        let (query_heads, key_heads) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        [layout(query_heads, 0), layout(key_heads, queries), layout(key_heads, queries + keys)]
    }

    /// Attention outputs by head, as rows of their own.
    pub(crate) fn attended_layout(&self, batch: Batch) -> HeadLayout {
        let [queries, _, _] = self.joint_layouts(batch);
        HeadLayout { row_width: self.config.query_width(), ..queries }
    }

    /// Runs the op that writes the input of a linear map, and packs each task's rows; the largest magnitude in them.
    fn pack<'a>(&self, linear: &Linear, rows: usize, written: impl Written<'a>, left: &mut Packed) -> u32 {
        let packing = Packing::left(Along::Rows, self.spec.activation_digits.into(), Rounding::Nearest);
        left.pack_written(self.simd, (rows, linear.columns), packing, written)
            .map(|(peak, ())| peak)
            .reduce(|| 0, u32::max)
    }

    /// y = x · Wᵀ for x that is packed along its rows in `left`; keeps x packed along the tokens if `saved` is given.
    fn linear(&self, linear: &Linear, x: &[f32], left: &Packed, saved: Option<&mut Packed>, y: &mut [f32]) -> u32 {
        if let Some(saved) = saved {
            self.keep(linear, x, saved);
        }
        let peak = product_parallel(self.simd, left, &linear.forward, y);
        self.laps.end(OpClass::Products);
        peak
    }

    /// Packs the input of a linear map along the tokens, for the gradient of its weight.
    fn keep(&self, linear: &Linear, x: &[f32], saved: &mut Packed) {
        let view = View::whole(x, x.len() / linear.columns, linear.columns);
        let digits = self.spec.activation_digits.into();
        saved.pack_parallel(self.simd, view, Packing::right(Along::Columns, digits, Rounding::Nearest));
        self.laps.end(OpClass::PackActivations);
    }

    /// `branch = input + branch`, which becomes the stream.
    fn residual(
        &self,
        layer: usize,
        input: &[f32],
        branch: &mut Vec<f32>,
        stream: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let sums = input.par_chunks(TASK_ELEMENTS).zip(branch.par_chunks_mut(TASK_ELEMENTS));
        let peak = sums.map(|(input, branch)| add_to(self.simd, input, branch)).reduce(|| 0, u32::max);
        std::mem::swap(stream, branch);
        self.laps.end(OpClass::Residuals);
        check_range("residual", layer, peak)
    }

    /// Computes the logits of `inputs` into `workspace.logits`.
    pub(crate) fn forward(
        &self,
        workspace: &mut Workspace,
        inputs: &[u32],
        batch: Batch,
        purpose: Purpose,
    ) -> Result<(), EngineError> {
        let logit_rows = if purpose == Purpose::NextToken { 1 } else { batch.tokens() };
        workspace.resize((self.simd, self.config, self.spec), batch.tokens(), logit_rows, purpose);
        let heads = heads_under_way(self.config, batch.sequences, self.pool.threads());
        if workspace.attention.len() < heads {
            workspace.attention.resize_with(heads, HeadScratch::default);
        }
        let embedding = &self.parameters[self.weights.embedding.clone()];
        self.laps.start();
        let Workspace { stream, segments, .. } = &mut *workspace;
        rayon::join(
            || gather(embedding, inputs, self.config.hidden_size, stream),
            // The way back of the embedding wants it.
            || (purpose == Purpose::Train).then(|| segments.sort(inputs, self.config.vocab_size)),
        );
        self.laps.end(OpClass::Embedding);
        let mut blocks = std::mem::take(&mut workspace.blocks);
        let last = self.weights.blocks.len() - 1;
        let outcome =
            self.weights.blocks.iter().enumerate().try_for_each(|(layer, weights)| -> Result<(), EngineError> {
                // The last block is the first on the way back: what is saved of it is still there then.
                let saving = purpose == Purpose::Train && (!workspace.recomputes || layer == last);
                let saved = &mut blocks[workspace.slot(layer, purpose)];
                self.attention_half(workspace, saved, weights, batch, (layer, saving))?;
                self.mlp_half(workspace, saved, weights, (layer, saving))?;
                if purpose == Purpose::Train && !saving {
                    std::mem::swap(&mut workspace.inputs[layer], &mut saved.input);
                }
                Ok(())
            });
        workspace.blocks = blocks;
        outcome?;
        self.head(workspace, logit_rows, purpose)
    }

    /// Computes what is saved of block `layer` again from the block's input, with the bits of the first time. The
    /// gradient of the stream waits where the input was kept.
    pub(super) fn recompute(
        &self,
        workspace: &mut Workspace,
        saved: &mut BlockSaved,
        weights: &BlockWeights,
        batch: Batch,
        layer: usize,
    ) -> Result<(), EngineError> {
        std::mem::swap(&mut workspace.stream, &mut workspace.inputs[layer]);
        self.attention_half(workspace, saved, weights, batch, (layer, true))?;
        self.mlp_inner(workspace, saved, weights, (layer, true))?;
        std::mem::swap(&mut workspace.stream, &mut workspace.inputs[layer]);
        // Nobody needs what the block gave.
        self.keep(&weights.down, &workspace.inner, &mut saved.inner);
        Ok(())
    }

    /// x + O · attention(norm(x)); x becomes what is saved of the block's input.
    fn attention_half(
        &self,
        workspace: &mut Workspace,
        saved: &mut BlockSaved,
        weights: &BlockWeights,
        batch: Batch,
        (layer, saving): (usize, bool),
    ) -> Result<(), EngineError> {
        let Workspace { stream, normed, joint, heads, attended, branch, left, .. } = workspace;
        std::mem::swap(stream, &mut saved.input);
        let norm = self.norm(&weights.input_norm).forward(&saved.input, normed, &mut saved.input_inverse);
        check_range("rms_norm", layer, self.pack(&weights.query_key_value, batch.tokens(), norm, left))?;
        self.laps.end(OpClass::Norms);
        let keep = saving.then_some(&mut saved.normed_input);
        check_range("query_key_value", layer, self.linear(&weights.query_key_value, normed, left, keep, joint))?;
        let [queries, keys, values] = self.joint_layouts(batch);
        let (joint, BlockSaved { queries: q, keys: k, values: v, .. }) = (&*joint, &mut *saved);
        let (queries_peak, (keys_peak, _)) = rayon::join(
            || queries.split(self.rotary, Turn::Forward, joint, q),
            || {
                rayon::join(
                    || keys.split(self.rotary, Turn::Forward, joint, k),
                    || values.split(self.rotary, Turn::Not, joint, v),
                )
            },
        );
        check_range("rotary", layer, queries_peak.max(keys_peak))?;
        self.laps.end(OpClass::Rotary);
        let inputs = Inputs { queries: &saved.queries, keys: &saved.keys, values: &saved.values };
        let memory = Memory { pool: self.pool, heads: &mut workspace.attention };
        check_range("attention", layer, self.attention(batch).forward(memory, inputs, heads))?;
        self.laps.end(OpClass::Attention);
        let merged = merge(self.rotary, [(self.attended_layout(batch), Turn::Not, heads)], attended);
        self.pack(&weights.output, batch.tokens(), merged, left);
        self.laps.end(OpClass::Rotary);
        let keep = saving.then_some(&mut saved.attended);
        check_range("output", layer, self.linear(&weights.output, attended, left, keep, branch))?;
        self.residual(layer, &saved.input, branch, stream)
    }

    /// x + down(swiglu(gate_up(norm(x)))); x becomes what is saved of the block's middle.
    fn mlp_half(
        &self,
        workspace: &mut Workspace,
        saved: &mut BlockSaved,
        weights: &BlockWeights,
        (layer, saving): (usize, bool),
    ) -> Result<(), EngineError> {
        self.mlp_inner(workspace, saved, weights, (layer, saving))?;
        let Workspace { stream, branch, inner, left, .. } = workspace;
        let keep = saving.then_some(&mut saved.inner);
        check_range("down", layer, self.linear(&weights.down, inner, left, keep, branch))?;
        self.residual(layer, &saved.middle, branch, stream)
    }

    /// swiglu(gate_up(norm(x))), also packed along its rows.
    fn mlp_inner(
        &self,
        workspace: &mut Workspace,
        saved: &mut BlockSaved,
        weights: &BlockWeights,
        (layer, saving): (usize, bool),
    ) -> Result<(), EngineError> {
        let Workspace { stream, normed, inner, left, .. } = workspace;
        std::mem::swap(stream, &mut saved.middle);
        let rows = saved.middle_inverse.len();
        let norm = self.norm(&weights.attention_norm).forward(&saved.middle, normed, &mut saved.middle_inverse);
        check_range("rms_norm", layer, self.pack(&weights.gate_up, rows, norm, left))?;
        self.laps.end(OpClass::Norms);
        let keep = saving.then_some(&mut saved.normed_middle);
        check_range("gate_up", layer, self.linear(&weights.gate_up, normed, left, keep, &mut saved.gate_up))?;
        let gated = swiglu::forward(self.simd, &saved.gate_up, self.config.intermediate_size, inner);
        check_range("swiglu", layer, self.pack(&weights.down, rows, gated, left))?;
        self.laps.end(OpClass::Gates);
        Ok(())
    }

    /// Final norm and logits of the last `rows` tokens.
    fn head(&self, workspace: &mut Workspace, rows: usize, purpose: Purpose) -> Result<(), EngineError> {
        let Workspace { stream, normed, normed_inverse, logits, left, final_normed, .. } = workspace;
        let start = stream.len() - rows * self.config.hidden_size;
        let normed = &mut normed[..rows * self.config.hidden_size];
        let norm = self.norm(&self.weights.final_norm);
        let written = norm.forward(&stream[start..], normed, &mut normed_inverse[..rows]);
        check_range("rms_norm", None, self.pack(&self.weights.head, rows, written, left))?;
        self.laps.end(OpClass::Norms);
        let keep = (purpose == Purpose::Train).then_some(final_normed);
        check_range("logits", None, self.linear(&self.weights.head, normed, left, keep, logits))
    }
}
