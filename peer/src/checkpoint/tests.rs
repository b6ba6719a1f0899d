//! Round trips, and every kind of damage we could think of.

use super::read::read;
use super::sample::{config, parameters, write_model};
use super::write::{Foreign, Model, check_destination, write, write_failed};
use super::*;
use crate::data::tokenizer::Tokenizer;
use manta_gpu_kernels::model::config::ModelConfig;
use serde_json::json;
use std::fs;
use std::path::Path;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_model_comes_back_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let untied = ModelConfig { tie_word_embeddings: false, num_hidden_layers: 12, rms_norm_eps: 1e-6, ..config() };
    for (name, config) in [("tied", config()), ("untied", untied)] {
        let mut parameters = parameters(&config);
        parameters[..4].copy_from_slice(&[0.0, 2f32.powi(-100), -2f32.powi(-100), 1e12]);
        let run = json!({"seed": 7, "loss": [2.5, 1.25]});
        let folder = root.path().join("deep").join(name);
        let model = Model { config: &config, parameters: &parameters, tokenizer: &Tokenizer::Bytes, run: &run };
        write(&folder, Foreign::Refuse, model).unwrap();
        let mut expected = FILES.map(String::from);
        expected.sort();
        assert_eq!(names(&folder), expected);
        let checkpoint = read(&folder).unwrap();
        assert_eq!(checkpoint.config, config);
        assert_eq!(bits(&checkpoint.parameters), bits(&parameters));
        assert_eq!(checkpoint.run, Some(run));
        assert_eq!(checkpoint.tokenizer, Tokenizer::Bytes);
    }
    assert_eq!(names(&root.path().join("deep")), ["tied", "untied"], "nothing else is left behind");
}

