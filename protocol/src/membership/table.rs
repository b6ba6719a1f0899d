//! What a peer knows of who belongs to whom.
//!
//! Only credentials of two issuers count here, the swarm's founder's and our
//! own, so nobody without a ticket of one of them takes a place. Invariant: no
//! remembered permission is revoked or of another network; whether it has ended
//! is asked with the time.

use super::permission::{Credential, Permission, PermissionError, Revocation, Role};
use crate::ids::{NetworkId, PeerId, Serial};
use crate::market::demand::Share;
use crate::time::{Duration, Time};
use crate::wire::limits::{
    CLOCK_SKEW_MAX, CREDENTIALS_MAX, GOSSIP_INTERVAL_MIN, MEMBERS_KNOWN_MAX, PEERS_PER_PERMISSION_MAX,
    PERMISSION_LIFETIME_MAX, REVOCATIONS_MAX,
};
use std::collections::BTreeMap;

/// A peer that has not shown its credentials for so long yields its place in a
/// full table: honest ones show them each minute.
const STALE_AFTER: Duration = Duration::from_s(600);

/// What a peer knows of membership when it starts. The default is an open swarm.
#[derive(Clone, Debug, Default)]
pub struct Charter {
    /// Whose permissions admit to the swarm; `None` if anyone may take part.
    pub founder: Option<PeerId>,
    /// What this peer shows to others; those that do not count are left out.
    pub credentials: Vec<Credential>,
    /// What was revoked before, by the founder or by this peer.
    pub revocations: Vec<Revocation>,
}

/// What a peer has shown.
#[derive(Clone, Debug)]
struct Entry {
    seq: u64,
    shown_at: Time,
    /// The `seq` of the latest gossip that was passed on, and when.
    passed_on: Option<(u64, Time)>,
    /// In order of serials.
    credentials: Vec<Credential>,
}

/// What came of credentials that were shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The peer has these permissions that it did not have here before.
    New(Vec<Permission>),
    /// Nothing new, or heard before.
    Known,
    /// Nothing that counts here, and why the first of them does not.
    Nothing(Option<PermissionError>),
    /// They count, but there is no room.
    Full,
}

#[derive(Debug)]
pub(crate) struct Members {
    me: PeerId,
    network: NetworkId,
    founder: Option<PeerId>,
    own: Vec<Credential>,
    shown: BTreeMap<PeerId, Entry>,
    revocations: BTreeMap<(PeerId, Serial), Revocation>,
}

impl Members {
    pub(crate) fn new(me: PeerId, network: NetworkId, charter: Charter, now: Time) -> Self {
        let Charter { founder, credentials, revocations } = charter;
        let mut members =
            Self { me, network, founder, own: Vec::new(), shown: BTreeMap::new(), revocations: BTreeMap::new() };
        for revocation in revocations {
            // What does not count any more is not needed any more.
            let _ = members.revoke(revocation, now);
        }
        let counts = |credential: &Credential| {
            credential.verify(network, me, now).is_ok() && !members.is_revoked(credential.permission())
        };
        members.own = credentials.into_iter().filter(counts).take(CREDENTIALS_MAX).collect();
        members
    }

    pub(crate) fn founder(&self) -> Option<PeerId> {
        self.founder
    }

    /// Our own credentials, to show to others.
    pub(crate) fn own(&self, now: Time) -> Vec<Credential> {
        self.own.iter().filter(|credential| credential.permission().expires_at > now).copied().collect()
    }

    /// Who has issued our own credentials.
    pub(crate) fn is_our_issuer(&self, peer: &PeerId) -> bool {
        self.own.iter().any(|credential| credential.permission().issuer == *peer)
    }

    /// What others should know to be revoked: the founder's word, not our own
    /// unless we are the founder, for nobody else goes by it.
    pub(crate) fn revocations(&self) -> Vec<Revocation> {
        let of_founder = |revocation: &&Revocation| Some(revocation.issuer) == self.founder;
        self.revocations.values().filter(of_founder).copied().collect()
    }

    /// The permissions that each peer has shown, in order of peers.
    pub(crate) fn permissions(&self) -> impl Iterator<Item = (&PeerId, &Permission)> {
        self.shown
            .iter()
            .flat_map(|(peer, entry)| entry.credentials.iter().map(move |shown| (peer, shown.permission())))
    }

