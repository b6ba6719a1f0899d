//! The board that everybody may read: keeps [`Status`] in step with what happens.

use crate::account::RecentBlock;
use crate::device::Machine;
use crate::net::bulk::BulkCounters;
use crate::net::swarm::NetCounters;
use crate::status::{
    DepartureStatus, ListingStatus, MemberRole, MemberStatus, OrderState, OrderStatus, Relation, RunState, RunStatus,
    Status, Traffic,
};
use manta_protocol::effect::{Pause, RunFailure, RunStart};
use manta_protocol::market::demand::Share;
use manta_protocol::market::listing::{Contact, Listing};
use manta_protocol::market::matching::Mismatch;
use manta_protocol::run::ledger::Ledger;
use manta_protocol::run::report::{AbortReason, LossSum, RoundReport};
use manta_protocol::run::view::{Member, Role, View};
use manta_protocol::{Hash, OrderId, PeerId, RunId, Time};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs and orders that are remembered.
const HISTORY: usize = 16;
/// Rounds whose losses are remembered: beyond it every second one is dropped.
const LOSSES_MAX: usize = 4096;
/// Blocks of the ledger that are remembered.
const BLOCKS_MAX: usize = 64;
/// Departures of a run that are remembered.
const DEPARTURES_MAX: usize = 64;

/// The present state of the peer, for people.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) status: Status,
    me: PeerId,
    round_began: Time,
    training_began: Time,
    /// Optimiser steps of the present run.
    steps: u64,
}

impl Board {
    /// A board that shows `status` to begin with.
    pub(crate) fn new(me: PeerId, status: Status) -> Self {
        Self { status, me, round_began: Time(0), training_began: Time(0), steps: 0 }
    }

    /// Adds a block to the latest ones.
    pub(crate) fn block_made(&mut self, block: RecentBlock) {
        let recent = &mut self.status.ledger.get_or_insert_default().recent;
        recent.push(block);
        let over = recent.len().saturating_sub(BLOCKS_MAX);
        recent.drain(..over);
    }