#[test]
fn equal_models_give_equal_files() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    write_model(&one, Foreign::Refuse).unwrap();
    write_model(&two, Foreign::Refuse).unwrap();
    for name in FILES {
        assert_eq!(fs::read(one.join(name)).unwrap(), fs::read(two.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn the_configuration_is_what_transformers_expects() {
    let root = tempfile::tempdir().unwrap();
    write_model(&root.path().join("model"), Foreign::Refuse).unwrap();
    let text = fs::read_to_string(root.path().join("model").join(CONFIG_FILE)).unwrap();
    assert!(text.contains("\"rms_norm_eps\": 0.00001,") || text.contains("\"rms_norm_eps\": 1e-5,"), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    for (field, expected) in [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("llama")),
        ("torch_dtype", json!("float32")),
        ("hidden_act", json!("silu")),
        ("head_dim", json!(4)),
        ("vocab_size", json!(256)),
        ("tie_word_embeddings", json!(true)),
        ("attention_bias", json!(false)),
        ("eos_token_id", json!(null)),
    ] {
        assert_eq!(json.get(field), Some(&expected), "{field}");
    }
}

#[cfg(unix)]
#[test]
fn all_files_have_the_usual_mode() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    write_model(&folder, Foreign::Refuse).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    fs::write(root.path().join("file"), "").unwrap();
    for name in FILES {
        assert_eq!(mode(&folder.join(name)), mode(&root.path().join("file")), "{name}");
    }
}

#[test]
fn a_former_output_is_replaced_and_strangers_are_not() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    fs::create_dir(&folder).unwrap();
    write_model(&folder, Foreign::Refuse).unwrap();
    write_model(&folder, Foreign::Refuse).unwrap();
    assert_eq!(names(root.path()), ["model"]);

    fs::write(folder.join("notes.txt"), "mine").unwrap();
    check_destination(&folder, Foreign::MoveAside).unwrap();
    for refused in [check_destination(&folder, Foreign::Refuse), write_model(&folder, Foreign::Refuse)] {
        let error = refused.unwrap_err();
        assert!(matches!(&error, CheckpointError::ForeignFolder { file, .. } if file == "notes.txt"), "{error}");
    }
    assert_eq!(names(root.path()), ["model"]);

    write_model(&folder, Foreign::MoveAside).unwrap();
    assert_eq!(names(root.path()), ["model", "model.old-1"]);
    assert_eq!(fs::read_to_string(root.path().join("model.old-1/notes.txt")).unwrap(), "mine");
    read(&folder).unwrap();

    // Someone else's model has our file names but no record of a run.
    fs::remove_file(folder.join(RUN_FILE)).unwrap();
    assert!(matches!(write_model(&folder, Foreign::Refuse), Err(CheckpointError::ForeignFolder { .. })));

    let file = root.path().join("file");
    fs::write(&file, "a file").unwrap();
    for foreign in [Foreign::Refuse, Foreign::MoveAside] {
        assert!(matches!(write_model(&file, foreign), Err(CheckpointError::NotAFolder { .. })));
        assert!(matches!(check_destination(&file, foreign), Err(CheckpointError::NotAFolder { .. })));
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_stays_a_link() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", root.path().join("link")).unwrap();
    write_model(&root.path().join("link"), Foreign::Refuse).unwrap();
    assert_eq!(names(root.path()), ["link", "real"]);
    read(&root.path().join("real")).unwrap();
}

#[test]
fn a_model_that_is_not_one_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    let config = config();
    let good = parameters(&config);
    let attempt = |config: &ModelConfig, parameters: &[f32]| {
        let model = Model { config, parameters, tokenizer: &Tokenizer::Bytes, run: &Value::Null };
        let error = write(&folder, Foreign::Refuse, model).unwrap_err();
        assert!(matches!(error, CheckpointError::Unwritable { .. }), "{error}");
        assert!(names(root.path()).is_empty());
        error.to_string()
    };
    let mut infinite = good.clone();
    infinite[256 * 8 + 3] = f32::INFINITY;
    assert!(attempt(&config, &infinite).contains("`model.layers.0.input_layernorm.weight`: element 3"));
    assert!(attempt(&config, &good[1..]).contains(&format!("its shape has {}", good.len())));
    assert!(attempt(&ModelConfig { head_dim: 3, ..config.clone() }, &good).contains("head_dim"));
}

#[test]
fn a_full_disk_is_named_with_the_bytes_needed() {
    let error =
        write_failed(Path::new("models/.out.writing-1-0/model.safetensors"), 1234, io::ErrorKind::StorageFull.into());
    let message = error.to_string();
    assert!(
        message.contains("no space left") && message.contains("1234") && message.starts_with("models:"),
        "{message}"
    );
}

/// A written model whose parameter file is then replaced, without a record of
/// the run, so that the reader has only the file itself to judge by.
struct Damaged {
    root: tempfile::TempDir,
    good: Vec<u8>,
}

impl Damaged {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        write_model(&folder, Foreign::Refuse).unwrap();
        fs::remove_file(folder.join(RUN_FILE)).unwrap();
        let good = fs::read(folder.join(MODEL_FILE)).unwrap();
        Self { root, good }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("model")
    }

    fn header_bytes(&self) -> usize {
        u64::from_le_bytes(self.good[..8].try_into().unwrap()) as usize + 8
    }

    fn read_with(&self, bytes: &[u8]) -> Result<Vec<f32>, CheckpointError> {
        fs::write(self.folder().join(MODEL_FILE), bytes).unwrap();
        read(&self.folder()).map(|checkpoint| checkpoint.parameters)
    }

    /// Reads the file with its header's text changed and its length adjusted.
    fn read_with_header(&self, from: &str, to: &str) -> CheckpointError {
        let header = std::str::from_utf8(&self.good[8..self.header_bytes()]).unwrap();
        assert!(header.contains(from), "{header}");
        let header = header.replacen(from, to, 1);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&self.good[self.header_bytes()..]);
        self.read_with(&bytes).unwrap_err()
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let damaged = Damaged::new();
    damaged.read_with(&damaged.good).unwrap();
    let lengths = (0..damaged.header_bytes() + 64).chain((damaged.header_bytes()..damaged.good.len()).step_by(97));
    for length in lengths {
        let error = damaged.read_with(&damaged.good[..length]).unwrap_err();
        assert!(error.to_string().contains(MODEL_FILE), "cut to {length}: {error}");
    }
    let longer = [&damaged.good[..], &[0]].concat();
    assert!(damaged.read_with(&longer).is_err());
}

#[test]
fn a_flipped_bit_in_the_header_never_gives_other_parameters() {
    let damaged = Damaged::new();
    let expected = bits(&damaged.read_with(&damaged.good).unwrap());
    let mut accepted = Vec::new();
    for bit in 0..damaged.header_bytes() * 8 {
        let mut bytes = damaged.good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(parameters) = damaged.read_with(&bytes) {
            assert_eq!(bits(&parameters), expected, "bit {bit}");
            accepted.push(bit / 8);
        }
    }
    // Only the free text of the metadata and the padding may change unseen.
    let header = std::str::from_utf8(&damaged.good[8..damaged.header_bytes()]).unwrap();
    let start = header.find("\"format\":\"pt\"").unwrap() + 8;
    let end = start + "\"format\":\"pt\"".len();
    let padding = 8 + header.trim_end().len();
    for position in accepted {
        assert!((start..end).contains(&position) || position >= padding, "byte {position} changed unseen");
    }
}

