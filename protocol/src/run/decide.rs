//! What the next view is, given what the members say that they hold: a pure
//! function of one proposer's knowledge.

use super::allreduce::AllReduce;
use super::ledger::Ledger;
use super::report::AbortReason;
use super::spec::RunSpec;
use super::view::{Checkpoint, Departure, Fate, HANDOVERS_MAX, Handover, Holding, Member, Plan, Role, View, ViewState};
use crate::ids::PeerId;
use crate::market::listing::Contact;
use crate::wire::limits::MEMBERS_MAX;
use std::collections::BTreeMap;

/// What a proposer knows.
pub(crate) struct Knowledge<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) view: &'a View,
    /// What the members that answered hold, our own answer among them.
    pub(crate) answers: &'a BTreeMap<PeerId, ViewState>,
    /// A full member that has left and agrees to whatever the others decide.
    pub(crate) leaver: Option<PeerId>,
    /// Who must leave whatever it answers, and why; why else others leave.
    pub(crate) accused: &'a BTreeMap<PeerId, AbortReason>,
    /// Listeners that can be full members.
    pub(crate) caught_up: &'a [PeerId],
    /// Who wants to come in.
    pub(crate) joins: &'a BTreeMap<PeerId, Contact>,
    /// Batches of each full member, if they should change.
    pub(crate) shares: Option<&'a BTreeMap<PeerId, u32>>,
    /// Most members.
    pub(crate) members_max: usize,
    /// The exchange of this number as we have it, its plan, and the ledger before it.
    pub(crate) exchange: &'a dyn Fn(u64) -> Option<(&'a AllReduce, &'a Plan, &'a Ledger)>,
    /// Whether all have answered who ever will: only then is work given up.
    pub(crate) patient: bool,
}

/// The next view; `None` while too little is known or too few are there.
pub(crate) fn next_view(known: &Knowledge<'_>) -> Option<View> {
    let staying = known.staying();
    let agrees = |peer: &PeerId| known.answers.contains_key(peer) || known.leaver == Some(*peer);
    if !known.view.is_quorum(agrees) || !known.may_go_on(&staying) {
        return None;
    }
    let live: BTreeMap<PeerId, u64> = staying.iter().filter_map(|peer| Some((*peer, known.live(peer)?))).collect();
    match live.values().min() {
        Some(exchange) => known.goes_on(*exchange, &live, &staying),
        None if known.patient => known.begins_again(&staying),
        None => None,
    }
}

