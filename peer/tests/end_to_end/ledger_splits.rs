//! Ledgers that cannot go on by themselves: too much power is away, or another
//! ledger is met. Both are told; nothing is lost, nothing merges.

use crate::founders::found;
use crate::ledger::{agree, height, reaches, start, told};
use crate::support::{Peer, poll, run, sample_file, stderr, stdout};
use serde_json::Value;
use tempfile::TempDir;

/// A command's output for people.
fn shown(peer: &Peer, arguments: &[&str]) -> String {
    let output = run(peer.command().args(arguments));
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

fn short(id: &str) -> &str {
    &id[..8]
}

#[test]
fn without_a_quorum_the_ledger_waits_says_so_and_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    found(&folder, &[("first", 1), ("second", 1), ("third", 1)]);
    let first = start(&folder, "first", &[]);
    let join = ["--join", first.ticket()];
    let [mut second, mut third] = ["second", "third"].map(|name| start(&folder, name, &join));
    agree(&[&first, &second, &third], 0);
    // What is sent below, from whatever share of the blocks' rewards it wins.
    first.wait_for("0.1 credits", |status| status["ledger"]["balance"].as_u64().filter(|balance| *balance >= 100_000));
    let absent = [second.id().to_owned(), third.id().to_owned()];
    second.kill();
    third.kill();
    let waiting = first.wait_for("the word that it waits", |status| {
        status["ledger"]["waiting"]
            .as_str()
            .filter(|text| absent.iter().all(|id| text.contains(short(id))))
            .map(str::to_owned)
    });
    assert!(waiting.contains("missing are") && waiting.contains('%'), "{waiting}");
    assert!(shown(&first, &["status"]).contains("WAITS"));
    let status = told(&first, &["ledger", "status"]);
    let at = status["height"].as_u64().expect("a height");
    assert!(status["waiting"].as_str().is_some_and(|text| text.contains(short(&absent[0]))), "{status:#}");
    first.wait_for("the lost connections", |status| {
        let members = status["ledger"]["committee"].as_array()?;
        let gone = |id: &String| members.iter().any(|member| member["peer"] == **id && member["connected"] == false);
        absent.iter().all(gone).then_some(())
    });
    assert!(shown(&first, &["ledger", "status"]).contains("not connected"));

    // Everything else goes on: a run is ordered, computed and saved, credits are on their way, somebody joins.
    let sent = told(&first, &["ledger", "transfer", &absent[0], "0.1"]);
    let transaction = sent["transaction"].as_str().expect("an id");
    let newcomer = start(&folder, "newcomer", &join);
    newcomer.wait_for("the ledger's height", |status| (height(status) == at).then_some(()));
    let out = folder.path().join("model");
    let train = ["train", "--preset", "nano", "--rounds", "2", "--peers", "1..2", "--share", "open", "--yes", "--json"];
    let trained = run(first.command().args(train).arg("--data").arg(sample_file(folder.path())).arg("--out").arg(&out));
    assert!(trained.status.success() && out.join("model.safetensors").is_file(), "{}", stderr(&trained));
    let status = told(&first, &["ledger", "status"]);
    assert_eq!(status["height"], at, "no block without a quorum");
    assert_eq!(told(&first, &["ledger", "tx", transaction])["height"], Value::Null);

    let restart = |folder: &TempDir, name: &str| start(folder, name, &join);
    let [second, third] = ["second", "third"].map(|name| restart(&folder, name));
    agree(&[&first, &second, &third, &newcomer], at);
    // The sender knows of it all the time; the others once it is in a block that they have.
    let placed = |transaction: &Value| transaction["height"].as_u64().filter(|height| *height > at);
    let block = poll("the transfer in a block", || told(&first, &["ledger", "tx", transaction]), placed);
    reaches(&second, block);
    assert_eq!(told(&second, &["ledger", "tx", transaction])["height"], block);
    first.wait_for("no more waiting", |status| status["ledger"]["waiting"].is_null().then_some(()));
    let faults = first.status()["ledger"]["faults"].clone();
    let faults = faults.as_array().expect("a list");
    assert!(faults.iter().all(|fault| fault["kind"] == "unrevealed"), "{faults:#?}");
}

#[test]
fn two_ledgers_that_meet_are_both_named_and_neither_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let pair = |names: [&str; 2]| {
        let ledger = found(&folder, &names.map(|name| (name, 1)));
        let founder = start(&folder, names[0], &[]);
        let other = start(&folder, names[1], &["--join", founder.ticket()]);
        reaches(&founder, 2);
        (ledger, founder, other)
    };
    let (ours, one, one_too) = pair(["one", "one-too"]);
    let (theirs, other, mut other_too) = pair(["other", "other-too"]);
    let ledger = |peer: &Peer| peer.status()["ledger"]["ledger"].as_str().expect("an id").to_owned();
    assert!(one.status()["ledger"]["other_ledger"].is_null());
    // Somebody who knows both introduces them.
    other_too.kill();
    let other_too = start(&folder, "other-too", &["--join", one.ticket(), "--join", other.ticket()]);
    let names = |peer: &Peer, found: &str| {
        peer.wait_for("the other ledger's name", |status| {
            (status["ledger"]["other_ledger"].as_str()? == found).then_some(())
        });
        let texts = [shown(peer, &["status"]), shown(peer, &["ledger", "status"])];
        for text in texts {
            for part in ["DIFFERS", short(&ours), short(&theirs), "agree on one"] {
                assert!(text.contains(part), "`{part}` in\n{text}");
            }
        }
    };
    names(&one, &theirs);
    names(&other, &ours);
    // Both go on apart, each as it was.
    let heights = [height(&one.status()), height(&other.status())];
    reaches(&one, heights[0] + 3);
    reaches(&other, heights[1] + 3);
    for (peer, kept) in [(&one, &ours), (&one_too, &ours), (&other, &theirs), (&other_too, &theirs)] {
        assert_eq!(&ledger(peer), kept, "nothing merges");
    }
    // The operators agree on the first: the others put theirs aside, as they were told.
    let data = [other.data_dir.clone(), other_too.data_dir.clone()];
    drop((other, other_too));
    for folder in data {
        std::fs::rename(folder.join("ledger"), folder.join("ledger.aside")).expect("it is there");
    }
    let join = ["--join", one.ticket()];
    let moved = ["other", "other-too"].map(|name| start(&folder, name, &join));
    for peer in &moved {
        peer.wait_for("the ledger that was agreed on", |status| (status["ledger"]["ledger"] == *ours).then_some(()));
    }
    one.wait_for("one ledger", |status| status["ledger"]["other_ledger"].is_null().then_some(()));
}
