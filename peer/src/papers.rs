//! What a peer has been given and has given to others: the swarm's founding
//! document, its own credentials, its invitations, and what was revoked.
//!
//! One file in the data directory, `membership.json` (0600), written whole and
//! synced before anything in it is relied on: a revocation that a restart forgot
//! would let somebody in again. Invariant: a ticket's secret is never kept.

use crate::net::ticket::Ticket;
use manta_protocol::ids::NetworkId;
use manta_protocol::membership::{Charter, Credential, Genesis, Permission, Revocation, Role, SignedPermission};
use manta_protocol::wire::Identity;
use manta_protocol::wire::limits::{CREDENTIALS_MAX, PEERS_PER_PERMISSION_MAX, REVOCATIONS_MAX};
use manta_protocol::{PeerId, Serial, Time};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

const FILE: &str = "membership.json";
/// Longest file that is read, in bytes: some times what the bounds below allow.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Invitations that stand at a time; as many as can be revoked.
const INVITATIONS_MAX: usize = REVOCATIONS_MAX;
/// Derives a permission's serial from its bearer key, which is drawn at random.
const SERIAL_DOMAIN: &str = "manta 2026-11 permission serial v1";

/// Why the papers of a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PapersError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}; check the path, its owner and the free space", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// It is not what a peer writes.
    #[error(
        "{} is damaged ({problem}); restore it from a backup, or move it away to start without memberships, invitations and revocations",
        .path.display()
    )]
    Damaged { path: PathBuf, problem: String },
}

/// An invitation that this peer has issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invitation {
    pub(crate) permission: Permission,
    /// Peers that have shown a credential made of it.
    pub(crate) used_by: Vec<PeerId>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Papers {
    /// Of the invite-only swarm that the data directory belongs to.
    pub(crate) genesis: Option<Genesis>,
    /// What others have permitted to this peer.
    pub(crate) credentials: Vec<Credential>,
    /// What this peer has permitted to others.
    pub(crate) invitations: Vec<Invitation>,
    /// Of the founder and of this peer.
    pub(crate) revocations: Vec<Revocation>,
}

/// A new invitation: what to keep, and what to give away.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) permitted: SignedPermission,
    /// Of the bearer key; only the ticket holds it.
    pub(crate) secret: [u8; 32],
}

