//! What a block costs where so many keys are registered:
//! `cargo run --release -p manta-protocol --example ledger_cost [keys]`.

use manta_protocol::ledger::limits::NEWCOMERS_PER_BLOCK_MAX;
use manta_protocol::ledger::{Action, Founder, Genesis, Parameters, Register, State, Transaction};
use manta_protocol::power::MicroPower;
use manta_protocol::wire::Identity;
use manta_protocol::{Hash, NetworkId};
use std::time::Instant;

fn main() {
    let keys = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000u64);
    let founder = Identity::from_secret([1; 32]);
    let vrf = founder.vrf().public();
    let founders = vec![Founder { peer: founder.peer_id(), vrf, class: 0, power: MicroPower::from_power(1) }];
    let network = NetworkId::from_name("cost");
    let parameters = Parameters::lan();
    let genesis = Genesis { network, name: "cost".into(), time_ms: 1_790_000_000_000, founders, parameters };
    let mut state = State::genesis(genesis).expect("the parameters are the default ones");
    let mut now_ms = state.time_ms();
    let mut number = 0;
    while number < keys {
        let joining: Vec<_> = (number..keys.min(number + NEWCOMERS_PER_BLOCK_MAX as u64)).collect();
        number += joining.len() as u64;
        let transactions: Vec<_> = joining.into_iter().map(|number| register(number, &state.ledger())).collect();
        now_ms += 10_000;
        let block = state.build(&founder, &transactions, now_ms).expect("the founder proposes");
        state = state.execute(&block, now_ms).expect("a block that was built is executed");
    }
    now_ms += 10_000;
    let start = Instant::now();
    let block = state.build(&founder, [], now_ms).expect("the founder proposes");
    let build = start.elapsed();
    let start = Instant::now();
    let next = state.execute(&block, now_ms).expect("a block that was built is executed");
    let execute = start.elapsed();
    let start = Instant::now();
    let root = next.root();
    println!("{keys} keys: build {build:?}, execute {execute:?}, root of hashed leaves {:?}", start.elapsed());
    let start = Instant::now();
    let bytes = next.encode();
    println!("snapshot: {} bytes in {:?}", bytes.len(), start.elapsed());
    let start = Instant::now();
    State::decode(&bytes, next.head(), root).expect("a snapshot is read again");
    println!("read again and checked in {:?}", start.elapsed());
}

fn register(number: u64, ledger: &Hash) -> Transaction {
    let mut secret = [2; 32];
    secret[..8].copy_from_slice(&number.to_le_bytes());
    let identity = Identity::from_secret(secret);
    let (vrf, owner) = (identity.vrf().public(), identity.peer_id());
    Transaction::sign(&identity, ledger, 1, Action::Register(Register { vrf, owner, countersignature: None, class: 0 }))
}
