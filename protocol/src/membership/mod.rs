//! Who belongs to a swarm, and whose machine is whose.
//!
//! An issuer signs a [`Permission`] for a *bearer* key and gives both to a
//! person, as a ticket. Whoever has the bearer's secret makes of it a
//! [`Credential`] for one peer, with nobody's help. A credential counts
//!
//! - in an invite-only swarm, as admission, if the swarm's founder issued it;
//! - for the issuer's own data, as trust: an own-role credential makes its
//!   holder one of the issuer's own peers, any makes it an invited one.
//!
//! Trust goes one way, from issuer to holder: a ticket from a stranger never
//! makes one's own data go to the stranger. An issuer takes a permission back by
//! a signed [`Revocation`].

mod genesis;
mod permission;
mod table;
mod words;

pub use genesis::{Genesis, NAME_BYTES_MAX};
pub use permission::{Credential, Permission, PermissionError, Revocation, Role, SignedPermission};
pub use table::Charter;
pub(crate) use table::{Members, Shown};
pub use words::{Hello, Presence, Revocations};
