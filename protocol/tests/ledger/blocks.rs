//! Blocks that do not follow, and snapshots.

use crate::bench::{Bench, identity, parameters};
use manta_protocol::ledger::limits::BLOCK_BYTES_MAX;
use manta_protocol::ledger::{
    Action, Agreement, Block, BlockError, Header, Parameters, Refusal, State, StateError, Transfer, merkle,
};
use manta_protocol::wire::codec;
use manta_protocol::{Hash, Time};

/// A state and a block that follows on it, with something in it.
fn ready() -> (Bench, Block) {
    let mut bench = Bench::honest(3);
    bench.steps(5);
    bench.now_ms += 1_000;
    bench.gather();
    let to = identity(9).peer_id();
    let rich = (0..3).find(|worker| bench.state.account(&bench.peer(*worker)).unwrap().balance > 5_000).unwrap();
    let transfer = bench.counted(rich, Action::Transfer(Transfer { to, amount: 2_000 }));
    bench.send(transfer);
    let block = bench.build();
    assert!(!block.transactions.is_empty());
    (bench, block)
}

#[test]
fn every_field_of_a_header_is_checked() {
    let (bench, block) = ready();
    assert!(bench.state.execute(&block, bench.now_ms).is_ok());
    type Change = fn(&mut Header);
    type Expected = fn(&BlockError) -> bool;
    let outsider = identity(50).peer_id();
    let cases: &[(&str, Change, Expected)] = &[
        ("ledger", |h| h.ledger = Hash::of(b"x"), |e| matches!(e, BlockError::OtherLedger { .. })),
        ("height", |h| h.height += 1, |e| matches!(e, BlockError::Height { .. })),
        ("height back", |h| h.height -= 1, |e| matches!(e, BlockError::Height { .. })),
        ("height end", |h| h.height = u64::MAX, |e| matches!(e, BlockError::Height { .. })),
        ("parent", |h| h.parent = Hash::of(b"x"), |e| matches!(e, BlockError::Parent { .. })),
        ("time zero", |h| h.time_ms = 0, |e| matches!(e, BlockError::Time { .. })),
        ("time far", |h| h.time_ms += 3_000, |e| matches!(e, BlockError::Time { .. })),
        ("time end", |h| h.time_ms = u64::MAX, |e| matches!(e, BlockError::Time { .. })),
        ("proof", |h| h.beacon_proof.0[3] ^= 1, |e| matches!(e, BlockError::BeaconProof(_))),
        ("transactions", |h| h.transactions = Hash::of(b"x"), |e| matches!(e, BlockError::TransactionsRoot)),
        ("state", |h| h.state = Hash::of(b"x"), |e| matches!(e, BlockError::StateRoot { .. })),
        ("committee", |h| h.committee = Hash::of(b"x"), |e| matches!(e, BlockError::Committee)),
    ];
    for (what, change, expected) in cases {
        let mut header = block.header;
        change(&mut header);
        let error = bench.state.execute(&Block { header, ..block.clone() }, bench.now_ms).unwrap_err();
        assert!(expected(&error), "{what}: {error}");
    }
    let header = Header { proposer: outsider, ..block.header };
    let error = bench.state.execute(&Block { header, ..block.clone() }, bench.now_ms).unwrap_err();
    assert_eq!(error, BlockError::Proposer(outsider));
}

#[test]
fn a_block_with_a_transaction_that_does_not_count_is_refused() {
    let (bench, mut block) = ready();
    let root = |block: &mut Block| {
        let leaves: Vec<_> = block.transactions.iter().map(|tx| merkle::leaf(tx.id().as_bytes())).collect();
        block.header.transactions = merkle::root(&leaves);
    };
    let honest = block.clone();
    block.transactions.push(block.transactions[0]);
    root(&mut block);
    let error = bench.state.execute(&block, bench.now_ms).unwrap_err();
    assert!(matches!(error, BlockError::Transaction { .. }), "twice the same: {error}");
    let mut block = honest.clone();
    block.transactions[0].signature.0[0] ^= 1;
    root(&mut block);
    let error = bench.state.execute(&block, bench.now_ms).unwrap_err();
    let author = block.transactions[0].author;
    assert_eq!(error, BlockError::Transaction { index: 0, refusal: Refusal::BadSignature(author) });
    let mut block = honest;
    block.transactions.clear();
    root(&mut block);
    let error = bench.state.execute(&block, bench.now_ms).unwrap_err();
    assert!(matches!(error, BlockError::StateRoot { .. }), "left out after all: {error}");
}

#[test]
fn a_block_is_never_longer_than_an_envelope_holds() {
    // Many tasks for many: more than one block holds.
    let parameters = Parameters { tasks_per_1000_owners: 1_000, ..parameters(Agreement::Escalate) };
    let mut bench = Bench::new(&[crate::bench::Manner::Honest; 16], parameters);
    let longest = (0..14).map(|_| bench.step().encode().len()).max().unwrap();
    assert!(longest <= BLOCK_BYTES_MAX && longest > BLOCK_BYTES_MAX / 2, "{longest} bytes");
    let (small, block) = ready();
    let mut long = block.clone();
    long.transactions = vec![block.transactions[0]; 300];
    assert!(Block::decode(&long.encode()).is_err());
    assert!(matches!(small.state.execute(&long, small.now_ms), Err(BlockError::TooLong(_))));
}

#[test]
fn time_is_judged_by_the_validators_clock_unless_the_block_is_certified() {
    let (bench, block) = ready();
    let behind = bench.now_ms - 2_001;
    assert!(matches!(bench.state.execute(&block, behind), Err(BlockError::Time { .. })));
    assert!(bench.state.execute(&block, bench.now_ms - 2_000).is_ok());
    assert!(bench.state.execute(&block, u64::MAX).is_ok());
    assert_eq!(Time(block.header.time_ms * 1_000_000).as_unix_ms(), bench.now_ms);
}

#[test]
fn a_snapshot_is_the_state_that_its_block_names() {
    let (bench, block) = ready();
    let state = bench.state.execute(&block, bench.now_ms).unwrap();
    let (root, head) = (block.header.state, block.hash());
    let bytes = state.encode();
    let read = State::decode(&bytes, head, root).unwrap();
    assert!(read == state && read.root() == root);
    assert!(matches!(State::decode(&bytes, head, Hash::of(b"x")), Err(StateError::OtherState { .. })));
    assert!(matches!(State::decode(&bytes, Hash::of(b"x"), root), Err(StateError::OtherState { .. })));
    assert!(State::decode(&bytes[..bytes.len() - 1], head, root).is_err());
    // Another balance is another root.
    let account = state.account(&bench.peer(0)).unwrap();
    let (proven, proof) = state.prove_account(&bench.peer(0)).unwrap();
    assert_eq!(&proven, account);
    let name = [&[2][..], bench.peer(0).as_bytes()].concat();
    assert_eq!(proof.root(merkle::entry(&name, &codec::encode(account))), Some(root));
    let mut richer = *account;
    richer.balance += 1;
    assert_ne!(proof.root(merkle::entry(&name, &codec::encode(&richer))), Some(root));
}

#[test]
fn a_transaction_is_proven_to_be_in_its_block() {
    let (_, block) = ready();
    for (index, transaction) in block.transactions.iter().enumerate() {
        let proof = block.prove(index).unwrap();
        assert_eq!(proof.root(merkle::leaf(transaction.id().as_bytes())), Some(block.header.transactions));
    }
    assert_eq!(block.prove(block.transactions.len()), None);
}
