//! The quinn endpoint: certificates, windows, timers and congestion control.

use crate::identity::{Identity, from_libp2p};
use manta_protocol::ids::PeerId;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::client::Resumption;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Connection, Endpoint, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const ALPN: &[u8] = b"manta-bulk/1";
/// One chunk in eight may be on its way on one stream while the others fill the connection's window.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Covers 100 ms at 2.5 Gbit/s; also the most that a peer can make us hold back.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// What a peer may send before it is known to be a member of a run.
const STRANGER_WINDOW_BYTES: u32 = 64 << 10;
/// Streams that a peer may have open to us on one connection.
pub(super) const MAX_STREAMS: u32 = 64;
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const IDLE_TIMEOUT_MS: u32 = 10_000;
/// What every path of today's Internet that carries QUIC lets through.
const INITIAL_MTU_BYTES: u16 = 1200;
/// Found by probing where the path allows it (jumbo frames, loopback); ten segments of it still fit the 64 KiB
/// that the kernel takes in one call.
const MAX_MTU_BYTES: u16 = 6400;

/// Which congestion controller decides how fast to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Congestion {
    /// RFC 9438; the default.
    #[default]
    Cubic,
    /// BBR, for long paths with losses that are no congestion; experimental in quinn.
    Bbr,
}

/// How to open the endpoint.
#[derive(Clone, Debug)]
pub(crate) struct BulkConfig {
    /// Where to listen; `None`: any free port of all interfaces.
    pub(crate) listen: Option<SocketAddr>,
    /// The congestion controller.
    pub(crate) congestion: Congestion,
    /// How long a peer may be early: connected before we admit it.
    pub(crate) admission_grace: Duration,
    /// How long one address may take to answer.
    pub(crate) dial_timeout: Duration,
}

impl Default for BulkConfig {
    fn default() -> Self {
        Self {
            listen: None,
            congestion: Congestion::default(),
            admission_grace: Duration::from_secs(3),
            dial_timeout: Duration::from_secs(3),
        }
    }
}

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkStartError {
    /// The address cannot be used.
    #[error("cannot listen for tensors on {address}: {source}; free the UDP port or choose another one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The certificate or its settings were refused by the TLS library.
    #[error("cannot make the TLS certificate of this peer: {0}")]
    Certificate(String),
}

/// An endpoint, and how it dials.
pub(super) struct OpenEndpoint {
    pub(super) endpoint: Endpoint,
    pub(super) client: quinn::ClientConfig,
    pub(super) dial_timeout: Duration,
}

pub(super) fn open(identity: &Identity, config: &BulkConfig) -> Result<OpenEndpoint, BulkStartError> {
    let certificate = |error: &dyn std::fmt::Display| BulkStartError::Certificate(error.to_string());
    let mut server_tls = libp2p_tls::make_server_config(identity.keypair()).map_err(|error| certificate(&error))?;
    server_tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut client_tls =
        libp2p_tls::make_client_config(identity.keypair(), None).map_err(|error| certificate(&error))?;
    client_tls.alpn_protocols = vec![ALPN.to_vec()];
    // All peers answer to the same server name, so that sessions of one must not be offered to another.
    client_tls.resumption = Resumption::disabled();

    let server_crypto = QuicServerConfig::try_from(server_tls).map_err(|error| certificate(&error))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server_crypto));
    server.transport_config(Arc::new(transport(config, STRANGER_WINDOW_BYTES)));
    let client_crypto = QuicClientConfig::try_from(client_tls).map_err(|error| certificate(&error))?;
    let mut client = quinn::ClientConfig::new(Arc::new(client_crypto));
    client.transport_config(Arc::new(transport(config, CONNECTION_WINDOW_BYTES)));

    Ok(OpenEndpoint { endpoint: bind(server, config.listen)?, client, dial_timeout: config.dial_timeout })
}

fn bind(server: quinn::ServerConfig, listen: Option<SocketAddr>) -> Result<Endpoint, BulkStartError> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let open = |address| {
        let socket = std::net::UdpSocket::bind(address)?;
        let mut settings = quinn::EndpointConfig::default();
        // Both limits are within what the library accepts (at least 1200 bytes), so this cannot fail.
        settings.max_udp_payload_size(MAX_MTU_BYTES).map_err(io::Error::other)?;
        Endpoint::new(settings, Some(server.clone()), socket, Arc::new(quinn::TokioRuntime))
    };
    match listen {
        Some(address) => open(address).map_err(|source| BulkStartError::Listen { address, source }),
        // A machine without IPv6 is a normal machine.
        None => open(both).or_else(|_| open(v4)).map_err(|source| BulkStartError::Listen { address: v4, source }),
    }
}

fn transport(config: &BulkConfig, connection_window_bytes: u32) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_MTU_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(connection_window_bytes))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        // Chunks are finished in order rather than all at once, so that the receiver can begin to reduce.
        .send_fairness(false)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .initial_mtu(INITIAL_MTU_BYTES)
        .mtu_discovery_config(Some(discovery));
    match config.congestion {
        Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    transport
}

/// Whose certificate the other end has shown; the handshake has proven that it holds the key.
///
/// # Errors
/// A text for logs, if there is no certificate of a Manta peer.
pub(super) fn remote_peer(connection: &Connection) -> Result<PeerId, String> {
    let identity = connection.peer_identity().ok_or("no certificate was shown")?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| "the certificate is not X.509")?;
    let [certificate] = chain.as_slice() else {
        return Err(format!("expected one certificate, found {}", chain.len()));
    };
    let certificate = libp2p_tls::certificate::parse(certificate).map_err(|error| error.to_string())?;
    from_libp2p(&certificate.peer_id()).map_err(|error| error.to_string())
}
