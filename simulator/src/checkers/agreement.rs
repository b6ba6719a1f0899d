//! Views and ballots, as the messages on the wire show them.
//!
//! A view holds once a quorum of the one before has accepted it in one ballot.
//! From then on no other may hold under its number, whatever is restarted, cut
//! off or repeated in between.

use manta_protocol::run::view::{Ballot, View, ViewState};
use manta_protocol::wire::Message;
use manta_protocol::{PeerId, RunId};
use std::collections::{BTreeMap, BTreeSet};

/// What members have said about the successor of one view.
#[derive(Default)]
struct Vote {
    /// The highest ballot that each has promised to heed.
    promised: BTreeMap<PeerId, Ballot>,
    /// The highest ballot in which each has accepted.
    accepted: BTreeMap<PeerId, Ballot>,
    proposals: BTreeMap<Ballot, View>,
    accepts: BTreeMap<Ballot, BTreeSet<PeerId>>,
}

/// What is known of a run.
#[derive(Default)]
struct Run {
    views: BTreeMap<u32, View>,
    votes: BTreeMap<u32, Vote>,
    /// Who has left for good, and the last view that it says it has had a part in.
    left: BTreeMap<PeerId, u32>,
    /// Whether a member may go on alone.
    solo: bool,
}

impl Run {
    /// Whether these may decide on the successor of a view: of two full members
    /// one that has left has left its vote to the other.
    fn is_quorum(&self, view: &View, agrees: impl Fn(&PeerId) -> bool) -> bool {
        view.is_quorum(|peer| agrees(peer) || self.has_left_its_vote(view, peer))
    }

    fn has_left_its_vote(&self, view: &View, peer: &PeerId) -> bool {
        let left = self.left.get(peer).is_some_and(|last| *last <= view.number);
        left && self.solo && view.is_of_two()
    }
}

/// The views of every run.
#[derive(Default)]
pub struct Agreement {
    runs: BTreeMap<RunId, Run>,
}

impl Agreement {
    /// The view that a run begins with.
    pub fn begun(&mut self, run: RunId, first: View, solo: bool) {
        let run = self.runs.entry(run).or_default();
        run.solo = solo;
        run.views.entry(0).or_insert(first);
    }

    /// A member sends a message.
    ///
    /// # Errors
    /// It contradicts what it or others have said.
    pub fn sent(&mut self, author: PeerId, message: &Message) -> Result<(), String> {
        if let Some(run) = votes_in(message)
            && self.runs.get(&run).is_some_and(|run| run.left.contains_key(&author))
        {
            return Err(format!("{author:?} votes in {run:?} and has said that it left"));
        }
        match message {
            Message::Abort(abort) if abort.culprit == author && abort.reason.leaves_the_vote() => {
                self.runs.entry(abort.run).or_default().left.insert(author, abort.view);
                Ok(())
            }
            Message::ViewState(state) => self.promised(author, state),
            Message::ViewPropose(propose) => {
                let number = propose.next.number.saturating_sub(1);
                let vote = self.vote(propose.run, number);
                let known = vote.proposals.entry(propose.ballot).or_insert_with(|| propose.next.clone());
                if *known != propose.next {
                    return Err(format!("{author:?} proposes two views in ballot {:?}", propose.ballot));
                }
                heeds(vote, author, propose.ballot, "proposes")?;
                self.accept(author, propose.run, number, propose.ballot)
            }
            Message::ViewAccept(accept) => {
                heeds(self.vote(accept.run, accept.view), author, accept.ballot, "accepts")?;
                self.accept(author, accept.run, accept.view, accept.ballot)
            }
            Message::ViewInstall(install) => self.installed(author, install.run, &install.view),
            _ => Ok(()),
        }
    }

    /// A member takes a view to hold, as its message or its own node says.
    ///
    /// # Errors
    /// No quorum has accepted it, or another of its number holds.
    pub fn installed(&mut self, by: PeerId, run: RunId, view: &View) -> Result<(), String> {
        match self.runs.get(&run).and_then(|run| run.views.get(&view.number)) {
            Some(holds) if holds == view => Ok(()),
            Some(_) => Err(format!("{by:?}: two views of number {}", view.number)),
            // Who is a quorum by itself needs to ask nobody.
            None if self.is_quorum_of(run, view.number.wrapping_sub(1), by) => {
                self.runs.entry(run).or_default().views.insert(view.number, view.clone());
                Ok(())
            }
            None => Err(format!("{by:?}: view {} holds without a quorum", view.number)),
        }
    }

