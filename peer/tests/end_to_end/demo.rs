//! `manta demo`, and `manta generate` with what it leaves.

use crate::support::{assert_refused, last_json, manta, run, sample_file, stderr};
use serde_json::Value;
use std::path::Path;

/// Final parameter hash of the demo below. It may change only with the
/// arithmetic version, or with the presets or the drawing of batches.
const PARAMETER_HASH: &str = "11beed5f4530b4229255d6bfc398ee04d23c738f7fb94ab98fd728f9edb488fb";

fn demo(folder: &Path, out: &str, peers: &str, seed: &str) -> Value {
    demo_with(folder, out, &["--rounds", "3", "--steps-per-round", "4", "--peers", peers, "--seed", seed])
}

fn demo_with(folder: &Path, out: &str, arguments: &[&str]) -> Value {
    let data = sample_file(folder);
    let output = run(manta()
        .args(["demo", "--json", "--preset", "nano", "--device", "native"])
        .args(arguments)
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
    // Nobody lies, so nobody is named and nobody loses.
    assert_eq!((&report["liars_named"], &report["honest_loss"]), (&Value::Array(Vec::new()), &Value::from(0.0)));
    assert!(report["blocks"].is_u64() && report["drills_agreed"].is_u64() && report["power"].is_object(), "{report}");
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

/// What every run must have come to, whatever happened to its members.
fn assert_whole(report: &Value, batches: u64) {
    assert_eq!(report["failure"], Value::Null, "{report}");
    assert_eq!(report["parameter_hashes_equal"], true, "{report}");
    let count = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"));
    assert_eq!(["batches_total", "batches_lost", "batches_double"].map(count), [batches, 0, 0], "{report}");
}

#[test]
fn a_killed_peer_costs_no_batch_and_little_time() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--rounds", "30", "--steps-per-round", "4", "--peers", "3", "--kill-one"];
    let report = demo_with(folder.path(), "model", &arguments);
    assert_whole(&report, 30 * 4 * 3);
    assert_eq!((&report["peers_lost"], &report["peers_joined"]), (&Value::from(1), &Value::from(0)), "{report}");
    assert_eq!(report["faults"][0]["kind"], "kill-one");
    // A few tens of milliseconds; a machine that is busy with other things gets more.
    assert!(report["recovery_ms"].as_u64().is_some_and(|ms| ms < 5_000), "{report}");
}

#[test]
fn a_frozen_peer_is_left_out_and_comes_back_beside_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--rounds", "200", "--steps-per-round", "4", "--peers", "3", "--freeze-one", "--join-late"];
    let report = demo_with(folder.path(), "model", &arguments);
    assert_whole(&report, 200 * 4 * 3);
    assert_eq!((&report["peers_lost"], &report["peers_joined"]), (&Value::from(1), &Value::from(2)), "{report}");
    assert!(report["recovery_ms"].as_u64().is_some_and(|ms| ms < 15_000), "{report}");
}

#[test]
fn a_run_outlives_its_owner_who_gets_the_model_later() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--rounds", "20", "--local-steps", "3", "--peers", "3", "--kill-owner"];
    let report = demo_with(folder.path(), "model", &arguments);
    assert_whole(&report, 20 * 3 * 3);
    assert_eq!(report["peers_lost"], 1, "{report}");
    assert!(report["val_loss"].as_f64().is_some_and(|loss| loss > 0.0), "{report}");
    assert!(folder.path().join("model/model.safetensors").is_file());
}

#[test]
fn faults_that_would_leave_nobody_are_refused() {
    let refused = run(manta().args(["demo", "--peers", "2", "--kill-one"]));
    assert_refused(&refused, &["--peers 2", "at least 3"]);
}
