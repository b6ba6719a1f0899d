//! Two machines that share no loopback: two network namespaces with a cable
//! between them, joined by a ticket. Needs root and `ip`.

use crate::support::{Peer, last_json, manta, run, sample_file, skipped, stderr};
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
    fn new() -> Self {
        let process = std::process::id();
        let names = [format!("manta-a-{process}"), format!("manta-b-{process}")];
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
    let lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let first = Peer::spawn(lab.manta(0), &folder, "first", &["--threads", "1"]);
    let second = Peer::spawn(lab.manta(1), &folder, "second", &["--threads", "1", "--join", first.ticket()]);
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
    let members = second.status()["runs"][0]["members"].clone();
    let names: Vec<_> = members.as_array().into_iter().flatten().map(|member| member["peer"].clone()).collect();
    assert!(names.contains(&first.id().into()) && names.contains(&second.id().into()), "{members}");
    assert!(folder.path().join("model/model.safetensors").is_file());
}
