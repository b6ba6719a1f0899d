//! What people get wrong: each time a clear error with the next step, and
//! nothing is lost.

use crate::support::{Peer, assert_refused, manta, run, sample_file};
use std::net::TcpListener;
use std::process::Command;

fn up(data_dir: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = manta();
    command.arg("--data-dir").arg(data_dir);
    command.args(["up", "--no-mdns", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"]).args(arguments);
    command
}

#[test]
fn tickets_that_cannot_be_used_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(&folder, "peer", &[]);
    let own = folder.path().join("own");
    let mut damaged = peer.ticket().to_owned();
    let last = damaged.pop().unwrap();
    damaged.push(if last == 'a' { 'b' } else { 'a' });
    assert_refused(&run(&mut up(&own, &["--network", "end-to-end", "--join", &damaged])), &["damaged"]);
    assert_refused(&run(&mut up(&own, &["--network", "another", "--join", peer.ticket()])), &["network"]);
    assert_refused(&run(&mut up(&own, &["--join", "hello"])), &["ticket"]);
}

#[test]
fn what_is_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(&folder, "peer", &[]);
    assert_refused(&run(&mut up(&peer.data_dir, &[])), &[peer.data_dir.to_str().unwrap()]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let own = folder.path().join("own");
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    assert_refused(&run(&mut up(&own, &["--listen", &listen])), &[&listen, "--listen"]);
    let http = format!("127.0.0.1:{port}");
    assert_refused(
        &run(manta().arg("--data-dir").arg(&own).args(["up", "--no-mdns", "--http", &http])),
        &[&http, "--http"],
    );
}

#[test]
fn orders_that_cannot_be_filled_say_why_and_the_peer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let peer = Peer::start(&folder, "peer", &[]);
    let out = folder.path().join("model");
    let train = |arguments: &[&str], data: &std::path::Path, out: &std::path::Path| {
        run(peer.command().arg("train").args(arguments).arg("--data").arg(data).arg("--out").arg(out))
    };
    let missing = folder.path().join("missing.txt");
    assert_refused(&train(&[], &missing, &out), &["missing.txt", "no such file"]);
    let empty = folder.path().join("empty.txt");
    std::fs::write(&empty, "").unwrap();
    assert_refused(&train(&[], &empty, &out), &["empty.txt"]);
    assert_refused(&train(&["--preset", "huge"], &data, &out), &["huge", "tiny"]);
    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "mine").unwrap();
    assert_refused(&train(&["--preset", "nano"], &data, &foreign), &["thesis.txt"]);
    assert_eq!(std::fs::read_to_string(foreign.join("thesis.txt")).unwrap(), "mine");
    assert_refused(
        &train(&["--preset", "nano", "--peers", "5", "--deadline", "1s"], &data, &out),
        &["5 peers", "1 offers"],
    );
    assert_eq!(peer.get("/healthz").0, "HTTP/1.1 200 OK");
}

#[test]
fn commands_without_a_peer_or_a_model_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("nobody");
    assert_refused(&run(manta().arg("--data-dir").arg(&nobody).arg("status")), &["manta up"]);
    let model = folder.path().join("model");
    assert_refused(&run(manta().arg("generate").arg(&model).args(["--prompt", "x"])), &["config.json"]);
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), "{").unwrap();
    assert_refused(&run(manta().arg("generate").arg(&model).args(["--prompt", "x"])), &["config.json"]);
}
