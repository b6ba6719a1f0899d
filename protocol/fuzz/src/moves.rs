//! Fuzzed bytes as the life of one member of a run: who begins it, then one
//! move after another until the bytes run out.

use crate::cursor::Cursor;
use crate::player::{Asked, Player};
use crate::samples::{contact, credential, demand, listing, peer, revocation, spec};
use crate::views::{self, PLAYERS, someone};
use manta_protocol::input::{Command, Done, Wish};
use manta_protocol::market::demand::{Demand, Share};
use manta_protocol::market::reservation::{Answer, Confirm, Release, Reserve, ReserveReply};
use manta_protocol::membership::{Credential, Hello, Presence, Revocation, Revocations, Role};
use manta_protocol::run::report::{Abort, Heartbeat, LossSum, Ready, RoundReport};
use manta_protocol::run::spec::{F32Bits, OuterSpec};
use manta_protocol::run::view::{
    CaughtUp, Finished, Join, StateOffer, Suspect, ViewAccept, ViewAsk, ViewInstall, ViewPropose,
};
use manta_protocol::run::{Phase, RunSpec};
use manta_protocol::wire::message::Kind;
use manta_protocol::wire::{Message, codec};
use manta_protocol::{Duration, Input, OrderId, RunId};

/// Moves of one story: enough for any promise to be broken, and soon over.
const MOVES_MAX: usize = 192;

/// Plays a story to its end.
pub(crate) fn story(bytes: &[u8]) {
    play(bytes).end();
}

/// Plays a story; the node is left as it is then.
pub(crate) fn play(bytes: &[u8]) -> Player {
    let mut bytes = Cursor::new(bytes);
    let mut player = Player::new(bytes.byte() & 7 == 7);
    begin(&mut bytes, &mut player);
    for _ in 0..MOVES_MAX {
        if bytes.is_empty() {
            break;
        }
        make_move(&mut bytes, &mut player);
    }
    player
}

/// Short runs, runs of local steps, or runs that go on for the whole story.
fn run_spec(kind: u8) -> RunSpec {
    let bits = F32Bits::from;
    match kind {
        6 => RunSpec { rounds: 1, solo: false, ..spec() },
        7 => {
            let outer = Some(OuterSpec { learning_rate: bits(0.7), momentum: bits(0.9) });
            RunSpec { rounds: 40, micro_batches: 64, outer, ..spec() }
        }
        _ => RunSpec { rounds: 40, ..spec() },
    }
}

/// The node offers its machine and is taken into a run in one of four ways.
fn begin(bytes: &mut Cursor<'_>, player: &mut Player) {
    player.input(Input::Command(Command::Offer(Box::new(listing()))));
    let how = bytes.byte();
    let owner = if how & 1 == 0 { 2 } else { 1 };
    let late = how >> 1 & 3 == 3;
    // At least two, the owner among them, and the node unless it comes late.
    let others = 2 + how % 3;
    let mut members: Vec<_> = (1..=others).filter(|identity| !late || *identity != 1).map(contact).collect();
    members.sort_by_key(|contact| contact.peer);
    let spec = run_spec(how >> 3 & 7);
    let author = if late { 2 } else { owner };
    let demand = Demand { spec: spec.hash(), members_max: u16::from(PLAYERS), ..demand() };
    let issued_at_ms = player.now.as_unix_ms();
    let reserve = Reserve { spec: spec.hash(), memory_bytes: 1, duration_s: 1, hold_ms: 20_000 };
    let confirm = Confirm { spec, demand, owner: peer(owner), issued_at_ms, members, late };
    player.frame(author, Kind::Reserve, &codec::encode(&reserve));
    if how >> 6 != 3 {
        player.frame(author, Kind::Confirm, &codec::encode(&confirm));
    }
}

fn make_move(bytes: &mut Cursor<'_>, player: &mut Player) {
    match bytes.byte() % 32 {
        0..=1 => pass(player, Duration::from_ms(1 + u64::from(bytes.byte()) * 8)),
        2 => jump(bytes, player),
        3..=6 => work(bytes, player),
        7 => invented_work(bytes, player),
        8..=9 => all_chunks(player),
        10..=11 => chunk(bytes, player),
        12..=13 => landed(bytes, player),
        14..=16 => answer(bytes, player),
        17 => others_go_on(bytes, player),
        18..=26 => word(bytes, player),
        27 => command(bytes, player),
        28 => restart(bytes, player),
        29 => connection(bytes, player),
        30 => failure(bytes, player),
        _ => noise(bytes, player),
    }
}

