//! Direct frames: one opaque message to one peer, answered by one byte.
//!
//! On a stream of `/manta/<network>/frame/1` the sender writes a big-endian
//! `u32` length and that many bytes, the receiver one byte: 0 accepted, 1
//! refused, 2 busy. The length is checked before memory is taken. [`Outbox`]
//! bounds what waits for each peer, so that one slow peer cannot fill the memory
//! or the stream limit of a connection.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::request_response::{self, OutboundFailure, OutboundRequestId};
use libp2p::{PeerId, StreamProtocol};
use std::collections::{HashMap, VecDeque};
use std::io;

/// The largest frame, in bytes.
pub(crate) const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Frames in flight to one peer; below half of [`MAX_STREAMS_PER_CONNECTION`], as both sides send.
pub(crate) const MAX_FRAMES_IN_FLIGHT_PER_PEER: usize = 16;
/// Frames that wait for their turn to one peer.
pub(crate) const MAX_FRAMES_WAITING_PER_PEER: usize = 256;
/// Frames waiting or in flight in total.
pub(crate) const MAX_FRAMES_OUTSTANDING: usize = 1024;
/// Frame streams open on one connection in both directions.
pub(crate) const MAX_STREAMS_PER_CONNECTION: usize = 64;

/// What the receiver's application said to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameAnswer {
    /// It was taken.
    Accepted,
    /// It was invalid or unwanted; sending it again is pointless.
    Refused,
    /// There was no room for it; it may be sent again later.
    Busy,
}

/// Why a frame did not arrive, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameFailure {
    /// No connection could be made.
    #[error("the peer cannot be reached at any address known for it")]
    Unreachable,
    /// The peer gave no answer in time; it may have taken the frame.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The connection broke; the peer may have taken the frame.
    #[error("the connection broke before the answer: {0}")]
    Broken(String),
    /// The peer does not speak the frame protocol of this network.
    #[error("the peer does not speak this network's frame protocol; it may run another release")]
    Unsupported,
    /// The peer's application refused it.
    #[error("the peer refused the frame")]
    Refused,
    /// The peer has no room at the moment.
    #[error("the peer is busy; try again later")]
    Busy,
    /// Too many frames are waiting here already.
    #[error("too many frames are waiting for the peer; try again later")]
    QueueFull,
    /// It is longer than [`MAX_FRAME_BYTES`].
    #[error("the frame has {found_bytes} bytes, the limit is {MAX_FRAME_BYTES}; send large things by hash")]
    TooLarge {
        /// Its length.
        found_bytes: usize,
    },
    /// The receiver is this peer itself, or its key is none.
    #[error("the receiver is not another peer")]
    BadReceiver,
}

impl From<OutboundFailure> for FrameFailure {
    fn from(failure: OutboundFailure) -> Self {
        match failure {
            OutboundFailure::DialFailure => Self::Unreachable,
            OutboundFailure::Timeout => Self::TimedOut,
            OutboundFailure::ConnectionClosed => Self::Broken("it was closed".to_owned()),
            OutboundFailure::UnsupportedProtocols => Self::Unsupported,
            OutboundFailure::Io(error) => Self::Broken(error.to_string()),
        }
    }
}

/// Reads and writes frames and their answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCodec;

impl request_response::Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = FrameAnswer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut length = [0; 4];
        io.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(too_large(length));
        }
        let mut bytes = vec![0; length];
        io.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<FrameAnswer>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut answer = [0];
        io.read_exact(&mut answer).await?;
        match answer {
            [0] => Ok(FrameAnswer::Accepted),
            [1] => Ok(FrameAnswer::Refused),
            [2] => Ok(FrameAnswer::Busy),
            [other] => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown answer {other} to a frame"))),
        }
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= MAX_FRAME_BYTES);
        let length = length.ok_or_else(|| too_large(bytes.len()))?;
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(&bytes).await?;
        io.close().await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: FrameAnswer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let byte = match answer {
            FrameAnswer::Accepted => 0,
            FrameAnswer::Refused => 1,
            FrameAnswer::Busy => 2,
        };
        io.write_all(&[byte]).await?;
        io.close().await
    }
}

fn too_large(found_bytes: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FrameFailure::TooLarge { found_bytes })
}

/// Frames on their way out: which request carries which frame, and what waits behind it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    peers: HashMap<PeerId, Lane>,
    requests: HashMap<OutboundRequestId, (u64, PeerId)>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Lane {
    in_flight: usize,
    waiting: VecDeque<(u64, Vec<u8>)>,
}

