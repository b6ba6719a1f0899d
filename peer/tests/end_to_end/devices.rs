//! Graphics devices: listing, proving, training beside native peers.

use crate::support::{Peer, assert_refused, last_json, manta, run, sample_file, skipped, stderr};
use serde_json::Value;
use std::path::Path;

/// The result of two peers, two rounds on `device`.
fn demo(folder: &Path, device: &str) -> Value {
    let output = run(manta()
        .arg("--data-dir")
        .arg(folder.join("manta"))
        .args(["demo", "--json", "--preset", "nano", "--rounds", "2", "--steps-per-round", "3", "--peers", "2"])
        .args(["--device", device, "--data"])
        .arg(sample_file(folder))
        .arg("--out")
        .arg(folder.join(device)));
    assert!(output.status.success(), "{}", stderr(&output));
    last_json(&output)
}

#[test]
fn peers_on_different_devices_hold_the_same_bits() {
    if skipped("gpu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let native = demo(folder.path(), "native");
    let mixed = demo(folder.path(), "mixed");
    assert_eq!(mixed["parameter_hashes_equal"], true);
    for field in ["parameter_hash", "loss_first", "loss_last", "val_loss", "tokens"] {
        assert_eq!(mixed[field], native[field], "{field}");
    }
    let text = |device: &str| {
        let output = run(manta()
            .arg("--data-dir")
            .arg(folder.path().join("manta"))
            .args(["generate", "--prompt", "peer ", "--tokens", "12", "--json", "--device", device])
            .arg(folder.path().join("mixed")));
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)["text"].as_str().expect("text").to_owned()
    };
    assert_eq!(text("software"), text("native"));
}

#[test]
fn a_peer_on_a_device_says_so_everywhere() {
    if skipped("gpu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(&folder, "peer", &["--device", "software"]);
    let status =
        peer.wait_for("the own offer", |status| (status["listings"].as_array()?.len() == 1).then(|| status.clone()));
    assert_eq!(status["device_kind"], "software");
    assert_eq!(status["device_reason"], "asked for");
    let device = status["device"].as_str().expect("a description");
    let listed = status["listings"][0]["device"].as_str().expect("a name");
    assert!(device.starts_with(listed), "{listed} in {device}");
    assert!(status["listings"][0]["multiply_adds_per_s"].as_u64().expect("a number") > 0);
    assert!(status["listings"][0]["memory_bytes"].as_u64().expect("a number") > 0);
    let (_, metrics) = peer.get("/metrics");
    assert!(metrics.contains("kind=\"software\""), "{metrics}");
    let log = std::fs::read_to_string(folder.path().join("peer.log")).expect("a log");
    assert!(!log.contains("XDG_RUNTIME_DIR"), "{log}");

    // The peer has tested the device and kept the outcome; a test again finds the same.
    let devices = |extra: &[&str]| {
        let output = run(peer.command().args(["devices", "--json"]).args(extra));
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)
    };
    for found in [devices(&[]), devices(&["--check"])] {
        let list = found["devices"].as_array().expect("a list");
        let software = list.iter().find(|device| device["kind"] == "software").expect("the software adapter");
        assert_eq!(software["admission"]["refused"], Value::Null);
        assert_eq!(software["admission"]["whole_step"], true);
        assert!(!found["reason"].as_str().expect("a reason").is_empty());
        assert_ne!(found["chosen"], software["name"], "software is never chosen by itself");
    }
}

#[test]
fn what_is_not_there_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let missing = ["--device", "an adapter that nobody has"];
    let up = run(manta()
        .arg("--data-dir")
        .arg(folder.path())
        .args(["up", "--no-mdns", "--http", "127.0.0.1:0"])
        .args(missing));
    assert_refused(&up, &["an adapter that nobody has", "manta devices --check", "--device native"]);
    let check = run(manta().args(["bench", "--self-check"]).args(missing));
    assert_refused(&check, &["an adapter that nobody has", "--device software"]);
    let native = run(manta().args(["bench", "--self-check", "--device", "native"]));
    assert_refused(&native, &["--device gpu"]);
    let short = run(manta().args(["up", "--device", "x"]));
    assert_refused(&short, &["manta devices"]);
}
