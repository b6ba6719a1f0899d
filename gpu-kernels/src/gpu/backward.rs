//! Records the backward pass. Twin of `model/backward.rs` and `cpu/attention.rs`.

use super::forward::{HeadChunk, Recorder};
use super::model::{Block, Linear};
use super::ops;
use super::ops::matmul::{Matrix, Packed, Rounding};
use super::program::NO_SLOT;
use super::workspace::{BackwardBuffers, BlockSaved, PackedBuffers, SavedInputs};
use crate::buffers::Buffer;
use crate::cpu::pack::Along;
use crate::cpu::rope::Turn;
use crate::model::step::RoundingSite;

/// How the gradient that enters a linear map's way back is rounded, and where it reports.
struct LinearSites {
    layer: usize,
    digits: u8,
    rows: RoundingSite,
    columns: RoundingSite,
    /// Slots of the gradients of input and weight.
    slots: [u32; 2],
}

fn stochastic(layer: usize, site: RoundingSite) -> Rounding {
    Rounding::Stochastic(site.number(layer) as usize)
}

/// What a recorded way back needs beside the recorder.
#[derive(Clone, Copy)]
struct Way<'a> {
    buffers: &'a BackwardBuffers,
    /// Written, not added to; laid out as the parameters.
    gradient: &'a Buffer,
}

