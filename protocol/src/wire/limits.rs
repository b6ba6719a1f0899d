//! Every maximum that a stranger's bytes are held to.

use crate::time::Duration;

/// Longest envelope, in bytes: gossipsub's own default limit is 64 KiB.
pub const ENVELOPE_BYTES_MAX: usize = 60 * 1024;
/// Accepted difference between two peers' clocks.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_s(60);
/// Longest life of a gossiped message: a few times that of a listing, so that
/// nobody keeps a place in the order book without saying so again.
pub const GOSSIP_LIFETIME_MAX: Duration = Duration::from_s(600);
/// Longest life of a direct message.
pub const FRAME_LIFETIME_MAX: Duration = Duration::from_s(60);
/// Listings of other peers that are remembered.
pub const LISTINGS_MAX: usize = 4096;
/// Demands of other peers that are remembered.
pub const DEMANDS_MAX: usize = 1024;
/// Demands of one author that are remembered, each for another spec.
pub const DEMANDS_PER_AUTHOR_MAX: usize = 8;
/// Users' latest words on holds that are remembered, so that frames keep their order.
pub const WORDS_MAX: usize = 1024;
/// Peers that our offer was said again for, lately.
pub const ANSWERED_MAX: usize = 1024;
/// Credentials that one peer shows at a time.
pub const CREDENTIALS_MAX: usize = 8;
/// Peers whose credentials are remembered.
pub const MEMBERS_KNOWN_MAX: usize = 4096;
/// Peers that one permission admits at a time: a ticket that leaked cannot fill the table.
pub const PEERS_PER_PERMISSION_MAX: usize = 64;
/// Revocations of one issuer that are remembered, and so the most that an issuer
/// makes before the first of them is out of date.
pub const REVOCATIONS_MAX: usize = 1024;
/// Revocations in one message.
pub const REVOCATIONS_PER_MESSAGE_MAX: usize = 256;
/// Connected peers that have shown no credential yet, in an invite-only swarm.
pub const STRANGERS_MAX: usize = 256;
/// Longest life of a permission.
pub const PERMISSION_LIFETIME_MAX: Duration = Duration::from_s(10 * 365 * 86_400);
/// Shortest time between two accepted gossip messages of one author and kind.
pub const GOSSIP_INTERVAL_MIN: Duration = Duration::from_ms(100);
/// Devices in one listing.
pub const DEVICES_MAX: usize = 16;
/// Network addresses in one listing.
pub const ADDRESSES_MAX: usize = 8;
/// Longest network address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 128;
/// Longest text field (a device or region name), in bytes.
pub const TEXT_BYTES_MAX: usize = 64;
/// Members of one run: direct all-reduce needs a link between each pair.
pub const MEMBERS_MAX: usize = 16;
/// Machines whose consents the user of a run keeps: members come and go.
pub const LEASES_HELD_MAX: usize = 64;
/// Orders that local users may have open at once.
pub const ORDERS_MAX: usize = 4;
/// Direct messages whose delivery is not known yet.
pub const FRAMES_IN_FLIGHT_MAX: usize = 4096;
/// Longest chunk of a tensor on the bulk transport, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Chunks of one reduced vector, so that indices and bit maps stay small.
pub const CHUNKS_MAX: usize = 65_536;
/// Parameters of one model.
pub const PARAMETERS_MAX: u64 = 1 << 34;
/// Chunks that came before their time and wait for the view that they belong to.
pub const EARLY_CHUNKS_MAX: usize = 4096;
/// Exchanges whose sums a listener keeps while it fetches the state before them.
pub const LISTEN_AHEAD_MAX: u64 = 16;
/// Runs that are over and remembered, for members that missed the end.
pub const RUNS_OVER_MAX: usize = 64;
/// Results of others' runs that are kept until their owners have them.
pub const RESULTS_KEPT_MAX: usize = 4;