    /// Whether `peer` may take part in the swarm.
    pub(crate) fn admits(&self, peer: &PeerId, now: Time) -> bool {
        match self.founder {
            None => true,
            Some(founder) => *peer == founder || *peer == self.me || self.has(peer, now, |of| of.issuer == founder),
        }
    }

    /// Whether `peer` may see data of ours that is shared like this.
    pub(crate) fn may_see(&self, share: Share, peer: &PeerId, now: Time) -> bool {
        if *peer == self.me {
            return true;
        }
        self.admits(peer, now)
            && match share {
                Share::Open => true,
                Share::Invited => {
                    Some(*peer) == self.founder
                        || self.has(peer, now, |of| of.issuer == self.me || Some(of.issuer) == self.founder)
                }
                Share::Own => self.has(peer, now, |of| of.issuer == self.me && of.role == Role::Own),
            }
    }

    /// Whether we may see data of `author` that is shared like this, as far as we know.
    pub(crate) fn we_may_see(&self, share: Share, author: &PeerId, now: Time) -> bool {
        let holds = |which: &dyn Fn(&Permission) -> bool| {
            self.own.iter().map(Credential::permission).any(|of| of.expires_at > now && which(of))
        };
        match share {
            Share::Open => true,
            Share::Invited => {
                self.founder == Some(self.me) || holds(&|of| of.issuer == *author || Some(of.issuer) == self.founder)
            }
            Share::Own => holds(&|of| of.issuer == *author && of.role == Role::Own),
        }
    }

