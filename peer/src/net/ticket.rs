//! First contact: one line of text that names a network, a peer and where to reach it.
//!
//! A ticket is `manta1` and lower-case base32 (RFC 4648 alphabet, no padding) of
//! `body ‖ first 4 bytes of blake3(body)`, where the body is
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version, 1 |
//! | 32 | network id |
//! | 32 | ed25519 public key of the peer |
//! | 1 | number of addresses, at most 8 |
//! | 1 + n each | length n ≤ 128 and the multiaddr in its binary form |
//!
//! A ticket of an invite-only swarm, or one that invites, has version 2, and
//! after the addresses
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | 0 open, 1 invite-only; if 1: |
//! | 1 + n | length n ≤ 64 and the swarm's name in UTF-8 |
//! | 32 | public key of its founder |
//! | 1 | 0 no invitation, 1 invitation; if 1: |
//! | 32 | public key of the issuer |
//! | 16 | serial of the permission |
//! | 1 | role: 0 own, 1 guest |
//! | 8 | end of the permission, Unix nanoseconds, big-endian |
//! | 64 | the issuer's signature of the permission |
//! | 32 | ed25519 seed of the bearer key |
//!
//! There is one text for a ticket: other lengths, alphabets, spare bits and
//! address encodings are refused. The checksum guards against slips of the
//! hand; authenticity comes from the transport, which proves the peer's key, and from
//! the issuer's signature. Whoever has a ticket that invites is invited.

use libp2p::Multiaddr;
use manta_protocol::Time;
use manta_protocol::ids::{NetworkId, PeerId, Serial, Signature};
use manta_protocol::membership::{Genesis, NAME_BYTES_MAX, Permission, Role, SignedPermission};
use manta_protocol::wire::Identity;
use std::fmt;
use std::str::FromStr;

/// The most addresses that a ticket carries.
pub(crate) const MAX_TICKET_ADDRESSES: usize = 8;
/// The longest address, in bytes of its binary form.
pub(crate) const MAX_ADDRESS_BYTES: usize = 128;

const PREFIX: &str = "manta1";
const VERSION: u8 = 1;
const INVITING_VERSION: u8 = 2;
const CHECKSUM_BYTES: usize = 4;
const GENESIS_BYTES_MAX: usize = 1 + 1 + NAME_BYTES_MAX + 32;
const INVITATION_BYTES_MAX: usize = 1 + 32 + 16 + 1 + 8 + 64 + 32;
const MAX_BODY_BYTES: usize =
    1 + 32 + 32 + 1 + MAX_TICKET_ADDRESSES * (1 + MAX_ADDRESS_BYTES) + GENESIS_BYTES_MAX + INVITATION_BYTES_MAX;
const MAX_TEXT_BYTES: usize = PREFIX.len() + ((MAX_BODY_BYTES + CHECKSUM_BYTES) * 8).div_ceil(5);
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Where to find one peer of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The network that the peer belongs to.
    pub(crate) network: NetworkId,
    /// The peer's key.
    pub(crate) peer: PeerId,
    /// At most [`MAX_TICKET_ADDRESSES`] addresses, best first.
    addresses: Vec<Multiaddr>,
    /// What the swarm began with, if it is invite-only.
    pub(crate) genesis: Option<Genesis>,
    /// What makes the reader of the ticket an invited peer.
    pub(crate) invitation: Option<TicketInvitation>,
}

/// A permission with what turns it into a credential. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TicketInvitation {
    /// What is permitted, by whom.
    pub(crate) permitted: SignedPermission,
    /// ed25519 seed of the permission's bearer key.
    pub(crate) secret: [u8; 32],
}

impl fmt::Debug for TicketInvitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketInvitation").field("permitted", &self.permitted).finish_non_exhaustive()
    }
}

