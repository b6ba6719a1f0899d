//! The backward pass: the gradient of the mean token loss of one micro-batch.

use super::engine::Model;
use super::forward::{Batch, Purpose, TASK_ELEMENTS};
use super::profile::OpClass;
use super::step::{OpKeys, RoundingSite, check_range};
use super::weights::{BlockWeights, Linear};
use super::workspace::{BlockSaved, TokenRows, Workspace};
use crate::arithmetic::from_host;
use crate::cpu::attention::{AttentionKeys, Gradients, Inputs, Memory};
use crate::cpu::cross_entropy::{Judged, cross_entropy};
use crate::cpu::embedding::scatter_add;
use crate::cpu::matmul::product_parallel;
use crate::cpu::pack::{Along, Packed, Packing, View};
use crate::cpu::quantize::Rounding;
use crate::cpu::rope::{Turn, merge};
use crate::cpu::rows::Written;
use crate::cpu::swiglu;
use crate::error::EngineError;
use rayon::prelude::*;

/// How the gradient that enters a linear map's way back is rounded.
#[derive(Clone, Copy)]
struct GradientRounding {
    digits: usize,
    rows: Rounding,
    columns: Rounding,
}

/// A way back under way.
pub(crate) struct Backward<'a> {
    pub(crate) model: &'a Model<'a>,
    pub(crate) keys: OpKeys,
    /// Written, not added to; laid out as the parameters.
    pub(crate) gradient: &'a mut [f32],
}

