//! Permissions, the credentials made of them, and their revocation.
//!
//! All three are signed as envelopes are: ed25519 over blake3 in key-derivation
//! mode, each with a domain of its own, so that no signature serves for another
//! purpose. A holder needs the bearer's secret once; it may be lost afterwards.

use crate::ids::{NetworkId, PeerId, Serial, Signature};
use crate::time::Time;
use crate::wire::codec;
use crate::wire::envelope::{Identity, is_signed_by};
use serde::{Deserialize, Serialize};

const PERMISSION_DOMAIN: &str = "manta 2026-11 permission v1";
const BINDING_DOMAIN: &str = "manta 2026-11 credential binding v1";
const REVOCATION_DOMAIN: &str = "manta 2026-11 revocation v1";

/// What a permission makes of its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Another machine of the issuer: it may see the issuer's private data.
    Own,
    /// Somebody else, who was invited.
    Guest,
}

/// An issuer's word that whoever holds the bearer key is invited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The swarm that it is for.
    pub network: NetworkId,
    /// Who invites.
    pub issuer: PeerId,
    /// Tells the issuer's permissions apart.
    pub serial: Serial,
    /// As what.
    pub role: Role,
    /// The ed25519 key whose secret the ticket carries.
    pub bearer: PeerId,
    /// When it ends, and with it every credential made of it.
    pub expires_at: Time,
}

/// A permission as its issuer gives it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPermission {
    /// What is permitted.
    pub permission: Permission,
    /// The issuer's, over the permission.
    pub signature: Signature,
}

/// A permission that is bound to one peer. The peer is not named in it: it is
/// whoever signs the message in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// What is permitted, by whom.
    pub permitted: SignedPermission,
    /// The bearer's, over the permission's network, issuer and serial and the peer.
    pub binding: Signature,
}

/// An issuer's word that a permission counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Who had invited.
    pub issuer: PeerId,
    /// Which permission.
    pub serial: Serial,
    /// When the permission ends by itself: then this may be forgotten.
    pub expires_at: Time,
    /// The issuer's, over the network and the three fields above.
    pub signature: Signature,
}

/// Why a permission, a credential or a revocation does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// It is for another swarm.
    #[error("the permission is for network {found:?}, this peer is in {expected:?}")]
    WrongNetwork {
        /// The network that it is for.
        found: NetworkId,
        /// Our own.
        expected: NetworkId,
    },
    /// It has ended.
    #[error("the permission has expired; ask {0:?} for a new invitation")]
    Expired(PeerId),
    /// The issuer has not signed it.
    #[error("the signature does not fit the issuer {0:?}")]
    Forged(PeerId),
    /// The bearer key has not signed it for this peer.
    #[error("the permission is not bound to the peer {0:?} that shows it")]
    WrongHolder(PeerId),
    /// Its issuer has taken it back.
    #[error("the permission was revoked by {0:?}")]
    Revoked(PeerId),
    /// The secret is not that of the permission's bearer key.
    #[error("the secret does not belong to the permission")]
    NotBearer,
}

impl SignedPermission {
    /// Signs a permission as `issuer`, whose name is filled in.
    pub fn issue(
        issuer: &Identity,
        network: NetworkId,
        serial: Serial,
        role: Role,
        bearer: PeerId,
        expires_at: Time,
    ) -> Self {
        let permission = Permission { network, issuer: issuer.peer_id(), serial, role, bearer, expires_at };
        Self { permission, signature: issuer.sign(PERMISSION_DOMAIN, &codec::encode(&permission)) }
    }

    /// Checks network, time and the issuer's signature, in this order.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, network: NetworkId, now: Time) -> Result<(), PermissionError> {
        let Permission { network: found, issuer, expires_at, .. } = self.permission;
        if found != network {
            return Err(PermissionError::WrongNetwork { found, expected: network });
        }
        if expires_at <= now {
            return Err(PermissionError::Expired(issuer));
        }
        if !is_signed_by(&issuer, PERMISSION_DOMAIN, &codec::encode(&self.permission), &self.signature) {
            return Err(PermissionError::Forged(issuer));
        }
        Ok(())
    }
}

impl Credential {
    /// Binds a permission to the peer `holder` with the bearer's secret.
    ///
    /// # Errors
    /// [`PermissionError::NotBearer`] if `bearer` is another key.
    pub fn bind(permitted: SignedPermission, bearer: &Identity, holder: PeerId) -> Result<Self, PermissionError> {
        if bearer.peer_id() != permitted.permission.bearer {
            return Err(PermissionError::NotBearer);
        }
        let binding = bearer.sign(BINDING_DOMAIN, &binding_bytes(&permitted.permission, holder));
        Ok(Self { permitted, binding })
    }

    /// Checks that this permits `holder` now: [`SignedPermission::verify`], then
    /// the binding.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, network: NetworkId, holder: PeerId, now: Time) -> Result<(), PermissionError> {
        self.permitted.verify(network, now)?;
        let permission = self.permission();
        if !is_signed_by(&permission.bearer, BINDING_DOMAIN, &binding_bytes(permission, holder), &self.binding) {
            return Err(PermissionError::WrongHolder(holder));
        }
        Ok(())
    }

    /// What is permitted.
    pub fn permission(&self) -> &Permission {
        &self.permitted.permission
    }
}

impl Revocation {
    /// Takes back, as `issuer`, its permission of this serial.
    pub fn sign(issuer: &Identity, network: NetworkId, serial: Serial, expires_at: Time) -> Self {
        let author = issuer.peer_id();
        let bytes = revocation_bytes(network, author, serial, expires_at);
        Self { issuer: author, serial, expires_at, signature: issuer.sign(REVOCATION_DOMAIN, &bytes) }
    }

    /// Checks the issuer's signature.
    ///
    /// # Errors
    /// [`PermissionError::Forged`].
    pub fn verify(&self, network: NetworkId) -> Result<(), PermissionError> {
        let Self { issuer, serial, expires_at, .. } = *self;
        let bytes = revocation_bytes(network, issuer, serial, expires_at);
        match is_signed_by(&issuer, REVOCATION_DOMAIN, &bytes, &self.signature) {
            true => Ok(()),
            false => Err(PermissionError::Forged(issuer)),
        }
    }
}

/// Fields of fixed length, so that nothing else has the same bytes.
fn binding_bytes(permission: &Permission, holder: PeerId) -> Vec<u8> {
    [&permission.network.as_bytes()[..], permission.issuer.as_bytes(), permission.serial.as_bytes(), holder.as_bytes()]
        .concat()
}

fn revocation_bytes(network: NetworkId, issuer: PeerId, serial: Serial, expires_at: Time) -> Vec<u8> {
    [&network.as_bytes()[..], issuer.as_bytes(), serial.as_bytes(), &expires_at.0.to_le_bytes()].concat()
}