#[test]
fn a_changed_parameter_does_not_fit_the_record_of_the_run() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    write_model(&folder, Foreign::Refuse).unwrap();
    let mut bytes = fs::read(folder.join(MODEL_FILE)).unwrap();
    *bytes.last_mut().unwrap() ^= 0x01;
    fs::write(folder.join(MODEL_FILE), &bytes).unwrap();
    let error = read(&folder).unwrap_err().to_string();
    assert!(error.contains(MODEL_FILE) && error.contains(RUN_FILE) && error.contains("hash"), "{error}");
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let damaged = Damaged::new();
    let norm = "model.norm.weight";
    let is_tensor = |error: CheckpointError, name: &str, text: &str| {
        assert!(matches!(&error, CheckpointError::Tensor { tensor, .. } if tensor == name), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    is_tensor(damaged.read_with_header(norm, "model.norm.bias"), norm, "found nothing");
    let entry = "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[8]";
    let typed = |dtype: &str, shape: &str| format!("\"model.norm.weight\":{{\"dtype\":\"{dtype}\",\"shape\":{shape}");
    is_tensor(
        damaged.read_with_header(entry, &typed("F64", "[4]")),
        norm,
        "expected type F32, F16 or BF16, found type F64",
    );
    is_tensor(damaged.read_with_header(entry, &typed("F32", "[2,4]")), norm, "expected shape [8], found shape [2, 4]");
    let extra = "\"extra\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"model.norm.weight\":{";
    is_tensor(damaged.read_with_header("\"model.norm.weight\":{", extra), "extra", "no tensor of this name");
    let mut bytes = damaged.good.clone();
    let length = bytes.len();
    bytes[length - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    is_tensor(damaged.read_with(&bytes).unwrap_err(), norm, "NaN at element 7");
    let huge = damaged.read_with(&u64::MAX.to_le_bytes()).unwrap_err();
    assert!(huge.to_string().contains("at most"), "{huge}");
}

#[test]
fn missing_and_malformed_files_are_named() {
    for name in [CONFIG_FILE, MODEL_FILE, TOKENIZER_FILE] {
        let damaged = Damaged::new();
        let path = damaged.folder().join(name);
        fs::remove_file(&path).unwrap();
        let error = read(&damaged.folder()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Missing { path: missing } if *missing == path), "{error}");
        fs::write(&path, "nonsense, and no JSON").unwrap();
        let error = read(&damaged.folder()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Malformed { path: bad, .. } if *bad == path), "{error}");
    }
    let damaged = Damaged::new();
    fs::write(damaged.folder().join(TOKENIZER_FILE), "{}").unwrap();
    assert!(read(&damaged.folder()).unwrap_err().to_string().contains("not a tokenizer"));
}

#[test]
fn a_configuration_of_another_function_is_refused() {
    let damaged = Damaged::new();
    let path = damaged.folder().join(CONFIG_FILE);
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value) in [
        ("model_type", json!("mistral")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!("yes")),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("sliding_window", json!(4096)),
        ("rope_scaling", json!({"type": "linear"})),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0.5})),
        ("rope_scaling", json!("linear")),
        (
            "rope_scaling",
            json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            }),
        ),
        ("rope_parameters", json!({"rope_type": "dynamic", "factor": 2.0})),
        ("eos_token_id", json!([1, "x"])),
        ("bos_token_id", json!(256)),
        ("head_dim", json!(5)),
        ("num_key_value_heads", json!(3)),
        ("vocab_size", json!(100)),
        ("rope_theta", json!(1e300)),
    ] {
        let mut config = good.clone();
        config[field] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = read(&damaged.folder()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Field { field: named, .. } if named == field), "{field}: {error}");
    }
    for (field, value) in [
        ("hidden_size", json!(-1)),
        ("hidden_size", json!("8")),
        ("hidden_size", json!(8.5)),
        ("num_hidden_layers", Value::Null),
        ("tie_word_embeddings", json!(1)),
        ("rms_norm_eps", json!("small")),
    ] {
        let mut config = good.clone();
        config[field] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = read(&damaged.folder()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Field { field: named, .. } if named == field), "{field}: {error}");
    }
    // A larger model than the file holds must not be allocated before that is seen.
    let mut config = good;
    config["hidden_size"] = json!(16384);
    config["vocab_size"] = json!(1 << 20);
    config["num_hidden_layers"] = json!(256);
    fs::write(&path, config.to_string()).unwrap();
    assert!(matches!(read(&damaged.folder()), Err(CheckpointError::Tensor { .. })));
}