/// Time passes, and the node is woken whenever it asks for it, up to a limit.
fn pass(player: &mut Player, span: Duration) {
    let end = player.now + span;
    for _ in 0..40 {
        let due = player.node.poll_timeout();
        if due > end {
            break;
        }
        player.now = due.max(player.now);
        player.input(Input::Tick);
    }
    player.now = end.max(player.now);
    player.input(Input::Tick);
}

/// A machine that slept, or whose clock was set.
fn jump(bytes: &mut Cursor<'_>, player: &mut Player) {
    let span = Duration::from_s(1 << bytes.below(14));
    player.now = if bytes.rarely(8) { player.now - span } else { player.now + span };
    player.input(Input::Tick);
}

/// The trainer answers what it was asked, in any order.
fn work(bytes: &mut Cursor<'_>, player: &mut Player) {
    let how = bytes.byte();
    let Some(run) = player.run.as_ref().map(|run| run.run) else { return };
    if player.work.is_empty() {
        return;
    }
    if how < 128 {
        // All that is there now, as asked.
        for _ in 0..player.work.len() {
            let Some(done) = player.work.pop_front() else { break };
            player.input(Input::Trainer { run, done });
        }
        return;
    }
    let index = usize::from(how) % player.work.len();
    // Sometimes it is said again later.
    let done = if how % 5 == 4 { player.work.get(index).cloned() } else { player.work.remove(index) };
    let done = match done {
        Some(Done::StateLoaded { exchange }) if how.is_multiple_of(3) => Done::StateNotLoaded { exchange },
        Some(Done::Hashed { exchange, .. }) if how % 7 == 6 => {
            Done::Hashed { exchange, parameter_hash: views::hash(bytes) }
        }
        Some(done) => done,
        None => return,
    };
    player.input(Input::Trainer { run, done });
}

/// Answers that nobody asked for: of an earlier life, or of an earlier view.
fn invented_work(bytes: &mut Cursor<'_>, player: &mut Player) {
    let Some(run) = &player.run else { return };
    let (name, view) = (run.run, run.view.number);
    let exchange = bytes.number(run.exchange);
    let done = match bytes.below(10) {
        0 => Done::Prepared { parameter_hash: views::hash(bytes) },
        1 => Done::Computed {
            exchange,
            plan: bytes.number32(run.view.plan),
            loss: LossSum { fixed: bytes.number(1 << 20) as i64, tokens: bytes.number(1) },
            compute_ms: bytes.number(5),
        },
        2 => Done::Reduced { exchange, view: bytes.number32(view), chunk: bytes.number32(1) },
        3 => Done::Applied { exchange },
        4 => Done::Hashed { exchange, parameter_hash: views::hash(bytes) },
        5 => Done::Snapshot { exchange, root: views::hash(bytes) },
        6 => Done::StateLoaded { exchange },
        7 => Done::StateNotLoaded { exchange },
        8 => Done::Checkpointed { exchange },
        _ => Done::Saved { root: views::hash(bytes), kept: !bytes.rarely(8) },
    };
    player.input(Input::Trainer { run: name, done });
}

/// Every chunk that the present view may bring, from every member.
fn all_chunks(player: &mut Player) {
    let Some(run) = &player.run else { return };
    let (name, view, exchange) = (run.run, run.view.clone(), run.exchange);
    let ranks = view.full().count();
    let chunks = spec().chunk_plan(ranks).map_or(0, |plan| plan.chunks());
    for member in view.full().filter(|member| member.contact.peer != peer(1)) {
        for (chunk, phase) in (0..chunks).flat_map(|chunk| [(chunk, Phase::Contribution), (chunk, Phase::Sum)]) {
            if player.run.as_ref().is_none_or(|run| run.run != name) {
                return;
            }
            let (from, number, elements) = (member.contact.peer, view.number, player.elements(chunk));
            player.chunk(|transfer| Input::ChunkArrived {
                transfer,
                from,
                run: name,
                view: number,
                exchange,
                phase,
                chunk,
                elements,
            });
        }
    }
}

