//! `config.json`: a [`ModelConfig`] between the fields that tell other tools
//! which function it configures.
//!
//! Reading insists on the function that Manta computes: a field that asks for
//! another one is an error and not ignored.

use manta_gpu_kernels::model::config::ModelConfig;
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Serialize)]
struct ConfigFile<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(flatten)]
    model: &'a ModelConfig,
    attention_bias: bool,
    attention_dropout: f32,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    hidden_act: &'static str,
    mlp_bias: bool,
    rope_scaling: Option<()>,
    torch_dtype: &'static str,
    use_cache: bool,
}

/// A field of `config.json` that cannot be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FieldProblem {
    pub(super) field: String,
    pub(super) expected: String,
    pub(super) found: String,
}

/// The content of `config.json`.
pub(super) fn to_json(model: &ModelConfig) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&ConfigFile {
        architectures: ["LlamaForCausalLM"],
        model_type: "llama",
        model,
        attention_bias: false,
        attention_dropout: 0.0,
        // The byte tokenizer has no special tokens.
        bos_token_id: None,
        eos_token_id: None,
        hidden_act: "silu",
        mlp_bias: false,
        rope_scaling: None,
        torch_dtype: "float32",
        use_cache: true,
    })
}

/// The model that the content of a `config.json` describes, validated.
pub(super) fn from_json(content: &Value) -> Result<ModelConfig, FieldProblem> {
    let problem = |field: &str, expected: String, found: &Value| FieldProblem {
        field: field.into(),
        expected,
        found: if found.is_null() { "nothing".into() } else { found.to_string() },
    };
    for (field, expected) in [("model_type", "llama"), ("hidden_act", "silu")] {
        if content[field] != expected {
            return Err(problem(field, format!("\"{expected}\""), &content[field]));
        }
    }
    for field in ["attention_bias", "mlp_bias"] {
        if ![Value::Null, json!(false)].contains(&content[field]) {
            return Err(problem(field, "false".into(), &content[field]));
        }
    }
    if !content["rope_scaling"].is_null() {
        return Err(problem("rope_scaling", "null".into(), &content["rope_scaling"]));
    }
    let model: ModelConfig = serde_json::from_value(content.clone()).map_err(|error| FieldProblem {
        // serde's message names the field, which may be absent.
        field: "(the model's shape)".into(),
        expected: "the fields of a Llama configuration".into(),
        found: error.to_string(),
    })?;
    model.validate().map_err(|error| FieldProblem {
        field: error.field.into(),
        expected: "a model that the exact arithmetic can hold".into(),
        found: error.problem,
    })?;
    Ok(model)
}
