//! What changes something: `POST /api/orders`, `POST /api/stop/{id}`,
//! `POST /api/invitations` and `POST /api/revoke/{id}`.

use super::{BODY_BYTES_MAX, Shared, refuse};
use crate::api::{Basis, Control, InvitationRequest, OrderRequest};
use crate::preset::Preset;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use manta_protocol::wire::limits::MEMBERS_MAX;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Longest name of a run, order, peer or invitation that is passed on, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Lets a request through that carries the control token.
pub(super) async fn authorize(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if carries_token(request.headers(), &shared.server.control_token) {
        return next.run(request).await;
    }
    let mut response = refuse(
        StatusCode::UNAUTHORIZED,
        "this needs `Authorization: Bearer TOKEN` with the control_token of peer.json in the peer's data directory",
    );
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn carries_token(headers: &HeaderMap, token: &str) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    // Hashes compare in constant time, and whatever the lengths are.
    value.as_bytes().strip_prefix(b"Bearer ").is_some_and(|given| blake3::hash(given) == blake3::hash(token.as_bytes()))
}

pub(super) async fn order(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Response {
    let request = match read(body) {
        Ok(request) => request,
        Err((status, problem)) => return refuse(status, problem),
    };
    let answer = ask(&shared.server.control, |reply| Control::Order(Box::new(request), reply)).await;
    match answer {
        Ok(Ok(accepted)) => (StatusCode::ACCEPTED, Json(accepted)).into_response(),
        Ok(Err(problem)) => refuse(StatusCode::CONFLICT, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

pub(super) async fn stop(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    if id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return refuse(StatusCode::BAD_REQUEST, "expected the id of a run or the number of an order");
    }
    match ask(&shared.server.control, |reply| Control::Stop(id, reply)).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(problem)) => refuse(StatusCode::NOT_FOUND, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

pub(super) async fn invite(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Response {
    let request: InvitationRequest = match parse(body, "an invitation") {
        Ok(request) => request,
        Err((status, problem)) => return refuse(status, problem),
    };
    match ask(&shared.server.control, |reply| Control::Invite(request, reply)).await {
        Ok(Ok(issued)) => (StatusCode::CREATED, Json(issued)).into_response(),
        Ok(Err(problem)) => refuse(StatusCode::CONFLICT, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

pub(super) async fn revoke(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    if id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return refuse(StatusCode::BAD_REQUEST, "expected the serial of an invitation or the id of a peer");
    }
    match ask(&shared.server.control, |reply| Control::Revoke(id, reply)).await {
        Ok(Ok(revoked)) => Json(revoked).into_response(),
        Ok(Err(problem)) => refuse(StatusCode::NOT_FOUND, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

/// The order in the body, or the answer's status and text.
fn read(body: Result<Bytes, BytesRejection>) -> Result<OrderRequest, (StatusCode, String)> {
    let request = parse(body, "an order")?;
    check(&request).map_err(|problem| (StatusCode::UNPROCESSABLE_ENTITY, problem))?;
    Ok(request)
}

/// What the body holds, or the answer's status and text.
pub(super) fn parse<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    what: &str,
) -> Result<T, (StatusCode, String)> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            (rejection.status(), format!("the body is longer than {BODY_BYTES_MAX} bytes"))
        }
        status => (status, format!("cannot read the body: {}", rejection.body_text())),
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is not {what} in JSON: {error}")))
}

/// What can be judged without the driver.
fn check(request: &OrderRequest) -> Result<(), String> {
    Preset::find(&request.preset)?;
    let (min, max) = (request.peers_min, request.peers_max);
    if min == 0 || min > max || usize::from(max) > MEMBERS_MAX {
        return Err(format!("{min} to {max} peers; accepted are 1 to {MEMBERS_MAX}, the least first"));
    }
    if request.rounds == 0 || request.steps_per_round == 0 {
        return Err("a run needs at least one round of at least one step".into());
    }
    let Basis { from, tokenizer, learning_rate, .. } = &request.basis;
    if learning_rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1.0)) {
        return Err("the learning rate must be above 0 and at most 1".into());
    }
    let paths = [Some(&request.out), request.data.as_ref(), from.as_ref(), tokenizer.as_ref()];
    match paths.into_iter().flatten().find(|path| !path.is_absolute()) {
        Some(path) => Err(format!("`{}` is not an absolute path; the peer has its own working folder", path.display())),
        None => Ok(()),
    }
}

/// One question to the driver and its answer, or why there is none.
pub(super) async fn ask<T>(
    control: &mpsc::Sender<Control>,
    question: impl FnOnce(oneshot::Sender<T>) -> Control,
) -> Result<T, &'static str> {
    const GONE: &str = "the peer is shutting down";
    let (reply, answer) = oneshot::channel();
    match control.try_send(question(reply)) {
        Ok(()) => answer.await.map_err(|_| GONE),
        Err(mpsc::error::TrySendError::Full(_)) => Err("too many requests are waiting; try again"),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(GONE),
    }
}
