//! The node's part in runs: how they begin, go on after a restart, and end; and
//! what is said of them once they are over.

use super::Node;
use crate::effect::{Entry, Event, RunStart};
use crate::ids::{EffectId, PeerId, RunId};
use crate::market::listing::Contact;
use crate::market::reservation::{Confirm, Hold};
use crate::outbox::{About, InFlight, Outbox};
use crate::run::ends::Over;
use crate::run::machine::{Beginning, Machine, donors};
use crate::run::record::{Going, Record};
use crate::run::report::{Abort, AbortReason};
use crate::time::Time;
use crate::wire::Message;

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
        // A member that comes back without what it has promised would not be the same one.
        if self.ends.is_over(run) {
            return Err("this run is over here");
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

    /// Goes on after a restart with a run, or with what there is to tell of its end.
    pub(super) fn resume(&mut self, record: &[u8], now: Time) {
        let resumed = match Record::decode(record) {
            Err(problem) => Err(format!("the journal's record of a run: {problem}")),
            Ok(record) if record.of() != self.out.me() => {
                Err(format!("the journal's record of a run is of another peer, {}", record.of()))
            }
            Ok(Record::Over(over)) => {
                self.ends.restore(over, now, &mut self.out);
                Ok(())
            }
            Ok(Record::Going(going)) => self.go_on(*going, now),
        };
        if let Err(why) = resumed {
            self.out.notify(Event::Refused { why });
        }
    }

    fn go_on(&mut self, going: Going, now: Time) -> Result<(), String> {
        if self.run.is_some() {
            return Err("another run goes on here".into());
        }
        // After a restart we may be elsewhere.
        let contact = self.offer.as_ref().map_or(going.contact.clone(), |_| self.contact());
        let machine = Machine::again(Going { contact, ..going }, now, &mut self.out)
            .ok_or("the vector of the journal's run cannot be cut for so many members")?;
        if machine.is_owner() {
            self.membership.run_matched(machine.run(), machine.share());
        }
        self.hold = Hold::Running(machine.run());
        self.run = Some(machine);
        Ok(())
    }

    /// Tells whoever wanted it; if that is us, the people here and the members,
    /// who would wait for us.
    fn not_begun(&mut self, run: RunId, from: PeerId, confirm: &Confirm, why: &str, now: Time) {
        let me = self.out.me();
        let abort = Message::Abort(Abort { run, reason: AbortReason::NotReady, culprit: me, view: 0 });
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
            return self.with_run(run, now, |machine, out| machine.message(from, message, now, out));
        }
        match message {
            Message::Finished(_) => return self.ends.finished_there(run, from, now, &mut self.out),
            Message::Abort(_) => return self.ends.left_there(run, from),
            _ => {}
        }
        // Who still asks about a run that is over here has missed its end.
        let asks =
            matches!(message, Message::Join(_) | Message::ViewAsk(_) | Message::Suspect(_) | Message::Heartbeat(_));
        if let Some(word) = self.ends.word(run, from).filter(|_| asks) {
            self.out.send(from, word, About::Nothing, now);
        }
    }

    pub(super) fn with_run(
        &mut self,
        run: RunId,
        now: Time,
        act: impl FnOnce(&mut Machine, &mut Outbox) -> Option<Over>,
    ) {
        if let Some(machine) = self.run.as_mut().filter(|machine| machine.run() == run) {
            let over = act(machine, &mut self.out);
            self.run_ended(over, now);
        }
    }

    pub(super) fn run_ended(&mut self, over: Option<Over>, now: Time) {
        let Some(over) = over else { return };
        if let Some(machine) = self.run.take() {
            self.leases_over(&machine, &over, now);
        }
        self.ends.add(over, now, &mut self.out);
        self.hold = Hold::Free;
    }

    pub(super) fn frame_landed(&mut self, id: EffectId, delivered: bool, now: Time) {
        let Some(InFlight { to, kind, about }) = self.out.landed(id) else { return };
        match about {
            About::Run(run) => self.with_run(run, now, |machine, out| {
                if delivered { machine.delivered(id, to, now, out) } else { machine.undelivered(to, kind, now, out) }
            }),
            About::Order(order) if !delivered => {
                if let Some(order) = self.orders.get_mut(&order) {
                    order.unreachable(to, now, &mut self.out);
                }
            }
            About::Ledger if !delivered => self.with_trust(|trust, _| trust.undelivered(to, now)),
            About::Order(_) | About::Ledger | About::Nothing => {}
        }
    }
}