/// Why a text is not a usable ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TicketError {
    /// It does not look like one.
    #[error(
        "this is not a Manta ticket: expected a text that begins with \"{PREFIX}\"; copy the whole line that `manta up` prints"
    )]
    NotATicket,
    /// It was a ticket once.
    #[error("this ticket is damaged ({0}); copy it again as a whole")]
    Damaged(&'static str),
    /// It comes from another release.
    #[error(
        "this ticket has version {found}, this program reads versions {VERSION} and {INVITING_VERSION}; use the same release of manta on both machines"
    )]
    OtherVersion {
        /// The version in the ticket.
        found: u8,
    },
    /// It belongs to another swarm.
    #[error("this ticket is for network {}, this peer is in network {}; use a ticket of the same network, or start with --network", .found.short(), .expected.short())]
    WrongNetwork {
        /// The network of this peer.
        expected: NetworkId,
        /// The network of the ticket.
        found: NetworkId,
    },
}

impl Ticket {
    /// A ticket with the first [`MAX_TICKET_ADDRESSES`] of the `addresses` that fit.
    pub(crate) fn new(network: NetworkId, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) -> Self {
        let fits = |address: &Multiaddr| !address.is_empty() && address.len() <= MAX_ADDRESS_BYTES;
        let addresses = addresses.into_iter().filter(fits).take(MAX_TICKET_ADDRESSES).collect();
        Self { network, peer, addresses, genesis: None, invitation: None }
    }

    /// The same for a swarm that began with `genesis`, if it is invite-only.
    pub(crate) fn in_swarm(self, genesis: Option<Genesis>) -> Self {
        Self { genesis, ..self }
    }

    /// The same, inviting its reader.
    pub(crate) fn inviting(self, invitation: TicketInvitation) -> Self {
        Self { invitation: Some(invitation), ..self }
    }

    /// Checks that this is a ticket of `network`.
    ///
    /// # Errors
    /// [`TicketError::WrongNetwork`].
    pub(crate) fn check_network(&self, network: NetworkId) -> Result<(), TicketError> {
        if self.network != network {
            return Err(TicketError::WrongNetwork { expected: network, found: self.network });
        }
        Ok(())
    }

    /// Its addresses with the peer's name at the end, so that nobody else can answer there.
    pub(crate) fn dial_addresses(&self) -> Vec<Multiaddr> {
        let peer = crate::identity::to_libp2p(&self.peer);
        let named = |address: &Multiaddr| match peer {
            Some(peer) => address.clone().with(libp2p::multiaddr::Protocol::P2p(peer)),
            None => address.clone(),
        };
        self.addresses.iter().map(named).collect()
    }

    fn encode_body(&self) -> Vec<u8> {
        let inviting = self.genesis.is_some() || self.invitation.is_some();
        let mut body = vec![if inviting { INVITING_VERSION } else { VERSION }];
        body.extend_from_slice(self.network.as_bytes());
        body.extend_from_slice(self.peer.as_bytes());
        body.push(self.addresses.len() as u8);
        for address in &self.addresses {
            body.push(address.len() as u8);
            body.extend_from_slice(address.as_ref());
        }
        if inviting {
            self.encode_invitation(&mut body);
        }
        body
    }

    fn encode_invitation(&self, body: &mut Vec<u8>) {
        body.push(u8::from(self.genesis.is_some()));
        if let Some(Genesis { name, founder }) = &self.genesis {
            body.push(name.len() as u8);
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(founder.as_bytes());
        }
        body.push(u8::from(self.invitation.is_some()));
        if let Some(TicketInvitation { permitted, secret }) = &self.invitation {
            let Permission { issuer, serial, role, expires_at, .. } = permitted.permission;
            body.extend_from_slice(issuer.as_bytes());
            body.extend_from_slice(serial.as_bytes());
            body.push(match role {
                Role::Own => 0,
                Role::Guest => 1,
            });
            body.extend_from_slice(&expires_at.0.to_be_bytes());
            body.extend_from_slice(permitted.signature.as_bytes());
            body.extend_from_slice(secret);
        }
    }