impl Recorder<'_> {
    /// Records everything from the gradient of the logits to `micro_gradient`.
    pub(crate) fn backward(&mut self, micro_gradient: &Buffer) {
        let (model, workspace) = (self.model, self.workspace);
        let Some(buffers) = &workspace.backward else {
            unreachable!("a way back is recorded only for training passes");
        };
        let way = Way { buffers, gradient: micro_gradient };
        self.head_backward(way);
        for (layer, block) in model.blocks.iter().enumerate().rev() {
            let (saved, Some(packed)) = workspace.block(layer, true) else {
                unreachable!("training passes keep the inputs of linear maps");
            };
            if self.extent.recomputes && layer + 1 < model.blocks.len() {
                self.recompute(block, layer);
            }
            self.mlp_backward(way, block, (saved, packed), layer);
            self.attention_backward(way, block, (saved, packed), layer);
        }
        let slot = self.check("embedding gradient", None);
        let shape = (model.config.vocab_size, model.config.hidden_size);
        let into = (micro_gradient, model.embedding, model.config.tie_word_embeddings);
        let order = [&buffers.segments, &buffers.places];
        self.push_all(ops::embedding::embedding_gradient(&buffers.d_stream, order, shape, into, slot));
    }

    /// dX = dY · W into `dx`, and dW = dYᵀ · X into the gradient.
    fn linear_backward(
        &mut self,
        way: Way<'_>,
        linear: &Linear,
        dy: &Buffer,
        x: &PackedBuffers,
        sites: &LinearSites,
        dx: &Buffer,
    ) {
        let (workspace, tokens) = (self.workspace, self.extent.tokens());
        let matrix = Matrix::whole(dy, 0, tokens, linear.rows);
        let rounding = stochastic(sites.layer, sites.rows);
        let left = self.pack(&matrix, Along::Rows, sites.digits, rounding, &workspace.left);
        let out = Matrix::whole(dx, 0, tokens, linear.columns);
        self.product(&left, &linear.backward, &out, sites.slots[0]);
        let rounding = stochastic(sites.layer, sites.columns);
        let left = self.pack(&matrix, Along::Columns, sites.digits, rounding, &workspace.left);
        let saved = Matrix::whole(dx, 0, tokens, linear.columns);
        let digits = self.model.spec.activation_digits.into();
        let right = Packed::of(&saved, Along::Columns, digits, &x.words, &x.scales);
        let out = Matrix::whole(way.gradient, linear.range.start, linear.rows, linear.columns);
        self.product(&left, &right, &out, sites.slots[1]);
    }

    fn head_backward(&mut self, way: Way<'_>) {
        let (model, workspace, tokens) = (self.model, self.workspace, self.extent.tokens());
        let slots = [self.check("logits backward", None), self.check("logits weight gradient", None)];
        let layers = model.config.num_hidden_layers;
        let sites = LinearSites {
            layer: layers,
            digits: model.spec.logit_gradient_digits,
            rows: RoundingSite::LogitsRows,
            columns: RoundingSite::LogitsColumns,
            slots,
        };
        let (logits, branch) = (&workspace.logits, &workspace.branch);
        self.linear_backward(way, &model.head, logits, &way.buffers.final_normed, &sites, branch);
        let inputs = [branch, workspace.stream(2 * layers), &workspace.final_inverse];
        let slots = [self.check("rms_norm weight gradient", None), self.check("rms_norm backward", None)];
        let norm = model.norm(model.final_norm);
        self.push(norm.weight_gradient(inputs, tokens, way.gradient, slots[0]));
        self.push(norm.backward(inputs, tokens, (&way.buffers.d_stream, false), slots[1]));
    }

    fn mlp_backward(
        &mut self,
        way: Way<'_>,
        block: &Block,
        (saved, packed): (&BlockSaved, &SavedInputs),
        layer: usize,
    ) {
        let (model, workspace, tokens) = (self.model, self.workspace, self.extent.tokens());
        let digits = model.spec.gradient_digits;
        let slots = [self.check("down backward", layer), self.check("down weight gradient", layer)];
        let (rows, columns) = (RoundingSite::DownRows, RoundingSite::DownColumns);
        let sites = LinearSites { layer, digits, rows, columns, slots };
        let d_stream = &way.buffers.d_stream;
        self.linear_backward(way, &block.down, d_stream, &packed.inner, &sites, &workspace.inner);
        let slot = self.check("swiglu backward", layer);
        let shape = (tokens, model.config.intermediate_size);
        let d_gate_up = &way.buffers.d_gate_up;
        self.push(ops::swiglu::swiglu_backward([&workspace.inner, &saved.gate_up], shape, d_gate_up, slot));
        let slots = [self.check("gate_up backward", layer), self.check("gate_up weight gradient", layer)];
        let (rows, columns) = (RoundingSite::GateUpRows, RoundingSite::GateUpColumns);
        let sites = LinearSites { layer, digits, rows, columns, slots };
        self.linear_backward(way, &block.gate_up, d_gate_up, &packed.normed_middle, &sites, &workspace.branch);
        let inputs = [&workspace.branch, workspace.stream(2 * layer + 1), &saved.middle_inverse];
        self.norm_backward(way, block.attention_norm, inputs, layer);
    }

    fn attention_backward(
        &mut self,
        way: Way<'_>,
        block: &Block,
        (saved, packed): (&BlockSaved, &SavedInputs),
        layer: usize,
    ) {
        let (model, workspace) = (self.model, self.workspace);
        let digits = model.spec.gradient_digits;
        let slots = [self.check("output backward", layer), self.check("output weight gradient", layer)];
        let (rows, columns) = (RoundingSite::OutputRows, RoundingSite::OutputColumns);
        let sites = LinearSites { layer, digits, rows, columns, slots };
        let d_stream = &way.buffers.d_stream;
        self.linear_backward(way, &block.output, d_stream, &packed.attended, &sites, &workspace.attended);
        let (angles, layout) = (&model.angles, self.attended_layout());
        self.push(layout.split(angles, Turn::Not, &workspace.attended, &workspace.heads, NO_SLOT));

        let slot = self.check("attention backward", layer);
        for chunk in self.chunks() {
            self.attend_backward(way, saved, chunk, (layer, slot));
        }
        let slot = self.check("rotary backward", layer);
        let [queries, keys, values] = self.joint_layouts();
        let BackwardBuffers { d_queries, d_keys, d_values, .. } = way.buffers;
        self.push(queries.merge(angles, Turn::Backward, d_queries, &workspace.joint, slot));
        self.push(keys.merge(angles, Turn::Backward, d_keys, &workspace.joint, slot));
        self.push(values.merge(angles, Turn::Not, d_values, &workspace.joint, NO_SLOT));

        let slots =
            [self.check("query_key_value backward", layer), self.check("query_key_value weight gradient", layer)];
        let (rows, columns) = (RoundingSite::JointRows, RoundingSite::JointColumns);
        let sites = LinearSites { layer, digits, rows, columns, slots };
        let (joint, branch) = (&workspace.joint, &workspace.branch);
        self.linear_backward(way, &block.query_key_value, joint, &packed.normed_input, &sites, branch);
        let inputs = [branch, workspace.stream(2 * layer), &saved.input_inverse];
        self.norm_backward(way, block.input_norm, inputs, layer);
    }

    /// Adds the way back through a norm to the stream's gradient.
    fn norm_backward(&mut self, way: Way<'_>, weight: usize, inputs: [&Buffer; 3], layer: usize) {
        let (norm, tokens) = (self.model.norm(weight), self.extent.tokens());
        let slots = [self.check("rms_norm weight gradient", layer), self.check("rms_norm backward", layer)];
        self.push(norm.weight_gradient(inputs, tokens, way.gradient, slots[0]));
        self.push(norm.backward(inputs, tokens, (&way.buffers.d_stream, true), slots[1]));
    }

    /// Gradients of a chunk's queries, keys and values from that of its output in `workspace.heads`.
    fn attend_backward(&mut self, way: Way<'_>, saved: &BlockSaved, chunk: HeadChunk, (layer, slot): (usize, u32)) {
        self.probabilities(saved, chunk, slot);
        let (model, workspace) = (self.model, self.workspace);
        let (left_space, right_space) = (&workspace.left, &workspace.right);
        let (digits, gradient_digits) = (model.spec.attention_digits, model.spec.gradient_digits);
        let (query_head, query_heads) = (chunk.first_query_head(), chunk.query_heads());
        let BackwardBuffers { d_queries, d_keys, d_values, d_scores, parts, .. } = way.buffers;
        let d_out = self.head_matrices(&workspace.heads, query_head, query_heads);
        let probabilities = self.score_matrices(&workspace.scores, chunk);
        let d_score_matrices = self.score_matrices(d_scores, chunk);
        let part_matrices = self.head_matrices(parts, 0, query_heads);
        let head_elements = self.extent.length * model.config.head_dim;
        let groups = (chunk.key_heads, chunk.group);
        let head = (self.extent.length, model.config.head_dim);
        let key_offset = chunk.first_key_head * head_elements;

        // dV[j, d] = Σ_i P[i, j]·dO[i, d]
        let left = self.pack(&probabilities, Along::Columns, digits, Rounding::Nearest, left_space);
        let rounding = stochastic(layer, RoundingSite::AttendedColumns);
        let right = self.pack(&d_out, Along::Columns, gradient_digits, rounding, right_space);
        self.products(&left, &right, 1, &part_matrices, slot);
        self.push(ops::attention::group_sum(parts, groups, head, (d_values, key_offset), slot));

        // dP[i, j] = Σ_d dO[i, d]·V[j, d]
        let rounding = stochastic(layer, RoundingSite::AttendedRows);
        let left = self.pack(&d_out, Along::Rows, gradient_digits, rounding, left_space);
        let values = self.head_matrices(&saved.values, chunk.first_key_head, chunk.key_heads);
        let right = self.pack(&values, Along::Rows, digits, Rounding::Nearest, right_space);
        self.products(&left, &right, chunk.group, &d_score_matrices, NO_SLOT);
        self.push(self.scores(chunk).softmax_backward(&workspace.scores, d_scores, slot));

        // dQ[i, d] = Σ_j dS[i, j]·K[j, d]
        let rounding = stochastic(layer, RoundingSite::ScoresRows);
        let left = self.pack(&d_score_matrices, Along::Rows, gradient_digits, rounding, left_space);
        let keys = self.head_matrices(&saved.keys, chunk.first_key_head, chunk.key_heads);
        let right = self.pack(&keys, Along::Columns, digits, Rounding::Nearest, right_space);
        let out = self.head_matrices(d_queries, query_head, query_heads);
        self.products(&left, &right, chunk.group, &out, slot);

        // dK[j, d] = Σ_i dS[i, j]·Q[i, d]
        let rounding = stochastic(layer, RoundingSite::ScoresColumns);
        let left = self.pack(&d_score_matrices, Along::Columns, gradient_digits, rounding, left_space);
        let queries = self.head_matrices(&saved.queries, query_head, query_heads);
        let right = self.pack(&queries, Along::Columns, digits, Rounding::Nearest, right_space);
        self.products(&left, &right, 1, &part_matrices, slot);
        self.push(ops::attention::group_sum(parts, groups, head, (d_keys, key_offset), slot));
    }
}