/// The sample model in two files with an index.
fn sharded(folder: &Path) {
    use safetensors::tensor::{TensorView, serialize_to_file};
    write_model(folder, Foreign::Refuse).unwrap();
    fs::remove_file(folder.join(RUN_FILE)).unwrap();
    let bytes = fs::read(folder.join(MODEL_FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let tensors: Vec<(String, TensorView)> = file
            .tensors()
            .into_iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == shard)
            .map(|(_, tensor)| tensor)
            .collect();
        weight_map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        serialize_to_file(tensors, None, &folder.join(name)).unwrap();
    }
    fs::remove_file(folder.join(MODEL_FILE)).unwrap();
    fs::write(folder.join(INDEX_FILE), json!({ "metadata": {}, "weight_map": weight_map }).to_string()).unwrap();
}

#[test]
fn shards_are_read_and_their_faults_are_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    sharded(&folder);
    assert_eq!(read(&folder).unwrap().parameters, parameters(&config()));
    let index = fs::read_to_string(folder.join(INDEX_FILE)).unwrap();
    let with_index = |change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(&index).unwrap();
        change(&mut json["weight_map"]);
        fs::write(folder.join(INDEX_FILE), json.to_string()).unwrap();
        read(&folder).unwrap_err()
    };
    let norm = "model.norm.weight";
    let error = with_index(&|map| map[norm] = json!("../secret.safetensors"));
    assert!(matches!(&error, CheckpointError::Tensor { tensor, .. } if tensor == norm), "{error}");
    assert!(error.to_string().contains("same folder") && error.to_string().contains(INDEX_FILE), "{error}");
    let error = with_index(&|map| map[norm] = json!("model-00003-of-00002.safetensors"));
    assert!(error.to_string().contains("model-00003-of-00002.safetensors"), "{error}");
    assert!(error.to_string().contains("holds 1 of the model's tensors; fetch it again"), "{error}");
    let error = with_index(&|map| drop(map.as_object_mut().unwrap().remove(norm)));
    assert!(matches!(&error, CheckpointError::Tensor { tensor, .. } if tensor == norm), "{error}");
    let error = with_index(&|map| {
        let names: Vec<Value> = map.as_object().unwrap().values().cloned().collect();
        let other = names.iter().find(|name| **name != map[norm]).unwrap().clone();
        map[norm] = other;
    });
    assert!(error.to_string().contains(norm) && error.to_string().contains("as model.safetensors.index"), "{error}");
    let error = with_index(&|map| *map = json!([1]));
    assert!(matches!(&error, CheckpointError::Malformed { path, .. } if path.ends_with(INDEX_FILE)), "{error}");
    fs::write(folder.join(INDEX_FILE), &index).unwrap();
    let first = folder.join("model-00001-of-00002.safetensors");
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 1]).unwrap();
    let error = read(&folder).unwrap_err();
    assert!(matches!(&error, CheckpointError::Malformed { path, .. } if *path == first), "{error}");
    // What a clone without Git LFS leaves of a model.
    fs::write(&first, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n").unwrap();
    let error = read(&folder).unwrap_err();
    assert!(matches!(&error, CheckpointError::Pointer { path } if *path == first), "{error}");
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}

#[test]
fn values_become_canonical_and_those_out_of_range_are_refused() {
    let damaged = Damaged::new();
    let with_last = |value: f32| {
        let mut bytes = damaged.good.clone();
        let length = bytes.len();
        bytes[length - 4..].copy_from_slice(&value.to_le_bytes());
        damaged.read_with(&bytes).map(|parameters| parameters.last().copied())
    };
    assert_eq!(with_last(f32::MIN_POSITIVE).unwrap().map(f32::to_bits), Some(0));
    assert_eq!(with_last(-0.0).unwrap().map(f32::to_bits), Some(0));
    for value in [2f32.powi(40), f32::MAX, f32::NEG_INFINITY] {
        let error = with_last(value).unwrap_err();
        assert!(matches!(&error, CheckpointError::Tensor { tensor, .. } if tensor == "model.norm.weight"), "{error}");
        assert!(error.to_string().contains("under 2^40"), "{error}");
    }
}

#[test]
fn what_transformers_leaves_aside_is_left_aside() {
    let damaged = Damaged::new();
    let expected = bits(&damaged.read_with(&damaged.good).unwrap());
    let header = std::str::from_utf8(&damaged.good[8..damaged.header_bytes()]).unwrap();
    let end = damaged.good.len() - damaged.header_bytes();
    let more = |name: &str| {
        let entry = format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{end},{}]}},", end + 4);
        let header = header.replacen('{', &entry, 1);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&damaged.good[damaged.header_bytes()..]);
        bytes.extend_from_slice(&[0; 4]);
        damaged.read_with(&bytes)
    };
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"] {
        assert_eq!(bits(&more(name).unwrap()), expected, "{name}");
    }
    assert!(more("model.layers.0.self_attn.q_proj.bias").unwrap_err().to_string().contains("q_proj.bias"));
}
