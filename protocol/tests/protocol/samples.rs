//! One value of each kind of message, from fixed identities.

use manta_protocol::consensus::{
    Blocks, BlocksAsk, Certificate, Decision, Proposal, ProposalAsk, Recovery, RecoveryAsk, RecoveryReply, Seal,
    Statement, Step, Vote, Votes,
};
use manta_protocol::ledger::{
    Action, Block, Founder, Genesis, LeaseReport, Parameters, ProbeResult, Register, State, Transaction,
};
use manta_protocol::market::demand::{Demand, Share};
use manta_protocol::market::listing::{Address, Contact, Device, DeviceKind, Listing, Withdrawal};
use manta_protocol::market::reservation::{Answer, Confirm, Release, Reserve, ReserveReply};
use manta_protocol::membership::{Credential, Hello, Presence, Revocation, Revocations, Role, SignedPermission};
use manta_protocol::power::MicroPower;
use manta_protocol::run::ledger::{Ledger, Span};
use manta_protocol::run::report::{Abort, AbortReason, Heartbeat, LossSum, Ready, RoundReport};
use manta_protocol::run::view::{
    Accepted, Ballot, CaughtUp, Departure, Fate, Finished, Handover, Holding, Join, Member, StateOffer, Suspect, View,
    ViewAccept, ViewAsk, ViewInstall, ViewPropose, ViewState,
};
use manta_protocol::run::{RunSpec, view};
use manta_protocol::trust::words::{
    GenesisAsk, GenesisReply, LeaseConsent, LedgerStatus, Probe, ProbeReply, ProposalReply,
};
use manta_protocol::wire::{Identity, Message};
use manta_protocol::{Duration, Hash, NetworkId, PeerId, RunId, Seed, Serial, Time};

/// The time of all samples.
pub(crate) const NOW: Time = Time(1_790_000_000_000_000_000);

/// The network of all samples.
pub(crate) fn network() -> NetworkId {
    NetworkId::from_name("golden")
}

/// The identity whose secret is 32 times `number`.
pub(crate) fn identity(number: u8) -> Identity {
    Identity::from_secret([number; 32])
}

pub(crate) fn peer(number: u8) -> PeerId {
    identity(number).peer_id()
}

pub(crate) fn listing() -> Listing {
    Listing {
        devices: vec![Device {
            kind: DeviceKind::Cpu,
            name: "x86_64".into(),
            units: 2,
            memory_bytes: 4 << 30,
            multiply_adds_per_s: 50_000_000_000,
        }],
        disk_free_bytes: 1 << 34,
        region: "eu".into(),
        duration_max_s: 86_400,
        arithmetic_version: 1,
        busy: false,
        bulk_port: 4_001,
        addresses: vec![Address(vec![4, 127, 0, 0, 1, 6, 15, 161])],
    }
}

pub(crate) fn demand() -> Demand {
    Demand {
        spec: spec().hash(),
        members_min: 2,
        members_max: 4,
        memory_bytes_min: 1 << 28,
        disk_bytes_min: 1 << 20,
        duration_s: 600,
        arithmetic_version: 1,
        deadline: Time(NOW.0 + 60_000_000_000),
        share: Share::Open,
    }
}

pub(crate) fn spec() -> RunSpec {
    // 408 parameters: 7 or 8 chunks for two members.
    RunSpec { rounds: 2, steps_per_round: 2, ..RunSpec::miniature(Seed::from_number(1), Hash::of(b"data")) }
}

pub(crate) fn contact(number: u8) -> Contact {
    Contact { peer: peer(number), bulk_port: 4_001, addresses: Vec::new() }
}

pub(crate) fn ledger() -> Ledger {
    Ledger { target: 100, next: 24, returned: vec![Span { first: 20, count: 2 }] }
}

/// The successor of a view of the identities 1, 2 and 3: 3 is lost, 4 listens.
pub(crate) fn sample_view() -> View {
    let member = |number, role, since| Member { contact: contact(number), role, since, share: 4 };
    let mut members =
        vec![member(1, view::Role::Full, 0), member(2, view::Role::Full, 0), member(4, view::Role::Listener, 3)];
    members.sort_by_key(|member| member.contact.peer);
    View {
        number: 3,
        plan: 3,
        from: 7,
        members,
        fate: Fate::Kept { handovers: vec![Handover { first: 4, count: 2, by: 1 }] },
        ledger: ledger(),
        left: vec![Departure { peer: peer(3), reason: AbortReason::MemberLost }],
    }
}

