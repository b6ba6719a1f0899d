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
