//! What a running peer shows.

use crate::support::{Peer, last_json, run};

#[test]
fn a_peer_shows_its_health_status_metrics_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let first = Peer::start(&folder, "first", &["--region", "lab"]);
    let second = Peer::start(&folder, "second", &["--join", first.ticket()]);
    first.wait_for("the other's offer", |status| (status["listings"].as_array()?.len() == 2).then_some(()));

    let (line, _) = first.get("/healthz");
    assert_eq!(line, "HTTP/1.1 200 OK");
    let (line, page) = first.get("/");
    assert_eq!(line, "HTTP/1.1 200 OK");
    assert!(page.contains("<html"), "{page}");

    let (_, metrics) = first.get("/metrics");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(metrics.contains("manta_connected_peers 1"), "{metrics}");
    assert!(metrics.contains("manta_listings 2"), "{metrics}");

    let output = run(first.command().args(["status", "--json"]));
    let status = last_json(&output);
    assert_eq!(status["peer_id"], first.id());
    assert_eq!(status["connected_peers"][0], second.id());
    assert_eq!(status["listings"].as_array().unwrap().iter().filter(|listing| listing["region"] == "lab").count(), 1);
}

#[test]
fn an_identity_survives_a_restart_and_known_peers_are_found_without_a_ticket() {
    let folder = tempfile::tempdir().unwrap();
    let first = Peer::start(&folder, "first", &[]);
    let mut second = Peer::start(&folder, "second", &["--join", first.ticket()]);
    second.wait_for("the connection", |status| (!status["connected_peers"].as_array()?.is_empty()).then_some(()));
    let id = second.id().to_owned();
    // A farewell, not a kill: what it knows is written down.
    second.interrupt();
    let again = Peer::start(&folder, "second", &[]);
    assert_eq!(again.id(), id);
    again.wait_for("the connection again", |status| (status["connected_peers"][0] == first.id()).then_some(()));
}
