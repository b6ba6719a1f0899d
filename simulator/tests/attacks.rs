//! Every attack stays within its bounds, and every bound can be exceeded.

use manta_simulator::attacks::{Scale, canaries, table};

#[test]
fn no_attack_pays() {
    let outcomes = table(1, Scale { times: 1 }).expect("every attack can be carried out");
    assert!(outcomes.len() >= 22);
    let out: Vec<_> = outcomes.iter().filter(|outcome| !outcome.ok).collect();
    assert!(out.is_empty(), "{out:#?}");
}

#[test]
fn without_its_defence_every_measure_is_out_of_bounds() {
    let outcomes = canaries(1, Scale { times: 1 }).expect("every attack can be carried out");
    assert!(outcomes.len() >= 6);
    let within: Vec<_> = outcomes.iter().filter(|outcome| outcome.ok).collect();
    assert!(within.is_empty(), "{within:#?}");
}
