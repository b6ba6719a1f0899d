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
}

/// The views of every run.
#[derive(Default)]
pub struct Agreement {
    runs: BTreeMap<RunId, Run>,
}

impl Agreement {
    /// The view that a run begins with.
    pub fn begun(&mut self, run: RunId, first: View) {
        self.runs.entry(run).or_default().views.entry(0).or_insert(first);
    }

    /// A member sends a message.
    ///
    /// # Errors
    /// It contradicts what it or others have said.
    pub fn sent(&mut self, author: PeerId, message: &Message) -> Result<(), String> {
        match message {
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
        for vote in self.runs.values_mut().flat_map(|run| run.votes.values_mut()) {
            vote.promised.remove(&peer);
            vote.accepted.remove(&peer);
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
        let before = self.runs.get(&run).and_then(|run| run.views.get(&view));
        before.is_some_and(|view| view.is_quorum(|other| *other == peer))
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
        let (accepters, proposed) = (&vote.accepts[&ballot], vote.proposals.get(&ballot));
        let (Some(view), Some(next)) = (run.views.get(&number), proposed) else { return Ok(()) };
        // Who proposes accepts, too, at the latest when another's word makes the quorum.
        if !view.is_quorum(|peer| accepters.contains(peer)) {
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

/// Whether `author` may act in `ballot`, having promised what it has.
fn heeds(vote: &mut Vote, author: PeerId, ballot: Ballot, what: &str) -> Result<(), String> {
    let promised = vote.promised.entry(author).or_insert(ballot);
    if *promised > ballot {
        return Err(format!("{author:?} {what} in ballot {ballot:?} and has promised to heed none below {promised:?}"));
    }
    *promised = ballot;
    Ok(())
}
