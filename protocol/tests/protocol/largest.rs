//! The largest messages that all limits allow fit an envelope.

use crate::samples::{NOW, identity, network, peer};
use manta_protocol::consensus::{COMMITTEE_MAX, Committee, HEIGHT_MAX, Plan, Recovery, RecoveryReply, Seal};
use manta_protocol::ids::Signature;
use manta_protocol::market::listing::{Address, Contact};
use manta_protocol::run::ledger::{Ledger, SPANS_MAX, Span};
use manta_protocol::run::report::AbortReason;
use manta_protocol::run::view::{
    Accepted, Ballot, Checkpoint, Departure, Fate, HANDOVERS_MAX, Handover, Holding, Member, Role, StateOffer, View,
    ViewInstall, ViewPropose, ViewState,
};
use manta_protocol::wire::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, CHUNKS_MAX, ENVELOPE_BYTES_MAX, MEMBERS_MAX};
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{Duration, Hash, PeerId, RunId};

/// Numbers that take the most bytes.
const LONG: u64 = u64::MAX;
const EXCHANGE: u64 = 1 << 40;
const VIEW: u32 = 1 << 30;

fn ledger() -> Ledger {
    let pieces = SPANS_MAX as u64;
    let returned = (0..pieces).map(|piece| Span { first: LONG / 2 + piece * (1 << 40), count: 1 << 33 }).collect();
    Ledger { target: LONG, next: LONG - 1, returned }
}

fn contacts() -> Vec<Contact> {
    let address = Address(vec![255; ADDRESS_BYTES_MAX]);
    let contact =
        |number| Contact { peer: peer(number), bulk_port: u16::MAX, addresses: vec![address.clone(); ADDRESSES_MAX] };
    let mut contacts: Vec<_> = (1..=MEMBERS_MAX as u8).map(contact).collect();
    contacts.sort_by_key(|contact| contact.peer);
    contacts
}

fn view() -> View {
    let member = |contact| Member { contact, role: Role::Listener, since: VIEW, share: 1 << 24 };
    let mut members: Vec<_> = contacts().into_iter().map(member).collect();
    members[0].role = Role::Full;
    let handover = |index| Handover { first: (CHUNKS_MAX / 2 + index) as u32, count: 300, by: u16::MAX };
    let left = (1..=MEMBERS_MAX as u8).map(|number| Departure { peer: peer(number), reason: AbortReason::NoMajority });
    View {
        number: VIEW,
        plan: VIEW,
        from: EXCHANGE,
        members,
        fate: Fate::Kept { handovers: (0..HANDOVERS_MAX).map(handover).collect() },
        ledger: ledger(),
        left: left.collect(),
    }
}

#[test]
fn the_largest_messages_about_views_fit_an_envelope() {
    let run = RunId([255; 32]);
    let ballot = Ballot { counter: u64::MAX, proposer: peer(1) };
    let state = |holding| {
        let accepted = Some(Box::new(Accepted { ballot, view: view() }));
        Message::ViewState(Box::new(ViewState { run, view: VIEW, ballot, accepted, unreachable: u16::MAX, holding }))
    };
    let sums = vec![255; CHUNKS_MAX / 8];
    let checkpoint = Checkpoint { exchange: EXCHANGE, ledger: ledger() };
    let messages = [
        ("install", Message::ViewInstall(Box::new(ViewInstall { run, view: view() }))),
        ("propose", Message::ViewPropose(Box::new(ViewPropose { run, ballot, next: view() }))),
        ("live", state(Holding::Live { exchange: EXCHANGE, ledger: ledger(), sums, whole: u16::MAX })),
        ("restarted", state(Holding::Restarted { checkpoint: Some(checkpoint) })),
        (
            "offer",
            Message::StateOffer(StateOffer { run, exchange: EXCHANGE, root: Hash::of(b"state"), ledger: ledger() }),
        ),
    ];
    for (what, message) in messages {
        let bytes = identity(1).seal(network(), NOW.as_unix_ms(), NOW + Duration::from_s(60), &message);
        assert!(bytes.len() <= ENVELOPE_BYTES_MAX, "{what}: {} bytes, at most {ENVELOPE_BYTES_MAX}", bytes.len());
        let opened = Envelope::open(&bytes, network()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(opened.message, message, "{what}");
    }
}

#[test]
fn the_recovery_with_the_most_members_fits_an_envelope() {
    let member = |number: usize| PeerId([number as u8 + 1; 32]);
    let weights = (0..COMMITTEE_MAX).map(|number| (member(number), u64::MAX / 4 / COMMITTEE_MAX as u64)).collect();
    let committee = Committee::new(weights).expect("as many as there can be");
    let plan = Plan { chain: Hash([255; 32]), height: HEIGHT_MAX, parent: Hash([255; 32]), committee };
    let seal = |number| Seal { author: member(number), signature: Signature([255; 64]) };
    let recovery = Recovery::new(plan, (0..COMMITTEE_MAX).map(seal).collect());
    let message = Message::RecoveryReply(Box::new(RecoveryReply { chain: Hash([255; 32]), recovery: Some(recovery) }));
    let bytes = identity(1).seal(network(), LONG, NOW + Duration::from_s(1), &message);
    assert!(bytes.len() <= ENVELOPE_BYTES_MAX, "{} bytes, at most {ENVELOPE_BYTES_MAX}", bytes.len());
    assert_eq!(Envelope::open(&bytes, network()).expect("it is within every limit").message, message);
}