/// A confirm for the identities of these numbers.
pub(crate) fn confirm(members: &[u8]) -> Confirm {
    let mut members: Vec<_> = members.iter().map(|number| contact(*number)).collect();
    members.sort_by_key(|member| member.peer);
    let (owner, issued_at_ms) = (peer(2), NOW.as_unix_ms());
    Confirm { spec: spec(), demand: demand(), owner, issued_at_ms, members, late: false }
}

pub(crate) fn reserve() -> Reserve {
    Reserve { spec: spec().hash(), memory_bytes: 1 << 28, duration_s: 600, hold_ms: 20_000 }
}

/// A permission by `issuer` whose serial and bearer secret are made of `number`,
/// for ten days.
pub(crate) fn permitted(issuer: u8, role: Role, number: u8) -> SignedPermission {
    let serial = Serial([number; 16]);
    let expires_at = NOW + Duration::from_s(10 * 86_400);
    SignedPermission::issue(&identity(issuer), network(), serial, role, bearer(number).peer_id(), expires_at)
}

/// The bearer key of the permission of this number.
pub(crate) fn bearer(number: u8) -> Identity {
    Identity::from_secret([number.wrapping_add(100); 32])
}

/// The credential of `holder` by [`permitted`].
pub(crate) fn credential(issuer: u8, role: Role, number: u8, holder: u8) -> Credential {
    Credential::bind(permitted(issuer, role, number), &bearer(number), peer(holder)).expect("the right bearer")
}

/// Takes back [`permitted`].
pub(crate) fn revocation(issuer: u8, number: u8) -> Revocation {
    let expires_at = permitted(issuer, Role::Guest, number).permission.expires_at;
    Revocation::sign(&identity(issuer), network(), Serial([number; 16]), expires_at)
}

/// One message of each kind, in order of the kinds' numbers.
pub(crate) fn messages() -> Vec<Message> {
    let mut all = run_messages();
    all.extend(ledger_messages());
    all
}

fn run_messages() -> Vec<Message> {
    let run = RunId([7; 32]);
    let parameter_hash = Hash::of(b"parameters");
    let loss = LossSum { fixed: 5 << 20, tokens: 256 };
    let ballot = Ballot { counter: 5, proposer: peer(1) };
    vec![
        Message::Listing(listing()),
        Message::Withdrawal(Withdrawal {}),
        Message::Demand(demand()),
        Message::Presence(Presence { credentials: vec![credential(2, Role::Guest, 5, 1)] }),
        Message::Revocations(Revocations { revocations: vec![revocation(1, 6)] }),
        Message::Reserve(reserve()),
        Message::ReserveReply(ReserveReply { spec: spec().hash(), request: 9, answer: Answer::BeyondTerms }),
        Message::Confirm(confirm(&[1, 2])),
        Message::Release(Release { spec: spec().hash() }),
        Message::Hello(Hello {
            credentials: vec![credential(2, Role::Own, 7, 1)],
            revocations: vec![revocation(2, 8)],
        }),
        Message::Ready(Ready { run, parameter_hash }),
        Message::RoundReport(RoundReport {
            run,
            round: 3,
            plan: 1,
            parameter_hash,
            loss,
            batches: 2,
            compute_ms: 1_500,
            reduce_ms: 70,
        }),
        Message::Abort(Abort { run, reason: AbortReason::BadGradient, culprit: peer(2), view: 2 }),
        Message::Heartbeat(Heartbeat { run, view: 2 }),
        Message::Join(Join { run, contact: contact(3), view: 2 }),
        Message::Suspect(Suspect { run, view: 2, peer: peer(3), reason: AbortReason::Stalled }),
        Message::ViewAsk(ViewAsk { run, view: 2, ballot }),
        Message::ViewState(Box::new(ViewState {
            run,
            view: 2,
            ballot,
            accepted: Some(Box::new(Accepted { ballot, view: sample_view() })),
            unreachable: 4,
            holding: Holding::Live { exchange: 6, ledger: ledger(), sums: vec![0b101], whole: 3 },
        })),
        Message::ViewPropose(Box::new(ViewPropose { run, ballot, next: sample_view() })),
        Message::ViewAccept(ViewAccept { run, view: 2, ballot }),
        Message::ViewInstall(Box::new(ViewInstall { run, view: sample_view() })),
        Message::StateOffer(StateOffer { run, exchange: 7, root: Hash::of(b"state"), ledger: ledger() }),
        Message::CaughtUp(CaughtUp { run, since: 3, exchange: 8 }),
        Message::Finished(Finished { run, root: Hash::of(b"model") }),
    ]
}

