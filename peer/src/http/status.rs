//! `GET /healthz` and `GET /api/status`.

use super::{Shared, refuse};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// 200 while the driver runs, 503 once it has ended.
pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.server.control.is_closed() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the peer is shutting down");
    }
    "ok\n".into_response()
}

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.server.status.borrow().clone();
    Json(&*status).into_response()
}
