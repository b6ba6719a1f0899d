//! What local users ask for, until it is a run.

use super::{Driver, OpenOrder, TaskDone};
use crate::api::{Control, OrderAccepted};
use crate::run::fetch::blocking;
use crate::run::library::Shelf;
use crate::run::order::{self, Prepared};
use crate::status::OrderState;
use manta_protocol::run::report::AbortReason;
use manta_protocol::{Command, Input, OrderId};

impl Driver {
    pub(super) fn control(&mut self, control: Control) {
        match control {
            Control::Order(request, answer) => {
                let order = OrderId(self.next_order);
                self.next_order += 1;
                self.board.order_placed(order);
                // Whoever asked looks for it at once.
                self.show();
                self.orders.insert(order, OpenOrder { request: (*request).clone(), unigram_loss: None, run: None });
                let (store, library) = (self.parts.store.clone(), self.parts.library.clone());
                let speed = self.parts.machine.listed.multiply_adds_per_s;
                self.spawn(async move {
                    let read = blocking(move || order::prepare(order, &request, &store, &library, speed)).await;
                    TaskDone::OrderRead(order, read.map(Box::new))
                });
                // Whoever asked may have gone; the order stands all the same.
                let _ = answer.send(Ok(OrderAccepted { order: order.0 }));
            }
            Control::Stop(name, answer) => {
                let _ = answer.send(self.stop(&name));
            }
            Control::Invite(request, answer) => {
                let _ = answer.send(self.invite(request));
            }
            Control::Ask(question, answer) => {
                let _ = answer.send(self.answer(&question));
            }
            Control::Transfer(request, answer) => {
                let _ = answer.send(self.transfer(&request));
            }
            Control::Recover(request, answer) => {
                let _ = answer.send(self.recover(&request));
            }
            Control::Revoke(name, answer) => {
                let _ = answer.send(self.revoke(&name));
            }
        }
    }

    pub(super) fn stop(&mut self, name: &str) -> Result<(), String> {
        if let Some(run) = self.run.as_ref().map(|open| open.start.run).filter(|run| run.to_string().starts_with(name))
        {
            self.input(Input::Command(Command::StopRun { run, reason: AbortReason::Stopped }));
            return Ok(());
        }
        let order = name
            .parse()
            .ok()
            .map(OrderId)
            .filter(|order| self.orders.get(order).is_some_and(|open| open.run.is_none()));
        if let Some(order) = order {
            self.forget_order(order);
            self.board.order_is(order, OrderState::Failed, "stopped by its user".into());
            self.input(Input::Command(Command::CancelOrder { order }));
            return Ok(());
        }
        Err(format!("nothing named {name} goes on here; `manta status` shows what does"))
    }

    pub(super) fn order_read(&mut self, order: OrderId, prepared: Box<Prepared>) {
        let Some(open) = self.orders.get_mut(&order) else { return };
        tracing::info!(order = order.0, "{}", prepared.summary);
        self.board.order_is(order, OrderState::Searching, format!("looking for peers; {}", prepared.summary));
        let (spec, wish) = (Box::new(prepared.spec.clone()), prepared.wish.clone());
        open.unigram_loss = Some(prepared.unigram_loss);
        self.input(Input::Command(Command::Order { order, spec, wish }));
    }

    pub(super) fn forget_order(&mut self, order: OrderId) {
        self.orders.remove(&order);
        self.parts.library.close(Shelf::Order(order));
    }
}