fn chunk(bytes: &mut Cursor<'_>, player: &mut Player) {
    let Some(run) = &player.run else { return };
    let name = if bytes.rarely(16) { RunId([9; 32]) } else { run.run };
    let (view, exchange) = (bytes.number32(run.view.number), bytes.number(run.exchange));
    let from = peer(someone(bytes));
    let phase = if bytes.byte() & 1 == 0 { Phase::Contribution } else { Phase::Sum };
    let chunk = bytes.number32(u32::from(bytes_chunk(exchange)));
    let elements = bytes.number(player.elements(chunk));
    player.chunk(|transfer| Input::ChunkArrived { transfer, from, run: name, view, exchange, phase, chunk, elements });
}

/// Some chunk of the few that there are.
fn bytes_chunk(exchange: u64) -> u8 {
    (exchange % 8) as u8
}

/// Frames are delivered, or are not.
fn landed(bytes: &mut Cursor<'_>, player: &mut Player) {
    let how = bytes.byte();
    let count = if how < 160 { player.frames.len() } else { 1 };
    for _ in 0..count {
        let Some(id) = player.frames.pop_front() else { return };
        let failed = how % 4 == 3;
        player.input(if failed { Input::FrameFailed { id } } else { Input::FrameDelivered { id } });
    }
}

/// Members answer what the node has asked them, mostly as honest ones would.
fn answer(bytes: &mut Cursor<'_>, player: &mut Player) {
    let count = if bytes.rarely(4) { 1 } else { player.asked.len() };
    for _ in 0..count {
        let Some((to, asked)) = player.asked.pop_front() else { return };
        let Some(from) = (2..=PLAYERS).find(|identity| peer(*identity) == to) else { continue };
        match asked {
            Asked::View(ask) => {
                let Some(run) = &player.run else { continue };
                let state = views::state(bytes, ask.view, ask.ballot, run);
                player.frame(from, Kind::ViewState, &codec::encode(&state));
            }
            Asked::Proposal(asked) => {
                let view = asked.next.number.saturating_sub(1);
                let accept = ViewAccept { run: asked.run, view, ballot: asked.ballot };
                player.frame(from, Kind::ViewAccept, &codec::encode(&accept));
            }
            Asked::Machine { spec, request } => {
                let answer = if bytes.rarely(4) { Answer::Busy } else { Answer::Accepted };
                let reply = ReserveReply { spec, request, answer };
                player.frame(from, Kind::ReserveReply, &codec::encode(&reply));
            }
        }
    }
}

/// The others are ready, or report the round that has ended, as honest ones would.
fn others_go_on(bytes: &mut Cursor<'_>, player: &mut Player) {
    let Some(run) = &player.run else { return };
    let (name, exchange, plan) = (run.run, run.exchange, run.view.plan);
    let others: Vec<_> = (2..=PLAYERS).filter(|identity| run.view.role(&peer(*identity)).is_some()).collect();
    let ready = Ready { run: name, parameter_hash: views::hash(bytes) };
    let round = u32::try_from(exchange.saturating_sub(1) / 2).unwrap_or(u32::MAX);
    let (loss, parameter_hash) = (LossSum { fixed: 1, tokens: 1 }, manta_protocol::Hash::of(&exchange.to_le_bytes()));
    let report = RoundReport { run: name, round, plan, parameter_hash, loss, batches: 2, compute_ms: 1, reduce_ms: 1 };
    for from in others {
        if exchange == 0 {
            player.frame(from, Kind::Ready, &codec::encode(&ready));
        } else {
            player.frame(from, Kind::RoundReport, &codec::encode(&report));
        }
    }
}

