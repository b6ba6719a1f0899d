//! `GET /metrics`.

use super::{Shared, refuse};
use crate::metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.server.status.borrow().clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match metrics::encode(&status, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}")),
    }
}
