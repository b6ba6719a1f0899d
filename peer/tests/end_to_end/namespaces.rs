//! Two machines that share no loopback: two network namespaces with a cable
//! between them, joined by a ticket. Needs root and `ip`.

use crate::support::{Peer, assert_refused, last_json, manta, poll, run, sample_file, sample_text, skipped, stderr};
use std::path::Path;
use std::process::Command;

/// Two namespaces and the cable; removed when dropped.
struct Lab {
    names: [String; 2],
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("`ip` is installed (package iproute2)");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {problem} (needs root; MANTA_TEST_SKIP=netns skips)", arguments.join(" "));
}

impl Lab {
    /// `tag` keeps the labs of one process apart.
    fn new(tag: &str) -> Self {
        let process = std::process::id();
        let names = [format!("manta-{tag}-a-{process}"), format!("manta-{tag}-b-{process}")];
        let lab = Self { names };
        let [a, b] = &lab.names;
        ip(&["netns", "add", a]);
        ip(&["netns", "add", b]);
        ip(&["link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b]);
        for (name, address) in [(a, "10.77.0.1/24"), (b, "10.77.0.2/24")] {
            ip(&["-n", name, "address", "add", address, "dev", "cable"]);
            ip(&["-n", name, "link", "set", "cable", "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        lab
    }

    /// `manta` in one of the namespaces.
    fn manta(&self, side: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[side]]).arg(manta().get_program());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

#[test]
fn two_machines_joined_by_a_ticket_train_one_model() {
    if skipped("netns") {
        return;
    }
    let lab = Lab::new("ticket");
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let first = Peer::spawn(lab.manta(0), &folder, "first", &["--no-mdns", "--threads", "1"]);
    let second =
        Peer::spawn(lab.manta(1), &folder, "second", &["--no-mdns", "--threads", "1", "--join", first.ticket()]);
    let addresses = first.ready["addresses"].to_string();
    assert!(addresses.contains("10.77.0.1") && !addresses.contains("127.0.0.1"), "{addresses}");
    let output = run(lab
        .manta(0)
        .arg("--data-dir")
        .arg(&first.data_dir)
        .args([
            "train",
            "--json",
            "--preset",
            "nano",
            "--rounds",
            "2",
            "--steps-per-round",
            "3",
            "--peers",
            "2",
            "--share",
            "open",
            "--yes",
            "--data",
        ])
        .arg(&data)
        .arg("--out")
        .arg(folder.path().join("model")));
    assert!(output.status.success(), "{}", stderr(&output));
    let report = last_json(&output);
    assert_eq!(report["peers"], 2);
    assert_eq!(report["rounds"], 2);
    assert_eq!(report["parameter_hashes_equal"], true);
    let status = run(lab.manta(1).arg("--data-dir").arg(&second.data_dir).args(["status", "--json"]));
    let members = last_json(&status)["runs"][0]["members"].clone();
    let names: Vec<_> = members.as_array().into_iter().flatten().map(|member| member["peer"].clone()).collect();
    assert!(names.contains(&first.id().into()) && names.contains(&second.id().into()), "{members}");
    assert!(folder.path().join("model/model.safetensors").is_file());
}

#[test]
fn two_machines_on_one_cable_find_each_other_without_a_ticket() {
    if skipped("netns") {
        return;
    }
    let lab = Lab::new("mdns");
    let folder = tempfile::tempdir().unwrap();
    let first = Peer::spawn(lab.manta(0), &folder, "first", &["--threads", "1"]);
    let second = Peer::spawn(lab.manta(1), &folder, "second", &["--threads", "1"]);
    let ask = || last_json(&run(lab.manta(0).arg("--data-dir").arg(&first.data_dir).args(["status", "--json"])));
    poll("the other machine's offer", ask, |status| {
        let listings = status["listings"].as_array()?;
        listings.iter().any(|listing| listing["peer"] == second.id()).then_some(())
    });
}

#[test]
fn a_member_behind_a_cut_link_waits_and_comes_back_when_it_heals() {
    if skipped("netns") {
        return;
    }
    let lab = Lab::new("cut");
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let out = folder.path().join("model");
    let options = ["--no-mdns", "--threads", "1"];
    let first = Peer::spawn(lab.manta(0), &folder, "first", &options);
    let join = [&options[..], &["--join", first.ticket()]].concat();
    let second = Peer::spawn(lab.manta(0), &folder, "second", &join);
    let third = Peer::spawn(lab.manta(1), &folder, "third", &join);
    let command = |side: usize, peer: &Peer, arguments: &[&str]| {
        run(lab.manta(side).arg("--data-dir").arg(&peer.data_dir).args(arguments))
    };
    let status = |side: usize, peer: &Peer| last_json(&command(side, peer, &["status", "--json"]));
    let run_of = |side: usize, peer: &Peer| status(side, peer)["runs"][0].clone();
    let ask = || status(0, &first);
    poll("three offers", ask, |status| (status["listings"].as_array()?.len() == 3).then_some(()));
    let (data, out_text) = (data.to_str().unwrap(), out.to_str().unwrap());
    let train =
        ["train", "--detach", "--preset", "nano", "--rounds", "20000", "--peers", "3", "--share", "open", "--yes"];
    let placed = command(0, &first, &[&train[..], &["--data", data, "--out", out_text]].concat());
    assert!(placed.status.success(), "{}", stderr(&placed));

    let trains_with = |side: usize, peer: &Peer, members: &[&Peer]| {
        let full = |run: &serde_json::Value| {
            let seen = run["members"].as_array()?;
            let is_full = |peer: &&Peer| seen.iter().any(|m| m["peer"] == peer.id() && m["role"] == "full");
            (seen.len() == members.len() && members.iter().all(is_full)).then(|| run["exchanges_done"].as_u64())?
        };
        let before = poll("these members", || run_of(side, peer), full);
        let more = |run: &serde_json::Value| full(run).filter(|done| *done > before);
        let first = poll("an exchange", || run_of(side, peer), more);
        poll("more exchanges", || run_of(side, peer), |run| (full(run)? > first + 5).then_some(()));
    };
    let all = [&first, &second, &third];
    for (side, peer) in [(0, &first), (0, &second), (1, &third)] {
        trains_with(side, peer, &all);
    }
    let cable = |state: &str| ip(&["-n", &lab.names[1], "link", "set", "cable", state]);
    cable("down");
    for peer in [&first, &second] {
        trains_with(0, peer, &all[..2]);
        assert_eq!(run_of(0, peer)["left"][0]["peer"], third.id());
    }
    // The other side is the smaller one: it waits, and does not go on by itself.
    let paused = |run: &serde_json::Value| run["paused"].as_str().map(str::to_owned);
    let why = poll("the pause", || run_of(1, &third), paused);
    assert!(why.contains("more than half"), "{why}");
    cable("up");
    for (side, peer) in [(0, &first), (0, &second), (1, &third)] {
        trains_with(side, peer, &all);
    }
    let id = run_of(0, &first)["run"].as_str().unwrap().to_owned();
    let stopped = command(0, &first, &["stop", &id]);
    assert!(stopped.status.success(), "{}", stderr(&stopped));
    poll("the saved model", || run_of(0, &first), |run| run["out"].as_str().map(|_| ()));
    assert_eq!(run_of(0, &first)["parameter_hashes_equal"], true);
    assert!(out.join("model.safetensors").is_file());
}

/// A command line of the shell with a small disk mounted for it alone.
fn on_small_disk(mount_point: &Path, bytes: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"mount -t tmpfs -o size="$1" tmpfs "$0" && shift && exec "$@""#;
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(mount_point).arg(bytes);
    command.arg(manta().get_program());
    command
}

#[test]
fn a_full_disk_is_named_and_the_peer_goes_on() {
    if skipped("netns") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("peer");
    std::fs::create_dir(&disk).unwrap();
    let data = folder.path().join("large.txt");
    std::fs::write(&data, sample_text(4 << 20)).unwrap();
    let loopback = ["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1"];
    let peer = Peer::spawn(on_small_disk(&disk, "4m"), &folder, "peer", &loopback);
    // The small disk, with the file that tells where the peer is, is mounted for the peer alone.
    let mut train = Command::new("nsenter");
    train.args(["--target", &peer.process_id().to_string(), "--mount"]).arg(manta().get_program());
    train
        .arg("--data-dir")
        .arg(&disk)
        .arg("train")
        .arg("--data")
        .arg(&data)
        .arg("--out")
        .arg(folder.path().join("model"));
    assert_refused(&run(&mut train), &[disk.to_str().unwrap(), "free"]);
    assert_eq!(peer.get("/healthz").0, "HTTP/1.1 200 OK");
}