/// One message of any kind, near the truth.
fn word(bytes: &mut Cursor<'_>, player: &mut Player) {
    let from = someone(bytes);
    let kind = bytes.below(24);
    let Some(run) = &player.run else { return market_word(bytes, player, from) };
    let name = if bytes.rarely(32) { RunId([9; 32]) } else { run.run };
    let view = run.view.number;
    let (kind, body) = match kind {
        0 => (Kind::Ready, codec::encode(&Ready { run: name, parameter_hash: views::hash(bytes) })),
        1 => {
            let report = RoundReport {
                run: name,
                round: bytes.number32(u32::try_from(run.exchange.saturating_sub(1) / 2).unwrap_or(u32::MAX)),
                plan: bytes.number32(run.view.plan),
                parameter_hash: views::hash(bytes),
                loss: LossSum { fixed: bytes.number(1) as i64, tokens: bytes.number(1) },
                batches: bytes.number32(1),
                compute_ms: bytes.number(1),
                reduce_ms: bytes.number(1),
            };
            (Kind::RoundReport, codec::encode(&report))
        }
        2 => {
            let (reason, culprit) = (views::reason(bytes), peer(someone(bytes)));
            (Kind::Abort, codec::encode(&Abort { run: name, reason, culprit, view: bytes.number32(view) }))
        }
        3 => (Kind::Heartbeat, codec::encode(&Heartbeat { run: name, view: bytes.number32(view) })),
        4..=5 => {
            let contact = contact(if bytes.rarely(16) { someone(bytes) } else { from });
            (Kind::Join, codec::encode(&Join { run: name, contact, view: bytes.number32(view) }))
        }
        6..=8 => {
            let (view, reason) = (bytes.number32(view), views::reason(bytes));
            let peer = peer(someone(bytes));
            (Kind::Suspect, codec::encode(&Suspect { run: name, view, peer, reason }))
        }
        9..=10 => {
            let ballot = views::ballot(bytes, from, player);
            (Kind::ViewAsk, codec::encode(&ViewAsk { run: name, view: bytes.number32(view), ballot }))
        }
        11..=12 => {
            let ballot = views::ballot(bytes, from, player);
            (Kind::ViewState, codec::encode(&views::state(bytes, view, ballot, run)))
        }
        13..=14 => {
            let ballot = views::ballot(bytes, from, player);
            let next = views::view(bytes, run);
            (Kind::ViewPropose, codec::encode(&ViewPropose { run: name, ballot, next }))
        }
        15 => {
            let ballot = player.ballot.unwrap_or(views::ballot(bytes, from, player));
            (Kind::ViewAccept, codec::encode(&ViewAccept { run: name, view: bytes.number32(view), ballot }))
        }
        16..=18 => (Kind::ViewInstall, codec::encode(&ViewInstall { run: name, view: views::view(bytes, run) })),
        19..=20 => {
            let (root, ledger) = (views::hash(bytes), views::ledger(bytes, run));
            let offer = StateOffer { run: name, exchange: bytes.number(run.exchange), root, ledger };
            (Kind::StateOffer, codec::encode(&offer))
        }
        21 => {
            let since = run.view.member(&peer(from)).map_or(view, |member| member.since);
            let caught_up = CaughtUp { run: name, since: bytes.number32(since), exchange: bytes.number(run.exchange) };
            (Kind::CaughtUp, codec::encode(&caught_up))
        }
        22 => (Kind::Finished, codec::encode(&Finished { run: name, root: views::hash(bytes) })),
        _ => return market_word(bytes, player, from),
    };
    player.frame(from, kind, &body);
}

/// Listings, demands, words about the machine, and who may speak in the swarm.
fn market_word(bytes: &mut Cursor<'_>, player: &mut Player, from: u8) {
    let hash = run_spec(0).hash();
    match bytes.below(8) {
        0 => {
            let reserve = Reserve { spec: hash, memory_bytes: 1, duration_s: 1, hold_ms: bytes.number32(9_000) };
            player.frame(from, Kind::Reserve, &codec::encode(&reserve));
        }
        1 => player.frame(from, Kind::Release, &codec::encode(&Release { spec: hash })),
        2 => begin(bytes, player),
        3 => player.gossip(from, &Message::Listing(listing())),
        4 => player.gossip(from, &Message::Demand(demand())),
        5 => player.gossip(from, &Message::Presence(Presence { credentials: credentials(bytes, from) })),
        6 => player.gossip(from, &Message::Revocations(Revocations { revocations: revocations(bytes) })),
        _ => {
            let hello = Hello { credentials: credentials(bytes, from), revocations: revocations(bytes) };
            player.frame(from, Kind::Hello, &codec::encode(&hello));
        }
    }
}

