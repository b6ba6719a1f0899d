//! The peer's HTTP server: a live page, health, metrics, status and control.
//!
//! It listens on loopback unless told otherwise. Three things keep strangers
//! out: the `Host` header must name this machine (against DNS rebinding, a web
//! page that points its own name at 127.0.0.1); what changes something needs
//! the control token from `peer.json`; and connections, request bodies and
//! waiting are bounded. Every error is JSON: [`ErrorBody`].

pub(crate) mod client;
mod connections;
mod control;
mod host;
mod ledger;
mod metrics;
mod page;
pub(crate) mod peer_file;
mod status;
#[cfg(test)]
mod tests;

use crate::api::{Control, ErrorBody};
use crate::status::Status;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use connections::BoundedListener;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest time that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's address cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody listens there, most likely another peer.
    #[error(
        "{address} is in use, perhaps by another peer (see `manta status`); choose another address with `--http`, \
         for example `--http 127.0.0.1:0` for any free port"
    )]
    InUse { address: SocketAddr },
    /// Anything else, such as an address of another machine.
    #[error("cannot listen on {address} for HTTP: {source}; choose another address with `--http`")]
    Other { address: SocketAddr, source: io::Error },
}

/// What the server shows and whom it asks.
pub(crate) struct Server {
    /// The newest status of the peer.
    pub(crate) status: watch::Receiver<Arc<Status>>,
    /// To the driver.
    pub(crate) control: mpsc::Sender<Control>,
    /// Needed for every request that changes something.
    pub(crate) control_token: String,
}

struct Shared {
    server: Server,
    bound: IpAddr,
}

/// Takes the address; its port 0 means any free one.
///
/// # Errors
/// Says which address could not be had, and names the option that changes it.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Other { address, source },
    })
}

/// Serves until the future is dropped.
///
/// # Errors
/// When the listener's own address cannot be read.
pub(crate) async fn serve(listener: TcpListener, server: Server) -> io::Result<()> {
    let bound = listener.local_addr()?.ip();
    let app = router(Arc::new(Shared { server, bound }));
    axum::serve(BoundedListener::new(listener), app).await
}

fn router(shared: Arc<Shared>) -> Router {
    let control = Router::new()
        .route("/api/orders", post(control::order))
        .route("/api/stop/{id}", post(control::stop))
        .route("/api/invitations", post(control::invite))
        .route("/api/revoke/{id}", post(control::revoke))
        .route("/api/ledger/transfers", post(ledger::transfer))
        .route("/api/ledger/recoveries", post(ledger::recover))
        .route_layer(middleware::from_fn_with_state(shared.clone(), control::authorize))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/healthz", get(status::health))
        .route("/metrics", get(metrics::scrape))
        .route("/api/status", get(status::status))
        .route("/api/ledger/{what}/{*which}", get(ledger::answer))
        .route("/api/ledger/{what}/", get(ledger::answer_of_all))
        .merge(control)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// What every request passes: the host check, the time limit, common headers.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = match host::check(request.headers(), request.uri(), shared.bound) {
        Ok(()) => match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("no answer within {} s; the peer is overloaded, try again", REQUEST_TIMEOUT.as_secs()),
            ),
        },
        Err(problem) => refuse(StatusCode::FORBIDDEN, problem),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn not_found(uri: Uri) -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        format!(
            "there is nothing at {}; there are /, /healthz, /metrics, /api/status, /api/ledger/block/HEIGHT, \
             /api/ledger/account/PEER, /api/ledger/transaction/ID, /api/ledger/power/PEER, /api/ledger/drills/, \
             /api/ledger/drill/TASK, /api/ledger/transfers, /api/ledger/recoveries, /api/orders, /api/stop/RUN, \
             /api/invitations and /api/revoke/SERIAL",
            uri.path()
        ),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible at {}; GET reads, POST changes", uri.path()),
    )
}

/// An error answer.
fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(ErrorBody { error: error.into() })).into_response()
}
