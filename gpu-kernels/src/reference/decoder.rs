//! The whole decoder: logits, loss and gradient at given parameters.

use std::ops::Range;

use super::layers::{
    Attention, Rotary, add, cross_entropy, linear, linear_backward, rms_norm, rms_norm_backward, swiglu,
    swiglu_backward,
};
use super::real::Real;
use crate::model::config::ModelConfig;
use crate::model::layout::Layout;

/// Equally long sequences, one after another.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What the model reads, `[sequences · length]`.
    pub inputs: &'a [u32],
    /// What it shall predict at each position, in the same shape.
    pub targets: &'a [u32],
    /// Number of sequences; divides the number of inputs.
    pub sequences: usize,
}

/// A decoder and its parameters, in ordinary floating point.
///
/// Methods panic on a token out of the vocabulary or a batch whose shape is
/// inconsistent: this is a yardstick for tests, not a way in for foreign data.
#[derive(Clone, Debug)]
pub struct Decoder<R> {
    config: ModelConfig,
    layout: Layout,
    /// The flat parameter vector.
    pub parameters: Vec<R>,
}

/// What one block's derivative needs of its forward pass.
struct BlockTrace<R> {
    input: Vec<R>,
    attention_input: Vec<R>,
    queries: Vec<R>,
    keys: Vec<R>,
    values: Vec<R>,
    attended: Vec<R>,
    middle: Vec<R>,
    mlp_input: Vec<R>,
    gate: Vec<R>,
    up: Vec<R>,
    inner: Vec<R>,
}

/// What the derivative needs of the forward pass.
struct Trace<R> {
    rotary: Rotary<R>,
    attention: Attention,
    blocks: Vec<BlockTrace<R>>,
    output: Vec<R>,
    head_input: Vec<R>,
    logits: Vec<R>,
}

impl<R: Real> Decoder<R> {
    /// A decoder with the given parameters, each rounded to `R`.
    ///
    /// # Panics
    /// If the number of parameters is not that of `config`'s layout.
    pub fn new(config: &ModelConfig, parameters: &[f32]) -> Self {
        let layout = Layout::new(config);
        assert_eq!(parameters.len(), layout.len(), "number of parameters");
        let parameters = parameters.iter().map(|&p| R::from_f64(f64::from(p))).collect();
        Self { config: config.clone(), layout, parameters }
    }

    /// Where each tensor lies in [`Decoder::parameters`].
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The logits `[sequences · length, vocab_size]` of every position.
    pub fn logits(&self, inputs: &[u32], sequences: usize) -> Vec<R> {
        self.forward(inputs, sequences).logits
    }

    /// Mean cross-entropy in nats a token.
    pub fn loss(&self, batch: Batch<'_>) -> R {
        assert_eq!(batch.inputs.len(), batch.targets.len(), "one target an input");
        cross_entropy(&self.logits(batch.inputs, batch.sequences), batch.targets).0
    }

    /// Mean cross-entropy in nats a token and its gradient, a flat vector.
    pub fn loss_and_gradient(&self, batch: Batch<'_>) -> (R, Vec<R>) {
        assert_eq!(batch.inputs.len(), batch.targets.len(), "one target an input");
        let trace = self.forward(batch.inputs, batch.sequences);
        let (loss, dlogits) = cross_entropy(&trace.logits, batch.targets);
        (loss, self.backward(&trace, batch.inputs, &dlogits))
    }

    fn range(&self, name: &str) -> Range<usize> {
        self.layout.tensor(name).unwrap_or_else(|| panic!("the layout has no tensor {name}")).range()
    }

    fn block_range(&self, block: usize, part: &str) -> Range<usize> {
        self.range(&format!("model.layers.{block}.{part}.weight"))
    }

    fn head_range(&self) -> Range<usize> {
        self.range(if self.config.tie_word_embeddings { EMBEDDING } else { "lm_head.weight" })
    }

    fn epsilon(&self) -> R {
        R::from_f64(f64::from(self.config.rms_norm_eps))
    }

    fn norm(&self, x: &[R], gain: Range<usize>) -> Vec<R> {
        rms_norm(x, &self.parameters[gain], self.epsilon())
    }

    fn norm_backward(&self, dy: &[R], x: &[R], gain: Range<usize>, gradient: &mut [R]) -> Vec<R> {
        rms_norm_backward(dy, x, &self.parameters[gain.clone()], self.epsilon(), &mut gradient[gain])
    }

    fn linear(&self, x: &[R], weight: Range<usize>, width_in: usize) -> Vec<R> {
        linear(x, &self.parameters[weight], width_in)
    }

    fn linear_backward(&self, dy: &[R], x: &[R], weight: Range<usize>, width_in: usize, gradient: &mut [R]) -> Vec<R> {
        linear_backward(dy, x, &self.parameters[weight.clone()], width_in, &mut gradient[weight])
    }

