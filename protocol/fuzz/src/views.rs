//! Views, ledgers and what members say that they hold, from fuzzed bytes: near
//! the truth, so that they are taken seriously, and wrong in some places.

use crate::cursor::Cursor;
use crate::player::{Player, Run};
use crate::samples::{contact, peer};
use manta_protocol::Hash;
use manta_protocol::run::ledger::{Ledger, Span};
use manta_protocol::run::report::AbortReason;
use manta_protocol::run::view::{
    Accepted, Ballot, Checkpoint, Departure, Fate, Handover, Holding, Member, Role, View, ViewState,
};

/// Identities that play: 1 is the node, 5 and 6 begin outside the run.
pub(crate) const PLAYERS: u8 = 6;

/// Somebody, seldom the node itself.
pub(crate) fn someone(bytes: &mut Cursor<'_>) -> u8 {
    match bytes.below(16) {
        15 => 1,
        byte => 2 + byte % (PLAYERS - 1),
    }
}

pub(crate) fn hash(bytes: &mut Cursor<'_>) -> Hash {
    match bytes.below(8) {
        5 => Hash::of(b"another"),
        6 => Hash::of(b"model"),
        7 => Hash::of(b"state"),
        _ => Hash::of(b"initial"),
    }
}

pub(crate) fn reason(bytes: &mut Cursor<'_>) -> AbortReason {
    use AbortReason::*;
    let reasons = [MemberLost, Stalled, CannotCompute, BadGradient, ParametersDiffer, NotReady, NoMajority, Stopped];
    reasons[usize::from(bytes.below(8))]
}

pub(crate) fn ballot(bytes: &mut Cursor<'_>, from: u8, player: &Player) -> Ballot {
    let known = player.ballot.map_or(1, |ballot| ballot.counter);
    let counter = bytes.number(known);
    let proposer = if bytes.rarely(16) { someone(bytes) } else { from };
    Ballot { counter, proposer: peer(proposer) }
}

pub(crate) fn ledger(bytes: &mut Cursor<'_>, run: &Run) -> Ledger {
    let known = &run.ledger;
    match bytes.below(8) {
        0..=3 => known.clone(),
        4 => Ledger { target: known.target, next: known.target, returned: Vec::new() },
        5 => Ledger { target: bytes.number(known.target), next: bytes.number(known.next), returned: Vec::new() },
        _ => {
            let spans =
                (0..bytes.below(4)).map(|_| Span { first: bytes.number(known.next / 2), count: bytes.number(1) });
            let mut returned: Vec<_> = spans.collect();
            returned.sort_unstable();
            Ledger { target: bytes.number(known.target), next: bytes.number(known.next), returned }
        }
    }
}

fn member(bytes: &mut Cursor<'_>, number: u8, view: u32, known: Option<&Member>) -> Member {
    let fresh = Member { contact: contact(number), role: Role::Full, since: view, share: 1 };
    let mut member = known.cloned().unwrap_or(fresh);
    match bytes.below(8) {
        4 => member = Member { role: Role::Listener, since: view, ..member },
        5 => member = Member { role: Role::Full, since: view, ..member },
        6 => member.share = bytes.number32(member.share),
        7 => member.since = bytes.number32(member.since),
        _ => {}
    }
    member
}

fn fate(bytes: &mut Cursor<'_>) -> Fate {
    match bytes.below(8) {
        0..=1 => Fate::Kept { handovers: Vec::new() },
        2..=4 => Fate::Reduced,
        5 => Fate::Fresh,
        _ => {
            let pieces = bytes.below(4);
            let piece = |_| Handover {
                first: bytes.number32(2),
                count: bytes.number32(2),
                by: bytes.number32(1).min(u32::from(u16::MAX)) as u16,
            };
            Fate::Kept { handovers: (0..pieces).map(piece).collect() }
        }
    }
}

/// A view that may follow on the present one.
pub(crate) fn view(bytes: &mut Cursor<'_>, run: &Run) -> View {
    let number = bytes.number32(run.view.number.saturating_add(1));
    // Who comes and who goes: mostly one.
    let change = match bytes.byte() {
        byte @ 0..=63 => byte,
        byte => 1 << (byte % PLAYERS),
    };
    let mut members = Vec::new();
    let is_in = |identity: u8| run.view.member(&peer(identity)).is_some();
    for identity in (1..=PLAYERS).filter(|identity| is_in(*identity) != (change >> (identity - 1) & 1 == 1)) {
        members.push(member(bytes, identity, number, run.view.member(&peer(identity))));
    }
    members.sort_by_key(|member| member.contact.peer);
    let gone = run.view.members.iter().filter(|old| members.iter().all(|new| new.contact.peer != old.contact.peer));
    let left = gone.map(|member| Departure { peer: member.contact.peer, reason: reason(bytes) }).collect();
    let plan = if bytes.rarely(4) { bytes.number32(run.view.plan) } else { number };
    let from = bytes.number(run.exchange.saturating_add(1));
    View { number, plan, from, members, fate: fate(bytes), ledger: ledger(bytes, run), left }
}

fn holding(bytes: &mut Cursor<'_>, run: &Run) -> Holding {
    match bytes.below(8) {
        0..=4 => Holding::Live {
            exchange: bytes.number(run.exchange),
            ledger: ledger(bytes, run),
            sums: bytes.take(usize::from(bytes_len(run))).to_vec(),
            whole: bytes.number32(7).min(u32::from(u16::MAX)) as u16,
        },
        5 => Holding::Restarted { checkpoint: None },
        6 => Holding::Restarted {
            checkpoint: Some(Checkpoint { exchange: bytes.number(run.exchange), ledger: ledger(bytes, run) }),
        },
        _ => Holding::Following,
    }
}

/// The map of sums has a bit for each of 7 or 8 chunks; sometimes it is missing.
fn bytes_len(run: &Run) -> u8 {
    u8::from(run.exchange % 4 != 3)
}

pub(crate) fn state(bytes: &mut Cursor<'_>, view_number: u32, ballot: Ballot, run: &Run) -> ViewState {
    let accepted = bytes.rarely(8).then(|| {
        let ballot = Ballot { counter: bytes.number(ballot.counter), proposer: peer(someone(bytes)) };
        Box::new(Accepted { ballot, view: view(bytes, run) })
    });
    let unreachable = if bytes.rarely(4) { u16::from(bytes.byte()) } else { 0 };
    ViewState { run: run.run, view: view_number, ballot, accepted, unreachable, holding: holding(bytes, run) }
}