    /// Replaces the offers that were heard; `relation` says what their peers are to this one.
    pub(crate) fn show_listings<'a>(
        &mut self,
        listings: impl Iterator<Item = (&'a PeerId, &'a Listing)>,
        relation: impl Fn(&PeerId) -> Relation,
    ) {
        let show = |(peer, listing): (&PeerId, &Listing)| ListingStatus {
            peer: peer.to_string(),
            device: listing.devices.iter().map(|device| device.name.clone()).collect::<Vec<_>>().join(", "),
            memory_bytes: listing.memory_bytes(),
            multiply_adds_per_s: listing.multiply_adds_per_s(),
            region: listing.region.clone(),
            busy: listing.busy,
            relation: relation(peer),
        };
        self.status.listings = listings.map(show).collect();
    }

    /// Shows what computes now.
    pub(crate) fn computes_on(&mut self, machine: &Machine) {
        self.status.device.clone_from(&machine.description);
        self.status.device_kind = machine.kind.into();
        self.status.device_reason.clone_from(&machine.why);
    }

    /// The device has failed in a run, which goes on natively.
    pub(crate) fn device_failed(&mut self, run: RunId, problem: &str) {
        if let Some(status) = self.run(run) {
            status.device_trouble = Some(format!("computed by the processor: {problem}"));
        }
    }

    /// Adds an order; the oldest that has ended makes room.
    pub(crate) fn order_placed(&mut self, order: OrderId) {
        let orders = &mut self.status.orders;
        let ended = |order: &OrderStatus| matches!(order.state, OrderState::Matched | OrderState::Failed);
        if orders.len() >= HISTORY
            && let Some(place) = orders.iter().position(ended)
        {
            orders.remove(place);
        }
        orders.push(OrderStatus { order: order.0, message: "reading the data".into(), ..OrderStatus::default() });
    }

    /// Changes an order.
    pub(crate) fn order_is(&mut self, order: OrderId, state: OrderState, message: String) {
        if let Some(status) = self.status.orders.iter_mut().find(|status| status.order == order.0) {
            status.state = state;
            status.message = message;
        }
    }

    /// An order has become a run.
    pub(crate) fn order_matched(&mut self, order: OrderId, run: RunId) {
        self.order_is(order, OrderState::Matched, format!("became run {}", run.short()));
        if let Some(status) = self.status.orders.iter_mut().find(|status| status.order == order.0) {
            status.run = Some(run.to_string());
        }
    }

    /// An order becomes a run without some peers, as `why` says.
    pub(crate) fn left_out(&mut self, order: OrderId, why: String) {
        if let Some(status) = self.status.orders.iter_mut().find(|status| status.order == order.0) {
            status.left_out = Some(why);
        }
    }

    /// A run begins here, or begins again.
    pub(crate) fn run_began(&mut self, start: &RunStart, now: Time) {
        let run = start.run.to_string();
        let before = self.status.runs.iter().position(|status| status.run == run);
        if before.is_none() {
            (self.training_began, self.round_began) = (Time(0), Time(0));
        }
        let before = before.map(|place| self.status.runs.remove(place)).unwrap_or_default();
        let member = |contact: &Contact| MemberStatus { peer: contact.peer.to_string(), ..MemberStatus::default() };
        if self.status.runs.len() >= HISTORY {
            self.status.runs.remove(0);
        }
        self.status.runs.push(RunStatus {
            run,
            owner: start.owner.to_string(),
            state: RunState::Preparing,
            rounds: start.spec.rounds,
            steps: start.spec.steps(),
            parameters: start.spec.model.parameters().unwrap_or(0),
            data_root: start.spec.data_root.to_string(),
            data_bytes: start.spec.data_bytes,
            members: start.members.iter().map(member).collect(),
            parameter_hashes_equal: true,
            failure: None,
            culprit: None,
            paused: None,
            started_at_ms: now.as_unix_ms(),
            ..before
        });
        self.steps = start.spec.steps();
    }

    /// The run of this name, if it is remembered.
    pub(crate) fn run(&mut self, run: RunId) -> Option<&mut RunStatus> {
        let name = run.to_string();
        self.status.runs.iter_mut().find(|status| status.run == name)
    }

    /// Changes the state of a run.
    pub(crate) fn run_is(&mut self, run: RunId, state: RunState) {
        if let Some(status) = self.run(run) {
            status.state = state;
        }
    }

    /// A member (we ourselves, too) has data and model.
    pub(crate) fn member_ready(&mut self, run: RunId, peer: PeerId) {
        let name = peer.to_string();
        if let Some(member) = self.run(run).and_then(|run| run.members.iter_mut().find(|member| member.peer == name)) {
            member.ready = true;
        }
    }

    /// We have data and model.
    pub(crate) fn prepared(&mut self, run: RunId, parameter_hash: Hash) {
        self.member_ready(run, self.me);
        if let Some(status) = self.run(run) {
            status.state = RunState::Gathering;
            status.initial_parameter_hash = parameter_hash.to_string();
        }
    }

    /// Work for an exchange begins.
    pub(crate) fn exchange_began(&mut self, run: RunId, now: Time) {
        if self.training_began.0 == 0 {
            self.training_began = now;
            self.round_began = now;
        }
        self.run_is(run, RunState::Training);
    }

    /// The step that follows an exchange is made.
    pub(crate) fn exchange_done(&mut self, run: RunId, exchange: u64, ledger: &Ledger) {
        let (done, target, steps) = (ledger.done(), ledger.target, self.steps);
        if let Some(status) = self.run(run) {
            status.exchanges_done = exchange + 1;
            (status.batches_done, status.batches_target) = (done, target);
            status.steps_done = (u128::from(done) * u128::from(steps) / u128::from(target.max(1))) as u64;
            status.paused = None;
        }
    }

    /// The run has other members.
    pub(crate) fn view_changed(&mut self, run: RunId, view: &View, now: Time) {
        let Some(status) = self.run(run) else { return };
        status.view = view.number;
        status.paused = None;
        (status.batches_done, status.batches_target) = (view.ledger.done(), view.ledger.target);
        let departed = view.left.iter().map(|departure| DepartureStatus {
            peer: departure.peer.to_string(),
            reason: departure.reason.describe().into(),
            view: view.number,
            at_ms: now.as_unix_ms(),
        });
        status.left.extend(departed);
        let surplus = status.left.len().saturating_sub(DEPARTURES_MAX);
        status.left.drain(..surplus);
        let before = std::mem::take(&mut status.members);
        let member = |member: &Member| {
            let peer = member.contact.peer.to_string();
            let known = before.iter().find(|known| known.peer == peer).cloned();
            let role = match member.role {
                Role::Full => MemberRole::Full,
                Role::Listener => MemberRole::Listening,
            };
            // Who is in a later view than the first has shown that it can.
            let ready = known.as_ref().is_some_and(|known| known.ready) || view.number > 0;
            MemberStatus { peer, role, ready, ..known.unwrap_or_default() }
        };
        status.members = view.members.iter().map(member).collect();
    }

    /// This member waits: too few of the others can be reached, or it has to come in again.
    pub(crate) fn run_paused(&mut self, run: RunId, why: Pause) {
        if let Some(status) = self.run(run) {
            status.paused = Some(describe_pause(why).into());
        }
    }

    /// All members have reported a round.
    pub(crate) fn round_done(&mut self, run: RunId, reports: &[(PeerId, RoundReport)], now: Time) {
        let took_s = now.since(self.round_began).0.max(1) as f64 / 1e9;
        self.round_began = now;
        let training_ms = now.since(self.training_began).as_ms();
        let Some(status) = self.run(run) else { return };
        let sum = reports.iter().fold(LossSum::default(), |sum, (_, report)| sum.plus(report.loss));
        status.rounds_done = reports.first().map_or(0, |(_, report)| report.round.saturating_add(1));
        status.tokens = status.tokens.saturating_add(sum.tokens);
        // A moving average over about four rounds: steady to look at, quick to follow.
        let rate = sum.tokens as f64 / took_s;
        let before = if status.tokens_per_s > 0.0 { status.tokens_per_s } else { rate };
        status.tokens_per_s = before + (rate - before) / 4.0;
        status.training_ms = training_ms;
        if status.losses.len() >= LOSSES_MAX {
            let mut place = 0;
            status.losses.retain(|_| (place += 1, place % 2 == 0).1);
        }
        status.losses.extend(sum.nats_per_token());
        status.parameter_hashes_equal &=
            reports.iter().all(|(_, report)| report.parameter_hash == reports[0].1.parameter_hash);
        if let Some((_, report)) = reports.first() {
            status.parameter_hash = report.parameter_hash.to_string();
        }
        for (peer, report) in reports {
            let name = peer.to_string();
            let Some(member) = status.members.iter_mut().find(|member| member.peer == name) else { continue };
            let busy_ms = report.compute_ms.saturating_add(report.reduce_ms).max(1);
            member.rounds_done = report.round.saturating_add(1);
            member.tokens_per_s = report.loss.tokens as f64 * 1e3 / busy_ms as f64;
            member.loss = report.loss.nats_per_token();
            member.compute_ms = report.compute_ms;
            member.reduce_ms = report.reduce_ms;
        }
    }

    /// A run has failed.
    pub(crate) fn run_failed(&mut self, run: RunId, failure: RunFailure, detail: Option<&str>) {
        let text = describe_failure(failure, self.me, detail);
        if let Some(status) = self.run(run) {
            status.state = RunState::Failed;
            status.culprit = (failure.reason != AbortReason::Stopped && failure.reason.is_decided())
                .then(|| failure.culprit.to_string());
            status.failure = Some(text);
        }
    }
}

