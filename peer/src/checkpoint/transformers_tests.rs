//! Models that `transformers` made are the same functions here, and ours are there.
//!
//! Committed models (`tests/transformers/models`, made by `make_models.py`) are
//! always compared; with the Python of `./test.sh` fresh ones are made, and what
//! we write is read back by `transformers` itself.

use super::read::{Checkpoint, read};
use super::write::{Foreign, Model, write};
use super::*;
use manta_gpu_kernels::reference::{Batch, Decoder};
use manta_gpu_kernels::{ArithmeticSpec, Engine, EngineOptions, OptimizerConfig, RopeScaling};
use safetensors::{Dtype, SafeTensors};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What both must agree on: f32 on their side, f64 on ours.
const TOLERANCE: f64 = 1e-4;
/// Positions of each sequence whose logits are on record.
const POSITIONS: usize = 4;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers")
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 3, "{folders:?}");
    folders
}

/// What a model computed in `transformers`.
struct Expected {
    /// Two sequences, one after the other.
    tokens: Vec<u32>,
    /// Nats a token.
    loss: f64,
    /// Of the last positions of each sequence.
    logits: Vec<f64>,
    /// Texts and their tokens.
    texts: Vec<(String, Vec<u32>)>,
}

impl Expected {
    fn read(folder: &Path) -> Self {
        let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str, dtype: Dtype| -> Vec<[u8; 4]> {
            let tensor = file.tensor(name).unwrap();
            assert_eq!(tensor.dtype(), dtype, "{name}");
            tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
        };
        let floats = |name| words(name, Dtype::F32).into_iter().map(|word| f64::from(f32::from_le_bytes(word)));
        let json: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let texts = json["texts"].as_array().unwrap().iter().map(|entry| {
            let ids = serde_json::from_value(entry["ids"].clone()).unwrap();
            (entry["text"].as_str().unwrap().to_owned(), ids)
        });
        Self {
            tokens: words("tokens", Dtype::I32).into_iter().map(u32::from_le_bytes).collect(),
            loss: floats("loss").next().unwrap(),
            logits: floats("logits").collect(),
            texts: texts.collect(),
        }
    }

    fn length(&self) -> usize {
        self.tokens.len() / 2
    }

    /// Sequences without their first, and without their last token.
    fn shifted(&self) -> (Vec<u32>, Vec<u32>) {
        let rows = || self.tokens.chunks_exact(self.length());
        (
            rows().flat_map(|row| &row[..row.len() - 1]).copied().collect(),
            rows().flat_map(|row| &row[1..]).copied().collect(),
        )
    }
}

/// Our f64 reference agrees with what `transformers` computed, and so does the tokenizer.
fn agrees(folder: &Path) -> Checkpoint {
    let (checkpoint, expected) = (read(folder).unwrap(), Expected::read(folder));
    let decoder = Decoder::<f64>::new(&checkpoint.config, &checkpoint.parameters);
    let logits = decoder.logits(&expected.tokens, 2);
    let vocabulary = checkpoint.config.vocab_size;
    let last =
        logits.chunks_exact(expected.length() * vocabulary).flat_map(|row| &row[row.len() - POSITIONS * vocabulary..]);
    assert_eq!(expected.logits.len(), 2 * POSITIONS * vocabulary);
    for (index, (found, wanted)) in last.zip(&expected.logits).enumerate() {
        assert!((found - wanted).abs() <= TOLERANCE, "{folder:?}: logit {index} is {found}, expected {wanted}");
    }
    let spread = expected.logits.iter().map(|logit| logit * logit).sum::<f64>() / expected.logits.len() as f64;
    assert!(spread.sqrt() > 0.3, "{folder:?}: logits as small as {spread} would agree with anything");
    let (inputs, targets) = expected.shifted();
    let loss = decoder.loss(Batch { inputs: &inputs, targets: &targets, sequences: 2 });
    assert!((loss - expected.loss).abs() <= TOLERANCE, "{folder:?}: loss {loss}, expected {}", expected.loss);
    let codec = checkpoint.tokenizer.codec().unwrap();
    for (text, ids) in &expected.texts {
        assert_eq!(codec.encode(text).unwrap(), *ids, "{folder:?}: {text:?}");
    }
    checkpoint
}

#[test]
fn committed_models_are_the_same_functions_as_in_transformers() {
    let checkpoints: Vec<Checkpoint> = folders(&scripts().join("models")).iter().map(|folder| agrees(folder)).collect();
    let configs: Vec<_> = checkpoints.iter().map(|checkpoint| &checkpoint.config).collect();
    // What the models are there for.
    assert!(configs.iter().any(|config| matches!(config.rope_scaling, Some(RopeScaling::Llama3 { .. }))));
    assert!(configs.iter().any(|config| matches!(config.rope_scaling, Some(RopeScaling::Linear { .. }))));
    assert!(configs.iter().any(|config| config.tie_word_embeddings));
    assert!(configs.iter().any(|config| config.num_key_value_heads < config.num_attention_heads));
    assert!(configs.iter().any(|config| config.query_width() != config.hidden_size));
}

