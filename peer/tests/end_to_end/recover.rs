//! A committee that has left for good, replaced by the owners of those who are left.

use crate::support::{Peer, assert_refused, last_json, run, stderr, stdout};
use serde_json::Value;
use tempfile::TempDir;

fn start(folder: &TempDir, name: &str, extra: &[&str]) -> Peer {
    Peer::start(folder, name, &[&["--device", "native", "--epoch", "300ms"], extra].concat())
}

fn height(status: &Value) -> u64 {
    status["ledger"]["height"].as_u64().unwrap_or(0)
}

/// What `manta ledger recover …` answers.
fn recover(peer: &Peer, arguments: &[&str]) -> Value {
    let output = run(peer.command().args(["ledger", "recover"]).args(arguments).arg("--json"));
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    last_json(&output)
}

fn follows(peer: &Peer, recovery: &str, after: u64) {
    peer.wait_for("blocks of the new committee", |status| {
        let is_it = status["ledger"]["recovery"] == recovery;
        (is_it && height(status) >= after).then_some(())
    });
}

#[test]
fn owners_replace_a_committee_that_has_left_and_blocks_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut founder = start(&folder, "founder", &[]);
    founder.wait_for("a block", |status| (height(status) >= 1).then_some(()));
    let join = |name: &str| start(&folder, name, &["--join", founder.ticket()]);
    let (mut second, third) = (join("second"), join("third"));
    founder.wait_for("a committee of three", |status| {
        status["ledger"]["committee"].as_array().filter(|members| members.len() == 3).map(drop)
    });
    let plan = folder.path().join("recovery.json");
    let plan = plan.to_str().expect("a path in UTF-8");
    let refused = run(second.command().args(["ledger", "recover", "propose", "--out", plan]));
    assert_refused(&refused, &["does not wait"]);

    founder.kill();
    let waiting = second.wait_for("a ledger that waits", |status| {
        let lacks = |why: &str, peer: &Peer| why.contains(&peer.id()[..8]);
        status["ledger"]["waiting"]
            .as_str()
            .filter(|why| lacks(why, &founder) && !lacks(why, &third))
            .map(str::to_owned)
    });
    assert!(waiting.contains("manta ledger recover --help"), "{waiting}");
    let stood_at = height(&second.status());

    // The plan is made by one, signed by the other, and followed by both.
    let proposed = recover(&second, &["propose", "--out", plan]);
    let name = proposed["document"]["recovery"].as_str().expect("a name").to_owned();
    assert_eq!(proposed["missing"], serde_json::json!([third.id()]), "{proposed:#}");
    let refused = run(third.command().args(["ledger", "recover", "accept", plan]));
    assert_refused(&refused, &["--yes"]);
    let accepted = recover(&third, &["accept", plan, "--yes"]);
    assert_eq!((&accepted["followed"], &accepted["missing"]), (&Value::from(true), &serde_json::json!([])));
    for peer in [&second, &third] {
        follows(peer, &name, stood_at + 2);
    }

    // A restart, even without warning, goes on with it.
    second.kill();
    let second = start(&folder, "second", &["--join", third.ticket()]);
    follows(&second, &name, stood_at + 4);

    // A newcomer gets the blocks of the old committee, and asks its owner about the new one.
    let newcomer = start(&folder, "newcomer", &["--join", third.ticket()]);
    newcomer.wait_for("the offer", |status| {
        let offers = status["ledger"]["recoveries_offered"].as_array()?;
        let offered = offers.iter().any(|offer| offer["recovery"] == name.as_str());
        (offered && height(status) == stood_at).then_some(())
    });
    let shown = run(newcomer.command().args(["ledger", "status"]));
    assert!(stdout(&shown).contains(&format!("manta ledger recover accept {}", &name[..8])), "{}", stdout(&shown));
    let accepted = recover(&newcomer, &["accept", &name[..12], "--yes"]);
    assert_eq!(accepted["followed"], true, "{accepted:#}");
    follows(&newcomer, &name, height(&third.status()) + 1);

    // The founder was not gone for good, and is a quorum by itself: two ledgers, and all say so.
    let founder = start(&folder, "founder", &["--join", third.ticket()]);
    for peer in [&founder, &second, &third, &newcomer] {
        peer.wait_for("word of the other ledger", |status| status["ledger"]["other_ledger"].as_str().map(drop));
    }
    assert_eq!(founder.status()["ledger"]["recovery"], Value::Null, "nothing merges");
    assert_eq!(third.status()["ledger"]["recovery"], name.as_str());
    let refused = run(founder.command().args(["ledger", "recover", "accept", plan, "--yes"]));
    assert_refused(&refused, &["went on differently here"]);
}
