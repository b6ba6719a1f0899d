//! `manta demo`, and `manta generate` with what it leaves.

use crate::support::{last_json, manta, run, sample_file, stderr};
use serde_json::Value;
use std::path::Path;

/// Final parameter hash of the demo below. It may change only with the
/// arithmetic version, or with the presets or the drawing of batches.
const PARAMETER_HASH: &str = "PIN";

fn demo(folder: &Path, out: &str, peers: &str, seed: &str) -> Value {
    let data = sample_file(folder);
    let output = run(manta()
        .args(["demo", "--json", "--preset", "nano", "--rounds", "3", "--steps-per-round", "4"])
        .args(["--peers", peers, "--seed", seed])
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(folder.join(out)));
    assert!(output.status.success(), "{}", stderr(&output));
    last_json(&output)
}

#[test]
fn three_peers_train_to_the_same_bits_on_any_machine_and_the_model_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let report = demo(folder.path(), "model", "3", "5");
    assert_eq!(report["peers"], 3);
    assert_eq!(report["rounds"], 3);
    // 3 peers, 12 steps, one micro-batch of 4 sequences of 64 tokens.
    assert_eq!(report["tokens"], 3 * 12 * 4 * 64);
    assert_eq!(report["parameter_hashes_equal"], true);
    assert_eq!(report["parameter_hash"], PARAMETER_HASH);
    assert_eq!(report["peers_lost"], 0);
    let number = |field: &str| report[field].as_f64().unwrap_or_else(|| panic!("{field} in {report}"));
    assert!(number("loss_last") < number("loss_first"), "{report}");
    for field in ["val_loss", "unigram_loss", "tokens_per_s"] {
        assert!(number(field) > 0.0, "{report}");
    }
    // Each peer sends 3/2 of the gradient a step: 2/3 as values, twice 1/3 as sums.
    assert!(number("bytes_sent") > 1e6, "{report}");

    let model = folder.path().join("model");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "manta-run.json"] {
        assert!(model.join(file).is_file(), "{file} is missing");
    }
    let generate = |seed: &str| {
        let output = run(manta()
            .arg("generate")
            .arg(&model)
            .args(["--prompt", "peer ", "--tokens", "24", "--json", "--seed", seed]));
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)["text"].as_str().expect("text").to_owned()
    };
    assert_eq!(generate("1"), generate("1"));
    assert_ne!(generate("1"), generate("2"));
}

#[test]
fn the_seed_and_the_number_of_peers_decide_the_bits() {
    let folder = tempfile::tempdir().unwrap();
    let one = demo(folder.path(), "one", "1", "5");
    let other = demo(folder.path(), "other", "1", "6");
    assert_eq!(one["parameter_hashes_equal"], true);
    assert_ne!(one["parameter_hash"], other["parameter_hash"]);
    assert_ne!(one["parameter_hash"], PARAMETER_HASH);
}
