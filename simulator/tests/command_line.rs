//! The program as people call it.

use std::path::Path;
use std::process::{Command, Output};

fn manta_sim(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_manta-sim")).args(words).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_history_that_fails_prints_the_line_that_gives_it_again() {
    let words =
        ["run", "--peers", "4", "--members=4", "--no-faults", "--break", "wrong-order", "--json", "--seed", "3"];
    let output = manta_sim(&words);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    let replay = "replay: manta-sim run --peers 4 --members=4 --no-faults --break wrong-order --seed 3";
    assert!(errors.contains(replay), "{errors}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(summary["ok"], false);
    assert_eq!(summary["setup"]["peers"], 4);
}

#[test]
fn options_on_the_command_line_come_before_those_of_a_scenario() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/kill-one.toml");
    let path = path.to_str().expect("a path of text");
    let output = manta_sim(&["run", path, "--rounds", "2", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&summary["setup"]["rounds"], &summary["setup"]["peers"]), (&2.into(), &4.into()));
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    for (words, named) in [
        (&["run", "--peers", "3", "--members", "4"][..], "members = 4, accepted is 1 to 3"),
        (&["run", "no-such-scenario.toml"], "no-such-scenario.toml"),
        (&["run", "--faults", "explode"], "power-cut"),
        (&["run", "--loss-per-million", "2000000"], "0 to 1000000"),
    ] {
        let output = manta_sim(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains(named), "{words:?}: {}", text(&output.stderr));
    }
}
