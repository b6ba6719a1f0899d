//! Models that go on: from a tokenizer of their own, from a folder of ours, from
//! one that `transformers` made.

use crate::support::{Peer, assert_refused, last_json, manta, run, sample_text, stderr};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn json(command: &mut std::process::Command) -> Value {
    let output = run(command.arg("--json"));
    assert!(output.status.success(), "{}", stderr(&output));
    last_json(&output)
}

/// Trains with the two peers that there are.
fn train(peer: &Peer, data: &Path, out: &Path, arguments: &[&str]) -> Value {
    let fixed = ["train", "--peers", "2", "--steps-per-round", "4", "--share", "open", "--yes"];
    let report = json(peer.command().args(fixed).args(arguments).arg("--data").arg(data).arg("--out").arg(out));
    assert_eq!((&report["peers"], &report["peers_lost"]), (&2.into(), &0.into()), "{report}");
    assert_eq!(report["parameter_hashes_equal"], true, "{report}");
    report
}

fn loss(model: &Path, data: &Path) -> f64 {
    let report =
        json(manta().args(["eval", "--device", "native", "--windows", "40"]).arg(model).arg("--data").arg(data));
    assert!(report["loss_per_byte"].as_f64() < report["loss"].as_f64(), "tokens are longer than bytes: {report}");
    report["loss"].as_f64().expect("a loss")
}

fn made_by_transformers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers/models/llama3_untied_bf16_sharded")
}

#[test]
fn two_peers_go_on_with_models_and_end_with_equal_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = path("text.txt");
    std::fs::write(&data, sample_text(96 * 1024)).unwrap();
    let owner = Peer::start(&folder, "owner", &[]);
    let other = Peer::start(&folder, "other", &["--join", owner.ticket()]);
    owner.wait_for("both offers", |status| (status["listings"].as_array()?.len() == 2).then_some(()));
    let tokenizer = path("tokenizer.json");
    let made =
        json(manta().args(["tokenize", "train", "--vocab", "300", "--data"]).arg(&data).arg("--out").arg(&tokenizer));
    assert!(made["bytes_per_token"].as_f64() > Some(2.0), "{made}");

    let named = tokenizer.to_str().unwrap();
    let first = path("first");
    train(&owner, &data, &first, &["--preset", "nano", "--rounds", "2", "--tokenizer", named]);
    assert_eq!(std::fs::read(first.join("tokenizer.json")).unwrap(), std::fs::read(&tokenizer).unwrap());

    let from = |folder: &Path, out: &str, rounds: &str| {
        let arguments = ["--from", folder.to_str().unwrap(), "--rounds", rounds, "--learning-rate", "3e-3"];
        train(&owner, &data, &path(out), &arguments)
    };
    let (one, again) = (from(&first, "one", "3"), from(&first, "again", "3"));
    assert_eq!(one["parameter_hash"], again["parameter_hash"], "equal orders end with equal bits");
    let (before, after) = (loss(&first, &data), loss(&path("one"), &data));
    assert!(after < before - 0.1, "it goes on from where it was: {before} {after}");
    let record: Value = serde_json::from_slice(&std::fs::read(path("one/manta-run.json")).unwrap()).unwrap();
    assert_eq!(record["run"]["initial_root"].as_str().map(str::len), Some(64), "{record}");

    // A stranger's model, of other precision and in several files.
    let strange = from(&made_by_transformers(), "tuned", "1");
    assert_ne!(strange["parameter_hash"], one["parameter_hash"]);
    assert!(loss(&path("tuned"), &data) < loss(&made_by_transformers(), &data));
    let config: Value = serde_json::from_slice(&std::fs::read(path("tuned/config.json")).unwrap()).unwrap();
    assert_eq!((&config["rope_scaling"]["rope_type"], &config["eos_token_id"]), (&"llama3".into(), &1.into()));
    let written = json(manta().args(["generate", "--prompt", "The cat", "--tokens", "8"]).arg(path("tuned")));
    assert!(written["text"].is_string(), "{written}");
    drop(other);
}

#[test]
fn models_that_cannot_be_trained_are_refused_before_work_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = path("text.txt");
    std::fs::write(&data, sample_text(32 * 1024)).unwrap();
    let peer = Peer::start(&folder, "peer", &[]);
    let copy = |name: &str| {
        std::fs::create_dir(path(name)).unwrap();
        for entry in std::fs::read_dir(made_by_transformers()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), path(name).join(entry.file_name())).unwrap();
        }
        path(name)
    };
    let refused = |model: &Path, parts: &[&str]| {
        let train = run(peer
            .command()
            .args(["train", "--from"])
            .arg(model)
            .arg("--data")
            .arg(&data)
            .arg("--out")
            .arg(path("out")));
        assert_refused(&train, parts);
        assert_refused(&run(manta().arg("eval").arg(model).arg("--data").arg(&data)), parts);
    };
    let other = copy("other");
    let config = std::fs::read_to_string(other.join("config.json")).unwrap();
    std::fs::write(other.join("config.json"), config.replace("LlamaForCausalLM", "LlamaForTokenClassification"))
        .unwrap();
    refused(&other, &["config.json", "`architectures`"]);
    std::fs::write(other.join("config.json"), config.replace("\"attention_bias\": false", "\"attention_bias\": true"))
        .unwrap();
    refused(&other, &["config.json", "`attention_bias`"]);
    let shard = copy("shard").join("model-00002-of-00004.safetensors");
    std::fs::remove_file(&shard).unwrap();
    refused(&path("shard"), &["model-00002-of-00004.safetensors", "no such file"]);
    assert!(!path("out").exists());
}
