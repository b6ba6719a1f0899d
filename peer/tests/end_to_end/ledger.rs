//! The swarm's ledger, kept by real peers: agreed on, drilled for, and not lost by kill −9.

use crate::support::{Peer, assert_refused, last_json, poll, run, sample_file, stderr};
use serde_json::Value;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// A ledger whose blocks come fast and whose drills are small.
const WATCHED: [&str; 2] = ["--epoch", "300ms"];

pub(crate) fn start(folder: &TempDir, name: &str, extra: &[&str]) -> Peer {
    Peer::start(folder, name, &[&["--device", "native"], &WATCHED[..], extra].concat())
}

pub(crate) fn height(status: &Value) -> u64 {
    status["ledger"]["height"].as_u64().unwrap_or(0)
}

/// Waits for this height; gives the ledger as it is then.
pub(crate) fn reaches(peer: &Peer, wanted: u64) -> Value {
    let reached = |status: &Value| (height(status) >= wanted).then(|| status["ledger"].clone());
    peer.wait_for(&format!("block {wanted}"), reached)
}

/// What a command prints with `--json`.
pub(crate) fn told(peer: &Peer, arguments: &[&str]) -> Value {
    let output = run(peer.command().args(arguments).arg("--json"));
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    last_json(&output)
}

/// The state roots that a peer tells of its latest blocks.
fn roots(peer: &Peer) -> BTreeMap<u64, String> {
    let status = peer.status();
    let recent = status["ledger"]["recent"].as_array().cloned().unwrap_or_default();
    let root = |block: &Value| Some((block["height"].as_u64()?, block["state_root"].as_str()?.to_owned()));
    recent.iter().filter_map(root).collect()
}

/// Waits until all tell of one same block later than `after`, and all blocks that any two tell of are equal.
pub(crate) fn agree(peers: &[&Peer], after: u64) {
    let common = || {
        let all: Vec<_> = peers.iter().map(|peer| roots(peer)).collect();
        for other in &all[1..] {
            for (height, root) in &all[0] {
                assert!(other.get(height).is_none_or(|found| found == root), "different states after block {height}");
            }
        }
        let shared = all[0].keys().filter(|height| all.iter().all(|roots| roots.contains_key(*height)));
        Value::from(shared.max().copied().unwrap_or(0))
    };
    poll("a later block that all have", common, |height| height.as_u64().filter(|height| *height > after));
}

fn standing<'a>(status: &'a Value, peer: &str) -> Option<&'a Value> {
    status["ledger"]["standings"].as_array()?.iter().find(|standing| standing["peer"] == peer)
}

#[test]
fn a_swarm_of_one_makes_blocks_and_goes_on_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = start(&folder, "lone", &[]);
    let mut before = reaches(&peer, 3);
    for _ in 0..2 {
        let seen = height(&peer.status());
        let block = told(&peer, &["ledger", "block", &seen.to_string()]);
        peer.kill();
        peer = start(&folder, "lone", &[]);
        let after = reaches(&peer, seen + 2);
        assert_eq!(after["ledger"], before["ledger"], "the same ledger");
        assert_eq!(told(&peer, &["ledger", "block", &seen.to_string()]), block, "no other block at its height");
        before = after;
    }
    let refused = run(peer.command().args(["ledger", "block", "99999999"]));
    assert_refused(&refused, &["there is no block 99999999", "heights go from 1"]);
    let refused = run(peer.command().args(["drill", "explain", "abcdef"]));
    assert_refused(&refused, &["abcdef", "manta drill status"]);
    let (_, metrics) = peer.get("/metrics");
    assert!(metrics.contains("manta_ledger_height ") && metrics.contains("manta_power_effective "), "{metrics}");
}

