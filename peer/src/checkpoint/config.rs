//! `config.json`: a [`ModelConfig`] between the fields that tell other tools
//! which function it configures.
//!
//! Reading insists on the function that Manta computes: a field that asks for
//! another one is an error and not ignored. What `transformers` may leave out
//! has the value that `LlamaConfig` gives it.

use manta_gpu_kernels::model::config::{ModelConfig, RopeScaling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Tokens that the configuration gives a meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpecialTokens {
    /// Begins a text.
    pub(crate) bos: Option<u32>,
    /// Each of these ends one.
    pub(crate) eos: Vec<u32>,
}

#[derive(Serialize)]
struct ConfigFile<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(flatten)]
    model: &'a ModelConfig,
    attention_bias: bool,
    attention_dropout: f32,
    bos_token_id: Option<u32>,
    eos_token_id: Value,
    hidden_act: &'static str,
    mlp_bias: bool,
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

impl FieldProblem {
    fn new(field: &str, expected: impl Into<String>, found: &Value) -> Self {
        let found = if found.is_null() { "nothing".into() } else { found.to_string() };
        Self { field: field.into(), expected: expected.into(), found }
    }
}

/// The content of `config.json`.
pub(super) fn to_json(model: &ModelConfig, special: &SpecialTokens) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&ConfigFile {
        architectures: ["LlamaForCausalLM"],
        model_type: "llama",
        model,
        attention_bias: false,
        attention_dropout: 0.0,
        bos_token_id: special.bos,
        eos_token_id: match special.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        },
        hidden_act: "silu",
        mlp_bias: false,
        torch_dtype: "float32",
        use_cache: true,
    })
}

/// Fields that must be absent, null or one of these values: others are another function.
fn fixed_fields() -> [(&'static str, Value); 8] {
    [
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
        ("rope_interleaved", json!(false)),
        ("partial_rotary_factor", json!(1.0)),
        ("quantization_config", Value::Null),
        ("sliding_window", Value::Null),
        ("layer_types", Value::Null),
    ]
}

/// What `LlamaConfig` takes where the field is absent or null.
fn default_of(content: &Map<String, Value>, field: &str) -> Option<Value> {
    let number = |field: &str| content.get(field).and_then(Value::as_u64);
    match field {
        "num_key_value_heads" => content.get("num_attention_heads").cloned(),
        "head_dim" => number("hidden_size")?.checked_div(number("num_attention_heads")?).map(|width| json!(width)),
        "max_position_embeddings" => Some(json!(2048)),
        "rope_theta" => Some(json!(10_000.0)),
        "rms_norm_eps" => Some(json!(1e-6)),
        "tie_word_embeddings" => Some(json!(false)),
        "initializer_range" => Some(json!(0.02)),
        _ => None,
    }
}

/// The model that the content of a `config.json` describes, validated, and its special tokens.
pub(super) fn from_json(content: &Value) -> Result<(ModelConfig, SpecialTokens), FieldProblem> {
    let Value::Object(content) = content else {
        return Err(FieldProblem::new("(the whole file)", "a JSON object", content));
    };
    let field = |name: &str| content.get(name).unwrap_or(&Value::Null);
    if field("model_type") != "llama" {
        return Err(FieldProblem::new("model_type", "\"llama\"", field("model_type")));
    }
    if !field("architectures").is_null() && *field("architectures") != json!(["LlamaForCausalLM"]) {
        return Err(FieldProblem::new("architectures", "[\"LlamaForCausalLM\"]", field("architectures")));
    }
    for (name, only) in fixed_fields() {
        let found = field(name);
        if !found.is_null() && *found != only {
            let expected = if only.is_null() { "nothing".into() } else { only.to_string() };
            return Err(FieldProblem::new(name, expected, found));
        }
    }
    let special = special_tokens(content)?;
    let model = shape(content)?;
    model.validate().map_err(|error| FieldProblem {
        field: error.field.into(),
        expected: "a model that the exact arithmetic can hold".into(),
        found: error.problem,
    })?;
    let in_vocabulary = |id: &u32| (*id as usize) < model.vocab_size;
    if let Some(id) = special.bos.iter().chain(&special.eos).find(|id| !in_vocabulary(id)) {
        let name = if special.bos == Some(*id) { "bos_token_id" } else { "eos_token_id" };
        return Err(FieldProblem::new(name, format!("a token under `vocab_size` = {}", model.vocab_size), &json!(id)));
    }
    Ok((model, special))
}

fn shape(content: &Map<String, Value>) -> Result<ModelConfig, FieldProblem> {
    let (theta, scaling) = rotary(content)?;
    let mut own = Map::new();
    for name in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "initializer_range",
    ] {
        let given = content.get(name).filter(|value| !value.is_null()).cloned();
        let value = given.or_else(|| default_of(content, name)).unwrap_or(Value::Null);
        let is_right = match name {
            "tie_word_embeddings" => value.is_boolean(),
            "rms_norm_eps" | "initializer_range" => value.is_number(),
            _ => value.is_u64(),
        };
        if !is_right {
            let expected = match name {
                "tie_word_embeddings" => "true or false",
                "rms_norm_eps" | "initializer_range" => "a number",
                _ => "a whole number",
            };
            return Err(FieldProblem::new(name, expected, &value));
        }
        own.insert(name.into(), value);
    }
    own.insert("rope_theta".into(), theta);
    let mut model: ModelConfig = serde_json::from_value(Value::Object(own)).map_err(|error| FieldProblem {
        field: "(the model's shape)".into(),
        expected: "the fields of a Llama configuration".into(),
        found: error.to_string(),
    })?;
    model.rope_scaling = scaling;
    Ok(model)
}