/// The transports' counters as one table.
pub(crate) fn traffic(net: &NetCounters, bulk: &BulkCounters) -> Traffic {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Traffic {
        gossip_bytes_sent: read(&net.gossip_published_bytes),
        gossip_bytes_received: read(&net.gossip_received_bytes),
        frame_bytes_sent: read(&net.frame_sent_bytes),
        frame_bytes_received: read(&net.frame_received_bytes),
        tensor_bytes_sent: read(&bulk.tensor_sent_bytes),
        tensor_bytes_received: read(&bulk.tensor_received_bytes),
        data_bytes_sent: read(&bulk.blob_sent_bytes),
        data_bytes_received: read(&bulk.blob_received_bytes),
    }
}

/// Why a run failed and what to do, in words.
pub(crate) fn describe_failure(failure: RunFailure, me: PeerId, detail: Option<&str>) -> String {
    let name = |peer: PeerId| if peer == me { "this peer".to_owned() } else { format!("peer {}", peer.short()) };
    let who = if failure.reason.is_decided() { name(failure.culprit) } else { "whose are wrong is not known".into() };
    // Any member can blame any other: what another says is shown as its word.
    let told = failure.reported_by != me && failure.reported_by != failure.culprit;
    let source = if told { format!(", as {} says", name(failure.reported_by)) } else { String::new() };
    let what = failure.reason.describe();
    let advice = match failure.reason {
        AbortReason::Stopped => "",
        AbortReason::CannotCompute => "; its log says more",
        AbortReason::MemberLost => "; start the run again, with the peers that are left",
        AbortReason::ParametersDiffer => {
            "; have that machine checked (memory, overclocking), and start again without it"
        }
        AbortReason::BadGradient => "; start again without it",
        AbortReason::NotReady => "; look at its log, and start again",
        AbortReason::NoMajority => {
            "; have the machines checked (memory, overclocking), and start again, with at least 3 to tell who is wrong"
        }
        AbortReason::Stalled => "; look at its log, or start again without it",
        AbortReason::NotAllowed => "; whoever revoked its permission knows why",
    };
    let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
    format!("{what} ({who}{source}){detail}{advice}")
}

