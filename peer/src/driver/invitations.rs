//! Whom this peer invites and shuts out, and what of it must outlive a restart.

use super::{Driver, Parts};
use crate::api::{InvitationIssued, InvitationRequest, Revoked};
use crate::net::swarm::NetCommand;
use crate::net::ticket::TicketInvitation;
use crate::status::{InvitationStatus, MembershipStatus, Relation};
use manta_protocol::effect::Exclusion;
use manta_protocol::market::demand::Share;
use manta_protocol::membership::{Permission, Revocation, Role};
use manta_protocol::wire::limits::PERMISSION_LIFETIME_MAX;
use manta_protocol::{Command, Duration, Input, Node, PeerId, Time};

/// What `peer` is to this peer.
pub(super) fn relation(node: &Node, peer: &PeerId, now: Time) -> Relation {
    if *peer == node.peer_id() {
        Relation::Itself
    } else if node.may_see(Share::Own, peer, now) {
        Relation::Own
    } else if node.may_see(Share::Invited, peer, now) {
        Relation::Invited
    } else {
        Relation::Stranger
    }
}

/// The papers, for people.
pub(super) fn membership(parts: &Parts) -> MembershipStatus {
    let papers = &parts.papers;
    let founder = papers.genesis.as_ref().map(|genesis| genesis.founder);
    let admits = |permission: &&Permission| {
        Some(permission.issuer) == founder && permission.network == parts.network && !papers.is_revoked(permission)
    };
    let ours = papers.credentials.iter().map(|credential| credential.permission()).filter(admits);
    let show = |invitation: &crate::papers::Invitation| InvitationStatus {
        serial: invitation.permission.serial.to_string(),
        role: invitation.permission.role,
        expires_at_ms: invitation.permission.expires_at.as_unix_ms(),
        revoked: papers.is_revoked(&invitation.permission),
        used_by: invitation.used_by.iter().map(ToString::to_string).collect(),
    };
    MembershipStatus {
        founder: founder.map(|founder| founder.to_string()),
        expires_at_ms: ours.map(|permission| permission.expires_at.as_unix_ms()).max(),
        dismissed: false,
        invitations: papers.invitations.iter().map(show).collect(),
    }
}

impl Driver {
    /// Issues an invitation; it is written down before its ticket is given away.
    pub(super) fn invite(&mut self, request: InvitationRequest) -> Result<InvitationIssued, String> {
        let InvitationRequest { role, lifetime_s } = request;
        let lifetime = Duration::from_s(lifetime_s);
        if lifetime_s == 0 || lifetime > PERMISSION_LIFETIME_MAX {
            let days = PERMISSION_LIFETIME_MAX.as_ms() / 86_400_000;
            return Err(format!("an invitation stands for 1 s to {days} days"));
        }
        let founder = self.parts.papers.genesis.as_ref().map(|genesis| genesis.founder);
        if role == Role::Guest && founder.is_some_and(|founder| founder != self.parts.node.peer_id()) {
            return Err("only the swarm's founder can invite to it; `manta invite --own` makes another member's \
                        machine your own"
                .into());
        }
        let now = self.now();
        let (network, expires_at) = (self.parts.network, now + lifetime);
        let before = self.parts.papers.clone();
        let issued = self.parts.papers.invite(&self.parts.identity, network, role, expires_at, now)?;
        if let Err(error) = self.parts.papers.store(&self.parts.data_dir) {
            self.parts.papers = before;
            return Err(error.to_string());
        }
        self.show_membership();
        let invitation = TicketInvitation { permitted: issued.permitted, secret: issued.secret };
        Ok(InvitationIssued {
            ticket: self.parts.ticket.clone().inviting(invitation).to_string(),
            serial: issued.permitted.permission.serial.to_string(),
            role,
            expires_at_ms: expires_at.as_unix_ms(),
        })
    }

    /// Takes back what `name` means, and with it the place of those who used it.
    pub(super) fn revoke(&mut self, name: &str) -> Result<Revoked, String> {
        let permissions = self.parts.papers.named(name)?;
        let invitations = self.parts.papers.invitations.iter();
        let named = invitations.filter(|invitation| permissions.contains(&invitation.permission));
        let mut peers: Vec<_> = named.flat_map(|invitation| &invitation.used_by).map(ToString::to_string).collect();
        peers.sort();
        peers.dedup();
        for Permission { serial, expires_at, .. } in &permissions {
            self.input(Input::Command(Command::Revoke { serial: *serial, expires_at: *expires_at }));
        }
        if let Some(permission) = permissions.iter().find(|permission| !self.parts.papers.is_revoked(permission)) {
            return Err(format!("the invitation {} could not be revoked; the log says why", permission.serial));
        }
        self.parts.papers.store(&self.parts.data_dir).map_err(|error| {
            format!("it is revoked, but would not be after a restart: {error}; revoke it again then")
        })?;
        Ok(Revoked { serials: permissions.iter().map(|permission| permission.serial.to_string()).collect(), peers })
    }

    /// A peer has shown a credential that counts here.
    pub(super) fn admitted(&mut self, peer: PeerId, permission: &Permission) {
        tracing::info!(peer = %peer.short(), role = ?permission.role, serial = %permission.serial.short(), "an invited peer");
        if self.parts.papers.used(peer, permission) {
            self.store_papers();
        }
    }

    /// The founder has revoked something, or this peer has: kept for the next start.
    pub(super) fn revocation_heard(&mut self, revocation: Revocation) {
        tracing::info!(issuer = %revocation.issuer.short(), serial = %revocation.serial.short(), "an invitation was revoked");
        if self.parts.papers.keep_revocation(revocation, self.last_now) {
            self.store_papers();
        }
    }

    /// The swarm's founder wants this peer no more.
    pub(super) fn dismissed(&mut self) {
        tracing::error!(
            "the invitation of this peer has ended or was revoked: the swarm shuts it out; ask the founder for a new one"
        );
        self.board.status.membership.dismissed = true;
    }

    pub(super) fn shut_out(&mut self, peer: PeerId, why: Exclusion) {
        let why = match why {
            Exclusion::NotInvited => "it was not invited",
            Exclusion::Dismissed => "its invitation has ended, was revoked or was never valid",
        };
        if self.connected.contains_key(&peer) {
            tracing::warn!(peer = %peer.short(), why, "a peer is shut out");
        }
        self.command(NetCommand::Disconnect { peer });
        self.parts.bulk.forget_peer(&peer);
    }

    fn show_membership(&mut self) {
        let dismissed = self.board.status.membership.dismissed;
        self.board.status.membership = MembershipStatus { dismissed, ..membership(&self.parts) };
        // Whoever asked looks for it at once.
        self.show();
    }

    /// A few kilobytes, and seldom: not worth a task of its own.
    fn store_papers(&mut self) {
        if let Err(error) = self.parts.papers.store(&self.parts.data_dir) {
            tracing::error!(%error, "the membership file was not written: a restart would forget the latest change");
        }
        self.show_membership();
    }
}