impl Outbox {
    /// Queues a frame behind the others for `to`.
    ///
    /// # Errors
    /// [`FrameFailure::TooLarge`] and [`FrameFailure::QueueFull`]; then nothing is kept.
    pub(crate) fn push(&mut self, id: u64, to: PeerId, bytes: Vec<u8>) -> Result<(), FrameFailure> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(FrameFailure::TooLarge { found_bytes: bytes.len() });
        }
        let lane_length = self.peers.get(&to).map_or(0, |lane| lane.waiting.len());
        if lane_length >= MAX_FRAMES_WAITING_PER_PEER || self.waiting + self.requests.len() >= MAX_FRAMES_OUTSTANDING {
            return Err(FrameFailure::QueueFull);
        }
        self.peers.entry(to).or_default().waiting.push_back((id, bytes));
        self.waiting += 1;
        Ok(())
    }

    /// Hands out what may go to `to` now; `send` starts the request and names it.
    pub(crate) fn pump(&mut self, to: PeerId, mut send: impl FnMut(Vec<u8>) -> OutboundRequestId) {
        let Some(lane) = self.peers.get_mut(&to) else { return };
        while lane.in_flight < MAX_FRAMES_IN_FLIGHT_PER_PEER {
            let Some((id, bytes)) = lane.waiting.pop_front() else { break };
            self.waiting -= 1;
            lane.in_flight += 1;
            self.requests.insert(send(bytes), (id, to));
        }
    }

    /// Ends a request and returns the id and the receiver of its frame.
    pub(crate) fn finish(&mut self, request: OutboundRequestId) -> Option<(u64, PeerId)> {
        let (id, to) = self.requests.remove(&request)?;
        if let Some(lane) = self.peers.get_mut(&to) {
            lane.in_flight -= 1;
            if lane.in_flight == 0 && lane.waiting.is_empty() {
                self.peers.remove(&to);
            }
        }
        Some((id, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test");

    #[test]
    fn frames_round_trip_up_to_the_limit() {
        for length in [0, 1, MAX_FRAME_BYTES] {
            let frame = vec![0xA5; length];
            let mut wire = Cursor::new(Vec::new());
            block_on(FrameCodec.write_request(&PROTOCOL, &mut wire, frame.clone())).expect("writes");
            let mut wire = Cursor::new(wire.into_inner());
            assert_eq!(block_on(FrameCodec.read_request(&PROTOCOL, &mut wire)).expect("reads"), frame);
        }
    }

    #[test]
    fn oversized_and_truncated_frames_are_refused() {
        let too_long = vec![0; MAX_FRAME_BYTES + 1];
        let mut wire = Cursor::new(Vec::new());
        assert!(block_on(FrameCodec.write_request(&PROTOCOL, &mut wire, too_long)).is_err());
        assert!(wire.into_inner().is_empty(), "nothing is written of a frame that is too long");
        // The announced length alone decides: there is no payload to read here.
        let mut wire = Cursor::new(u32::MAX.to_be_bytes().to_vec());
        let error = block_on(FrameCodec.read_request(&PROTOCOL, &mut wire)).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut wire = Cursor::new(vec![0, 0, 0, 2, 1]);
        let error = block_on(FrameCodec.read_request(&PROTOCOL, &mut wire)).expect_err("truncated");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn answers_round_trip_and_others_are_refused() {
        for answer in [FrameAnswer::Accepted, FrameAnswer::Refused, FrameAnswer::Busy] {
            let mut wire = Cursor::new(Vec::new());
            block_on(FrameCodec.write_response(&PROTOCOL, &mut wire, answer)).expect("writes");
            let mut wire = Cursor::new(wire.into_inner());
            assert_eq!(block_on(FrameCodec.read_response(&PROTOCOL, &mut wire)).expect("reads"), answer);
        }
        for bad in [vec![], vec![3]] {
            assert!(block_on(FrameCodec.read_response(&PROTOCOL, &mut Cursor::new(bad))).is_err());
        }
    }

    #[test]
    fn one_peer_cannot_fill_the_outbox() {
        let (slow, other) = (PeerId::random(), PeerId::random());
        let mut outbox = Outbox::default();
        for id in 0..MAX_FRAMES_WAITING_PER_PEER as u64 {
            assert_eq!(outbox.push(id, slow, vec![1]), Ok(()));
        }
        assert_eq!(outbox.push(999, slow, vec![1]), Err(FrameFailure::QueueFull));
        assert_eq!(outbox.push(1000, other, vec![1]), Ok(()));
        let too_long = vec![0; MAX_FRAME_BYTES + 1];
        assert_eq!(
            outbox.push(1001, other, too_long),
            Err(FrameFailure::TooLarge { found_bytes: MAX_FRAME_BYTES + 1 })
        );
        for peer in (0..).map(|_| PeerId::random()).take(MAX_FRAMES_OUTSTANDING) {
            let _ = outbox.push(0, peer, vec![1]);
        }
        assert_eq!(outbox.waiting, MAX_FRAMES_OUTSTANDING);
        assert_eq!(outbox.push(0, PeerId::random(), vec![1]), Err(FrameFailure::QueueFull));
    }
}
