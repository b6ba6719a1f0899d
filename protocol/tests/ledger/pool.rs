//! The mempool's bounds, each filled.

use crate::bench::{Bench, identity};
use manta_protocol::ledger::limits::{
    BLOCK_BYTES_MAX, NEWCOMERS_PER_BLOCK_MAX, POOL_BLOCKS_MAX, POOL_MAX, POOL_PER_AUTHOR_MAX, POOL_STRANGERS_MAX,
    TRANSACTIONS_PER_AUTHOR_MAX,
};
use manta_protocol::ledger::{Action, Admission, Mempool, Register, Transaction, Transfer};

fn register(bench: &Bench, number: u32) -> Transaction {
    let identity = identity(number);
    let (vrf, owner) = (identity.vrf().public(), identity.peer_id());
    let register = Register { vrf, owner, countersignature: None, class: 0 };
    Transaction::sign(&identity, &bench.state.ledger(), 1, Action::Register(register))
}

#[test]
fn an_author_has_a_fixed_number_of_places_and_of_a_block() {
    let mut bench = Bench::honest(1);
    bench.steps(2);
    let to = identity(9).peer_id();
    for nonce in 1..=POOL_PER_AUTHOR_MAX as u64 {
        let transaction = bench.counted(0, Action::Transfer(Transfer { to, amount: 1_000 }));
        assert_eq!((transaction.nonce, bench.send(transaction)), (nonce, Admission::New));
    }
    let one_more = bench.counted(0, Action::Transfer(Transfer { to, amount: 1_000 }));
    assert!(matches!(bench.send(one_more), Admission::Full | Admission::Refused(_)));
    assert_eq!(bench.pool.len(), POOL_PER_AUTHOR_MAX);
    let block = bench.step();
    assert_eq!(block.transactions.len(), TRANSACTIONS_PER_AUTHOR_MAX);
    assert_eq!(bench.pool.len(), POOL_PER_AUTHOR_MAX - TRANSACTIONS_PER_AUTHOR_MAX);
}

#[test]
fn strangers_share_a_few_places_and_a_block_takes_few_of_them() {
    let mut bench = Bench::honest(1);
    for number in 0..POOL_STRANGERS_MAX as u32 {
        let transaction = register(&bench, 1_000 + number);
        assert_eq!(bench.send(transaction), Admission::New);
    }
    let one_more = register(&bench, 999);
    assert_eq!(bench.send(one_more), Admission::Full);
    let standby = bench.counted(0, Action::Standby { on: false });
    assert_eq!(bench.send(standby), Admission::New, "members have their own places");
    let block = bench.step();
    assert_eq!(block.transactions.len(), NEWCOMERS_PER_BLOCK_MAX + 1);
    assert!(block.encode().len() <= BLOCK_BYTES_MAX);
    assert_eq!(bench.state.registrations().count(), NEWCOMERS_PER_BLOCK_MAX + 1);
}

#[test]
fn what_no_block_takes_is_forgotten() {
    let mut bench = Bench::honest(1);
    bench.steps(2);
    // A number that never comes to its turn.
    let to = identity(9).peer_id();
    let transaction = bench.workers[0].sign(&bench.state, 5, Action::Transfer(Transfer { to, amount: 1_000 }));
    assert_eq!(bench.send(transaction), Admission::New);
    assert_eq!(bench.send(transaction), Admission::Known);
    bench.steps(POOL_BLOCKS_MAX as usize);
    assert_eq!(bench.pool.len(), 1);
    bench.step();
    assert!(bench.pool.is_empty());
}

#[test]
fn a_full_pool_has_room_for_who_has_less() {
    // As many members as fill the pool with what each may have.
    let authors = POOL_MAX / POOL_PER_AUTHOR_MAX;
    let mut bench = Bench::honest(1);
    bench.workers[0].manner = crate::bench::Manner::Idle;
    let mut number = 0;
    while bench.state.registrations().count() <= authors {
        for _ in 0..NEWCOMERS_PER_BLOCK_MAX {
            let transaction = register(&bench, 1_000 + number);
            assert_eq!(bench.send(transaction), Admission::New);
            number += 1;
        }
        bench.step();
    }
    let mut pool = Mempool::default();
    // Each has registered with 1, so numbers go on from 2.
    for nonce in 2..2 + POOL_PER_AUTHOR_MAX as u64 {
        for author in 0..authors as u32 {
            let transaction = Transaction::sign(
                &identity(1_000 + author),
                &bench.state.ledger(),
                nonce,
                Action::Standby { on: nonce % 2 == 0 },
            );
            assert_eq!(pool.offer(&bench.state, transaction), Admission::New);
        }
    }
    assert_eq!(pool.len(), POOL_MAX);
    let standby = bench.counted(0, Action::Standby { on: false });
    assert_eq!(pool.offer(&bench.state, standby), Admission::New, "the author with most gives way");
    assert_eq!(pool.len(), POOL_MAX);
    let greedy = register(&bench, 1_000_000);
    assert_eq!(pool.offer(&bench.state, greedy), Admission::New, "strangers have places of their own");
}