#[test]
fn four_peers_agree_drill_and_pay_and_one_that_was_killed_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(&folder, "first", &[]);
    reaches(&first, 1);
    let join = |name: &str| start(&folder, name, &["--join", first.ticket()]);
    let [second, third, mut fourth] = ["second", "third", "fourth"].map(join);
    // Newcomers win power by drills that others agree on.
    for peer in [&second, &third] {
        first.wait_for("power of a newcomer", |status| {
            standing(status, peer.id())?["weight"].as_u64().filter(|weight| *weight > 0)
        });
    }
    first.wait_for("drills of those who have power", |status| {
        status["ledger"]["drills"]["agreed"].as_u64().filter(|agreed| *agreed >= 3)
    });
    agree(&[&first, &second, &third, &fourth], 0);

    let drills = told(&second, &["drill", "status"]);
    let settled = drills["settled"].as_array().expect("a list").last().expect("one has agreed").clone();
    let task = told(&third, &["drill", "explain", settled["task"].as_str().expect("an id")]);
    assert_eq!(task["certificate"]["valid"], true, "{task:#}");
    assert!(task["seats"].as_array().is_some_and(|seats| seats.len() >= 2), "{task:#}");
    let power = told(&first, &["power", second.id()]);
    assert!(power["entries"].as_array().is_some_and(|entries| !entries.is_empty()), "{power:#}");

    let balance = || told(&first, &["ledger", "account", fourth.id()]);
    let before = balance()["balance"].as_u64().expect("a number");
    first.wait_for("1.5 credits", |status| status["ledger"]["balance"].as_u64().filter(|own| *own >= 1_500_000));
    let sent = told(&first, &["ledger", "transfer", fourth.id(), "1.5"]);
    let id = sent["transaction"].as_str().expect("an id");
    let arrived = |account: &Value| account["balance"].as_u64().filter(|balance| *balance >= before + 1_500_000);
    poll("the credits", balance, arrived);
    assert!(told(&first, &["ledger", "tx", id])["height"].as_u64().is_some_and(|height| height > 0));
    let refused = run(second.command().args(["ledger", "transfer", first.id(), "1000000"]));
    assert_refused(&refused, &["micro-credits in the account"]);

    fourth.kill();
    let seen = height(&first.status());
    reaches(&first, seen + 3);
    let fourth = join("fourth");
    agree(&[&first, &second, &third, &fourth], seen + 3);

    // Who has trained for somebody has kept a lease, and everybody can see that.
    let out = folder.path().join("model");
    let train = ["train", "--preset", "nano", "--rounds", "2", "--peers", "2", "--share", "open", "--yes", "--json"];
    let trained = run(first.command().args(train).arg("--data").arg(sample_file(folder.path())).arg("--out").arg(&out));
    assert!(trained.status.success(), "{}", stderr(&trained));
    let accounts = || {
        let others = [&second, &third, &fourth].map(|peer| told(&third, &["ledger", "account", peer.id()]));
        Value::from(others.to_vec())
    };
    let leases = |accounts: &Value, field: &str| -> u64 {
        accounts.as_array().into_iter().flatten().filter_map(|account| account["reliability"][field].as_u64()).sum()
    };
    let kept = |accounts: &Value| (leases(accounts, "leases_kept") == 1).then(|| leases(accounts, "leases"));
    assert_eq!(poll("a kept lease", accounts, kept), 1, "nobody has broken one");
}

#[test]
fn a_liar_is_named_and_nobody_else_loses() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(&folder, "first", &[]);
    reaches(&first, 1);
    let join = |name: &str, extra: &[&str]| start(&folder, name, &[&["--join", first.ticket()], extra].concat());
    let _honest = [join("second", &[]), join("third", &[])];
    let liar = join("liar", &["--lie"]);
    let faults = first.wait_for("the liar's name", |status| {
        let faults = status["ledger"]["faults"].as_array()?;
        faults.iter().any(|fault| fault["peer"] == liar.id() && fault["kind"] == "wrong-result").then(|| faults.clone())
    });
    let others = faults.iter().filter(|fault| fault["peer"] != liar.id() && fault["kind"] != "unrevealed");
    assert_eq!(others.count(), 0, "{faults:#?}");
}
