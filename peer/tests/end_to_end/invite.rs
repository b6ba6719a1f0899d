//! Who gets in, and whose machines see the text.

use crate::support::{Peer, assert_refused, last_json, manta, poll, run, sample_file, stderr};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

fn json(peer: &Peer, arguments: &[&str]) -> Value {
    let output = run(peer.command().args(arguments).arg("--json"));
    assert!(output.status.success(), "{}", stderr(&output));
    last_json(&output)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn train(peer: &Peer, data: &Path, out: &Path, arguments: &[&str]) -> Output {
    run(peer
        .command()
        .args(["train", "--json", "--preset", "nano", "--rounds", "2", "--steps-per-round", "2", "--data"])
        .arg(data)
        .arg("--out")
        .arg(out)
        .args(arguments))
}

fn log(folder: &TempDir, name: &str) -> Value {
    Value::String(std::fs::read_to_string(folder.path().join(format!("{name}.log"))).expect("a log"))
}

fn start_refused(folder: &TempDir, name: &str, arguments: &[&str], parts: &[&str]) {
    let output = run(manta()
        .arg("--data-dir")
        .arg(folder.path().join(name))
        .args(["up", "--no-mdns", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"])
        .args(arguments));
    assert_refused(&output, parts);
}

fn listed(status: &Value, peers: &[&Peer]) -> Option<()> {
    let listings = status["listings"].as_array()?;
    let all = peers.iter().all(|peer| listings.iter().any(|listing| listing["peer"] == peer.id()));
    (all && listings.len() == peers.len()).then_some(())
}

#[test]
fn an_invite_only_swarm_lets_in_the_invited_and_drops_the_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let founder = Peer::start(&folder, "founder", &["--invite-only"]);
    let invitation = json(&founder, &["invite"]);
    let mut guest = Peer::start(&folder, "guest", &["--join", text(&invitation["ticket"])]);

    // A thief has the guest's papers, but not its key. Its grace runs while the others work.
    let thief = folder.path().join("thief");
    std::fs::create_dir(&thief).unwrap();
    std::fs::copy(guest.data_dir.join("membership.json"), thief.join("membership.json")).unwrap();
    let address = founder.ready["addresses"][0].as_str().expect("an address").to_owned();
    let thief = Peer::start(&folder, "thief", &["--join", &address]);
    founder.wait_for("the thief's connection", |status| {
        let connected = status["connected_peers"].as_array()?;
        connected.iter().any(|peer| peer == thief.id()).then_some(())
    });

    // The address and the name make another, open, swarm; the address alone is no invitation.
    let _stranger = Peer::start(&folder, "stranger", &["--join", &address]);
    poll("the refusal", || log(&folder, "stranger"), |log| text(log).contains("another network").then_some(()));
    start_refused(&folder, "uninvited", &["--join", founder.ticket()], &["invite-only", "manta invite"]);

    for peer in [&founder, &guest] {
        peer.wait_for("both offers", |status| listed(status, &[&founder, &guest]));
    }
    let used = json(&founder, &["invite", "--list"]);
    assert_eq!(used["invitations"][0]["used_by"][0], guest.id());
    let output = train(&founder, &data, &folder.path().join("model"), &["--peers", "2", "--share", "invited", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((&last_json(&output)["peers"], &last_json(&output)["peers_lost"]), (&2.into(), &0.into()));
    assert!(stderr(&output).contains(&guest.id()[..8]), "who gets the text is named: {}", stderr(&output));

    let refusal = format!("peer={} why=\"it was not invited\"", &thief.id()[..8]);
    let plain = |log: &Value| text(log).replace("\u{1b}[3m", "").replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
    poll("the thief's end", || log(&folder, "founder"), |log| plain(log).contains(&refusal).then_some(()));

    let revoked = json(&founder, &["revoke", &guest.id()[..8]]);
    assert_eq!((&revoked["serials"][0], &revoked["peers"][0]), (&invitation["serial"], &guest.id().into()));
    founder.wait_for("the founder alone", |status| listed(status, &[&founder]));
    guest.wait_for("the news at the guest", |status| (status["membership"]["dismissed"] == true).then_some(()));
    guest.interrupt();
    start_refused(&folder, "guest", &["--join", founder.ticket()], &["revoked", "manta invite"]);
    start_refused(&folder, "guest", &["--join", text(&invitation["ticket"])], &["revoked"]);
    assert_eq!(json(&founder, &["invite", "--list"])["invitations"][0]["revoked"], true);
}

#[test]
fn text_stays_with_own_peers_unless_its_user_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let mut user = Peer::start(&folder, "user", &[]);
    let invitation = json(&user, &["invite", "--own", "--expires", "1h"]);
    let own = Peer::start(&folder, "own", &["--join", text(&invitation["ticket"])]);
    let stranger = Peer::start(&folder, "stranger", &["--join", user.ticket()]);
    user.wait_for("three offers", |status| listed(status, &[&user, &own, &stranger]));
    user.wait_for("the own peer", |status| {
        let listings = status["listings"].as_array()?;
        listings.iter().any(|of| of["peer"] == own.id() && of["relation"] == "own").then_some(())
    });
    let output = train(&user, &data, &folder.path().join("model"), &["--patience", "1s"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(last_json(&output)["peers"], 2);
    let message = stderr(&output);
    assert!(message.contains("1 peer was left out") && message.contains("manta invite --own"), "{message}");

    let asked = train(&user, &data, &folder.path().join("other"), &["--share", "open"]);
    assert_refused(&asked, &["--yes", "anyone in the swarm", &stranger.id()[..8]]);
    let failed = train(&user, &data, &folder.path().join("other"), &["--peers", "3", "--deadline", "2s"]);
    assert_refused(&failed, &["1 peer was left out because your text may only go to your own peers", "--share open"]);
    assert_eq!(stranger.status()["runs"].as_array().map(Vec::len), Some(0));

    // Whoever is revoked sees nothing of the next order, nor after a restart of the user's peer.
    let own_id = own.id()[..8].to_owned();
    assert_eq!(json(&user, &["revoke", &own_id])["peers"][0], own.id());
    let failed = train(&user, &data, &folder.path().join("other"), &["--peers", "2", "--deadline", "2s"]);
    assert_refused(&failed, &["2 peers were left out"]);
    user.interrupt();
    let user = Peer::start(&folder, "user", &["--join", own.ticket()]);
    assert_eq!(json(&user, &["invite", "--list"])["invitations"][0]["revoked"], true);
}
