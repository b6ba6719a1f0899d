//! Broken rules that need more than a machine's own arithmetic: words that are
//! forged, promises that are forgotten, chunks that get lost.

use super::{Happening, NETWORK, World};
use crate::faults::{Fault, Kind, When};
use crate::host::Incoming;
use crate::tamper::Break;
use crate::transport::FrameParcel;
use manta_protocol::run::Phase;
use manta_protocol::run::ledger::Span;
use manta_protocol::run::report::AbortReason;
use manta_protocol::run::view::{Ballot, Departure, Fate, View, ViewAsk, ViewInstall};
use manta_protocol::wire::Message;
use manta_protocol::{Duration, Input, NetworkId, RunId};
use std::sync::Arc;

/// After a promise a forgetful machine is stopped, and starts again.
const FORGETS_AFTER: Duration = Duration::from_ms(1);
const AWAY_MS: u64 = 400;

impl World {
    /// The second contribution of a machine that is to stop there.
    pub(super) fn stops_computing(&mut self, host: usize, run: RunId) -> bool {
        match self.hosts[host].broken {
            Some(Break::Crash) => self.vanish(host),
            Some(Break::Freeze) => self.freeze(host, None),
            Some(Break::Hang) => {}
            Some(Break::GiveUp) => self.input(host, Input::TrainerFailed { run, culprit: None }),
            _ => return false,
        }
        true
    }

    /// Whether this chunk gets lost without a word.
    pub(super) fn loses_chunk(&mut self, host: usize, exchange: u64, phase: Phase) -> bool {
        let machine = &mut self.hosts[host];
        let loses = machine.broken == Some(Break::LoseChunk) && exchange == 1 && phase == Phase::Contribution;
        loses && !std::mem::replace(&mut machine.lost_chunk, true)
    }

    /// What a host sends, or something else under its name.
    pub(super) fn tamper(&mut self, host: usize, message: Message, bytes: Vec<u8>) -> (Message, Vec<u8>) {
        match (self.setup.broken, message) {
            (Some(Break::CountAgain), Message::ViewPropose(mut propose)) => {
                count_again(&mut propose.next);
                self.sealed(host, Message::ViewPropose(propose))
            }
            (Some(Break::CountAgain), Message::ViewInstall(mut install)) => {
                count_again(&mut install.view);
                self.sealed(host, Message::ViewInstall(install))
            }
            (_, message) => {
                self.forget_if_due(host, &message);
                (message, bytes)
            }
        }
    }

    fn sealed(&self, host: usize, message: Message) -> (Message, Vec<u8>) {
        let machine = &self.hosts[host];
        let local = machine.clock.local(self.schedule.now());
        let expires_at = local + Duration::from_s(30);
        let bytes = machine.identity.seal(NetworkId::from_name(NETWORK), local.as_unix_ms(), expires_at, &message);
        (message, bytes)
    }

    /// A frame of `from` that no node has asked for.
    fn inject(&mut self, from: usize, to: usize, message: Message) {
        let (message, bytes) = self.sealed(from, message);
        self.serial += 1;
        let parcel = FrameParcel {
            serial: self.serial,
            from,
            to,
            to_life: self.hosts[to].life,
            bytes: Arc::new(bytes),
            message: Arc::new(message),
        };
        self.deliver(to, Incoming::Frame(Box::new(parcel)));
    }

    // ---- a promise that is forgotten ----

    /// A machine that has just promised something, and will forget it, is stopped.
    fn forget_if_due(&mut self, host: usize, message: &Message) {
        let promises = matches!(message, Message::ViewState(_));
        if promises && self.hosts[host].broken == Some(Break::ForgetJournal) && self.hosts[host].life == 0 {
            let run = match message {
                Message::ViewState(state) => state.run,
                _ => return,
            };
            self.after(FORGETS_AFTER, Happening::Forge { host, run });
        }
    }

    /// Whether a restarted machine is given the record before its last one.
    pub(super) fn forgets_journal(&self, host: usize) -> bool {
        self.hosts[host].broken == Some(Break::ForgetJournal)
    }

    /// A machine that will trust a torn checkpoint is stopped while it writes over a whole one.
    pub(super) fn tear_if_due(&mut self, host: usize, run: RunId) {
        let machine = &self.hosts[host];
        let torn = machine.broken == Some(Break::TornCheckpoint) && machine.life == 0;
        if torn && machine.disk.checkpoint(run).is_some() {
            self.after(FORGETS_AFTER, Happening::Forge { host, run });
        }
    }

    /// What was planned: to stop the forgetful machine, or to ask it in a ballot
    /// below the one that it has promised to heed.
    pub(super) fn forge(&mut self, host: usize, run: RunId) {
        if self.hosts[host].life == 0 {
            let fault = Fault {
                kind: Kind::Kill,
                when: When::AtMs(0),
                hosts: vec![host],
                lasts_ms: Some(AWAY_MS),
                noticed: true,
            };
            self.kill(host, &fault);
            if self.hosts[host].broken != Some(Break::ForgetJournal) {
                return;
            }
            let asked = Duration::from_ms(AWAY_MS + 5);
            return self.after(asked, Happening::Forge { host, run });
        }
        let Some((view, promised)) = self.checkers.agreement.latest_promise(run, self.hosts[host].peer) else { return };
        let Some(asker) =
            (0..self.hosts.len()).find(|other| *other != host && self.hosts[*other].training_of(run).is_some())
        else {
            return;
        };
        let ballot = Ballot { counter: promised.counter.saturating_sub(1), proposer: self.hosts[asker].peer };
        self.inject(asker, host, Message::ViewAsk(ViewAsk { run, view, ballot }));
    }

    // ---- a view without a quorum ----

    pub(super) fn forge_if_due(&mut self, host: usize, run: RunId, exchange: u64) {
        if self.hosts[host].broken != Some(Break::TwoQuorums) || exchange != 1 {
            return;
        }
        let Some(view) = self.checkers.agreement.latest(run).cloned() else { return };
        let Some(victim) =
            view.members.iter().map(|member| member.contact.peer).find(|peer| *peer != self.hosts[host].peer)
        else {
            return;
        };
        let mut next = View {
            number: view.number + 1,
            plan: view.number + 1,
            from: exchange + 1,
            fate: Fate::Kept { handovers: Vec::new() },
            left: vec![Departure { peer: victim, reason: AbortReason::MemberLost }],
            ..view.clone()
        };
        next.members.retain(|member| member.contact.peer != victim);
        for member in view.members.iter().map(|member| member.contact.peer) {
            if let Some(to) = self.index.get(&member).copied().filter(|to| *to != host && member != victim) {
                let install = ViewInstall { run, view: next.clone() };
                self.inject(host, to, Message::ViewInstall(Box::new(install)));
            }
        }
    }
}

/// Batch 0, which counts since the first exchange, is to be done again.
fn count_again(view: &mut View) {
    let counts = view.ledger.next > 0 && view.ledger.returned.first().is_none_or(|span| span.first > 0);
    if counts {
        view.ledger.returned.insert(0, Span { first: 0, count: 1 });
    }
}
