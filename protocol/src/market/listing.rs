//! The ask: what a machine is, as its owner offers it.

use crate::ids::PeerId;
use crate::wire::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, DEVICES_MAX, TEXT_BYTES_MAX};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// A network address as the transport writes it (a binary multiaddr); opaque here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeviceKind {
    /// The processor, through the native kernels.
    Cpu,
    /// A graphics adapter, through the shaders.
    Gpu,
}

/// One device of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What computes.
    pub kind: DeviceKind,
    /// The model's name, for people.
    pub name: String,
    /// Hardware threads (CPU) or 1 (GPU).
    pub units: u32,
    /// Memory that the device can use, in bytes.
    pub memory_bytes: u64,
    /// Exact 8-bit multiply-adds a second, measured when the peer started.
    pub multiply_adds_per_s: u64,
}

/// A peer's offer. It stands until its envelope expires or is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// What computes; at least one.
    pub devices: Vec<Device>,
    /// Free disk in the peer's data directory, in bytes.
    pub disk_free_bytes: u64,
    /// Where the owner says the machine is; empty if unsaid.
    pub region: String,
    /// Longest run that the owner accepts, in seconds.
    pub duration_max_s: u64,
    /// The arithmetic that the machine speaks.
    pub arithmetic_version: u32,
    /// Whether a run or a reservation holds the machine now.
    pub busy: bool,
    /// UDP port of the bulk transport.
    pub bulk_port: u16,
    /// Where the peer can be reached.
    pub addresses: Vec<Address>,
}

/// Takes back every listing of the author with a lower sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {}

impl Listing {
    /// Speed of the fastest device.
    pub fn multiply_adds_per_s(&self) -> u64 {
        self.devices.iter().map(|device| device.multiply_adds_per_s).max().unwrap_or(0)
    }

    /// Memory of the largest device, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.memory_bytes).max().unwrap_or(0)
    }
}

impl Body for Listing {
    fn validate(&self) -> Result<(), String> {
        if self.devices.is_empty() || self.devices.len() > DEVICES_MAX {
            return Err(format!("{} devices, 1 to {DEVICES_MAX} are accepted", self.devices.len()));
        }
        let texts = self.devices.iter().map(|device| &device.name).chain([&self.region]);
        for text in texts {
            if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(format!("a text of {} bytes, at most {TEXT_BYTES_MAX} printable ones", text.len()));
            }
        }
        validate_addresses(&self.addresses)
    }
}

impl Body for Withdrawal {}

/// Where the members of a run find each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Who it is.
    pub peer: PeerId,
    /// UDP port of its bulk transport.
    pub bulk_port: u16,
    /// Where it can be reached.
    pub addresses: Vec<Address>,
}

pub(crate) fn validate_addresses(addresses: &[Address]) -> Result<(), String> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!("{} addresses, at most {ADDRESSES_MAX}", addresses.len()));
    }
    match addresses.iter().find(|address| address.0.len() > ADDRESS_BYTES_MAX) {
        Some(address) => Err(format!("an address of {} bytes, at most {ADDRESS_BYTES_MAX}", address.0.len())),
        None => Ok(()),
    }
}
