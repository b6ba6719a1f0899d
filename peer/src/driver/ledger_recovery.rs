//! A committee that has left for good, replaced by people: plans, consents, and
//! the command to follow one.

use super::Driver;
use crate::recovery::{RecoveryAnswer, RecoveryDocument, RecoveryRequest};
use manta_protocol::consensus::{Recovery, RecoveryError};
use manta_protocol::ledger::State;
use manta_protocol::{Command, Hash, Input, PeerId};

impl Driver {
    /// Does what this peer's owner asks for about a recovery.
    pub(super) fn recover(&mut self, request: &RecoveryRequest) -> Result<RecoveryAnswer, String> {
        match request {
            RecoveryRequest::Propose { members } => self.propose_recovery(members),
            RecoveryRequest::Accept { document } => self.accept_recovery(document),
            RecoveryRequest::AcceptOffered { recovery } => {
                let fits = |offer: &&Recovery| offer.plan.new_chain().to_string().starts_with(recovery.as_str());
                let offers: Vec<_> = self.parts.node.recovery_offers().iter().filter(fits).cloned().collect();
                match offers.as_slice() {
                    [offer] => self.follow_recovery(offer.clone()),
                    [] if self.state()?.chain().to_string().starts_with(recovery.as_str()) => {
                        Err(format!("this peer follows the recovery {recovery} already"))
                    }
                    [] => Err(format!(
                        "none of the connected peers follows a recovery {recovery} that this peer could follow; \
                         `manta ledger status` lists those that do, and a file of it can be accepted, too"
                    )),
                    several => Err(format!("{} recoveries begin with `{recovery}`; give more of it", several.len())),
                }
            }
        }
    }

    fn propose_recovery(&mut self, members: &[String]) -> Result<RecoveryAnswer, String> {
        let waits = self.board.status.ledger.as_ref().is_some_and(|ledger| ledger.waiting.is_some());
        if !waits {
            return Err("the ledger does not wait: blocks come, or have come until a moment ago; a recovery beside a \
                        committee that still decides makes two ledgers of one"
                .into());
        }
        let me = self.parts.node.peer_id();
        let named = match members {
            [] => {
                // A connection to a machine that has died lasts for a while: who speaks is there.
                let missing = self.parts.node.ledger_progress().map(|progress| progress.missing).unwrap_or_default();
                let committee = self.state()?.next_committee().weights().iter().map(|(peer, _)| *peer);
                committee.filter(|peer| missing.iter().all(|(missing, _)| missing != peer)).collect()
            }
            names => names.iter().map(|name| self.named_peer(name)).collect::<Result<Vec<_>, _>>()?,
        };
        let state = self.state()?;
        if named.is_empty() {
            return Err("no member of the committee was heard lately: name the new members with --member".into());
        }
        let plan = state.recovery_plan(&named).map_err(|error| error.to_string())?;
        if plan.committee == *state.next_committee() {
            return Err(
                "this is the committee that decides now: wait for its members, or name others with --member".into()
            );
        }
        let own = plan.committee.contains(&me).then(|| plan.consent(&self.parts.identity));
        let recovery = Recovery::new(plan, own.into_iter().collect());
        Ok(answer(state, &recovery, false))
    }

    fn accept_recovery(&mut self, document: &RecoveryDocument) -> Result<RecoveryAnswer, String> {
        let (ledger, mut recovery) = document.read()?;
        let state = self.state()?;
        if ledger != state.ledger() {
            return Err(format!("it is of the ledger {}, this peer keeps {}", ledger.short(), state.ledger().short()));
        }
        if recovery.plan.new_chain() == state.chain() {
            return Ok(answer(state, &recovery, true));
        }
        let me = self.parts.node.peer_id();
        recovery
            .plan
            .continues(&state.chain(), state.height() + 1, &state.head())
            .map_err(|error| say(state, &error))?;
        if recovery.missing().contains(&me) {
            let own = recovery.plan.consent(&self.parts.identity);
            recovery.consents.push(own);
            recovery = Recovery::new(recovery.plan, recovery.consents);
        }
        if recovery.missing().is_empty() {
            return self.follow_recovery(recovery);
        }
        if !recovery.plan.committee.contains(&me) {
            let missing: Vec<_> = recovery.missing().iter().map(PeerId::short).collect();
            return Err(format!("not all new members have consented yet; missing are {}", missing.join(", ")));
        }
        // Whether it can be followed at all shows before the last member has signed.
        let members: Vec<_> = recovery.plan.committee.weights().iter().map(|(peer, _)| *peer).collect();
        let state = self.state()?;
        let expected = state.recovery_plan(&members).map_err(|error| error.to_string())?;
        if expected != recovery.plan {
            return Err(
                "its weights are not those of the ledger: make a new one with `manta ledger recover propose`".into()
            );
        }
        Ok(answer(state, &recovery, false))
    }

    fn follow_recovery(&mut self, recovery: Recovery) -> Result<RecoveryAnswer, String> {
        let name = recovery.plan.new_chain();
        let answered = answer(self.state()?, &recovery, true);
        let state = self.state()?;
        // Said in better words than the node has.
        recovery
            .plan
            .continues(&state.chain(), state.height() + 1, &state.head())
            .map_err(|error| say(state, &error))?;
        self.parts.book.clear_refusal();
        self.input(Input::Command(Command::Recover(Box::new(recovery))));
        if let Some(fatal) = &self.fatal {
            return Err(fatal.clone());
        }
        if self.state()?.chain() != name {
            return Err(self.parts.book.take_refusal().unwrap_or_else(|| "it was not followed; see the log".into()));
        }
        self.show_ledger();
        Ok(answered)
    }
}

/// Why a recovery does not fit here, and what to do.
fn say(state: &State, error: &RecoveryError) -> String {
    match error {
        RecoveryError::Elsewhere { found, found_chain, height, chain } if found_chain == chain && found > height => {
            format!(
                "it begins at block {found}, and this peer is still at block {}: accept it once `manta ledger status` \
                 shows block {}",
                state.height(),
                found.saturating_sub(1)
            )
        }
        error => format!(
            "{error}: the ledger went on differently here, and who follows it keeps another ledger from there on"
        ),
    }
}

fn answer(state: &State, recovery: &Recovery, followed: bool) -> RecoveryAnswer {
    let committee = state.next_committee();
    // Distinct members: at most the total, and no committee is without weight.
    let weight: u64 = recovery.plan.committee.weights().iter().map(|(peer, _)| committee.weight(peer)).sum();
    let backing = (u128::from(weight) * 1_000).checked_div(committee.total().into()).unwrap_or(0);
    let document = RecoveryDocument::new(state.ledger(), recovery);
    RecoveryAnswer {
        missing: document.missing(),
        document,
        followed,
        backing_permille: u64::try_from(backing).unwrap_or(1_000),
    }
}

/// What others follow and this peer could, for people.
pub(super) fn offers(ledger: Hash, offers: &[Recovery]) -> Vec<RecoveryDocument> {
    offers.iter().map(|offer| RecoveryDocument::new(ledger, offer)).collect()
}
