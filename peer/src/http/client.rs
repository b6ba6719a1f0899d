//! The client of the commands that talk to a running peer.

use crate::account::{Question, TransferRequest, Transferred};
use crate::api::{ErrorBody, InvitationIssued, InvitationRequest, OrderAccepted, OrderRequest, PeerFile, Revoked};
use crate::recovery::{RecoveryAnswer, RecoveryRequest};
use crate::status::Status;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait for one answer; more than the server's own limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a peer did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens: the peer has ended and perhaps left a stale `peer.json`.
    #[error("the peer is not running any more (nobody answers at {0}); start it again with `manta up`")]
    NotRunning(SocketAddr),
    /// The peer said no, and why.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    /// Someone listens, but the exchange failed.
    #[error("no proper answer from {address}: {problem}; if another program took the port, restart the peer")]
    Broken { address: SocketAddr, problem: String },
}

/// A connection to one running peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerClient {
    address: SocketAddr,
    token: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl PeerClient {
    /// A client of the peer at this address; connects when first used.
    pub(crate) fn new(address: SocketAddr, control_token: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self { address: reachable(address), token: control_token.to_owned(), client }
    }

    /// The peer that this file describes.
    pub(crate) fn of(file: &PeerFile) -> Self {
        Self::new(file.http, &file.control_token)
    }

    /// `GET /api/status`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn status(&self) -> Result<Status, ClientError> {
        self.parse(&self.ask(Method::GET, "/api/status", Bytes::new()).await?)
    }

    /// `POST /api/orders`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn order(&self, order: &OrderRequest) -> Result<OrderAccepted, ClientError> {
        let body = serde_json::to_vec(order).map_err(|error| self.broken(error))?;
        self.parse(&self.ask(Method::POST, "/api/orders", body.into()).await?)
    }

    /// `POST /api/stop/{id}`, for a run's id or an order's number.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn stop(&self, id: &str) -> Result<(), ClientError> {
        self.ask(Method::POST, &format!("/api/stop/{id}"), Bytes::new()).await.map(drop)
    }

    /// `POST /api/invitations`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn invite(&self, request: &InvitationRequest) -> Result<InvitationIssued, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(error))?;
        self.parse(&self.ask(Method::POST, "/api/invitations", body.into()).await?)
    }

    /// `POST /api/revoke/{id}`, for the serial of an invitation or the id of a peer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn revoke(&self, id: &str) -> Result<Revoked, ClientError> {
        self.parse(&self.ask(Method::POST, &format!("/api/revoke/{id}"), Bytes::new()).await?)
    }

    /// `GET /api/ledger/…`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn ledger<T: DeserializeOwned>(&self, question: &Question) -> Result<T, ClientError> {
        self.parse(&self.ask(Method::GET, &format!("/api/ledger/{}", question.path()), Bytes::new()).await?)
    }

    /// `POST /api/ledger/transfers`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn transfer(&self, request: &TransferRequest) -> Result<Transferred, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(error))?;
        self.parse(&self.ask(Method::POST, "/api/ledger/transfers", body.into()).await?)
    }

    /// `POST /api/ledger/recoveries`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn recover(&self, request: &RecoveryRequest) -> Result<RecoveryAnswer, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(error))?;
        self.parse(&self.ask(Method::POST, "/api/ledger/recoveries", body.into()).await?)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let exchange = async {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{}{path}", self.address))
                .header(AUTHORIZATION, format!("Bearer {}", self.token))
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .map_err(|error| self.broken(error))?;
            let answer = self.client.request(request).await.map_err(|error| match error.is_connect() {
                true => ClientError::NotRunning(self.address),
                false => self.broken(error),
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| self.broken(error))?.to_bytes()))
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        let (status, body) = answer.map_err(|_| self.broken("it did not answer in time"))??;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(ClientError::Refused { status, message: body.error }),
            Err(_) => Err(self.broken(format!("status {status}"))),
        }
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.broken(error))
    }

    fn broken(&self, problem: impl ToString) -> ClientError {
        ClientError::Broken { address: self.address, problem: problem.to_string() }
    }
}

/// A server that listens on all addresses is reached through loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
