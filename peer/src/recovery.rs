//! A recovery of the ledger as it goes between people, and what is asked of a
//! peer about it.
//!
//! The document is a JSON object that people can read before they sign it. Its
//! canonical bytes, which are signed, follow from it; nothing that it says
//! besides is believed.

use manta_protocol::consensus::{Committee, Plan, Recovery, Seal};
use manta_protocol::{Hash, PeerId};
use serde::{Deserialize, Serialize};

/// The only version of the document.
const VERSION: u32 = 1;

/// A plan for a new committee, with the consents so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecoveryDocument {
    /// What this is, and its version.
    pub(crate) manta_ledger_recovery: u32,
    /// Its name, by which everyone can see whether it is the same.
    pub(crate) recovery: String,
    /// The ledger's genesis document.
    pub(crate) ledger: String,
    /// The chain that waits: the ledger's hash or its latest recovery's.
    pub(crate) chain: String,
    /// The first height of the new committee.
    pub(crate) height: u64,
    /// The block before it.
    pub(crate) parent: String,
    /// The new committee, ascending.
    pub(crate) members: Vec<RecoveryMember>,
}

/// A member of the new committee.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecoveryMember {
    pub(crate) peer: String,
    pub(crate) weight: u64,
    /// Its signature; `None` until it has consented.
    pub(crate) consent: Option<String>,
}

/// What is asked for: the JSON of `POST /api/ledger/recoveries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum RecoveryRequest {
    /// Make a plan with these members (ids, or the beginnings of registered ones); with
    /// none, those of the present committee that were heard lately.
    Propose { members: Vec<String> },
    /// Consent if this peer is a member, and follow it once all have consented.
    Accept { document: RecoveryDocument },
    /// Follow what others follow, named by the beginning of its hash.
    AcceptOffered { recovery: String },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryAnswer {
    /// With this peer's consent, if it is a member.
    pub(crate) document: RecoveryDocument,
    /// Members who have not consented yet.
    pub(crate) missing: Vec<String>,
    /// Whether this peer follows it from now on.
    pub(crate) followed: bool,
    /// The share of the present committee's weight that the new members have, in
    /// thousandths.
    pub(crate) backing_permille: u64,
}

impl RecoveryDocument {
    /// The document of a recovery of this ledger, whole or not.
    pub(crate) fn new(ledger: Hash, recovery: &Recovery) -> Self {
        let Recovery { plan, consents } = recovery;
        let consent = |peer: &PeerId| consents.iter().find(|seal| seal.author == *peer);
        let member = |(peer, weight): &(PeerId, u64)| RecoveryMember {
            peer: peer.to_string(),
            weight: *weight,
            consent: consent(peer).map(|seal| seal.signature.to_string()),
        };
        Self {
            manta_ledger_recovery: VERSION,
            recovery: plan.new_chain().to_string(),
            ledger: ledger.to_string(),
            chain: plan.chain.to_string(),
            height: plan.height,
            parent: plan.parent.to_string(),
            members: plan.committee.weights().iter().map(member).collect(),
        }
    }

    /// The ledger that it names, and the recovery; signatures are not judged here.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub(crate) fn read(&self) -> Result<(Hash, Recovery), String> {
        if self.manta_ledger_recovery != VERSION {
            let found = self.manta_ledger_recovery;
            return Err(format!("a recovery document of version {found}, this program reads version {VERSION}"));
        }
        let hash = |field: &str, text: &str| text.parse::<Hash>().map_err(|error| format!("`{field}`: {error}"));
        let (mut weights, mut consents) = (Vec::new(), Vec::new());
        for RecoveryMember { peer, weight, consent } in &self.members {
            let author: PeerId = peer.parse().map_err(|error| format!("`peer` {peer}: {error}"))?;
            weights.push((author, *weight));
            if let Some(consent) = consent {
                let signature = consent.parse().map_err(|error| format!("`consent` of {peer}: {error}"))?;
                consents.push(Seal { author, signature });
            }
        }
        let committee = Committee::new(weights).map_err(|error| format!("`members`: {error}"))?;
        let (chain, parent) = (hash("chain", &self.chain)?, hash("parent", &self.parent)?);
        let recovery = Recovery::new(Plan { chain, height: self.height, parent, committee }, consents);
        let found = recovery.plan.new_chain();
        if hash("recovery", &self.recovery)? != found {
            return Err(format!(
                "it was altered: its name is {}, its content has the name {found}; get it anew from whoever made it",
                self.recovery
            ));
        }
        Ok((hash("ledger", &self.ledger)?, recovery))
    }

    /// Members who have not consented yet.
    pub(crate) fn missing(&self) -> Vec<String> {
        let lacking = self.members.iter().filter(|member| member.consent.is_none());
        lacking.map(|member| member.peer.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manta_protocol::wire::Identity;

    #[test]
    fn a_document_comes_back_and_an_altered_one_does_not() {
        let [one, two] = [1, 2].map(|number| Identity::from_secret([number; 32]));
        let committee = Committee::new(vec![(one.peer_id(), 5), (two.peer_id(), 3)]).unwrap();
        let plan = Plan { chain: Hash::of(b"chain"), height: 9, parent: Hash::of(b"parent"), committee };
        let half = Recovery::new(plan.clone(), vec![plan.consent(&one)]);
        let ledger = Hash::of(b"ledger");
        let document = RecoveryDocument::new(ledger, &half);
        assert_eq!(document.missing(), [two.peer_id().to_string()]);
        assert_eq!(document.read(), Ok((ledger, half)));
        let whole = Recovery::new(plan.clone(), vec![plan.consent(&one), plan.consent(&two)]);
        let text = serde_json::to_string(&RecoveryDocument::new(ledger, &whole)).unwrap();
        let read: RecoveryDocument = serde_json::from_str(&text).unwrap();
        assert_eq!(read.read(), Ok((ledger, whole)));

        let alter = |change: &dyn Fn(&mut RecoveryDocument)| {
            let mut altered = document.clone();
            change(&mut altered);
            altered.read().expect_err("it was altered")
        };
        assert!(alter(&|document| document.height = 10).contains("altered"));
        assert!(alter(&|document| document.members[0].weight += 1).contains("altered"));
        assert!(alter(&|document| document.manta_ledger_recovery = 2).contains("version 2"));
        assert!(alter(&|document| document.members[1] = document.members[0].clone()).contains("members"));
        assert!(alter(&|document| document.members.clear()).contains("members"));
        assert!(alter(&|document| document.parent = "x".into()).contains("parent"));
        assert!(alter(&|document| document.members[0].consent = Some("ab".into())).contains("consent"));
    }
}