    fn forward(&self, inputs: &[u32], sequences: usize) -> Trace<R> {
        let config = &self.config;
        assert!(sequences > 0 && inputs.len().is_multiple_of(sequences), "sequences of equal length");
        let length = inputs.len() / sequences;
        assert!((1..=config.max_position_embeddings).contains(&length), "length of a sequence");
        let rotary = Rotary::new(length, config);
        let attention = Attention {
            query_heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            length,
        };
        let embedding = &self.parameters[self.range(EMBEDDING)];
        let row = |&token: &u32| &embedding[token as usize * config.hidden_size..][..config.hidden_size];
        let mut x: Vec<R> = inputs.iter().flat_map(row).copied().collect();
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for block in 0..config.num_hidden_layers {
            let (output, trace) = self.block(block, x, &rotary, attention);
            x = output;
            blocks.push(trace);
        }
        let head_input = self.norm(&x, self.range(FINAL_NORM));
        let logits = self.linear(&head_input, self.head_range(), config.hidden_size);
        Trace { rotary, attention, blocks, output: x, head_input, logits }
    }

    fn block(&self, block: usize, input: Vec<R>, rotary: &Rotary<R>, attention: Attention) -> (Vec<R>, BlockTrace<R>) {
        let config = &self.config;
        let hidden = config.hidden_size;
        let weight = |part| self.block_range(block, part);

        let attention_input = self.norm(&input, weight("input_layernorm"));
        let mut queries = self.linear(&attention_input, weight("self_attn.q_proj"), hidden);
        let mut keys = self.linear(&attention_input, weight("self_attn.k_proj"), hidden);
        let values = self.linear(&attention_input, weight("self_attn.v_proj"), hidden);
        rotary.rotate(&mut queries, config.query_width(), attention.length);
        rotary.rotate(&mut keys, config.key_value_width(), attention.length);
        let attended = attention.forward(&queries, &keys, &values);
        let mut middle = self.linear(&attended, weight("self_attn.o_proj"), config.query_width());
        add(&mut middle, &input);

        let mlp_input = self.norm(&middle, weight("post_attention_layernorm"));
        let gate = self.linear(&mlp_input, weight("mlp.gate_proj"), hidden);
        let up = self.linear(&mlp_input, weight("mlp.up_proj"), hidden);
        let inner = swiglu(&gate, &up);
        let mut output = self.linear(&inner, weight("mlp.down_proj"), config.intermediate_size);
        add(&mut output, &middle);
        let trace =
            BlockTrace { input, attention_input, queries, keys, values, attended, middle, mlp_input, gate, up, inner };
        (output, trace)
    }

    fn backward(&self, trace: &Trace<R>, inputs: &[u32], dlogits: &[R]) -> Vec<R> {
        let hidden = self.config.hidden_size;
        let mut gradient = vec![R::ZERO; self.parameters.len()];
        let dhead = self.linear_backward(dlogits, &trace.head_input, self.head_range(), hidden, &mut gradient);
        let mut dx = self.norm_backward(&dhead, &trace.output, self.range(FINAL_NORM), &mut gradient);
        for block in (0..self.config.num_hidden_layers).rev() {
            dx = self.block_backward(block, dx, trace, &mut gradient);
        }
        let embedding = &mut gradient[self.range(EMBEDDING)];
        for (&token, row) in inputs.iter().zip(dx.chunks_exact(hidden)) {
            add(&mut embedding[token as usize * hidden..][..hidden], row);
        }
        gradient
    }

    fn block_backward(&self, block: usize, doutput: Vec<R>, trace: &Trace<R>, gradient: &mut [R]) -> Vec<R> {
        let config = &self.config;
        let hidden = config.hidden_size;
        let weight = |part| self.block_range(block, part);
        let (rotary, attention, trace) = (&trace.rotary, trace.attention, &trace.blocks[block]);

        let down = weight("mlp.down_proj");
        let dinner = self.linear_backward(&doutput, &trace.inner, down, config.intermediate_size, gradient);
        let (dgate, dup) = swiglu_backward(&dinner, &trace.gate, &trace.up);
        let mut dnorm = self.linear_backward(&dgate, &trace.mlp_input, weight("mlp.gate_proj"), hidden, gradient);
        add(&mut dnorm, &self.linear_backward(&dup, &trace.mlp_input, weight("mlp.up_proj"), hidden, gradient));
        let mut dmiddle = self.norm_backward(&dnorm, &trace.middle, weight("post_attention_layernorm"), gradient);
        add(&mut dmiddle, &doutput);

        let output = weight("self_attn.o_proj");
        let dattended = self.linear_backward(&dmiddle, &trace.attended, output, config.query_width(), gradient);
        let mut d = attention.backward(&dattended, &trace.queries, &trace.keys, &trace.values);
        rotary.rotate_backward(&mut d.queries, config.query_width(), attention.length);
        rotary.rotate_backward(&mut d.keys, config.key_value_width(), attention.length);
        let x = &trace.attention_input;
        let mut dnorm = self.linear_backward(&d.queries, x, weight("self_attn.q_proj"), hidden, gradient);
        add(&mut dnorm, &self.linear_backward(&d.keys, x, weight("self_attn.k_proj"), hidden, gradient));
        add(&mut dnorm, &self.linear_backward(&d.values, x, weight("self_attn.v_proj"), hidden, gradient));
        let mut dinput = self.norm_backward(&dnorm, &trace.input, weight("input_layernorm"), gradient);
        add(&mut dinput, &dmiddle);
        dinput
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";
