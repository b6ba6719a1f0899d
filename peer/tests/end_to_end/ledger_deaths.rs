//! Real peers that die, as by kill −9, at each point of making their ledger
//! durable, and start again from the same folder.

use crate::founders::found;
use crate::ledger::{agree, height, reaches, start, told};
use crate::support::{Peer, manta, run, stderr};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use tempfile::TempDir;

/// The points there are, as the program itself lists them.
fn points(of: &str) -> Vec<String> {
    let output = run(manta().args(["up", "--die-at", "?"]));
    let message = stderr(&output);
    let listed = message.split_once("points: ").expect("a list of points").1.lines().next().unwrap_or_default();
    let points: Vec<_> = listed.split(", ").filter(|point| point.starts_with(of)).map(str::to_owned).collect();
    assert!(!points.is_empty(), "points of {of} in {message}");
    points
}

/// Every block that any peer has ever told of as final.
#[derive(Default)]
struct Chronicle(BTreeMap<u64, Value>);

impl Chronicle {
    /// Notes what a status tells; there must not be two blocks of one height.
    fn note(&mut self, status: &Value) {
        for block in status["ledger"]["recent"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let height = block["height"].as_u64().expect("a height");
            let known = self.0.entry(height).or_insert_with(|| block.clone());
            assert_eq!(known, block, "two blocks of height {height}");
        }
    }

    fn highest(&self) -> u64 {
        self.0.keys().next_back().copied().unwrap_or(0)
    }

    /// All of it is on the peer's disk.
    fn is_kept_by(&self, peer: &Peer) {
        for (height, block) in &self.0 {
            let kept = told(peer, &["ledger", "block", &height.to_string()]);
            for field in ["state_root", "proposer", "time_ms"] {
                assert_eq!(kept[field], block[field], "{field} of block {height}");
            }
        }
    }
}

/// A life that ends at `point`; what it tells before is noted.
fn life(folder: &TempDir, name: &str, point: &str, extra: &[&str], chronicle: &mut Chronicle) {
    let mut peer = start(folder, name, &[&["--die-at", point], extra].concat());
    let status = peer.ended(|peer| peer.last_status().iter().for_each(|status| chronicle.note(status)));
    assert_eq!(status.signal(), Some(9), "{name} was to die at {point}: {status}");
}

#[test]
fn a_lone_founder_loses_nothing_wherever_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut chronicle = Chronicle::default();
    // The genesis document is written once: each of these lives comes a step further.
    for point in points("document").into_iter().chain(points("file")) {
        life(&folder, "lone", &point, &[], &mut chronicle);
    }
    assert_eq!(chronicle.highest(), 0, "no block was durable");
    for point in points("block").into_iter().chain(points("log")) {
        let before = chronicle.highest();
        life(&folder, "lone", &format!("{point}:2"), &[], &mut chronicle);
        assert!(chronicle.highest() >= before);
    }
    let peer = start(&folder, "lone", &[]);
    let known = chronicle.highest();
    // One that died at its second block has told of the first.
    assert!(known >= 8, "at least a block a life: {known}");
    reaches(&peer, known + 2);
    chronicle.note(&peer.status());
    chronicle.is_kept_by(&peer);
}

/// Starts peers of a ledger that they have founded together; all join by the first.
fn start_founders<const N: usize>(folder: &TempDir, names: [&str; N]) -> [Peer; N] {
    let mut first = None;
    names.map(|name| {
        let join: Vec<_> = first.iter().flat_map(|ticket: &String| ["--join", ticket]).collect();
        let peer = start(folder, name, &join);
        first.get_or_insert(peer.ticket().to_owned());
        peer
    })
}

/// The one that dies has two fifths of the weight: without it there is no block.
#[test]
fn a_member_of_a_committee_is_never_at_odds_with_it_wherever_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    found(&folder, &[("first", 3), ("second", 3), ("third", 4)]);
    let [first, second, mut third] = start_founders(&folder, ["first", "second", "third"]);
    let join = ["--join", first.ticket()];
    let id = third.id().to_owned();
    reaches(&first, 3);
    let before = told(&first, &["power", &id])["drilling"]["real"].as_f64().expect("a number");
    let balance = |peer: &Peer| told(peer, &["ledger", "account", &id])["balance"].as_u64().expect("a number");
    let credits = balance(&first);
    third.kill();
    let mut chronicle = Chronicle::default();
    for point in points("block").into_iter().chain(points("log")) {
        let seen = chronicle.highest();
        // A height has several records, and one block.
        let (passes, is_counted) = if point.starts_with("block") { (2, true) } else { (7, false) };
        life(&folder, "third", &format!("{point}:{passes}"), &join, &mut chronicle);
        [&first, &second].iter().for_each(|peer| chronicle.note(&peer.status()));
        assert!(!is_counted || chronicle.highest() > seen, "with it the ledger went on, until it died at {point}");
    }
    let third = start(&folder, "third", &join);
    agree(&[&first, &second, &third], chronicle.highest() + 2);
    [&first, &second, &third].iter().for_each(|peer| chronicle.note(&peer.status()));
    [&first, &second, &third].iter().for_each(|peer| chronicle.is_kept_by(peer));
    for height in chronicle.0.keys() {
        let block = told(&first, &["ledger", "block", &height.to_string()]);
        assert!(block["signers"].as_array().is_some_and(|signers| signers.iter().any(|each| *each == id)), "{block:#}");
    }
    let faults = first.status()["ledger"]["faults"].clone();
    assert_eq!(faults, Value::Array(Vec::new()), "nothing is held against anybody");
    assert!(balance(&third) >= credits);
    assert!(told(&third, &["power"])["drilling"]["real"].as_f64().is_some_and(|after| after >= before));
}

#[test]
fn a_newcomer_finds_into_the_ledger_wherever_it_dies_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = found(&folder, &[("first", 1), ("second", 1)]);
    let [first, second] = start_founders(&folder, ["first", "second"]);
    reaches(&first, 2);
    // It comes with a ledger of its own, for which nobody else has worked.
    let mut late = start(&folder, "late", &[]);
    reaches(&late, 1);
    late.kill();
    let join = ["--join", first.ticket()];
    let mut former = Chronicle::default();
    life(&folder, "late", &points("former")[0], &join, &mut former);
    let mut chronicle = Chronicle::default();
    let points = points("document").into_iter().chain(points("file")).chain(points("block"));
    for point in points {
        life(&folder, "late", &point, &join, &mut chronicle);
    }
    let late = start(&folder, "late", &join);
    agree(&[&first, &second, &late], height(&first.status()));
    [&first, &second, &late].iter().for_each(|peer| chronicle.note(&peer.status()));
    chronicle.is_kept_by(&late);
    assert_eq!(late.status()["ledger"]["ledger"], *ledger);
    assert!(folder.path().join("late/ledger.left/genesis").is_file(), "the former one is put aside");
}
