//! A member that dies in the middle of a run.

use crate::support::{Peer, sample_file};

#[test]
fn a_killed_member_ends_the_run_by_name_and_what_was_learnt_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let data = sample_file(folder.path());
    let owner = Peer::start(&folder, "owner", &[]);
    let other = Peer::start(&folder, "other", &["--join", owner.ticket()]);
    let mut victim = Peer::start(&folder, "victim", &["--join", owner.ticket()]);
    owner.wait_for("three offers", |status| (status["listings"].as_array()?.len() == 3).then_some(()));
    let out = folder.path().join("model");
    let placed = owner
        .command()
        .args([
            "train", "--detach", "--preset", "nano", "--rounds", "100000", "--peers", "3", "--share", "open", "--yes",
            "--data",
        ])
        .arg(&data)
        .arg("--out")
        .arg(&out)
        .status()
        .unwrap();
    assert!(placed.success());
    owner.wait_for("two rounds", |status| (status["runs"][0]["rounds_done"].as_u64()? >= 2).then_some(()));
    victim.kill();
    for survivor in [&owner, &other] {
        let culprit = survivor.wait_for("the end of the run", |status| {
            (status["runs"][0]["state"] == "failed").then(|| status["runs"][0]["culprit"].as_str().map(str::to_owned))
        });
        assert_eq!(culprit.as_deref(), Some(victim.id()));
    }
    owner.wait_for("the saved model", |status| status["runs"][0]["out"].as_str().map(|_| ()));
    assert!(out.join("model.safetensors").is_file());
    // Both machines are free again for the next run.
    owner.wait_for("two free machines", |status| {
        let listings = status["listings"].as_array()?;
        let free = |id: &str| listings.iter().any(|listing| listing["peer"] == id && listing["busy"] == false);
        (free(owner.id()) && free(other.id())).then_some(())
    });
}
