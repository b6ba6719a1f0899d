//! Where each parameter tensor lies in the one flat parameter vector.
//!
//! The order is part of the arithmetic version: gradients are exchanged, the
//! optimiser runs, and the parameter hash is taken over this vector.

use super::config::ModelConfig;

/// What the names of tensors of blocks begin with.
const BLOCKS: &str = "model.layers.";

/// One parameter tensor, row-major, inside the flat vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name in Hugging Face's Llama checkpoints.
    pub name: String,
    /// `[rows, columns]` of a matrix (`[out, in]` of a linear layer) or `[length]`.
    pub shape: Vec<usize>,
    /// Index of the first element in the flat vector.
    pub offset: usize,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements (never so for a valid model).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a matrix of a block: not the embedding, not the head, no norm's weights.
    pub fn is_block_matrix(&self) -> bool {
        self.shape.len() == 2 && self.name.starts_with(BLOCKS)
    }

    /// The tensor's elements in the flat vector.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// All parameter tensors of a model, in the order of the flat vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<Tensor>,
    len: usize,
}

impl Layout {
    /// Lays out the parameters of `config`: embedding, then each block
    /// (input norm, q, k, v, o, post-attention norm, gate, up, down), then the
    /// final norm, then the head unless it is tied to the embedding.
    pub fn new(config: &ModelConfig) -> Self {
        let mut layout = Self { tensors: Vec::new(), len: 0 };
        let hidden = config.hidden_size;
        let (queries, keys) = (config.query_width(), config.key_value_width());
        layout.push("model.embed_tokens.weight".into(), &[config.vocab_size, hidden]);
        for block in 0..config.num_hidden_layers {
            let name = |part: &str| format!("{BLOCKS}{block}.{part}.weight");
            layout.push(name("input_layernorm"), &[hidden]);
            layout.push(name("self_attn.q_proj"), &[queries, hidden]);
            layout.push(name("self_attn.k_proj"), &[keys, hidden]);
            layout.push(name("self_attn.v_proj"), &[keys, hidden]);
            layout.push(name("self_attn.o_proj"), &[hidden, queries]);
            layout.push(name("post_attention_layernorm"), &[hidden]);
            layout.push(name("mlp.gate_proj"), &[config.intermediate_size, hidden]);
            layout.push(name("mlp.up_proj"), &[config.intermediate_size, hidden]);
            layout.push(name("mlp.down_proj"), &[hidden, config.intermediate_size]);
        }
        layout.push("model.norm.weight".into(), &[hidden]);
        if !config.tie_word_embeddings {
            layout.push("lm_head.weight".into(), &[config.vocab_size, hidden]);
        }
        layout
    }

    fn push(&mut self, name: String, shape: &[usize]) {
        let tensor = Tensor { name, shape: shape.to_vec(), offset: self.len };
        self.len += tensor.len();
        self.tensors.push(tensor);
    }

    /// The tensors in the order of the flat vector.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name, if the model has it.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no parameters (never so for a valid model).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