impl Knowledge<'_> {
    /// Members that answered and are not accused, without those that one of the
    /// rest cannot reach: a listener before a full member, for it has no part in
    /// the work yet; of two alike the one with the higher id goes.
    fn staying(&self) -> Vec<PeerId> {
        let answered = |member: &&Member| self.answers.contains_key(&member.contact.peer);
        let members = self.view.members.iter().filter(answered).map(|member| member.contact.peer);
        let mut staying: Vec<_> = members.filter(|peer| !self.accused.contains_key(peer)).collect();
        loop {
            let cut = |a: &PeerId, b: &PeerId| a != b && (self.cannot_reach(a, b) || self.cannot_reach(b, a));
            let cuts = |peer: &PeerId| staying.iter().filter(|other| cut(peer, other)).count();
            let listens = |peer: &PeerId| self.view.role(peer) == Some(Role::Listener);
            let cut_off = staying.iter().filter(|peer| cuts(peer) > 0);
            let Some(worst) = cut_off.max_by_key(|peer| (listens(peer), cuts(peer), **peer)).copied() else {
                return staying;
            };
            staying.retain(|peer| *peer != worst);
        }
    }

    fn cannot_reach(&self, from: &PeerId, to: &PeerId) -> bool {
        let Some(index) = self.view.members.iter().position(|member| member.contact.peer == *to) else { return false };
        self.answers.get(from).is_some_and(|answer| answer.unreachable >> index & 1 == 1)
    }

    fn full_staying<'a>(&'a self, staying: &'a [PeerId]) -> impl Iterator<Item = &'a PeerId> {
        staying.iter().filter(|peer| self.view.role(peer) == Some(Role::Full))
    }

    fn may_go_on(&self, staying: &[PeerId]) -> bool {
        let left = self.full_staying(staying).count();
        left > 1 || (left == 1 && (self.spec.solo || self.view.full().count() == 1))
    }

    /// The exchange that a full member is in.
    fn live(&self, peer: &PeerId) -> Option<u64> {
        match &self.answers.get(peer)?.holding {
            Holding::Live { exchange, .. } if self.view.role(peer) == Some(Role::Full) => Some(*exchange),
            _ => None,
        }
    }

    fn goes_on(&self, number: u64, live: &BTreeMap<PeerId, u64>, staying: &[PeerId]) -> Option<View> {
        let (exchange, plan, ledger) = (self.exchange)(number)?;
        let ranks: Vec<_> = plan.ranks.iter().map(|peer| live.get(peer).map(|at| (*peer, *at))).collect();
        let fate = self.handovers(number, exchange, &ranks).map_or(Fate::Reduced, |handovers| Fate::Kept { handovers });
        let counts = |rank: usize| {
            exchange.counts(rank) && (matches!(fate, Fate::Kept { .. }) || ranks.get(rank).is_some_and(Option::is_some))
        };
        let ledger = ledger.after(&ledger.assign(&plan.shares), counts);
        let role = |peer: &PeerId| {
            let following = self.answers.get(peer).is_some_and(|answer| answer.holding == Holding::Following);
            let may = self.view.role(peer) == Some(Role::Full) || self.caught_up.contains(peer);
            // Who asks to come in again has lost its place.
            let lost = self.joins.contains_key(peer);
            if live.contains_key(peer) || (following && may && !lost) { Role::Full } else { Role::Listener }
        };
        Some(self.view_of(number + 1, fate, ledger, staying, role))
    }

    /// Who sends which chunks of ranks that are lost; `None` if something that
    /// they owed is nowhere. `ranks` are those who stay, with their exchanges.
    fn handovers(&self, number: u64, exchange: &AllReduce, ranks: &[Option<(PeerId, u64)>]) -> Option<Vec<Handover>> {
        let lost = (0..ranks.len()).filter(|rank| exchange.counts(*rank) && ranks[*rank].is_none());
        let lost = lost.fold(0u16, |map, rank| map | 1 << rank);
        let ahead = ranks.iter().flatten().any(|(_, at)| *at > number);
        // Which parts the owners who stay will complete by themselves.
        let whole = |rank: usize| match ranks[rank].and_then(|(peer, _)| self.answers.get(&peer)) {
            Some(ViewState { holding: Holding::Live { whole, .. }, .. }) => whole & lost == lost,
            _ => false,
        };
        let mut handovers: Vec<Handover> = Vec::new();
        for chunk in 0..exchange.plan().chunks() {
            let owner = exchange.owner(chunk)?;
            if ranks[owner].is_some() {
                // Somebody has all sums already, or the owner can make this one.
                if !ahead && !self.has_sum(number, ranks[owner], chunk) && !whole(owner) {
                    return None;
                }
                continue;
            }
            match handovers.last_mut() {
                Some(last)
                    if last.first + last.count == chunk && self.has_sum(number, ranks[usize::from(last.by)], chunk) =>
                {
                    last.count += 1;
                }
                _ => {
                    let by = (0..ranks.len()).find(|rank| self.has_sum(number, ranks[*rank], chunk))?;
                    handovers.push(Handover { first: chunk, count: 1, by: by as u16 });
                }
            }
        }
        (handovers.len() <= HANDOVERS_MAX).then_some(handovers)
    }

    fn has_sum(&self, number: u64, rank: Option<(PeerId, u64)>, chunk: u32) -> bool {
        let Some((peer, at)) = rank else { return false };
        match self.answers.get(&peer) {
            _ if at > number => true,
            Some(ViewState { holding: Holding::Live { sums, .. }, .. }) => {
                sums.get(chunk as usize / 8).is_some_and(|byte| byte >> (chunk % 8) & 1 == 1)
            }
            _ => false,
        }
    }

    /// Everyone has lost what it held: the newest checkpoint is the state. `None`
    /// if nobody has one, nor could begin anew.
    fn begins_again(&self, staying: &[PeerId]) -> Option<View> {
        let start = || Checkpoint { exchange: 0, ledger: Ledger::new(self.view.ledger.target) };
        let of = |peer: &PeerId| match &self.answers.get(peer)?.holding {
            Holding::Restarted { checkpoint } => Some(checkpoint.clone().unwrap_or_else(start)),
            _ => None,
        };
        let newest = self.full_staying(staying).filter_map(of).max_by_key(|checkpoint| checkpoint.exchange);
        let Checkpoint { exchange, ledger } = newest?;
        let role = |peer: &PeerId| {
            let has = self.view.role(peer) == Some(Role::Full) && of(peer).is_some_and(|at| at.exchange == exchange);
            if has { Role::Full } else { Role::Listener }
        };
        Some(self.view_of(exchange, Fate::Fresh, ledger, staying, role))
    }

    fn view_of(
        &self,
        from: u64,
        fate: Fate,
        ledger: Ledger,
        staying: &[PeerId],
        role: impl Fn(&PeerId) -> Role,
    ) -> View {
        let number = self.view.number + 1;
        let share = self.spec.batches_per_exchange();
        let kept = self.view.members.iter().filter(|member| staying.contains(&member.contact.peer)).map(|member| {
            let role = role(&member.contact.peer);
            // Who was restarted listens anew, even if it listened before.
            let since = if role == member.role && !self.begins_anew(member) { member.since } else { number };
            let given = self.shares.and_then(|shares| shares.get(&member.contact.peer)).copied();
            // Who was restarted may be elsewhere now.
            let contact = self.joins.get(&member.contact.peer).unwrap_or(&member.contact).clone();
            Member { role, since, contact, share: given.unwrap_or(member.share) }
        });
        let mut members: Vec<Member> = kept.collect();
        let room = self.members_max.clamp(1, MEMBERS_MAX).saturating_sub(members.len());
        let new = self.joins.iter().filter(|(peer, _)| self.view.member(peer).is_none());
        let listener =
            |contact: &Contact| Member { contact: contact.clone(), role: Role::Listener, since: number, share };
        members.extend(new.take(room).map(|(_, contact)| listener(contact)));
        members.sort_by_key(|member| member.contact.peer);
        let reason = |peer: &PeerId| self.accused.get(peer).copied().unwrap_or(AbortReason::MemberLost);
        let gone = self.view.members.iter().map(|member| member.contact.peer).filter(|peer| !staying.contains(peer));
        let left = gone.map(|peer| Departure { peer, reason: reason(&peer) }).collect();
        let full = |members: &[Member]| -> Vec<(PeerId, u32)> {
            let full = members.iter().filter(|member| member.role == Role::Full);
            full.map(|member| (member.contact.peer, member.share)).collect()
        };
        let same = full(&members) == full(&self.view.members) && fate != Fate::Fresh;
        let plan = if same { self.view.plan } else { number };
        View { number, plan, from, members, fate, ledger, left }
    }

    /// A listener that has asked to come in again has lost its place.
    fn begins_anew(&self, member: &Member) -> bool {
        member.role == Role::Listener && self.joins.contains_key(&member.contact.peer)
    }
}

#[cfg(test)]
mod tests;
