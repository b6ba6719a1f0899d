//! What the node wants done, carried out.

use super::{Driver, TOPIC};
use crate::board::{describe_left_out, describe_no_match};
use crate::net::bulk::ChunkHeader;
use crate::net::swarm::{self, NetCommand};
use crate::run::keeper::KeptOrder;
use crate::run::library::Shelf;
use crate::run::trainer::{Purpose, Work};
use crate::status::OrderState;
use manta_protocol::effect::Verdict;
use manta_protocol::{Effect, Event, OrderId, PeerId, RunId};

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Publish { bytes } => self.command(NetCommand::Publish { topic: TOPIC.into(), bytes }),
            Effect::GossipVerdict { message, verdict } => {
                if let Some(message) = self.gossip.remove(&message) {
                    self.command(NetCommand::Verdict { message, verdict: verdict_of(verdict) });
                }
            }
            Effect::SendFrame { id, to, bytes } => {
                if self.parts.net.command(NetCommand::SendFrame { id: id.0, to, bytes }).is_err() {
                    tracing::warn!(peer = %to.short(), "the network task is behind: a message was not sent");
                }
            }
            Effect::Misbehaviour { peer, what } => {
                tracing::warn!(peer = %peer.short(), what, "a peer breaks the rules")
            }
            Effect::Disconnect { peer, why } => self.shut_out(peer, why),
            Effect::Prepare(start) => self.prepare(start),
            Effect::Admit { run, contact } => self.admit(run, &contact),
            Effect::Dismiss { run, peer } => self.dismiss(run, peer),
            Effect::Journal { run, record } => self.keep_record(run, record.as_deref()),
            Effect::Notify(event) => self.event(event),
            Effect::Close { run, failure } => self.closed(run, failure),
            Effect::KeepResult { run, root, owner } => self.keep_result(run, root, owner),
            Effect::DropResult { run } => self.let_go_of_result(run),
            of_ledger @ (Effect::LedgerBegin { .. }
            | Effect::LedgerLog { .. }
            | Effect::LedgerBlock { .. }
            | Effect::LedgerRecovery { .. }
            | Effect::LedgerSnapshot { .. }
            | Effect::ReadBlocks { .. }
            | Effect::Drill { .. }) => self.ledger_effect(of_ledger),
            of_run => self.work(of_run),
        }
    }

    /// The work of a run.
    fn work(&mut self, effect: Effect) {
        match effect {
            Effect::Compute { run, exchange, plan, ranks, batches, schedule_step } => {
                let now = self.last_now;
                self.board.exchange_began(run, now);
                if let Some(open) = self.open_run(run) {
                    open.assigned(exchange, plan, ranks, &batches);
                }
                self.ask(run, Work::Compute { run, exchange, plan, batches, schedule_step });
            }
            Effect::ChunkVerdict { transfer, keep } => {
                if let Some(open) = &mut self.run
                    && let Some(chunk) = open.waiting.remove(&transfer).filter(|_| keep)
                {
                    open.desk.keep(chunk.exchange, chunk.phase, chunk.chunk, chunk.from, chunk.bytes);
                }
            }
            Effect::SendChunk { run, to, view, exchange, phase, chunk } => {
                self.send_chunk(to, ChunkHeader { run, exchange, view, phase, index: chunk });
            }
            Effect::Reduce { run, exchange, view, chunk, contributors } => {
                self.reduce(run, exchange, view, chunk, &contributors);
            }
            Effect::DropSums { run, exchange } => {
                if let Some(open) = self.open_run(run) {
                    open.desk.drop_sums(exchange);
                }
            }
            Effect::DropExchange { run, exchange } => {
                if let Some(open) = self.open_run(run) {
                    open.drop_exchange(exchange);
                }
            }
            Effect::Apply { run, exchange, batches, schedule_step } => {
                let sums = self.open_run(run).map(|open| open.desk.apply(exchange)).unwrap_or_default();
                self.ask(run, Work::Apply { run, exchange, batches, schedule_step, sums });
            }
            Effect::HashParameters { run, exchange } => self.ask(run, Work::Hash { run, exchange }),
            Effect::Snapshot { run, exchange } => {
                self.ask(run, Work::State { run, exchange, purpose: Purpose::Snapshot });
            }
            Effect::Checkpoint { run, exchange } => {
                self.ask(run, Work::State { run, exchange, purpose: Purpose::Checkpoint });
            }
            Effect::DropSnapshot { run } => self.parts.library.close(Shelf::State(run)),
            Effect::FetchState { run, exchange, root, donors } => self.fetch_state(run, exchange, root, donors),
            Effect::FetchResult { run, root, from } => self.fetch_result(run, root, from),
            Effect::Save { run, for_owner } => self.begin_saving(run, for_owner),
            elsewhere => unreachable!("{elsewhere:?} is no work of a run"),
        }
    }

    fn reduce(&mut self, run: RunId, exchange: u64, view: u32, chunk: u32, contributors: &[PeerId]) {
        let Some(open) = self.open_run(run) else { return };
        match open.desk.contributions(exchange, chunk, contributors) {
            Ok(contributions) => self.ask(run, Work::Reduce { run, exchange, view, chunk, contributions }),
            Err(missing) => {
                let problem = format!("the values of {} for chunk {chunk} are not here", missing.short());
                tracing::error!(run = %run.short(), exchange, problem, "a chunk cannot be added up");
                // Not handled within the effects of the input that led here.
                self.input_later(manta_protocol::Input::TrainerFailed { run, culprit: None });
            }
        }
    }

    fn send_chunk(&mut self, to: PeerId, header: ChunkHeader) {
        let Some(open) = self.open_run(header.run) else { return };
        let me = open.start.me;
        let sent = match open.desk.outgoing(header.exchange, header.phase, header.index, me) {
            Some(bytes) => self.parts.bulk.send_chunk(to, header, bytes).map_err(|error| error.to_string()),
            None => Err("the chunk is not here".into()),
        };
        if let Err(problem) = sent {
            tracing::error!(peer = %to.short(), ?header, problem, "a chunk cannot be sent");
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::ListingHeard { peer } => {
                tracing::debug!(peer = %peer.short(), "an offer was heard");
                if let Some(listing) =
                    self.parts.node.listings().find(|(of, _)| **of == peer).map(|(_, listing)| listing)
                {
                    let addresses = listing.addresses.iter().map(|address| address.0.clone()).collect();
                    self.command(NetCommand::AddAddresses { peer, addresses });
                }
            }
            Event::DemandHeard { .. } => self.board.status.demands_heard += 1,
            Event::Refused { why } => {
                self.board.status.envelopes_refused += 1;
                tracing::debug!(why, "an envelope was refused");
                self.refused(&why);
            }
            Event::ReservationAnswered { order, peer, answer } => {
                tracing::info!(order = order.0, peer = %peer.short(), ?answer, "a reservation was answered");
            }
            Event::OrderMatched { order, run } => self.order_matched(order, run),
            Event::RunNotBegun { run, why } => {
                tracing::error!(run = %run.short(), why, "a run cannot begin on this machine");
                self.forget_kept_order(run);
                if let Some(order) = self.order_of(run) {
                    self.orders.remove(&order);
                    let message = format!("the run could not begin: {why}; order again");
                    self.board.order_is(order, OrderState::Failed, message);
                }
            }
            Event::OrderFailed { order, found, needed, listings, mismatches, refused } => {
                self.forget_order(order);
                let why = describe_no_match(found, needed, listings, &mismatches, refused);
                self.board.order_is(order, OrderState::Failed, why);
            }
            Event::LeftOut { order, peers, share } => {
                let why = describe_left_out(peers, share);
                tracing::warn!(order = order.0, "{why}");
                self.board.left_out(order, why);
            }
            Event::Admitted { peer, permission } => self.admitted(peer, &permission),
            Event::Revoked(revocation) => self.revocation_heard(*revocation),
            Event::Dismissed => self.dismissed(),
            of_ledger @ (Event::LedgerFounded { .. }
            | Event::LedgerJoined { .. }
            | Event::LedgersDiffer { .. }
            | Event::RecoveryOffered { .. }
            | Event::LedgerRecovered { .. }
            | Event::LedgerUnreadable { .. }
            | Event::BlockFinal { .. }) => self.ledger_event(of_ledger),
            of_run => self.run_event(of_run),
        }
    }

    /// What happened in a run.
    fn run_event(&mut self, event: Event) {
        let now = self.last_now;
        match event {
            Event::MemberReady { run, peer } => self.board.member_ready(run, peer),
            Event::ExchangeDone { run, exchange, view, contributors, ledger } => {
                self.board.exchange_done(run, exchange, &ledger);
                if let Some(open) = self.open_run(run) {
                    open.diary.exchange_done(now, exchange, view, &contributors, &ledger);
                }
            }
            Event::ViewChanged { run, view } => {
                for departure in &view.left {
                    let (peer, reason) = (departure.peer.short(), departure.reason.describe());
                    tracing::warn!(run = %run.short(), peer, reason, view = view.number, "a member has left the run");
                }
                let members = view.members.len();
                tracing::info!(run = %run.short(), view = view.number, members, fate = ?view.fate, "the run has a new view");
                self.board.view_changed(run, &view, now);
                if let Some(open) = self.open_run(run) {
                    open.diary.view_changed(now, &view);
                }
            }
            Event::RunPaused { run, why } => {
                tracing::warn!(run = %run.short(), ?why, "the run waits");
                self.board.run_paused(run, why);
            }
            Event::RoundDone { run, reports } => {
                self.board.round_done(run, &reports, now);
                let last = self.board.run(run).and_then(|status| status.losses.last().copied());
                let round = reports.first().map(|(_, report)| report.round);
                tracing::info!(run = %run.short(), round, loss = last, "round done");
            }
            elsewhere => unreachable!("{elsewhere:?} is no event of a run"),
        }
    }

    /// An order has become a run: what its end needs must outlive a restart.
    fn order_matched(&mut self, order: OrderId, run: RunId) {
        self.board.order_matched(order, run);
        let Some(open) = self.orders.get_mut(&order) else { return };
        open.run = Some(run);
        let Some(unigram_loss) = open.unigram_loss else { return };
        let kept = KeptOrder { request: open.request.clone(), unigram_loss };
        let keeper = &mut self.parts.keeper;
        if let Err(error) = tokio::task::block_in_place(|| keeper.order(run, Some(&kept))) {
            tracing::error!(%error, "this peer stops, for it cannot keep its promises");
            self.fatal = Some(error.to_string());
        }
    }

    /// The order that became this run.
    pub(super) fn order_of(&self, run: RunId) -> Option<OrderId> {
        self.orders.iter().find(|(_, order)| order.run == Some(run)).map(|(order, _)| *order)
    }
}

fn verdict_of(verdict: Verdict) -> swarm::Verdict {
    match verdict {
        Verdict::Accept => swarm::Verdict::Accept,
        Verdict::Ignore => swarm::Verdict::Ignore,
        Verdict::Reject => swarm::Verdict::Reject,
    }
}
