//! Golden vectors: names, roots and bytes of a fixed ledger. A change of any of
//! them is a change of the protocol, and splits ledgers.

use crate::bench::{Bench, Manner, identity, parameters};
use manta_protocol::election::Beacon;
use manta_protocol::ledger::{
    Action, Admission, Agreement, Block, DrillCommit, DrillResult, DrillReveal, Founder, Genesis, LeaseReport,
    Parameters, ProbeResult, Register, State, Transaction, Transfer, beacon_input, merkle,
};
use manta_protocol::power::MicroPower;
use manta_protocol::wire::{Identity, codec};
use manta_protocol::{Hash, NetworkId, RunId};
use std::fmt::Write;

/// One line a value: its name, then its bytes in hexadecimal.
const VECTORS: &str = include_str!("ledger.hex");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn founding() -> Genesis {
    let identity = Identity::from_secret([1; 32]);
    let founder =
        Founder { peer: identity.peer_id(), vrf: identity.vrf().public(), class: 1, power: MicroPower::from_power(3) };
    let network = NetworkId::from_name("golden");
    let time_ms = 1_790_000_000_000;
    Genesis { network, name: "golden".into(), time_ms, founders: vec![founder], parameters: Parameters::lan() }
}

fn samples(ledger: &Hash) -> Vec<(&'static str, Transaction)> {
    let (author, other) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
    let (task, salt) = (Hash::of(b"task"), Hash::of(b"salt"));
    let result = DrillResult { digest: Hash::of(b"digest"), check: Hash([0; 32]) };
    let beacon = Beacon::genesis(ledger);
    let (_, proof) = author.vrf().prove(&beacon_input(&beacon, 1));
    let consent = Register::countersign(&other, ledger, &author.peer_id(), 1);
    let register =
        Register { vrf: author.vrf().public(), owner: other.peer_id(), countersignature: Some(consent), class: 1 };
    let reply = Some(ProbeResult::reply(&other, ledger, &beacon.0, &author.peer_id()));
    let run = RunId([3; 32]);
    let leased = LeaseReport::consent(&other, ledger, &author.peer_id(), &run, 7);
    let commitment = result.commitment(&task, &author.peer_id(), &salt);
    let actions = [
        ("register", 1, Action::Register(register)),
        ("standby", 2, Action::Standby { on: true }),
        ("transfer", 3, Action::Transfer(Transfer { to: other.peer_id(), amount: 1_500_000 })),
        ("commit", 0, Action::Commit(DrillCommit { task, stage: 1, proof: Some(proof), commitment })),
        ("reveal", 0, Action::Reveal(DrillReveal { task, salt, result })),
        ("probe", 0, Action::Probe(ProbeResult { height: 7, seat: 0, proof, reply })),
        (
            "lease",
            0,
            Action::Lease(LeaseReport { trainer: other.peer_id(), run, height: 7, consent: leased, kept: true }),
        ),
    ];
    actions.map(|(name, nonce, action)| (name, Transaction::sign(&author, ledger, nonce, action))).to_vec()
}

#[test]
fn names_roots_and_bytes_are_exactly_these() {
    let genesis = founding();
    let ledger = genesis.ledger();
    let state = State::genesis(genesis.clone()).unwrap();
    let founder = Identity::from_secret([1; 32]);
    let standby = Transaction::sign(&founder, &ledger, 1, Action::Standby { on: false });
    let block = state.build(&founder, [&standby], 1_790_000_010_000).unwrap();
    let next = state.execute(&block, u64::MAX).unwrap();
    let account = next.account(&founder.peer_id()).unwrap();
    let (_, proof) = next.prove_account(&founder.peer_id()).unwrap();
    let mut made = String::new();
    let mut line = |name: &str, bytes: &[u8]| writeln!(made, "{name} {}", hex(bytes)).unwrap();
    line("genesis", &codec::encode(&genesis));
    line("ledger", ledger.as_bytes());
    line("beacon-0", state.beacon().0.as_bytes());
    line("root-0", state.root().as_bytes());
    line("committee-1", state.next_committee().hash().as_bytes());
    for (name, transaction) in samples(&ledger) {
        line(name, &codec::encode(&transaction));
        line(&format!("{name}-id"), transaction.id().as_bytes());
    }
    line("block-1", &block.encode());
    line("block-1-hash", block.hash().as_bytes());
    line("beacon-1", next.beacon().0.as_bytes());
    line("root-1", next.root().as_bytes());
    line("account-1", &codec::encode(account));
    line("account-1-proof", &codec::encode(&proof));
    assert!(made == VECTORS, "the ledger has changed; it now is\n{made}");
    let bytes = VECTORS.lines().find_map(|line| line.strip_prefix("block-1 ")).unwrap();
    let bytes: Vec<u8> =
        (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap()).collect();
    assert_eq!(Block::decode(&bytes).as_ref(), Ok(&block));
    let name = [&[2][..], founder.peer_id().as_bytes()].concat();
    assert_eq!(proof.root(merkle::entry(&name, &codec::encode(account))), Some(block.header.state));
}

#[test]
fn a_fixed_story_leads_to_exactly_this_root() {
    let manners = [Manner::Honest, Manner::Honest, Manner::Honest, Manner::Honest, Manner::Liar];
    let mut bench = Bench::new(&manners, Parameters { trust_after: 3, ..parameters(Agreement::Escalate) });
    bench.probes = true;
    bench.join(100, Manner::Honest);
    bench.steps(40);
    for (user, trainer, kept) in [(0, 1, true), (1, 2, false), (0, 2, true)] {
        let ledger = bench.state.ledger();
        let run = RunId([user as u8; 32]);
        let consent = LeaseReport::consent(&bench.workers[trainer].identity, &ledger, &bench.peer(user), &run, 7);
        let report = LeaseReport { trainer: bench.peer(trainer), run, height: 7, consent, kept };
        let told = bench.workers[user].sign(&bench.state, 0, Action::Lease(report));
        assert_eq!(bench.send(told), Admission::New);
    }
    // One who was trusted begins to lie.
    bench.workers[0].manner = Manner::Liar;
    bench.steps(30);
    let totals = bench.state.totals();
    let leases = |worker| bench.state.reliability(&bench.peer(worker)).map_or(0, |of| of.leases_ever);
    assert_eq!((leases(1), leases(2)), (1, 2));
    assert!(totals.tasks_trusted > 0 && totals.tasks_disputed > 0, "{totals:?}");
    assert_eq!(bench.state.root().to_string(), "1c69e156c77d3119b499c1498ea466c31b9fccb259540ad88fae46bd5139281b");
    assert_eq!(identity(0).peer_id(), bench.peer(0));
}
