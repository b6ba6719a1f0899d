//! Members that die, leave and come back in the middle of a run.

use crate::support::{Peer, run, sample_file, stderr};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// Orders a run that lasts until it is stopped; gives its id. Estimated by a machine that is measured while others
/// compute, it is still shorter than the day for which peers lend themselves.
fn endless_run(owner: &Peer, peers: &str, data: &Path, out: &Path, extra: &[&str]) -> String {
    let train =
        ["train", "--detach", "--preset", "nano", "--rounds", "20000", "--peers", peers, "--share", "open", "--yes"];
    let placed = run(owner.command().args(train).args(extra).arg("--data").arg(data).arg("--out").arg(out));
    assert!(placed.status.success(), "{}", stderr(&placed));
    owner.wait_for("the run", |status| status["orders"][0]["run"].as_str().map(str::to_owned))
}

/// The first run of a status, if it goes on with these members: id and role.
fn members(status: &Value) -> Vec<(&str, &str)> {
    let members = status["runs"][0]["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().filter_map(|member| Some((member["peer"].as_str()?, member["role"].as_str()?))).collect()
}

fn exchanges_done(status: &Value) -> u64 {
    status["runs"][0]["exchanges_done"].as_u64().unwrap_or(0)
}

/// Waits until all of `peers` see exactly each other at work, and go on for a while.
fn trains_together(peers: &[&Peer]) {
    for peer in peers {
        peer.wait_for("all of them at work", |status| {
            let seen = members(status);
            let there = |peer: &&Peer| seen.contains(&(peer.id(), "full"));
            (seen.len() == peers.len() && peers.iter().all(there)).then_some(())
        });
        // Its first one here may be any of the run; more must follow.
        let before = exchanges_done(&peer.status());
        let more = |status: &Value| Some(exchanges_done(status)).filter(|done| *done > before);
        let first = peer.wait_for("an exchange", more);
        peer.wait_for("more exchanges", |status| (exchanges_done(status) > first + 5).then_some(()));
    }
}

fn swarm(folder: &TempDir) -> [Peer; 3] {
    let owner = Peer::start(folder, "owner", &[]);
    let others = ["other", "third"].map(|name| Peer::start(folder, name, &["--join", owner.ticket()]));
    owner.wait_for("three offers", |status| (status["listings"].as_array()?.len() == 3).then_some(()));
    let [other, third] = others;
    [owner, other, third]
}

/// Stops the run at its owner, and checks that the others hear of it and the model is saved.
fn stop(owner: &Peer, id: &str, others: &[&Peer], out: &Path) {
    let stopped = run(owner.command().args(["stop", id]));
    assert!(stopped.status.success(), "{}", stderr(&stopped));
    owner.wait_for("the saved model", |status| status["runs"][0]["out"].as_str().map(|_| ()));
    assert!(out.join("model.safetensors").is_file());
    for other in others {
        other.wait_for("the end of the run", |status| (status["runs"][0]["state"] == "failed").then_some(()));
        let failure = other.status()["runs"][0]["failure"].as_str().unwrap_or_default().to_owned();
        assert!(failure.contains("stopped by its user"), "{failure}");
    }
    // All machines are free again for the next run.
    owner.wait_for("free machines", |status| {
        let listings = status["listings"].as_array()?;
        let free = |id: &str| listings.iter().any(|listing| listing["peer"] == id && listing["busy"] == false);
        others.iter().all(|other| free(other.id())).then_some(())
    });
}

#[test]
fn a_killed_member_is_left_out_and_comes_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let out = folder.path().join("model");
    let [owner, other, mut victim] = swarm(&folder);
    let id = endless_run(&owner, "3", &data, &out, &[]);
    trains_together(&[&owner, &other, &victim]);
    victim.kill();
    trains_together(&[&owner, &other]);
    for survivor in [&owner, &other] {
        let left = survivor.status()["runs"][0]["left"].clone();
        assert_eq!(left[0]["peer"], victim.id(), "{left}");
        assert_eq!(left[0]["reason"], "a member was lost");
    }
    // Another port, another process, the same folder: it goes on where the others are by now.
    let again = Peer::start(&folder, "third", &["--join", owner.ticket()]);
    assert_eq!(again.id(), victim.id());
    trains_together(&[&owner, &other, &again]);
    stop(&owner, &id, &[&other, &again], &out);
}

#[test]
fn whoever_leaves_a_run_leaves_it_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let out = folder.path().join("model");
    let [owner, other, mut third] = swarm(&folder);
    // Three of four, then two of three can always agree on who is left.
    let fourth = Peer::start(&folder, "fourth", &["--join", owner.ticket()]);
    owner.wait_for("four offers", |status| (status["listings"].as_array()?.len() == 4).then_some(()));
    let id = endless_run(&owner, "4", &data, &out, &["--local-steps", "4"]);
    trains_together(&[&owner, &other, &third, &fourth]);
    let left = run(other.command().args(["stop", &id]));
    assert!(left.status.success(), "{}", stderr(&left));
    trains_together(&[&owner, &third, &fourth]);
    assert_eq!(other.status()["runs"][0]["state"], "failed");
    third.interrupt();
    trains_together(&[&owner, &fourth]);
    let reasons = owner.status()["runs"][0]["left"].clone();
    let reasons: Vec<_> = reasons.as_array().unwrap().iter().map(|left| left["reason"].as_str()).collect();
    assert_eq!(reasons, [Some("stopped by its user"), Some("stopped by its user")]);
    stop(&owner, &id, &[&fourth], &out);
}

#[test]
fn a_run_whose_members_were_all_killed_goes_on_when_they_are_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let out = folder.path().join("model");
    let pair = || {
        let owner = Peer::start(&folder, "owner", &[]);
        let other = Peer::start(&folder, "other", &["--join", owner.ticket()]);
        owner.wait_for("two offers", |status| (status["listings"].as_array()?.len() == 2).then_some(()));
        (owner, other)
    };
    // Whoever has stopped in order remembers where the others were, and at the next start they are elsewhere.
    let (mut owner, mut other) = pair();
    other.interrupt();
    owner.interrupt();
    let (mut owner, mut other) = pair();
    let id = endless_run(&owner, "2", &data, &out, &[]);
    trains_together(&[&owner, &other]);
    // Far enough that a checkpoint counts: it is in the journal when the next one is begun, not when its file is there.
    let checkpoint = |name: &str| {
        let runs = std::fs::read_dir(folder.path().join(name).join("runs")).ok()?;
        let states = runs.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let exchange = |state: String| state.strip_suffix(".state")?.rsplit_once('-')?.1.parse::<u64>().ok();
        let mut exchanges: Vec<_> = states.filter_map(exchange).collect();
        exchanges.sort_unstable();
        exchanges.into_iter().nth_back(1)
    };
    let saved = owner.wait_for("a checkpoint of both", |_| {
        let [a, b] = ["owner", "other"].map(checkpoint);
        Some(a?.min(b?)).filter(|saved| *saved > 0)
    });
    owner.kill();
    other.kill();
    let owner = Peer::start(&folder, "owner", &[]);
    let other = Peer::start(&folder, "other", &["--join", owner.ticket()]);
    trains_together(&[&owner, &other]);
    let done = exchanges_done(&owner.status());
    assert!(done > saved, "it went on from a checkpoint: exchange {done}, saved before {saved}");
    stop(&owner, &id, &[&other], &out);
}