/// Distance of the exact forward pass from the reference: of the logits, relative to their size, and of the loss.
fn distance(checkpoint: &Checkpoint, expected: &Expected, digits: u8) -> (f64, f64) {
    let (vocabulary, length) = (checkpoint.config.vocab_size, expected.length());
    let arithmetic = ArithmeticSpec {
        activation_digits: digits,
        weight_digits: digits,
        attention_digits: digits,
        micro_batch_sequences: 2,
        sequence_length: length - 1,
        ..ArithmeticSpec::default()
    };
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let mut engine = Engine::new(checkpoint.config.clone(), OptimizerConfig::default(), arithmetic, options).unwrap();
    engine.load_parameters(checkpoint.parameters.clone()).unwrap();
    let (mut error, mut size) = (0.0, 0.0);
    for (row, logits) in expected.tokens.chunks_exact(length).zip(expected.logits.chunks_exact(POSITIONS * vocabulary))
    {
        for (position, logits) in logits.chunks_exact(vocabulary).enumerate() {
            let found = engine.next_token_logits(&row[..length - POSITIONS + position + 1]).unwrap();
            for (found, wanted) in found.into_iter().zip(logits) {
                error += (f64::from(found) - wanted).powi(2);
                size += wanted * wanted;
            }
        }
    }
    let loss = engine.evaluate(&expected.tokens, 2).unwrap().loss.nats_per_token();
    ((error / size).sqrt(), (loss - expected.loss).abs())
}

/// What quantisation costs: docs/models.md states these bounds.
#[test]
fn the_exact_forward_pass_is_near_the_reference() {
    for folder in folders(&scripts().join("models")) {
        let (checkpoint, expected) = (read(&folder).unwrap(), Expected::read(&folder));
        let [one, two] = [1, 2].map(|digits| distance(&checkpoint, &expected, digits));
        println!("{}: one digit {one:.6?}, two digits {two:.6?}", folder.display());
        // An 8-bit operand is within 1/254 of its row's largest element, which is about three
        // times the typical one: about 0.7 % a product, of which a path to a logit has about
        // ten, so that 0.7 %·√10 = 2 % is expected; two digits are seven bits finer.
        assert!(one.0 < 0.06 && one.1 < 0.06, "{folder:?}: {one:?}");
        assert!(two.0 < 0.06 / 64.0 && two.1 < 0.06 / 64.0, "{folder:?}: {two:?}");
        assert!(one.0 > two.0 && two.0 > 0.0, "{folder:?}: {one:?} {two:?}");
    }
}

#[test]
fn what_is_read_is_written_and_read_again() {
    let root = tempfile::tempdir().unwrap();
    for folder in folders(&scripts().join("models")) {
        let first = read(&folder).unwrap();
        let out = root.path().join(folder.file_name().unwrap());
        write_again(&out, &first);
        let second = read(&out).unwrap();
        assert_eq!((&second.config, &second.parameters), (&first.config, &first.parameters));
        assert_eq!(second.tokenizer, first.tokenizer);
        for name in [TOKENIZER_FILE, TOKENIZER_CONFIG_FILE] {
            assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(folder.join(name)).unwrap(), "{name}");
        }
    }
}

fn write_again(out: &Path, checkpoint: &Checkpoint) {
    let Checkpoint { config, parameters, tokenizer, .. } = checkpoint;
    write(out, Foreign::Refuse, Model { config, parameters, tokenizer, run: &Value::Null }).unwrap();
}

/// The Python that `./test.sh` installs; `None` if its absence was asked for aloud.
fn python() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let installed = cache.map(|cache| cache.join("manta/transformers/bin/python"));
    let python = variable("MANTA_TEST_PYTHON").or(installed).filter(|python| python.exists());
    if python.is_none() {
        let skip = std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("transformers"));
        assert!(skip, "there is no Python with transformers; run ./test.sh, or set MANTA_TEST_SKIP=transformers");
        eprintln!("skipped as MANTA_TEST_SKIP asks: no Python with transformers");
    }
    python
}

fn run(python: &Path, script: &str, arguments: &[&Path]) -> String {
    let output = Command::new(python)
        .arg(scripts().join(script))
        .args(arguments)
        .args(if script == "make_models.py" { &["--seed", "7"][..] } else { &[] })
        .envs([("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Both ways: what `transformers` makes is read, and what we write of it, it reads.
#[test]
fn transformers_reads_our_folders_and_we_read_its() {
    let Some(python) = python() else { return };
    let root = tempfile::tempdir().unwrap();
    let made = root.path().join("made");
    fs::create_dir(&made).unwrap();
    run(&python, "make_models.py", &[&made]);
    for folder in folders(&made) {
        let name = folder.file_name().unwrap();
        let committed = read(&scripts().join("models").join(name)).unwrap();
        let checkpoint = agrees(&folder);
        assert_ne!(checkpoint.parameters, committed.parameters, "another seed makes another model");
        assert_eq!(checkpoint.config, committed.config, "the script has changed: make the committed models again");
        let out = root.path().join("ours").join(name);
        write_again(&out, &checkpoint);
        let said = run(&python, "check_folder.py", &[&out, &folder]);
        let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert!(said["text"].as_str().unwrap().starts_with("<s>The cat"), "{said}");
    }
}
