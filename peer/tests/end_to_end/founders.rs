//! Ledgers that several peers have founded together, with power for each: what a
//! swarm comes to after a long time, without waiting for it.

use crate::support::NETWORK;
use manta_protocol::ledger::{DrillClass, Founder, Genesis, Parameters};
use manta_protocol::power::MicroPower;
use manta_protocol::wire::{Identity, codec};
use manta_protocol::{Hash, NetworkId};
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::time::SystemTime;
use tempfile::TempDir;

/// Writes, for each name, a data folder with an identity and the same genesis
/// document in it, in which it has its share of the power: the ledger's id.
pub(crate) fn found(folder: &TempDir, shares: &[(&str, u64)]) -> String {
    let class = DrillClass { rows: 128, columns: 128, depth: 256, commit_blocks: 2 };
    let parameters = Parameters {
        epoch_ms: 300,
        operations_per_power: class.operations() * 4,
        classes: vec![class],
        ..Parameters::demo()
    };
    let secret = |name: &str| *Hash::of(name.as_bytes()).as_bytes();
    let founder = |(name, share): &(&str, u64)| {
        let identity = Identity::from_secret(secret(name));
        // A thousand units a share: what is drilled meanwhile moves none by much.
        let power = MicroPower(parameters.difficulty(0).0 * 1_000 * share);
        Founder { peer: identity.peer_id(), vrf: identity.vrf().public(), class: 0, power }
    };
    let mut founders: Vec<_> = shares.iter().map(founder).collect();
    founders.sort_unstable_by_key(|founder| founder.peer);
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let time_ms = u64::try_from(since_1970.as_millis()).expect("this age");
    let network = NetworkId::from_name(NETWORK);
    let genesis = Genesis { network, name: shares[0].0.into(), time_ms, founders, parameters };
    for (name, _) in shares {
        let data = folder.path().join(name);
        DirBuilder::new().mode(0o700).create(&data).expect("a data folder");
        let key = fs::File::options().write(true).create_new(true).mode(0o600).open(data.join("identity.key"));
        key.and_then(|mut key| key.write_all(&secret(name))).expect("an identity");
        fs::create_dir(data.join("ledger")).expect("a folder");
        fs::write(data.join("ledger/genesis"), document("genesis", &codec::encode(&genesis))).expect("a document");
    }
    genesis.ledger().to_string()
}

/// A document of a ledger's folder: its checksum, then its content.
fn document(name: &str, content: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_derive_key("manta 2026-11 ledger document v1");
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(content);
    [&hasher.finalize().as_bytes()[..], content].concat()
}
