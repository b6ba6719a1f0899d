//! Every message there is, by kind.

use super::codec::{self, CodecError};
use super::limits::ENVELOPE_BYTES_MAX;
use crate::consensus::{Blocks, BlocksAsk, Proposal, ProposalAsk, RecoveryAsk, RecoveryReply, Votes};
use crate::ledger::Transaction;
use crate::market::demand::Demand;
use crate::market::listing::{Listing, Withdrawal};
use crate::market::reservation::{Confirm, Release, Reserve, ReserveReply};
use crate::membership::{Hello, Presence, Revocations};
use crate::run::report::{Abort, Heartbeat, Ready, RoundReport};
use crate::run::view::{
    CaughtUp, Finished, Join, StateOffer, Suspect, ViewAccept, ViewAsk, ViewInstall, ViewPropose, ViewState,
};
use crate::trust::words::{GenesisAsk, GenesisReply, LeaseConsent, LedgerStatus, Probe, ProbeReply, ProposalReply};

/// A message's body: what it holds beyond its encoding is checked here.
pub(crate) trait Body {
    /// Checks every field against its limit; says which field is out of which.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<B: Body> Body for Box<B> {
    fn validate(&self) -> Result<(), String> {
        B::validate(self)
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $kind:ident($body:ty) = $number:literal,)*) => {
        /// The number that names a kind of message in an envelope.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind = $number,)*
        }

        /// The body of an envelope.
        #[expect(clippy::large_enum_variant, reason = "messages are few and short-lived; the largest comes once a run")]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $kind($body),)*
        }

        impl Kind {
            /// The kind of this number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }

        impl Message {
            /// Which kind of message this is.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            pub(super) fn encode_body(&self) -> Vec<u8> {
                match self {
                    $(Self::$kind(body) => codec::encode(body),)*
                }
            }

            pub(super) fn decode_body(kind: Kind, bytes: &[u8]) -> Result<Self, CodecError> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(codec::decode::<$body>(bytes, ENVELOPE_BYTES_MAX)?),)*
                })
            }

            /// Checks every field against its limit.
            pub(super) fn validate(&self) -> Result<(), String> {
                match self {
                    $(Self::$kind(body) => body.validate(),)*
                }
            }
        }
    };
}

messages! {
    /// Gossip: a peer offers its machine (an ask).
    Listing(Listing) = 1,
    /// Gossip: a peer takes its offer back.
    Withdrawal(Withdrawal) = 2,
    /// Gossip: a peer looks for machines (a bid).
    Demand(Demand) = 3,
    /// Gossip: a peer shows who has admitted it.
    Presence(Presence) = 4,
    /// Gossip: permissions that their issuer has taken back.
    Revocations(Revocations) = 5,
    /// Frame: hold your machine for my run.
    Reserve(Reserve) = 10,
    /// Frame: held, or why not.
    ReserveReply(ReserveReply) = 11,
    /// Frame: the run is on, with these members.
    Confirm(Confirm) = 12,
    /// Frame: the reservation is not needed any more.
    Release(Release) = 13,
    /// Frame: what a peer shows to one that it has met.
    Hello(Hello) = 14,
    /// Frame: this member has the data and the model.
    Ready(Ready) = 20,
    /// Frame: what this member holds after a round.
    RoundReport(RoundReport) = 21,
    /// Frame: this member stops the run, and why.
    Abort(Abort) = 22,
    /// Frame: this member is alive.
    Heartbeat(Heartbeat) = 23,
    /// Frame: take this peer into the run.
    Join(Join) = 24,
    /// Frame: another member is lost or at fault.
    Suspect(Suspect) = 25,
    /// Frame: what do you say about the next view?
    ViewAsk(ViewAsk) = 26,
    /// Frame: a promise, and what this member holds.
    ViewState(Box<ViewState>) = 27,
    /// Frame: this should be the next view.
    ViewPropose(Box<ViewPropose>) = 28,
    /// Frame: agreed.
    ViewAccept(ViewAccept) = 29,
    /// Frame: this is the view that holds.
    ViewInstall(Box<ViewInstall>) = 30,
    /// Frame: the state before an exchange can be fetched here.
    StateOffer(StateOffer) = 31,
    /// Frame: this listener can be a full member.
    CaughtUp(CaughtUp) = 32,
    /// Frame: the run is over, and its result is here.
    Finished(Finished) = 33,
    /// Gossip: something for the ledger.
    Transaction(Box<Transaction>) = 34,
    /// Gossip: votes on a block.
    Votes(Votes) = 35,
    /// Gossip: a block for the next height.
    Proposal(Box<Proposal>) = 36,
    /// Gossip: which ledger, and how far.
    LedgerStatus(LedgerStatus) = 37,
    /// Frame: blocks from a height on, please.
    BlocksAsk(BlocksAsk) = 38,
    /// Frame: blocks and their certificates.
    Blocks(Box<Blocks>) = 39,
    /// Frame: a genesis document, please.
    GenesisAsk(GenesisAsk) = 40,
    /// Frame: the genesis document.
    GenesisReply(Box<GenesisReply>) = 41,
    /// Frame: are you there?
    Probe(Probe) = 42,
    /// Frame: here I am.
    ProbeReply(ProbeReply) = 43,
    /// Frame: a proposal that was missed, please.
    ProposalAsk(ProposalAsk) = 44,
    /// Frame: the proposal.
    ProposalReply(Box<ProposalReply>) = 45,
    /// Frame: which recovery of the ledger do you follow?
    RecoveryAsk(RecoveryAsk) = 46,
    /// Frame: this one.
    RecoveryReply(Box<RecoveryReply>) = 47,
    /// Frame: you may report on my part in your run.
    LeaseConsent(LeaseConsent) = 48,
}

impl Kind {
    /// Whether the message is for everyone (gossip) or for one peer (a frame).
    pub fn is_gossip(self) -> bool {
        matches!(
            self,
            Self::Listing
                | Self::Withdrawal
                | Self::Demand
                | Self::Presence
                | Self::Revocations
                | Self::Transaction
                | Self::Votes
                | Self::Proposal
                | Self::LedgerStatus
        )
    }
}