    fn decode_body(body: &[u8]) -> Result<Self, TicketError> {
        let mut rest = Reader(body);
        let inviting = match rest.byte()? {
            VERSION => false,
            INVITING_VERSION => true,
            found => return Err(TicketError::OtherVersion { found }),
        };
        let network = NetworkId(rest.array()?);
        let peer = PeerId(rest.array()?);
        let count = usize::from(rest.byte()?);
        if count > MAX_TICKET_ADDRESSES {
            return Err(TicketError::Damaged("it names too many addresses"));
        }
        let addresses = (0..count).map(|_| rest.address()).collect::<Result<_, _>>()?;
        let (mut genesis, mut invitation) = (None, None);
        if inviting {
            genesis = if rest.flag()? { Some(rest.genesis()?) } else { None };
            invitation = if rest.flag()? { Some(rest.invitation(network)?) } else { None };
            if genesis.is_none() && invitation.is_none() {
                return Err(TicketError::Damaged("it invites to nothing"));
            }
        }
        if genesis.as_ref().is_some_and(|genesis| genesis.network_id() != network) {
            return Err(TicketError::Damaged("its swarm and its network differ"));
        }
        if !rest.0.is_empty() {
            return Err(TicketError::Damaged("it has bytes to spare"));
        }
        Ok(Self { network, peer, addresses, genesis, invitation })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text_of_body(&self.encode_body()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(TicketError::Damaged("it is too long"));
        }
        let bytes = unbase32(encoded).ok_or(TicketError::Damaged("it has a character that no ticket has"))?;
        let (body, found) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Damaged("it is too short"))?;
        if checksum(body) != *found {
            return Err(TicketError::Damaged("its checksum does not match"));
        }
        Self::decode_body(body)
    }
}

/// The text that holds `body`.
pub(crate) fn text_of_body(body: &[u8]) -> String {
    format!("{PREFIX}{}", base32(&[body, &checksum(body)].concat()))
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(body);
    *hash.as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

/// Takes fields from the front of a body.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, TicketError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TicketError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(TicketError::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn flag(&mut self) -> Result<bool, TicketError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(TicketError::Damaged("a flag is neither yes nor no")),
        }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], TicketError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(TicketError::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn genesis(&mut self) -> Result<Genesis, TicketError> {
        const BAD_NAME: TicketError = TicketError::Damaged("the swarm's name is none");
        let length = usize::from(self.byte()?);
        let name = std::str::from_utf8(self.bytes(length)?).map_err(|_| BAD_NAME)?.to_owned();
        let genesis = Genesis { name, founder: PeerId(self.array()?) };
        genesis.validate().map_err(|_| BAD_NAME)?;
        Ok(genesis)
    }

    /// The signature is judged by whoever accepts the invitation.
    fn invitation(&mut self, network: NetworkId) -> Result<TicketInvitation, TicketError> {
        let issuer = PeerId(self.array()?);
        let serial = Serial(self.array()?);
        let role = match self.byte()? {
            0 => Role::Own,
            1 => Role::Guest,
            _ => return Err(TicketError::Damaged("it has an unknown role")),
        };
        let expires_at = Time(u64::from_be_bytes(self.array()?));
        let signature = Signature(self.array()?);
        let secret = self.array()?;
        let bearer = Identity::from_secret(secret).peer_id();
        let permission = Permission { network, issuer, serial, role, bearer, expires_at };
        Ok(TicketInvitation { permitted: SignedPermission { permission, signature }, secret })
    }

    fn address(&mut self) -> Result<Multiaddr, TicketError> {
        let bytes = usize::from(self.byte()?);
        if bytes == 0 || bytes > MAX_ADDRESS_BYTES {
            return Err(TicketError::Damaged("an address has a bad length"));
        }
        let head = self.bytes(bytes)?;
        let bad = TicketError::Damaged("it has an address of an unknown form");
        let address = Multiaddr::try_from(head.to_vec()).map_err(|_| bad.clone())?;
        // Binary multiaddrs may hold non-minimal integers; only the one canonical form is taken.
        let canonical: Multiaddr = address.iter().collect();
        if canonical.as_ref() == head { Ok(address) } else { Err(bad) }
    }
}

/// Base32 without padding: five bits a character, the last one filled with zero bits.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// The inverse of [`base32`]; `None` for foreign characters, impossible lengths and non-zero fill.
fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut buffer, mut bits) = (0u32, 0);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == character)?;
        buffer = (buffer << 5) | value as u32;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
        buffer &= (1 << bits) - 1;
    }
    (bits < 5 && buffer == 0).then_some(bytes)
}

#[cfg(test)]
mod tests;