/// Credentials of `from`, seldom another's.
fn credentials(bytes: &mut Cursor<'_>, from: u8) -> Vec<Credential> {
    let count = bytes.below(4);
    let mut one = |_| {
        let role = if bytes.byte() & 1 == 0 { Role::Guest } else { Role::Own };
        let holder = if bytes.rarely(8) { someone(bytes) } else { from };
        credential(someone(bytes), role, bytes.below(8), holder)
    };
    let mut credentials: Vec<_> = (0..count).map(&mut one).collect();
    credentials.sort_by_key(|credential| (credential.permission().issuer, credential.permission().serial));
    credentials
}

fn revocations(bytes: &mut Cursor<'_>) -> Vec<Revocation> {
    let count = bytes.below(4);
    let mut revocations: Vec<_> = (0..count).map(|_| revocation(someone(bytes), bytes.below(8))).collect();
    revocations.sort_by_key(|revocation| (revocation.issuer, revocation.serial));
    revocations
}

fn command(bytes: &mut Cursor<'_>, player: &mut Player) {
    let order = OrderId(u64::from(bytes.below(4)));
    let command = match bytes.below(8) {
        0 => Command::Offer(Box::new(listing())),
        1 => Command::OfferToSelf(Box::new(listing())),
        2 => Command::Withdraw,
        3 => Command::CancelOrder { order },
        4 => match &player.run {
            Some(run) => Command::StopRun { run: run.run, reason: views::reason(bytes) },
            None => Command::Resume { record: player.last_record.clone().unwrap_or_default() },
        },
        5 => Command::Resume { record: player.last_record.clone().unwrap_or_default() },
        _ => {
            let wish = Wish {
                members_min: u16::from(bytes.below(4)),
                members_max: bytes.number32(3).min(u32::from(u16::MAX)) as u16,
                memory_bytes: bytes.number(1),
                disk_bytes: bytes.number(1),
                duration_s: bytes.number(60),
                patience_ms: bytes.number(2_000),
                deadline_ms: bytes.number(20_000),
                share: [Share::Own, Share::Invited, Share::Open][usize::from(bytes.below(3))],
            };
            let spec = RunSpec { rounds: 1 + u32::from(bytes.below(2)), ..spec() };
            Command::Order { order, spec: Box::new(spec), wish }
        }
    };
    player.input(Input::Command(command));
}

/// A restart, with the journal as it was, damaged, or lost.
fn restart(bytes: &mut Cursor<'_>, player: &mut Player) {
    let mut record = player.run.as_ref().and_then(|run| run.journal.clone());
    match (bytes.below(4), &mut record) {
        (0, _) => record = None,
        (1, Some(record)) => {
            let at = usize::from(u16::from_le_bytes([bytes.byte(), bytes.byte()])) % record.len().max(1);
            record[at] = bytes.byte();
        }
        _ => {}
    }
    player.restart(record);
}

fn connection(bytes: &mut Cursor<'_>, player: &mut Player) {
    let peer = peer(someone(bytes));
    let lost = bytes.byte() & 1 == 0;
    player.input(if lost { Input::PeerDisconnected { peer } } else { Input::PeerConnected { peer } });
}

/// The transport or the trainer gives up.
fn failure(bytes: &mut Cursor<'_>, player: &mut Player) {
    let Some(run) = &player.run else { return };
    let (name, exchange) = (run.run, run.exchange);
    let peer = peer(someone(bytes));
    if bytes.rarely(8) {
        let culprit = (bytes.byte() & 1 == 0).then_some(peer);
        return player.input(Input::TrainerFailed { run: name, culprit });
    }
    let phase = if bytes.byte() & 1 == 0 { Phase::Contribution } else { Phase::Sum };
    let (exchange, chunk) = (bytes.number(exchange), bytes.number32(3));
    player.input(Input::BulkFailed { run: name, peer, exchange, phase, chunk });
}

/// Bytes that are no message at all.
fn noise(bytes: &mut Cursor<'_>, player: &mut Player) {
    let length = usize::from(bytes.byte());
    let bytes = bytes.take(length).to_vec();
    player.input(Input::Frame { from: peer(2), bytes });
}