    /// Takes what `peer` shows: the latest word counts.
    pub(crate) fn show(&mut self, peer: PeerId, seq: u64, credentials: Vec<Credential>, now: Time) -> Shown {
        let known = self.shown.get(&peer);
        if known.is_some_and(|known| known.seq >= seq) {
            return Shown::Known;
        }
        let known_credentials = known.map_or(&[][..], |known| &known.credentials);
        let (mut counting, mut new, mut problem) = (Vec::<Credential>::new(), Vec::new(), None);
        for credential in credentials.into_iter().take(CREDENTIALS_MAX) {
            let permission = credential.permission();
            let repeated = counting.iter().any(|other| other.permission().serial == permission.serial);
            if repeated || (permission.issuer != self.me && Some(permission.issuer) != self.founder) {
                continue;
            }
            let is_known = known_credentials.contains(&credential) && permission.expires_at > now;
            // Signatures are dear: what was checked before is not checked again.
            match if is_known { Ok(()) } else { self.check(&credential, peer, now) } {
                Ok(()) => {
                    new.extend((!is_known).then_some(*permission));
                    counting.push(credential);
                }
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        if counting.is_empty() {
            self.shown.remove(&peer);
            return Shown::Nothing(problem);
        }
        if !counting.iter().all(|credential| self.has_room(peer, credential.permission(), now)) {
            return Shown::Full;
        }
        counting.sort_by_key(|credential| credential.permission().serial);
        let passed_on = self.shown.get(&peer).and_then(|known| known.passed_on);
        self.shown.insert(peer, Entry { seq, shown_at: now, passed_on, credentials: counting });
        if new.is_empty() { Shown::Known } else { Shown::New(new) }
    }

    /// Whether gossip of `peer` under `seq` is to be passed on: newer than the
    /// last, and not too soon after it.
    pub(crate) fn pass_on(&mut self, peer: &PeerId, seq: u64, now: Time) -> bool {
        let Some(entry) = self.shown.get_mut(peer) else { return false };
        let fresh = entry.passed_on.is_none_or(|(last, at)| {
            // By the author's clock or by ours, as for listings.
            seq > last && (seq - last >= GOSSIP_INTERVAL_MIN.as_ms() || now.since(at) >= GOSSIP_INTERVAL_MIN)
        });
        if fresh {
            entry.passed_on = Some((seq, now));
        }
        fresh
    }

    /// Takes a revocation; `Ok` with those who have lost a permission by it, or
    /// `None` if it is known or of no use here.
    pub(crate) fn revoke(&mut self, revocation: Revocation, now: Time) -> Result<Option<Vec<PeerId>>, PermissionError> {
        let Revocation { issuer, serial, expires_at, .. } = revocation;
        let of_use = (issuer == self.me || Some(issuer) == self.founder)
            && expires_at + CLOCK_SKEW_MAX > now
            && expires_at <= now + PERMISSION_LIFETIME_MAX + CLOCK_SKEW_MAX
            && !self.revocations.contains_key(&(issuer, serial));
        if !of_use {
            return Ok(None);
        }
        revocation.verify(self.network)?;
        if self.count_of(&issuer) >= REVOCATIONS_MAX {
            return Ok(None);
        }
        self.revocations.insert((issuer, serial), revocation);
        let revoked = |credential: &Credential| {
            let permission = credential.permission();
            (permission.issuer, permission.serial) == (issuer, serial)
        };
        if self.own.iter().any(revoked) {
            self.own.retain(|credential| !revoked(credential));
        }
        Ok(Some(self.drop_where(revoked)))
    }

    /// Whether another permission of `issuer` can be revoked.
    pub(crate) fn can_revoke(&self, issuer: &PeerId) -> bool {
        self.count_of(issuer) < REVOCATIONS_MAX
    }

    /// Forgets what has ended; gives those who have lost a permission by it.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<PeerId> {
        self.revocations.retain(|_, revocation| revocation.expires_at + CLOCK_SKEW_MAX > now);
        self.own.retain(|credential| credential.permission().expires_at > now);
        self.drop_where(|credential| credential.permission().expires_at <= now)
    }

    fn drop_where(&mut self, which: impl Fn(&Credential) -> bool) -> Vec<PeerId> {
        let mut losers = Vec::new();
        for (peer, entry) in &mut self.shown {
            let before = entry.credentials.len();
            entry.credentials.retain(|credential| !which(credential));
            if entry.credentials.len() < before {
                losers.push(*peer);
            }
        }
        losers
    }

    fn has(&self, peer: &PeerId, now: Time, which: impl Fn(&Permission) -> bool) -> bool {
        let shown = self.shown.get(peer).map_or(&[][..], |entry| &entry.credentials);
        shown.iter().map(Credential::permission).any(|permission| permission.expires_at > now && which(permission))
    }

    fn check(&self, credential: &Credential, peer: PeerId, now: Time) -> Result<(), PermissionError> {
        if self.is_revoked(credential.permission()) {
            return Err(PermissionError::Revoked(credential.permission().issuer));
        }
        credential.verify(self.network, peer, now)
    }

    fn is_revoked(&self, permission: &Permission) -> bool {
        self.revocations.contains_key(&(permission.issuer, permission.serial))
    }

    fn count_of(&self, issuer: &PeerId) -> usize {
        self.revocations.range((*issuer, Serial([0; 16]))..=(*issuer, Serial([255; 16]))).count()
    }

    /// Frees a place for `peer` and its permission, if there is one to be had.
    fn has_room(&mut self, peer: PeerId, permission: &Permission, now: Time) -> bool {
        let same = |entry: &Entry| entry.credentials.iter().any(|other| other.permission().serial == permission.serial);
        let holders = || self.shown.iter().filter(|(of, entry)| **of != peer && same(entry));
        if holders().count() >= PEERS_PER_PERMISSION_MAX {
            let oldest = holders().min_by_key(|(of, entry)| (entry.shown_at, **of)).map(|(of, _)| *of);
            return self.yields(oldest, now);
        }
        if self.shown.len() >= MEMBERS_KNOWN_MAX && !self.shown.contains_key(&peer) {
            let oldest = self.shown.iter().min_by_key(|(of, entry)| (entry.shown_at, **of)).map(|(of, _)| *of);
            return self.yields(oldest, now);
        }
        true
    }

    fn yields(&mut self, oldest: Option<PeerId>, now: Time) -> bool {
        let stale = |peer: &PeerId| self.shown.get(peer).is_some_and(|entry| now.since(entry.shown_at) > STALE_AFTER);
        let Some(peer) = oldest.filter(stale) else { return false };
        self.shown.remove(&peer);
        true
    }
}
