//! What goes over the network: canonical encoding, signed envelopes, limits.

pub mod codec;
pub mod envelope;
pub mod limits;
pub mod message;

pub use codec::CodecError;
pub use envelope::{Envelope, EnvelopeError, Identity};
pub use message::Message;
