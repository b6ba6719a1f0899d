//! Runs that are over here: how each ended, told to whoever asks, and, where its
//! result is kept here, to its owner until the owner has it.
//!
//! An end is in the journal before it is told, so that no restart takes it back:
//! who has left a run never speaks in it again, and nobody does a run anew that
//! is known here to be over. What is kept is bounded, the oldest going first.

use super::record::Record;
use super::report::{Abort, AbortReason};
use super::view::Finished;
use crate::effect::Effect;
use crate::ids::{Hash, PeerId, RunId};
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::limits::{RESULTS_KEPT_MAX, RUNS_OVER_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The owner is told of its result after so long; then after twice as long each time.
const TELL_FIRST: Duration = Duration::from_s(1);
/// The longest pause between two words to an owner.
const TELL_PAUSE_MAX: Duration = Duration::from_s(600);

/// How a run ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// Every batch is done.
    Well {
        /// The name of the result.
        root: Hash,
        /// Whether it is here for its owner to fetch.
        kept: bool,
    },
    /// This member left.
    Early {
        reason: AbortReason,
        culprit: PeerId,
        /// The last view that it has had a part in.
        view: u32,
    },
}

/// A run that is over here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Over {
    pub(crate) run: RunId,
    pub(crate) owner: PeerId,
    /// Whose memory this is.
    pub(crate) me: PeerId,
    pub(crate) at: Time,
    pub(crate) end: End,
}

impl Over {
    /// What `to` hears that asks about the run. Who does not keep the result has
    /// nothing to tell to its owner, who looks for somebody that does.
    pub(crate) fn word(&self, to: PeerId) -> Option<Message> {
        match self.end {
            End::Well { kept: false, .. } if to == self.owner => None,
            End::Well { root, .. } => Some(Message::Finished(Finished { run: self.run, root })),
            End::Early { reason, culprit, view } => {
                Some(Message::Abort(Abort { run: self.run, reason, culprit, view }))
            }
        }
    }

    pub(crate) fn journal(&self, out: &mut Outbox) {
        out.push(Effect::Journal { run: self.run, record: Some(Record::Over(*self).encode()) });
    }

    /// Whether the result waits here for another's coming.
    fn is_kept_for_owner(&self) -> bool {
        self.me != self.owner && matches!(self.end, End::Well { kept: true, .. })
    }
}

/// When the owner is told next.
#[derive(Clone, Copy, Debug)]
struct Telling {
    due: Time,
    pause: Duration,
}

impl Telling {
    fn begins(now: Time) -> Self {
        Self { due: now + TELL_FIRST, pause: TELL_FIRST }
    }
}

/// The ends that are known.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    runs: BTreeMap<RunId, Over>,
    telling: BTreeMap<RunId, Telling>,
}

impl Ends {
    /// A run has ended, and its end is in the journal.
    pub(crate) fn add(&mut self, over: Over, now: Time, out: &mut Outbox) {
        self.runs.insert(over.run, over);
        if over.is_kept_for_owner() {
            self.telling.insert(over.run, Telling::begins(now));
        }
        self.make_room(out);
    }

    /// An end that was found in the journal after a restart.
    pub(crate) fn restore(&mut self, over: Over, now: Time, out: &mut Outbox) {
        if let End::Well { root, kept: true } = over.end
            && over.is_kept_for_owner()
        {
            out.push(Effect::KeepResult { run: over.run, root, owner: over.owner });
        }
        self.add(over, now, out);
    }

    pub(crate) fn is_over(&self, run: RunId) -> bool {
        self.runs.contains_key(&run)
    }

    /// What `to` hears that asks about a run.
    pub(crate) fn word(&self, run: RunId, to: PeerId) -> Option<Message> {
        self.runs.get(&run)?.word(to)
    }

    /// A peer says that a run is over there, too, and well. If it is the owner, it
    /// has its result; if we are, we say so, and need not be told again.
    pub(crate) fn finished_there(&mut self, run: RunId, from: PeerId, now: Time, out: &mut Outbox) {
        let Some(over) = self.runs.get(&run) else { return };
        if from == over.owner {
            self.let_go(run, out);
        } else if over.me == over.owner
            && let Some(word) = over.word(from)
        {
            out.send(from, word, About::Nothing, now);
        }
    }

    /// A peer says that it has left a run. An owner that has wants no result, as
    /// far as it knows; its user may ask ours for it.
    pub(crate) fn left_there(&mut self, run: RunId, from: PeerId) {
        if self.runs.get(&run).is_some_and(|over| over.owner == from) {
            self.telling.remove(&run);
        }
    }

    /// The result of a run is not here any more.
    pub(crate) fn let_go(&mut self, run: RunId, out: &mut Outbox) {
        let Some(over) = self.runs.get_mut(&run).filter(|over| over.is_kept_for_owner()) else { return };
        if let End::Well { root, .. } = over.end {
            over.end = End::Well { root, kept: false };
        }
        over.journal(out);
        out.push(Effect::DropResult { run });
        self.telling.remove(&run);
    }

    /// An owner may be back.
    pub(crate) fn met(&mut self, peer: PeerId, now: Time) {
        let runs = &self.runs;
        for (_, telling) in self.telling.iter_mut().filter(|(run, _)| runs.get(run).is_some_and(|of| of.owner == peer))
        {
            *telling = Telling { due: telling.due.min(now + TELL_FIRST), pause: TELL_FIRST };
        }
    }

    /// Tells owners of their results.
    pub(crate) fn tell(&mut self, now: Time, out: &mut Outbox) {
        for (run, telling) in self.telling.iter_mut().filter(|(_, telling)| telling.due <= now) {
            let pause = telling.pause.times(2).min(TELL_PAUSE_MAX);
            *telling = Telling { due: now + pause, pause };
            if let Some((owner, word)) = self.runs.get(run).and_then(|over| Some((over.owner, over.word(over.owner)?)))
            {
                out.send(owner, word, About::Nothing, now);
            }
        }
    }

    /// When an owner is to be told.
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.telling.values().map(|telling| telling.due).min()
    }

    fn make_room(&mut self, out: &mut Outbox) {
        let oldest = |runs: &BTreeMap<RunId, Over>, kept: bool| {
            let runs = runs.values().filter(|over| over.is_kept_for_owner() == kept);
            runs.min_by_key(|over| (over.at, over.run)).map(|over| over.run)
        };
        while self.runs.values().filter(|over| over.is_kept_for_owner()).count() > RESULTS_KEPT_MAX
            && let Some(run) = oldest(&self.runs, true)
        {
            self.let_go(run, out);
        }
        // Results are fewer than ends, so that one goes that is none.
        while self.runs.len() > RUNS_OVER_MAX
            && let Some(run) = oldest(&self.runs, false)
        {
            self.runs.remove(&run);
            out.push(Effect::Journal { run, record: None });
        }
    }
}

#[cfg(test)]
mod tests;