    /// A member has lost its disk: what it said before binds it no more, for it
    /// is not in the run any more.
    pub fn forgot(&mut self, peer: PeerId) {
        for run in self.runs.values_mut() {
            run.left.remove(&peer);
            for vote in run.votes.values_mut() {
                vote.promised.remove(&peer);
                vote.accepted.remove(&peer);
            }
        }
    }

    /// The latest view of a run.
    pub fn latest(&self, run: RunId) -> Option<&View> {
        self.runs.get(&run)?.views.last_key_value().map(|(_, view)| view)
    }

    /// What a member has promised last, and about the successor of which view.
    pub fn latest_promise(&self, run: RunId, peer: PeerId) -> Option<(u32, Ballot)> {
        let mut votes = self.runs.get(&run)?.votes.iter().rev();
        votes.find_map(|(view, vote)| Some((*view, *vote.promised.get(&peer)?)))
    }

    fn is_quorum_of(&self, run: RunId, view: u32, peer: PeerId) -> bool {
        let Some(run) = self.runs.get(&run) else { return false };
        run.views.get(&view).is_some_and(|view| run.is_quorum(view, |other| *other == peer))
    }

    /// Whether a member of this view has left the decision on the next one to the other.
    pub fn has_left_its_vote(&self, run: RunId, view: &View, peer: &PeerId) -> bool {
        self.runs.get(&run).is_some_and(|run| run.has_left_its_vote(view, peer))
    }

    /// How many views a run has had.
    pub fn views(&self, run: RunId) -> usize {
        self.runs.get(&run).map_or(0, |run| run.views.len())
    }

    fn vote(&mut self, run: RunId, view: u32) -> &mut Vote {
        self.runs.entry(run).or_default().votes.entry(view).or_default()
    }

    fn promised(&mut self, author: PeerId, state: &ViewState) -> Result<(), String> {
        let vote = self.vote(state.run, state.view);
        heeds(vote, author, state.ballot, "promises")?;
        let said = state.accepted.as_ref().map(|accepted| accepted.ballot);
        if let Some(before) = vote.accepted.get(&author)
            && said.is_none_or(|said| said < *before)
        {
            return Err(format!("{author:?} accepted in ballot {before:?} and says {said:?}"));
        }
        if let Some(accepted) = &state.accepted
            && vote.proposals.get(&accepted.ballot).is_some_and(|proposed| *proposed != accepted.view)
        {
            return Err(format!("{author:?} says that it accepted another view than was proposed"));
        }
        Ok(())
    }

    fn accept(&mut self, author: PeerId, run: RunId, number: u32, ballot: Ballot) -> Result<(), String> {
        let run = self.runs.entry(run).or_default();
        let vote = run.votes.entry(number).or_default();
        vote.accepted.insert(author, ballot);
        vote.accepts.entry(ballot).or_default().insert(author);
        let vote = &run.votes[&number];
        let (accepters, proposed) = (&vote.accepts[&ballot], vote.proposals.get(&ballot));
        let (Some(view), Some(next)) = (run.views.get(&number), proposed) else { return Ok(()) };
        // Who proposes accepts, too, at the latest when another's word makes the quorum.
        if !run.is_quorum(view, |peer| accepters.contains(peer)) {
            return Ok(());
        }
        let next = next.clone();
        match run.views.get(&next.number) {
            Some(holds) if *holds != next => Err(format!("two quorums: view {} is two different ones", next.number)),
            Some(_) => Ok(()),
            None => {
                run.views.insert(next.number, next);
                Ok(())
            }
        }
    }
}

/// The run in which this is a vote, if it is one.
fn votes_in(message: &Message) -> Option<RunId> {
    match message {
        Message::ViewAsk(ask) => Some(ask.run),
        Message::ViewState(state) => Some(state.run),
        Message::ViewPropose(propose) => Some(propose.run),
        Message::ViewAccept(accept) => Some(accept.run),
        Message::ViewInstall(install) => Some(install.run),
        _ => None,
    }
}

/// Whether `author` may act in `ballot`, having promised what it has.
fn heeds(vote: &mut Vote, author: PeerId, ballot: Ballot, what: &str) -> Result<(), String> {
    let promised = vote.promised.entry(author).or_insert(ballot);
    if *promised > ballot {
        return Err(format!("{author:?} {what} in ballot {ballot:?} and has promised to heed none below {promised:?}"));
    }
    *promised = ballot;
    Ok(())
}