/// Base and scaling of the rotary angles: `rope_theta` and `rope_scaling`, or both in
/// `rope_parameters`, where newer versions of `transformers` write them.
fn rotary(content: &Map<String, Value>) -> Result<(Value, Option<RopeScaling>), FieldProblem> {
    let present = |name: &str| content.get(name).filter(|value| !value.is_null());
    let (name, scaling) = match (present("rope_parameters"), present("rope_scaling")) {
        (Some(parameters), _) => ("rope_parameters", Some(parameters)),
        (None, scaling) => ("rope_scaling", scaling),
    };
    let theta = scaling.and_then(|scaling| scaling.get("rope_theta")).or(present("rope_theta"));
    let theta = theta.cloned().or_else(|| default_of(content, "rope_theta")).unwrap_or(Value::Null);
    if !theta.is_number() {
        return Err(FieldProblem::new("rope_theta", "a number", &theta));
    }
    let Some(scaling) = scaling else { return Ok((theta, None)) };
    let Value::Object(mut fields) = scaling.clone() else {
        return Err(FieldProblem::new(name, "an object", scaling));
    };
    // Older files call it `type`.
    let kind = fields.get("rope_type").or(fields.get("type")).cloned().unwrap_or(Value::Null);
    if kind == "default" {
        return Ok((theta, None));
    }
    fields.insert("rope_type".into(), kind);
    let read = serde_json::from_value(Value::Object(fields)).map_err(|error| FieldProblem {
        field: name.into(),
        expected: "`rope_type` default, linear or llama3 with its fields".into(),
        found: format!("{scaling} ({error})"),
    })?;
    Ok((theta, Some(read)))
}

fn special_tokens(content: &Map<String, Value>) -> Result<SpecialTokens, FieldProblem> {
    let ids = |name: &str| -> Result<Vec<u32>, FieldProblem> {
        let found = content.get(name).unwrap_or(&Value::Null);
        let list = match found {
            Value::Null => &[][..],
            Value::Array(list) if list.len() <= 64 => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        list.iter().map(id).collect::<Option<_>>().ok_or_else(|| FieldProblem::new(name, "token ids", found))
    };
    let bos = ids("bos_token_id")?;
    if bos.len() > 1 {
        let found = content.get("bos_token_id").unwrap_or(&Value::Null);
        return Err(FieldProblem::new("bos_token_id", "one token id", found));
    }
    Ok(SpecialTokens { bos: bos.first().copied(), eos: ids("eos_token_id")? })
}