/// Who was left out of a run because of its text, and what to do, in words.
pub(crate) fn describe_left_out(peers: usize, share: Share) -> String {
    let (subject, object) = if peers == 1 { ("1 peer was", "it") } else { (&*format!("{peers} peers were"), "them") };
    match share {
        Share::Own => format!(
            "{subject} left out because your text may only go to your own peers: invite {object} with \
             `manta invite --own`, or say --share open"
        ),
        Share::Invited => format!(
            "{subject} left out because your text may only go to invited peers: invite {object} with `manta invite`, \
             or say --share open"
        ),
        // They are no members of the swarm, or not any more.
        Share::Open => format!("{subject} left out because the swarm does not admit {object}"),
    }
}

/// Why a run waits here, in words.
fn describe_pause(why: Pause) -> &'static str {
    match why {
        Pause::NoMajority => "waits until more than half of its members can be reached",
        Pause::LeftBehind => "the others went on without this peer; it comes in again",
        Pause::Restarted => "this peer was restarted; it comes in again",
    }
}

/// Why an order found no members and what to do, in words.
pub(crate) fn describe_no_match(
    found: usize,
    needed: usize,
    listings: usize,
    mismatches: &BTreeMap<Mismatch, usize>,
    refused: usize,
) -> String {
    let reasons = mismatches.iter().filter(|(mismatch, _)| !mismatch.is_privacy());
    let reasons = reasons.map(|(mismatch, count)| format!("{count} {}", mismatch.describe()));
    let asked = (refused > 0).then(|| format!("{refused} times a peer refused or did not answer"));
    let reasons: Vec<_> = reasons.chain(asked).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    let left_out: usize = mismatches.iter().filter(|(mismatch, _)| mismatch.is_privacy()).map(|(_, count)| count).sum();
    let share = if mismatches.contains_key(&Mismatch::NotOwn) { Share::Own } else { Share::Invited };
    let privacy = if left_out > 0 { format!("; {}", describe_left_out(left_out, share)) } else { String::new() };
    format!(
        "no {needed} peers could be had: {found} were held, {listings} offers were heard{why}{privacy}; \
         ask for fewer with --peers, or start more with `manta up --join TICKET`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_left_out_for_privacy_is_explained() {
        let mismatches = BTreeMap::from([(Mismatch::NotOwn, 3), (Mismatch::Busy, 1)]);
        let text = describe_no_match(1, 4, 5, &mismatches, 0);
        assert!(text.contains("3 peers were left out because your text may only go to your own peers"), "{text}");
        assert!(text.contains("`manta invite --own`") && text.contains("--share open"), "{text}");
        assert!(text.contains("(1 busy with another run)") && !text.contains("(3"), "{text}");
        assert!(!describe_no_match(1, 4, 1, &BTreeMap::new(), 0).contains("left out"));
        let one = describe_left_out(1, Share::Invited);
        assert!(one.starts_with("1 peer was left out") && one.contains("invite it with `manta invite`"), "{one}");
    }

    #[test]
    fn a_failure_says_whose_word_it_is_and_what_is_not_decided() {
        let [me, other, third] = [1, 2, 3].map(|byte| PeerId([byte; 32]));
        let text =
            |reason, culprit, reported_by| describe_failure(RunFailure { reason, culprit, reported_by }, me, None);
        let own = text(AbortReason::MemberLost, other, me);
        assert!(own.contains("(peer 02020202)"), "{own}");
        let told = text(AbortReason::MemberLost, other, third);
        assert!(told.contains("(peer 02020202, as peer 03030303 says)"), "{told}");
        let blamed = text(AbortReason::BadGradient, me, third);
        assert!(blamed.contains("(this peer, as peer 03030303 says)"), "{blamed}");
        let confessed = text(AbortReason::CannotCompute, other, other);
        assert!(confessed.contains("(peer 02020202)"), "{confessed}");
        let undecided = text(AbortReason::NoMajority, other, me);
        assert!(!undecided.contains("02020202") && undecided.contains("not known"), "{undecided}");
    }
}
