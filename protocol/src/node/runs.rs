//! The node's part in runs: how they begin, go on after a restart, and end; and
//! what is said of them once they are over.

use super::Node;
use crate::effect::{Entry, Event, RunStart};
use crate::ids::{EffectId, PeerId, RunId};
use crate::market::listing::Contact;
use crate::market::reservation::{Confirm, Hold};
use crate::outbox::{About, InFlight, Outbox};
use crate::run::machine::{Beginning, Ended, Machine, donors};
use crate::run::record::Record;
use crate::run::report::{Abort, AbortReason};
use crate::time::Time;
use crate::wire::Message;
use crate::wire::limits::RUNS_OVER_MAX;

impl Node {
    /// A run begins, or takes us in, if whoever says so holds this machine for it.
    pub(super) fn confirmed(&mut self, from: PeerId, confirm: &Confirm, now: Time) {
        let run = confirm.run_id();
        if self.run.as_ref().is_some_and(|machine| machine.run() == run) {
            return;
        }
        match self.begin(run, from, confirm, now) {
            Ok(machine) => {
                self.run = Some(machine);
                self.hold = Hold::Running(run);
            }
            Err(why) => self.not_begun(run, from, confirm, why, now),
        }
    }

    fn begin(&mut self, run: RunId, from: PeerId, confirm: &Confirm, now: Time) -> Result<Machine, &'static str> {
        let me = self.out.me();
        let is_member = |peer: PeerId| confirm.members.binary_search_by_key(&peer, |member| member.peer).is_ok();
        if confirm.spec.hash() != confirm.demand.spec {
            return Err("its demand is for another spec");
        }
        if self.run.is_some() {
            return Err("another run goes on here");
        }
        if confirm.late {
            if is_member(me) || !is_member(from) {
                return Err("whoever takes this machine in is not a member, or it is one already");
            }
        } else if !is_member(me) {
            return Err("this machine is not among the members");
        } else if from != confirm.owner || !is_member(from) {
            // The owner serves the data: without it among the members nobody could start.
            return Err("its user is not among the members");
        }
        if !self.hold.is_for(from, confirm.spec.hash(), now) {
            return Err("this machine is not held for it any more");
        }
        let mut donors = donors(confirm.owner, &confirm.members, me);
        if confirm.late {
            // Whoever takes us in lets us read its data already.
            donors.sort_by_key(|peer| *peer != from);
        }
        let start = RunStart {
            run,
            spec: confirm.spec.clone(),
            owner: confirm.owner,
            me,
            members: confirm.members.clone(),
            donors,
            entry: if confirm.late { Entry::Late } else { Entry::First },
        };
        let (demand, issued_at_ms) = (confirm.demand.clone(), confirm.issued_at_ms);
        let beginning = Beginning { start, demand, issued_at_ms, contact: self.contact() };
        Machine::new(beginning, now, &mut self.out).ok_or("its vector cannot be cut for so many members")
    }

    /// Where we can be reached, as far as it was ever offered.
    fn contact(&self) -> Contact {
        let offer = self.offer.as_ref();
        Contact {
            peer: self.out.me(),
            bulk_port: offer.map_or(0, |offer| offer.bulk_port),
            addresses: offer.map_or_else(Vec::new, |offer| offer.addresses.clone()),
        }
    }

    /// Goes on with a run after a restart.
    pub(super) fn resume(&mut self, record: &[u8], now: Time) {
        let machine = match Record::decode(record) {
            Err(problem) => Err(format!("the journal's record of a run: {problem}")),
            Ok(record) if record.contact.peer != self.out.me() => {
                Err(format!("the journal's record of a run is of another peer, {}", record.contact.peer))
            }
            Ok(_) if self.run.is_some() => Err("another run goes on here".into()),
            // After a restart we may be elsewhere.
            Ok(record) => Machine::again(
                Record { contact: self.offer.as_ref().map_or(record.contact.clone(), |_| self.contact()), ..record },
                now,
                &mut self.out,
            )
            .ok_or_else(|| "the vector of the journal's run cannot be cut for so many members".into()),
        };
        match machine {
            Ok(machine) => {
                if machine.is_owner() {
                    self.membership.run_matched(machine.run(), machine.share());
                }
                self.hold = Hold::Running(machine.run());
                self.run = Some(machine);
            }
            Err(why) => self.out.notify(Event::Refused { why }),
        }
    }

    /// Tells whoever wanted it; if that is us, the people here and the members,
    /// who would wait for us.
    fn not_begun(&mut self, run: RunId, from: PeerId, confirm: &Confirm, why: &str, now: Time) {
        let me = self.out.me();
        let abort = Message::Abort(Abort { run, reason: AbortReason::NotReady, culprit: me });
        if from != me {
            self.out.send(from, abort, About::Nothing, now);
            return;
        }
        for member in confirm.members.iter().filter(|member| member.peer != me) {
            self.out.send(member.peer, abort.clone(), About::Nothing, now);
        }
        self.out.notify(Event::RunNotBegun { run, why: why.into() });
    }

    pub(super) fn run_message(&mut self, run: RunId, from: PeerId, message: &Message, now: Time) {
        if self.run.as_ref().is_some_and(|machine| machine.run() == run) {
            return self.with_run(run, |machine, out| machine.message(from, message, now, out));
        }
        // Who still asks about a run that is over here has missed its end.
        let asks =
            matches!(message, Message::Join(_) | Message::ViewAsk(_) | Message::Suspect(_) | Message::Heartbeat(_));
        if let Some(word) = self.over.get(&run).filter(|_| asks).map(|over| over.word(run)) {
            self.out.send(from, word, About::Nothing, now);
        }
    }

    pub(super) fn with_run(&mut self, run: RunId, act: impl FnOnce(&mut Machine, &mut Outbox) -> Option<Ended>) {
        if let Some(machine) = self.run.as_mut().filter(|machine| machine.run() == run) {
            let ended = act(machine, &mut self.out);
            self.run_ended(ended);
        }
    }

    pub(super) fn run_ended(&mut self, ended: Option<Ended>) {
        let Some(ended) = ended else { return };
        if let Some(machine) = self.run.take() {
            self.over.insert(machine.run(), ended);
            if self.over.len() > RUNS_OVER_MAX {
                self.over.pop_first();
            }
        }
        self.hold = Hold::Free;
    }

    pub(super) fn frame_landed(&mut self, id: EffectId, delivered: bool, now: Time) {
        let Some(InFlight { to, kind, about }) = self.out.landed(id) else { return };
        match about {
            About::Run(run) => self.with_run(run, |machine, out| {
                if delivered { machine.delivered(id, to, now, out) } else { machine.undelivered(to, kind, now, out) }
            }),
            About::Order(order) if !delivered => {
                if let Some(order) = self.orders.get_mut(&order) {
                    order.unreachable(to, now, &mut self.out);
                }
            }
            About::Order(_) | About::Nothing => {}
        }
    }
}
