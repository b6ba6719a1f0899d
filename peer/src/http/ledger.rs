//! What the ledger says: `GET /api/ledger/{what}/{which}`; and
//! `POST /api/ledger/transfers`, which moves credits, and
//! `POST /api/ledger/recoveries`, which replaces a committee that has left.

use super::control::{ask, parse};
use super::{Shared, refuse};
use crate::account::{Question, TransferRequest, Transferred};
use crate::api::Control;
use crate::recovery::RecoveryRequest;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

pub(super) async fn answer(State(shared): State<Arc<Shared>>, Path((what, which)): Path<(String, String)>) -> Response {
    respond(&shared, &what, &which).await
}

/// Where nothing is named: this peer, or everything.
pub(super) async fn answer_of_all(State(shared): State<Arc<Shared>>, Path(what): Path<String>) -> Response {
    respond(&shared, &what, "").await
}

async fn respond(shared: &Shared, what: &str, which: &str) -> Response {
    let Some(question) = Question::read(what, which) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "expected block/HEIGHT, account/PEER, power/PEER, transaction/ID, drill/TASK or drills/ below /api/ledger/, \
             with ids in hexadecimal",
        );
    };
    match ask(&shared.server.control, |reply| Control::Ask(question, reply)).await {
        Ok(Ok(found)) => Json(found).into_response(),
        Ok(Err(problem)) => refuse(StatusCode::NOT_FOUND, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

pub(super) async fn recover(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Response {
    let request: RecoveryRequest = match parse(body, "a recovery") {
        Ok(request) => request,
        Err((status, problem)) => return refuse(status, problem),
    };
    match ask(&shared.server.control, |reply| Control::Recover(Box::new(request), reply)).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(problem)) => refuse(StatusCode::CONFLICT, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

pub(super) async fn transfer(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Response {
    let request: TransferRequest = match parse(body, "a transfer") {
        Ok(request) => request,
        Err((status, problem)) => return refuse(status, problem),
    };
    if request.to.len() > 64 || !request.to.bytes().all(|byte| byte.is_ascii_hexdigit()) || request.to.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "expected the id of a peer in `to`, in hexadecimal");
    }
    match ask(&shared.server.control, |reply| Control::Transfer(request, reply)).await {
        Ok(Ok(transaction)) => (StatusCode::ACCEPTED, Json(Transferred { transaction })).into_response(),
        Ok(Err(problem)) => refuse(StatusCode::CONFLICT, problem),
        Err(problem) => refuse(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}