impl Papers {
    /// Reads the papers of a data directory; none there are no papers.
    ///
    /// # Errors
    /// [`PapersError`]: an unreadable file is not taken for an absent one.
    pub(crate) fn load(directory: &Path) -> Result<Self, PapersError> {
        let path = directory.join(FILE);
        let io_error = |source| PapersError::Io { action: "read", path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(io_error(source)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error)?;
        let damaged = |problem: String| PapersError::Damaged { path: path.clone(), problem };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(damaged(format!("more than {FILE_BYTES_MAX} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }

    /// Writes the papers so that a crash leaves the old or the new ones.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    pub(crate) fn store(&self, directory: &Path) -> Result<(), PapersError> {
        let path = directory.join(FILE);
        let write = || -> io::Result<()> {
            // Temporary files are created with mode 0600 on Unix.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            // A directory cannot be opened for syncing on every system; the rename itself is atomic everywhere.
            fs::File::open(directory).map_or(Ok(()), |directory| directory.sync_all())
        };
        write().map_err(|source| PapersError::Io { action: "write", path: path.clone(), source })
    }

    /// Makes the credential of a ticket's permission for this peer.
    ///
    /// # Errors
    /// Why the ticket admits nobody, or not this peer, and what to do.
    pub(crate) fn accept(&mut self, ticket: &Ticket, me: PeerId, now: Time) -> Result<(), String> {
        let Some(invitation) = &ticket.invitation else { return Ok(()) };
        let permission = invitation.permitted.permission;
        let name = (permission.issuer, permission.serial);
        if permission.issuer == me {
            return Err("this ticket was issued by this very peer; it is for another machine".into());
        }
        invitation.permitted.verify(ticket.network, now).map_err(|error| format!("the ticket: {error}"))?;
        if self.revocations.iter().any(|revocation| (revocation.issuer, revocation.serial) == name) {
            return Err(format!("the ticket was revoked by {}; ask for a new one", permission.issuer.short()));
        }
        let known = |credential: &Credential| (credential.permission().issuer, credential.permission().serial) == name;
        if self.credentials.iter().any(known) {
            return Ok(());
        }
        self.forget_expired(now);
        let of_network = self.credentials.iter().filter(|other| other.permission().network == ticket.network);
        if of_network.count() >= CREDENTIALS_MAX {
            return Err(format!("this peer holds {CREDENTIALS_MAX} invitations already; use a new --data-dir"));
        }
        let bearer = Identity::from_secret(invitation.secret);
        let credential = Credential::bind(invitation.permitted, &bearer, me).map_err(|error| error.to_string())?;
        self.credentials.push(credential);
        Ok(())
    }

    /// Issues an invitation and notes it; the caller stores the papers before it
    /// gives the ticket away.
    ///
    /// # Errors
    /// When too many stand.
    pub(crate) fn invite(
        &mut self,
        issuer: &Identity,
        network: NetworkId,
        role: Role,
        expires_at: Time,
        now: Time,
    ) -> Result<Issued, String> {
        self.forget_expired(now);
        if self.invitations.len() >= INVITATIONS_MAX {
            return Err(format!("{INVITATIONS_MAX} invitations stand already; wait for one to expire"));
        }
        let secret = *crate::identity::Identity::generate().secret();
        let bearer = Identity::from_secret(secret).peer_id();
        let derived = blake3::derive_key(SERIAL_DOMAIN, bearer.as_bytes());
        let mut serial = Serial([0; 16]);
        serial.0.copy_from_slice(&derived[..16]);
        let permitted = SignedPermission::issue(issuer, network, serial, role, bearer, expires_at);
        self.invitations.push(Invitation { permission: permitted.permission, used_by: Vec::new() });
        Ok(Issued { permitted, secret })
    }

    /// Notes that `peer` has shown a credential made of `permission`; says whether that is news.
    pub(crate) fn used(&mut self, peer: PeerId, permission: &Permission) -> bool {
        let invitation = self.invitations.iter_mut().find(|invitation| invitation.permission == *permission);
        let Some(invitation) = invitation else { return false };
        if invitation.used_by.contains(&peer) || invitation.used_by.len() >= PEERS_PER_PERMISSION_MAX {
            return false;
        }
        invitation.used_by.push(peer);
        true
    }

    /// The invitations that `name` means: the beginning of a serial, or of a peer
    /// that has used them; at least four digits.
    ///
    /// # Errors
    /// When it means none, or serials of several.
    pub(crate) fn named(&self, name: &str) -> Result<Vec<Permission>, String> {
        let name = name.to_ascii_lowercase();
        if name.len() < 4 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "`{name}` is not the beginning of a serial or a peer id: at least 4 hexadecimal digits"
            ));
        }
        let standing = || self.invitations.iter().filter(|invitation| !self.is_revoked(&invitation.permission));
        let by_serial = standing().filter(|invitation| invitation.permission.serial.to_string().starts_with(&name));
        let by_serial: Vec<_> = by_serial.map(|invitation| invitation.permission).collect();
        let mut users: Vec<_> = standing().flat_map(|invitation| &invitation.used_by).collect();
        users.retain(|peer| peer.to_string().starts_with(&name));
        users.sort();
        users.dedup();
        match (by_serial.as_slice(), users.as_slice()) {
            ([_], []) => Ok(by_serial),
            ([], [peer]) => {
                let used = standing().filter(|invitation| invitation.used_by.contains(peer));
                Ok(used.map(|invitation| invitation.permission).collect())
            }
            ([], []) => Err(format!("no invitation that stands is named {name}; see `manta invite --list`")),
            _ => Err(format!("`{name}` means several invitations or peers; give more digits")),
        }
    }

    /// Notes a revocation, in place of those whose permission has ended; says whether it is news.
    pub(crate) fn keep_revocation(&mut self, revocation: Revocation, now: Time) -> bool {
        self.revocations.retain(|other| other.expires_at > now);
        let is_news = !self.revocations.contains(&revocation);
        self.revocations.extend(is_news.then_some(revocation));
        is_news
    }

    /// Whether the issuer has taken it back.
    pub(crate) fn is_revoked(&self, permission: &Permission) -> bool {
        let name = (permission.issuer, permission.serial);
        self.revocations.iter().any(|revocation| (revocation.issuer, revocation.serial) == name)
    }

    /// What the node starts with, in the swarm `network`.
    pub(crate) fn charter(&self, network: NetworkId) -> Charter {
        let of_network = |credential: &&Credential| credential.permission().network == network;
        Charter {
            founder: self.genesis.as_ref().filter(|genesis| genesis.network_id() == network).map(|of| of.founder),
            credentials: self.credentials.iter().filter(of_network).copied().collect(),
            revocations: self.revocations.clone(),
        }
    }

    fn forget_expired(&mut self, now: Time) {
        self.credentials.retain(|credential| credential.permission().expires_at > now);
        self.invitations.retain(|invitation| invitation.permission.expires_at > now);
        self.revocations.retain(|revocation| revocation.expires_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ticket::TicketInvitation;

    const NOW: Time = Time(1_790_000_000_000_000_000);
    const LATER: Time = Time(NOW.0 + 1_000_000_000);

    fn issuer() -> Identity {
        Identity::from_secret([1; 32])
    }

    fn network() -> NetworkId {
        NetworkId::from_name("papers")
    }

    fn ticket(issued: &Issued) -> Ticket {
        let invitation = TicketInvitation { permitted: issued.permitted, secret: issued.secret };
        let mut ticket = Ticket::new(network(), issuer().peer_id(), []);
        ticket.invitation = Some(invitation);
        ticket
    }

    fn issue(papers: &mut Papers) -> Issued {
        papers.invite(&issuer(), network(), Role::Guest, LATER, NOW).expect("room")
    }

    #[test]
    fn papers_survive_a_restart_are_private_and_damage_is_not_absence() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Papers::load(folder.path()).expect("none"), Papers::default());
        let mut papers = Papers::default();
        let issued = issue(&mut papers);
        papers.genesis = Some(Genesis { name: "lab".into(), founder: issuer().peer_id() });
        papers.revocations.push(Revocation::sign(&issuer(), network(), issued.permitted.permission.serial, LATER));
        let mut holder = Papers::default();
        holder.accept(&ticket(&issued), PeerId([2; 32]), NOW).expect("a good ticket");
        papers.credentials = holder.credentials;
        papers.store(folder.path()).expect("stores");
        assert_eq!(Papers::load(folder.path()).expect("loads"), papers);
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).expect("text");
        let secret = PeerId(issued.secret).to_string();
        assert!(!text.contains(&secret), "the secret is in the ticket only");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, &text[..text.len() / 2]).expect("writes");
        let error = Papers::load(folder.path()).expect_err("damaged").to_string();
        assert!(error.contains(FILE) && error.contains("backup"), "{error}");
    }

    #[test]
    fn a_ticket_is_accepted_once_by_others_while_it_stands() {
        let mut papers = Papers::default();
        let issued = issue(&mut papers);
        let me = PeerId([2; 32]);
        let mut holder = Papers::default();
        for _ in 0..2 {
            holder.accept(&ticket(&issued), me, NOW).expect("the same again changes nothing");
        }
        assert_eq!(holder.credentials.len(), 1);
        assert_eq!(holder.credentials[0].verify(network(), me, NOW), Ok(()));
        assert!(holder.accept(&ticket(&issued), issuer().peer_id(), NOW).is_err_and(|e| e.contains("another machine")));
        let mut late = Papers::default();
        assert!(late.accept(&ticket(&issued), me, LATER).is_err_and(|e| e.contains("expired")));
        let mut wrong = ticket(&issued);
        wrong.invitation.as_mut().expect("one").secret = [9; 32];
        assert!(late.accept(&wrong, me, NOW).is_err_and(|e| e.contains("secret")));
        late.revocations.push(Revocation::sign(&issuer(), network(), issued.permitted.permission.serial, LATER));
        assert!(late.accept(&ticket(&issued), me, NOW).is_err_and(|e| e.contains("revoked")));
        for _ in 1..CREDENTIALS_MAX {
            let another = issue(&mut papers);
            holder.accept(&ticket(&another), me, NOW).expect("room");
        }
        assert!(holder.accept(&ticket(&issue(&mut papers)), me, NOW).is_err_and(|e| e.contains("--data-dir")));
    }

    #[test]
    fn invitations_are_named_by_serial_or_by_who_used_them() {
        let mut papers = Papers::default();
        let (first, second) = (issue(&mut papers).permitted.permission, issue(&mut papers).permitted.permission);
        let user = PeerId([0xab; 32]);
        assert!(papers.used(user, &first) && papers.used(user, &second) && !papers.used(user, &first));
        assert_eq!(papers.named(&first.serial.to_string()[..10]), Ok(vec![first]));
        assert_eq!(papers.named("ABABAB"), Ok(vec![first, second]));
        for bad in ["", "abc", "xyzw", "0000000000000000"] {
            assert!(papers.named(bad).is_err(), "{bad}");
        }
        papers.revocations.push(Revocation::sign(&issuer(), network(), first.serial, LATER));
        assert!(papers.named(&first.serial.to_string()).is_err(), "it is revoked already");
        assert_eq!(papers.named("abababab"), Ok(vec![second]));
        let later = Time(LATER.0 + 1);
        papers.invite(&issuer(), network(), Role::Own, Time(later.0 + 1), later).expect("room");
        assert_eq!((papers.invitations.len(), papers.revocations.len()), (1, 0), "what has expired is forgotten");
    }
}
