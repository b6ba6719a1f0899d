//! Records the forward pass. Twin of `model/forward.rs` and `cpu/attention.rs`.

use super::compile::Pipelines;
use super::model::{Block, Linear, Model};
use super::ops;
use super::ops::attention::Scores;
use super::ops::matmul::{Matrix, Packed, Rounding, Way};
use super::ops::rope::HeadLayout;
use super::program::{Dispatch, NO_SLOT};
use super::tiling::ProductShape;
use super::workspace::{BlockSaved, Extent, PackedBuffers, SavedInputs, Workspace};
use crate::arithmetic::from_host;
use crate::buffers::Buffer;
use crate::cpu::pack::Along;
use crate::cpu::rope::Turn;

/// A range check: the op's name and its block.
pub(crate) type Check = (&'static str, Option<usize>);

/// Where a block's activations go, and the packed inputs of its linear maps if they are kept.
type Saved<'a> = (&'a BlockSaved, Option<&'a SavedInputs>);

/// Some heads that attention works on at a time, counted over all sequences.
#[derive(Clone, Copy)]
pub(crate) struct HeadChunk {
    pub(crate) first_key_head: usize,
    pub(crate) key_heads: usize,
    /// Query heads for each key head.
    pub(crate) group: usize,
}

impl HeadChunk {
    pub(crate) fn first_query_head(&self) -> usize {
        self.first_key_head * self.group
    }

    pub(crate) fn query_heads(&self) -> usize {
        self.key_heads * self.group
    }
}

/// A pass that is being recorded.
pub(crate) struct Recorder<'a> {
    pub(crate) model: &'a Model,
    pub(crate) workspace: &'a Workspace,
    pub(crate) extent: Extent,
    /// Which knows the best tilings.
    pub(crate) pipelines: &'a mut Pipelines,
    pub(crate) dispatches: Vec<Dispatch>,
    /// Check number i reports in slot i + 1.
    pub(crate) checks: Vec<Check>,
    /// Whether ops are recorded that an earlier part of the pass has checked.
    again: bool,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(
        model: &'a Model,
        workspace: &'a Workspace,
        extent: Extent,
        pipelines: &'a mut Pipelines,
    ) -> Self {
        Self { model, workspace, extent, pipelines, dispatches: Vec::new(), checks: Vec::new(), again: false }
    }

    /// The slot of the next check, in the order in which the native engine checks.
    pub(crate) fn check(&mut self, op: &'static str, layer: impl Into<Option<usize>>) -> u32 {
        if self.again {
            return NO_SLOT;
        }
        self.checks.push((op, layer.into()));
        self.checks.len() as u32
    }

    pub(crate) fn push(&mut self, dispatch: Dispatch) {
        self.dispatches.push(dispatch);
    }

    pub(crate) fn push_all(&mut self, dispatches: Vec<Dispatch>) {
        self.dispatches.extend(dispatches);
    }

    /// Writes the products of left batch i and right batch i / `right_share` to the matrices of `out`.
    pub(crate) fn products(&mut self, left: &Packed, right: &Packed, right_share: usize, out: &Matrix, slot: u32) {
        let way = Way { tiling: self.pipelines.tiling(&ProductShape::of(left, right), 0), sums: None };
        self.push_all(ops::matmul::matmul(left, right, right_share, out, (slot, way)));
    }

    /// Writes the product of a linear map, outside of attention: its scores' place is free for sums of parts.
    pub(crate) fn product(&mut self, left: &Packed, right: &Packed, out: &Matrix, slot: u32) {
        let sums = &self.workspace.scores;
        let way = Way { tiling: self.pipelines.tiling(&ProductShape::of(left, right), sums.len), sums: Some(sums) };
        self.push_all(ops::matmul::matmul(left, right, 1, out, (slot, way)));
    }

    /// Packs `matrix` into `space`.
    pub(crate) fn pack(
        &mut self,
        matrix: &Matrix,
        along: Along,
        digits: u8,
        rounding: Rounding,
        space: &PackedBuffers,
    ) -> Packed {
        let packed = Packed::of(matrix, along, digits.into(), &space.words, &space.scales);
        self.push_all(ops::matmul::pack(matrix, along, rounding, &self.model.keys, &packed));
        packed
    }

    /// y = x · Wᵀ for `rows` rows; keeps x packed along the rows in `saved`.
    fn linear(
        &mut self,
        linear: &Linear,
        (x, rows): (&Buffer, usize),
        saved: Option<&PackedBuffers>,
        y: &Buffer,
        slot: u32,
    ) {
        let (workspace, digits) = (self.workspace, self.model.spec.activation_digits);
        let matrix = Matrix::whole(x, 0, rows, linear.columns);
        let left = self.pack(&matrix, Along::Rows, digits, Rounding::Nearest, &workspace.left);
        if let Some(saved) = saved {
            self.pack(&matrix, Along::Columns, digits, Rounding::Nearest, saved);
        }
        let out = Matrix::whole(y, 0, rows, linear.rows);
        self.product(&left, &linear.forward, &out, slot);
    }

    /// Records everything from tokens to logits.
    pub(crate) fn forward(&mut self) {
        let (model, workspace) = (self.model, self.workspace);
        let table = (&model.parameters, model.embedding);
        let tokens = (&workspace.tokens, self.extent.tokens());
        let shape = (model.config.vocab_size, model.config.hidden_size);
        self.push_all(ops::embedding::embedding(table, shape, tokens, workspace.stream(0)));
        for (layer, block) in model.blocks.iter().enumerate() {
            // The last block is the first on the way back: what is saved of it is still there then.
            let keep = !self.extent.recomputes || layer + 1 == model.blocks.len();
            let (saved, packed) = workspace.block(layer, keep);
            self.attention_half(block, (saved, packed), layer);
            self.mlp_half(block, (saved, packed), layer);
        }
        self.head();
    }

    /// Records again what is saved of a block, from the block's input.
    pub(crate) fn recompute(&mut self, block: &Block, layer: usize) {
        let (model, workspace) = (self.model, self.workspace);
        let (saved, packed) = workspace.block(layer, true);
        self.again = true;
        self.attention_half(block, (saved, packed), layer);
        self.mlp_inner(block, (saved, packed), layer);
        self.again = false;
        // Nobody needs what the block gave.
        if let Some(packed) = packed {
            let inner = Matrix::whole(&workspace.inner, 0, self.extent.tokens(), block.down.columns);
            self.pack(&inner, Along::Columns, model.spec.activation_digits, Rounding::Nearest, &packed.inner);
        }
    }

    /// x + O · attention(norm(x))
    fn attention_half(&mut self, block: &Block, (saved, packed): Saved<'_>, layer: usize) {
        let (model, workspace, tokens) = (self.model, self.workspace, self.extent.tokens());
        let input = workspace.stream(2 * layer);
        let slot = self.check("rms_norm", layer);
        let norm = model.norm(block.input_norm);
        self.push(norm.forward((input, 0), tokens, &workspace.normed, &saved.input_inverse, slot));
        let slot = self.check("query_key_value", layer);
        let keep = packed.map(|packed| &packed.normed_input);
        self.linear(&block.query_key_value, (&workspace.normed, tokens), keep, &workspace.joint, slot);
        let slot = self.check("rotary", layer);
        let [queries, keys, values] = self.joint_layouts();
        let (angles, joint) = (&model.angles, &workspace.joint);
        self.push(queries.split(angles, Turn::Forward, joint, &saved.queries, slot));
        self.push(keys.split(angles, Turn::Forward, joint, &saved.keys, slot));
        self.push(values.split(angles, Turn::Not, joint, &saved.values, NO_SLOT));
        let slot = self.check("attention", layer);
        for chunk in self.chunks() {
            self.attend(saved, chunk, slot);
        }
        let attended = self.attended_layout();
        self.push(attended.merge(angles, Turn::Not, &workspace.heads, &workspace.attended, NO_SLOT));
        let slot = self.check("output", layer);
        let keep = packed.map(|packed| &packed.attended);
        self.linear(&block.output, (&workspace.attended, tokens), keep, &workspace.branch, slot);
        self.residual(2 * layer, layer);
    }

    /// x + down(swiglu(gate_up(norm(x))))
    fn mlp_half(&mut self, block: &Block, (saved, packed): Saved<'_>, layer: usize) {
        self.mlp_inner(block, (saved, packed), layer);
        let (workspace, tokens) = (self.workspace, self.extent.tokens());
        let slot = self.check("down", layer);
        let keep = packed.map(|packed| &packed.inner);
        self.linear(&block.down, (&workspace.inner, tokens), keep, &workspace.branch, slot);
        self.residual(2 * layer + 1, layer);
    }

    /// swiglu(gate_up(norm(x)))
    fn mlp_inner(&mut self, block: &Block, (saved, packed): Saved<'_>, layer: usize) {
        let (model, workspace, tokens) = (self.model, self.workspace, self.extent.tokens());
        let middle = workspace.stream(2 * layer + 1);
        let slot = self.check("rms_norm", layer);
        let norm = model.norm(block.attention_norm);
        self.push(norm.forward((middle, 0), tokens, &workspace.normed, &saved.middle_inverse, slot));
        let slot = self.check("gate_up", layer);
        let keep = packed.map(|packed| &packed.normed_middle);
        self.linear(&block.gate_up, (&workspace.normed, tokens), keep, &saved.gate_up, slot);
        let slot = self.check("swiglu", layer);
        let shape = (tokens, model.config.intermediate_size);
        self.push(ops::swiglu::swiglu(&saved.gate_up, shape, &workspace.inner, slot));
    }

    /// The stream after one more half of a block.
    fn residual(&mut self, halves: usize, layer: usize) {
        let workspace = self.workspace;
        let slot = self.check("residual", layer);
        let count = self.extent.tokens() * self.model.config.hidden_size;
        let parts = [workspace.stream(halves), &workspace.branch];
        self.push(ops::sum::add(parts, count, workspace.stream(halves + 1), slot));
    }

    /// Final norm and logits of the last rows.
    fn head(&mut self) {
        let (model, workspace, rows) = (self.model, self.workspace, self.extent.logit_rows);
        let stream = workspace.stream(2 * model.config.num_hidden_layers);
        let slot = self.check("rms_norm", None);
        let norm = model.norm(model.final_norm);
        let first = self.extent.tokens() - rows;
        self.push(norm.forward((stream, first), rows, &workspace.normed, &workspace.final_inverse, slot));
        let slot = self.check("logits", None);
        let keep = workspace.backward.as_ref().map(|backward| &backward.final_normed);
        self.linear(&model.head, (&workspace.normed, rows), keep, &workspace.logits, slot);
    }

    /// Losses of all rows, and the gradient of the logits if a way back follows.
    pub(crate) fn cross_entropy(&mut self) {
        let workspace = self.workspace;
        let slot = self.check("cross_entropy", None);
        let shape = (self.extent.logit_rows, self.model.config.vocab_size);
        let scale = self.extent.training.then(|| from_host(1.0 / self.extent.tokens() as f64));
        let (logits, targets) = (&workspace.logits, &workspace.targets);
        self.push_all(ops::cross_entropy::cross_entropy(logits, shape, targets, scale, &workspace.losses, slot));
    }

    /// Where queries, keys and values lie in the rows of the joint matrix.
    pub(crate) fn joint_layouts(&self) -> [HeadLayout; 3] {
        let config = &self.model.config;
        let (queries, keys) = (config.query_width(), config.key_value_width());
        let layout = |heads, first| HeadLayout {
            sequences: self.extent.sequences,
            length: self.extent.length,
            head_dim: config.head_dim,
            heads,
            row_width: queries + 2 * keys,
            first,
        };
        let (query_heads, key_heads) = (config.num_attention_heads, config.num_key_value_heads);
        [layout(query_heads, 0), layout(key_heads, queries), layout(key_heads, queries + keys)]
    }

    /// Attention outputs by head, as rows of their own.
    pub(crate) fn attended_layout(&self) -> HeadLayout {
        let [queries, _, _] = self.joint_layouts();
        HeadLayout { row_width: self.model.config.query_width(), ..queries }
    }

    /// All heads in pieces whose scores fit.
    pub(crate) fn chunks(&self) -> Vec<HeadChunk> {
        let config = &self.model.config;
        let (total, step) = (self.extent.sequences * config.num_key_value_heads, self.extent.key_heads_at_once(config));
        let group = config.num_attention_heads / config.num_key_value_heads;
        let chunk = |first: usize| HeadChunk { first_key_head: first, key_heads: step.min(total - first), group };
        (0..total).step_by(step).map(chunk).collect()
    }

    pub(crate) fn scores(&self, chunk: HeadChunk) -> Scores {
        let scale = from_host(1.0 / (self.model.config.head_dim as f64).sqrt());
        let (length, stride) = (self.extent.length, self.extent.score_stride());
        Scores { heads: chunk.query_heads(), length, stride, scale }
    }

    /// `heads` heads from number `first` on as matrices of `[position][head_dim]`.
    pub(crate) fn head_matrices(&self, tensor: &Buffer, first: usize, heads: usize) -> Matrix {
        let (rows, columns) = (self.extent.length, self.model.config.head_dim);
        let offset = first * rows * columns;
        Matrix {
            batches: heads,
            offset,
            index: u32::try_from(offset).expect("tensors have fewer than 2^32 elements"),
            ..Matrix::whole(tensor, 0, rows, columns)
        }
    }

    /// Scores of the chunk's query heads; indices are those of all heads' scores, and wrap.
    pub(crate) fn score_matrices(&self, scores: &Buffer, chunk: HeadChunk) -> Matrix {
        let (length, stride) = (self.extent.length, self.extent.score_stride());
        let index = (chunk.first_query_head() as u32).wrapping_mul((length * stride) as u32);
        Matrix {
            stride,
            batches: chunk.query_heads(),
            batch_stride: length * stride,
            index,
            ..Matrix::whole(scores, 0, length, length)
        }
    }

    /// Probabilities of a chunk into `workspace.scores`.
    pub(crate) fn probabilities(&mut self, saved: &BlockSaved, chunk: HeadChunk, slot: u32) {
        let (workspace, digits) = (self.workspace, self.model.spec.attention_digits);
        let queries = self.head_matrices(&saved.queries, chunk.first_query_head(), chunk.query_heads());
        let left = self.pack(&queries, Along::Rows, digits, Rounding::Nearest, &workspace.left);
        let keys = self.head_matrices(&saved.keys, chunk.first_key_head, chunk.key_heads);
        let right = self.pack(&keys, Along::Rows, digits, Rounding::Nearest, &workspace.right);
        let out = self.score_matrices(&workspace.scores, chunk);
        self.products(&left, &right, chunk.group, &out, NO_SLOT);
        self.push(self.scores(chunk).softmax(&workspace.scores, slot));
    }

    /// softmax(Q·Kᵀ·scale)·V of a chunk into `workspace.heads`.
    fn attend(&mut self, saved: &BlockSaved, chunk: HeadChunk, slot: u32) {
        self.probabilities(saved, chunk, slot);
        let (workspace, digits) = (self.workspace, self.model.spec.attention_digits);
        let probabilities = self.score_matrices(&workspace.scores, chunk);
        let left = self.pack(&probabilities, Along::Rows, digits, Rounding::Nearest, &workspace.left);
        let values = self.head_matrices(&saved.values, chunk.first_key_head, chunk.key_heads);
        let right = self.pack(&values, Along::Columns, digits, Rounding::Nearest, &workspace.right);
        let out = self.head_matrices(&workspace.heads, chunk.first_query_head(), chunk.query_heads());
        self.products(&left, &right, chunk.group, &out, slot);
    }
}