/// A ledger that peer 1 has founded a second ago.
fn genesis() -> Genesis {
    let founder = Founder { peer: peer(1), vrf: identity(1).vrf().public(), class: 0, power: MicroPower(21_000) };
    let time_ms = NOW.as_unix_ms() - 1_000;
    Genesis {
        network: network(),
        name: "golden".into(),
        time_ms,
        founders: vec![founder],
        parameters: Parameters::demo(),
    }
}

/// Its first block, in which peer 2 registers.
fn block() -> Block {
    let state = State::genesis(genesis()).expect("the sample is within its limits");
    let register = Register { vrf: identity(2).vrf().public(), owner: peer(2), countersignature: None, class: 0 };
    let transaction = Transaction::sign(&identity(2), &state.ledger(), 1, Action::Register(register));
    state.build(&identity(1), [&transaction], NOW.as_unix_ms()).expect("the founder proposes")
}

fn vote(step: Step) -> Vote {
    let (height, round, value, chain) = (1, 0, block().hash(), genesis().ledger());
    let statement = Statement { chain, height, round, step, value, polka: 0 };
    Vote { height, round, step, value, author: peer(1), signature: statement.sign(&identity(1)) }
}

fn proposal() -> Proposal {
    let (height, round, value, chain) = (1, 0, block().hash(), genesis().ledger());
    let statement = Statement { chain, height, round, step: Step::Propose, value, polka: 0 };
    let signature = statement.sign(&identity(1));
    Proposal { height, round, polka: 0, value, author: peer(1), signature, bytes: block().encode() }
}

fn ledger_messages() -> Vec<Message> {
    let ledger = genesis().ledger();
    let precommit = vote(Step::Precommit);
    let seals = vec![Seal { author: precommit.author, signature: precommit.signature }];
    let certificate = Certificate { height: 1, round: 0, value: precommit.value, seals };
    let founded = State::genesis(genesis()).expect("the sample is within its limits");
    let plan = founded.recovery_plan(&[peer(1)]).expect("the founder is registered");
    let recovery = Recovery::new(plan.clone(), vec![plan.consent(&identity(1))]);
    let probe = Probe { ledger, height: 3, seat: 1 };
    let beacon = manta_protocol::election::Beacon::genesis(&ledger);
    vec![
        Message::Transaction(Box::new(block().transactions[0])),
        Message::Votes(Votes { votes: vec![vote(Step::Prevote), precommit] }),
        Message::Proposal(Box::new(proposal())),
        Message::LedgerStatus(LedgerStatus { ledger, height: 1, alone: true, chain: ledger }),
        Message::BlocksAsk(BlocksAsk { chain: ledger, from: 1, count: 64 }),
        Message::Blocks(Box::new(Blocks { from: 1, blocks: vec![Decision { bytes: block().encode(), certificate }] })),
        Message::GenesisAsk(GenesisAsk { ledger }),
        Message::GenesisReply(Box::new(GenesisReply { genesis: genesis() })),
        Message::Probe(probe),
        Message::ProbeReply(ProbeReply {
            probe,
            signature: ProbeResult::reply(&identity(2), &ledger, &beacon.0, &peer(1)),
        }),
        Message::ProposalAsk(ProposalAsk { chain: ledger, height: 1, round: 0, value: block().hash() }),
        Message::ProposalReply(Box::new(ProposalReply { proposal: proposal() })),
        Message::RecoveryAsk(RecoveryAsk { chain: ledger }),
        Message::RecoveryReply(Box::new(RecoveryReply { chain: ledger, recovery: Some(recovery) })),
        Message::LeaseConsent(LeaseConsent {
            run: confirm(&[1, 2]).run_id(),
            ledger,
            height: 1,
            signature: LeaseReport::consent(&identity(1), &ledger, &peer(2), &confirm(&[1, 2]).run_id(), 1),
        }),
    ]
}