impl Backward<'_> {
    fn rounding(&self, layer: usize, rows: RoundingSite, columns: RoundingSite, digits: u8) -> GradientRounding {
        GradientRounding {
            digits: digits.into(),
            rows: Rounding::Stochastic(self.keys.site(layer, rows)),
            columns: Rounding::Stochastic(self.keys.site(layer, columns)),
        }
    }

    /// Runs the op that writes the gradient of a linear map's output, and packs each task's rows; their largest magnitudes
    /// and what else the op tells.
    fn pack<'a, 'b, T: Send>(
        &self,
        (rows, columns): (usize, usize),
        rounding: GradientRounding,
        written: impl Written<'b, T> + 'a,
        left: &'a mut Packed,
    ) -> impl ParallelIterator<Item = (u32, T)> {
        let packing = Packing::left(Along::Rows, rounding.digits, rounding.rows);
        left.pack_written(self.model.simd, (rows, columns), packing, written)
    }

    /// Packs the rows of the stream's gradient, which no op has just written.
    fn pack_stream(&self, dy: &[f32], rounding: GradientRounding, left: &mut Packed) {
        let columns = self.model.config.hidden_size;
        let view = View::whole(dy, dy.len() / columns, columns);
        left.pack_parallel(self.model.simd, view, Packing::left(Along::Rows, rounding.digits, rounding.rows));
        self.model.laps.end(OpClass::PackGradients);
    }

    /// dX = dY · W into `dx`, and dW = dYᵀ · X into the gradient, for dY that is packed along its rows in `left`; the
    /// largest magnitudes of both.
    fn linear(
        &mut self,
        linear: &Linear,
        dy: &[f32],
        x: &Packed,
        rounding: GradientRounding,
        left: &mut Packed,
        dx: &mut [f32],
    ) -> (u32, u32) {
        let Model { simd, laps, .. } = *self.model;
        let view = View::whole(dy, dy.len() / linear.rows, linear.rows);
        let dx_peak = product_parallel(simd, left, &linear.backward, dx);
        laps.end(OpClass::Products);
        left.pack_parallel(simd, view, Packing::left(Along::Columns, rounding.digits, rounding.columns));
        laps.end(OpClass::PackGradients);
        let dw_peak = product_parallel(simd, left, x, &mut self.gradient[linear.range.clone()]);
        laps.end(OpClass::Products);
        (dx_peak, dw_peak)
    }

    /// Goes from the logits, which stand in `workspace.logits`, to the loss and back to all parameters.
    pub(crate) fn run(
        mut self,
        workspace: &mut Workspace,
        rows: &TokenRows,
        batch: Batch,
    ) -> Result<Judged, EngineError> {
        let judged = self.head(workspace, &rows.targets)?;
        let mut blocks = std::mem::take(&mut workspace.blocks);
        let outcome = self.model.weights.blocks.iter().enumerate().rev().try_for_each(|(layer, weights)| {
            let saved = &mut blocks[workspace.slot(layer, Purpose::Train)];
            if workspace.recomputes && layer + 1 < self.model.weights.blocks.len() {
                self.model.recompute(workspace, saved, weights, batch, layer)?;
            }
            self.mlp_half(workspace, saved, weights, layer)?;
            self.attention_half(workspace, saved, weights, batch, layer)
        });
        workspace.blocks = blocks;
        outcome?;
        self.embedding(workspace)?;
        Ok(judged)
    }

    /// The loss, and the way back through logits and final norm.
    fn head(&mut self, workspace: &mut Workspace, targets: &[u32]) -> Result<Judged, EngineError> {
        let Workspace { stream, normed_inverse, logits, left, final_normed, branch, normed, .. } = workspace;
        let model = self.model;
        let layers = model.config.num_hidden_layers;
        let digits = model.spec.logit_gradient_digits;
        let rounding = self.rounding(layers, RoundingSite::LogitsRows, RoundingSite::LogitsColumns, digits);
        let scale = from_host(1.0 / targets.len() as f64);
        let written = cross_entropy(model.simd, logits, targets, Some(scale));
        let judged = self.pack((targets.len(), model.config.vocab_size), rounding, written, left);
        let judged = Judged::sum(judged.map(|(_, judged)| judged));
        let judged = judged.ok_or(EngineError::Range { op: "cross_entropy", layer: None })?;
        model.laps.end(OpClass::CrossEntropy);
        let (dx, dw) = self.linear(&model.weights.head, logits, final_normed, rounding, left, branch);
        check_range("logits backward", None, dx)?;
        check_range("logits weight gradient", None, dw)?;
        let norm = model.norm(&model.weights.final_norm);
        let dw = &mut self.gradient[model.weights.final_norm.clone()];
        normed.par_chunks_mut(TASK_ELEMENTS).for_each(|part| part.fill(0.0));
        let (dw, dx) = norm.both_gradients(branch, stream, normed_inverse, dw, normed);
        check_range("rms_norm weight gradient", None, dw)?;
        check_range("rms_norm backward", None, dx)?;
        model.laps.end(OpClass::Norms);
        // From here on the stream holds its own gradient.
        std::mem::swap(stream, normed);
        Ok(judged)
    }

    fn mlp_half(
        &mut self,
        workspace: &mut Workspace,
        saved: &mut BlockSaved,
        weights: &BlockWeights,
        layer: usize,
    ) -> Result<(), EngineError> {
        let Workspace { stream, branch, gate_up, inner, left, .. } = workspace;
        let model = self.model;
        let digits = model.spec.gradient_digits;
        let rounding = self.rounding(layer, RoundingSite::DownRows, RoundingSite::DownColumns, digits);
        self.pack_stream(stream, rounding, left);
        let (dx, dw) = self.linear(&weights.down, stream, &saved.inner, rounding, left, inner);
        check_range("down backward", layer, dx)?;
        check_range("down weight gradient", layer, dw)?;
        let width = model.config.intermediate_size;
        let shape = (inner.len() / width, 2 * width);
        let written = swiglu::backward(model.simd, inner, &saved.gate_up, width, gate_up);
        let rounding = self.rounding(layer, RoundingSite::GateUpRows, RoundingSite::GateUpColumns, digits);
        let peak = self.pack(shape, rounding, written, left).map(|(peak, ())| peak).reduce(|| 0, u32::max);
        check_range("swiglu backward", layer, peak)?;
        model.laps.end(OpClass::Gates);
        let (dx, dw) = self.linear(&weights.gate_up, gate_up, &saved.normed_middle, rounding, left, branch);
        check_range("gate_up backward", layer, dx)?;
        check_range("gate_up weight gradient", layer, dw)?;
        self.norm(&weights.attention_norm, branch, &saved.middle, &saved.middle_inverse, stream, layer)
    }

    fn attention_half(
        &mut self,
        workspace: &mut Workspace,
        saved: &mut BlockSaved,
        weights: &BlockWeights,
        batch: Batch,
        layer: usize,
    ) -> Result<(), EngineError> {
        let Workspace { stream, branch, joint, heads, attended, left, .. } = workspace;
        let (d_queries, d_keys, d_values) = (&mut workspace.d_queries, &mut workspace.d_keys, &mut workspace.d_values);
        let model = self.model;
        let digits = model.spec.gradient_digits;
        let rounding = self.rounding(layer, RoundingSite::OutputRows, RoundingSite::OutputColumns, digits);
        self.pack_stream(stream, rounding, left);
        let (dx, dw) = self.linear(&weights.output, stream, &saved.attended, rounding, left, attended);
        check_range("output backward", layer, dx)?;
        check_range("output weight gradient", layer, dw)?;

        model.attended_layout(batch).split(model.rotary, Turn::Not, attended, heads);
        model.laps.end(OpClass::Rotary);
        let keys = AttentionKeys {
            output_rows: self.keys.site(layer, RoundingSite::AttendedRows),
            output_columns: self.keys.site(layer, RoundingSite::AttendedColumns),
            scores_rows: self.keys.site(layer, RoundingSite::ScoresRows),
            scores_columns: self.keys.site(layer, RoundingSite::ScoresColumns),
        };
        let inputs = Inputs { queries: &saved.queries, keys: &saved.keys, values: &saved.values };
        let gradients = Gradients { queries: d_queries, keys: d_keys, values: d_values };
        let memory = Memory { pool: model.pool, heads: &mut workspace.attention };
        let peak = model.attention(batch).backward(memory, inputs, heads, &keys, gradients);
        check_range("attention backward", layer, peak)?;
        model.laps.end(OpClass::Attention);
        let [queries, keys, values] = model.joint_layouts(batch);
        let parts = [
            (queries, Turn::Backward, &**d_queries),
            (keys, Turn::Backward, &**d_keys),
            (values, Turn::Not, &**d_values),
        ];
        let merged = merge(model.rotary, parts, joint);
        let rounding = self.rounding(layer, RoundingSite::JointRows, RoundingSite::JointColumns, digits);
        let peak = self
            .pack((batch.tokens(), queries.row_width), rounding, merged, left)
            .map(|(peak, ())| peak)
            .reduce(|| 0, u32::max);
        check_range("rotary backward", layer, peak)?;
        model.laps.end(OpClass::Rotary);

        let (dx, dw) = self.linear(&weights.query_key_value, joint, &saved.normed_input, rounding, left, branch);
        check_range("query_key_value backward", layer, dx)?;
        check_range("query_key_value weight gradient", layer, dw)?;
        self.norm(&weights.input_norm, branch, &saved.input, &saved.input_inverse, stream, layer)
    }

    /// Adds the way back through a norm to the stream's gradient.
    fn norm(
        &mut self,
        weight: &std::ops::Range<usize>,
        dy: &[f32],
        x: &[f32],
        inverse: &[f32],
        stream: &mut [f32],
        layer: usize,
    ) -> Result<(), EngineError> {
        let norm = self.model.norm(weight);
        let dw = &mut self.gradient[weight.clone()];
        let (dw, dx) = norm.both_gradients(dy, x, inverse, dw, stream);
        self.model.laps.end(OpClass::Norms);
        check_range("rms_norm weight gradient", layer, dw)?;
        check_range("rms_norm backward", layer, dx)
    }

    fn embedding(&mut self, workspace: &Workspace) -> Result<(), EngineError> {
        let Workspace { stream, segments, .. } = workspace;
        let model = self.model;
        let gradient = &mut self.gradient[model.weights.embedding.clone()];
        // A tied head has written its part there.
        let target = (gradient, !model.config.tie_word_embeddings);
        let peak = scatter_add(model.simd, segments, stream, model.config.hidden_size, target);
        model.laps.end(OpClass::Embedding);
        check_range("embedding gradient", None, peak)
    }
}
