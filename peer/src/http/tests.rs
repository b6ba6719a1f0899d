//! The server and the client over a real loopback connection.

use super::client::{ClientError, PeerClient};
use super::{BindError, Server, bind, serve};
use crate::account::{Question, TransferRequest};
use crate::api::{
    Basis, Control, ErrorBody, InvitationIssued, InvitationRequest, OrderAccepted, OrderRequest, Revoked,
};
use crate::recovery::{RecoveryAnswer, RecoveryDocument, RecoveryRequest};
use crate::status::Status;
use hyper::StatusCode;
use manta_protocol::market::demand::Share;
use manta_protocol::membership::Role;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

const TOKEN: &str = "the-control-token";

/// A served status, with a driver that takes orders for `nano` and stops `r1`.
struct Bench {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
}

impl Bench {
    async fn start() -> Self {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (status, watched) = watch::channel(Arc::new(Status { peer_id: "p0".into(), ..Status::default() }));
        let (control, mut questions) = mpsc::channel(4);
        let server = Server { status: watched, control, control_token: TOKEN.into() };
        tokio::spawn(serve(listener, server));
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                match question {
                    Control::Order(order, reply) => {
                        let known = order.preset == "nano";
                        let answer = if known { Ok(OrderAccepted { order: 3 }) } else { Err("busy".to_owned()) };
                        reply.send(answer).expect("the server waits");
                    }
                    Control::Stop(id, reply) => {
                        let answer = if id == "r1" { Ok(()) } else { Err(format!("no run `{id}`")) };
                        reply.send(answer).expect("the server waits");
                    }
                    Control::Invite(request, reply) => {
                        let answer = if request.lifetime_s == 60 { Ok(issued()) } else { Err("too long".to_owned()) };
                        reply.send(answer).expect("the server waits");
                    }
                    Control::Ask(question, reply) => {
                        let known = question == Question::Power("ab".into());
                        let answer =
                            if known { Ok(serde_json::json!({ "known": true })) } else { Err("no such".into()) };
                        reply.send(answer).expect("the server waits");
                    }
                    Control::Transfer(request, reply) => {
                        let answer = if request.amount == 5 { Ok("cafe".into()) } else { Err("too much".into()) };
                        reply.send(answer).expect("the server waits");
                    }
                    Control::Recover(request, reply) => {
                        let known = matches!(*request, RecoveryRequest::Propose { .. });
                        let document = RecoveryDocument { height: 7, ..RecoveryDocument::default() };
                        let answer =
                            RecoveryAnswer { document, missing: Vec::new(), followed: false, backing_permille: 400 };
                        reply
                            .send(if known { Ok(answer) } else { Err("it goes on".into()) })
                            .expect("the server waits");
                    }
                    Control::Revoke(id, reply) => {
                        let peers = vec!["p1".to_owned()];
                        let answer = if id == "abcd" { Ok(Revoked { serials: vec![id], peers }) } else { Err(id) };
                        reply.send(answer).expect("the server waits");
                    }
                }
            }
        });
        Self { address, status }
    }

    fn client(&self) -> PeerClient {
        PeerClient::new(self.address, TOKEN)
    }

    /// Sends raw bytes and returns the status line's number, the headers and the body.
    async fn raw(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text until the end");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, authorization: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let (status, _, body) = self.raw(&request).await;
        (status, body)
    }
}

fn error_of(body: &str) -> String {
    serde_json::from_str::<ErrorBody>(body).expect("an error body").error
}

fn issued() -> InvitationIssued {
    InvitationIssued { ticket: "t".into(), serial: "abcd".into(), role: Role::Own, expires_at_ms: 7 }
}

fn order(preset: &str) -> OrderRequest {
    OrderRequest {
        data: None,
        out: std::env::temp_dir().join("out"),
        overwrite: false,
        preset: preset.into(),
        basis: Basis::default(),
        peers_min: 1,
        peers_max: 4,
        rounds: 2,
        steps_per_round: 3,
        local: false,
        solo: false,
        seed: 1,
        patience_ms: 1000,
        deadline_ms: 2000,
        share: Share::Own,
    }
}

#[tokio::test]
async fn reading_needs_no_token_and_follows_the_status() {
    let bench = Bench::start().await;
    let (status, head, body) = bench.get("/healthz").await;
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert!(head.contains("cache-control: no-store"), "{head}");

    let (status, head, body) = bench.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");

    let (status, head, body) = bench.get("/").await;
    assert_eq!(status, 200);
    assert!(head.contains("default-src 'none'") && body.contains("/page.js"), "{head}{body}");
    assert!(!body.contains("://"), "the page loads nothing from elsewhere");
    for file in ["/page.css", "/page.js"] {
        assert_eq!(bench.get(file).await.0, 200, "{file}");
    }

    assert_eq!(bench.client().status().await.expect("a status").peer_id, "p0");
    bench.status.send_replace(Arc::new(Status { peer_id: "p1".into(), ..Status::default() }));
    assert_eq!(bench.client().status().await.expect("a status").peer_id, "p1");
}

#[tokio::test]
async fn orders_and_stops_reach_the_driver_and_its_refusals_come_back() {
    let bench = Bench::start().await;
    let client = bench.client();
    assert_eq!(client.order(&order("nano")).await.expect("accepted"), OrderAccepted { order: 3 });
    let refused = client.order(&order("tiny")).await.expect_err("refused");
    assert!(matches!(&refused, ClientError::Refused { status: StatusCode::CONFLICT, message } if message == "busy"));
    client.stop("r1").await.expect("stopped");
    let refused = client.stop("r2").await.expect_err("unknown").to_string();
    assert_eq!(refused, "no run `r2`");
}

#[tokio::test]
async fn invitations_and_revocations_reach_the_driver() {
    let bench = Bench::start().await;
    let client = bench.client();
    let request = |lifetime_s| InvitationRequest { role: Role::Own, lifetime_s };
    assert_eq!(client.invite(&request(60)).await.expect("issued"), issued());
    assert_eq!(client.invite(&request(61)).await.expect_err("refused").to_string(), "too long");
    let revoked = client.revoke("abcd").await.expect("revoked");
    assert_eq!((revoked.serials, revoked.peers), (vec!["abcd".to_owned()], vec!["p1".to_owned()]));
    assert_eq!(client.revoke("beef").await.expect_err("unknown").to_string(), "beef");
    assert!(client.revoke("..%2Fx").await.expect_err("no name").to_string().contains("serial"));
    // An order that says nothing keeps the text among the user's own peers.
    let mut order = serde_json::to_value(order("nano")).expect("JSON");
    order.as_object_mut().expect("an object").remove("share");
    assert_eq!(serde_json::from_value::<OrderRequest>(order).expect("an order").share, Share::Own);
}

#[tokio::test]
async fn changing_needs_exactly_the_token() {
    let bench = Bench::start().await;
    let body = serde_json::to_string(&order("nano")).expect("JSON");
    for authorization in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: the-control-token\r\n",
        "Authorization: Basic the-control-token\r\n",
        "Authorization: Bearer the-control-token2\r\n",
        "Authorization: Bearer the-control-token\r\nAuthorization: Bearer wrong\r\n",
    ] {
        for path in ["/api/orders", "/api/stop/r1", "/api/invitations", "/api/revoke/abcd"] {
            let (status, answer) = bench.post(path, authorization, &body).await;
            assert_eq!(status, 401, "{path} {authorization}");
            assert!(error_of(&answer).contains("peer.json"), "{answer}");
        }
    }
    let right = "Authorization: Bearer the-control-token\r\n";
    assert_eq!(bench.post("/api/orders", right, &body).await.0, 202);
    let stranger = PeerClient::new(bench.address, "wrong").stop("r1").await.expect_err("refused");
    assert!(matches!(stranger, ClientError::Refused { status: StatusCode::UNAUTHORIZED, .. }));
}

#[tokio::test]
async fn the_ledger_is_asked_by_path_and_moved_with_the_token() {
    let bench = Bench::start().await;
    let client = bench.client();
    let found: serde_json::Value = client.ledger(&Question::Power("ab".into())).await.expect("an answer");
    assert_eq!(found["known"], true);
    let other = client.ledger::<serde_json::Value>(&Question::Drills).await;
    assert!(matches!(other, Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. })), "{other:?}");
    for path in ["salary/ab", "block/x", "drill/zz", "account/../../etc"] {
        let request = format!("GET /api/ledger/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        let (status, _, body) = bench.raw(&request).await;
        assert!(status == 400 && error_of(&body).contains("hexadecimal"), "{path}: {status} {body}");
    }
    let transfer = |to: &str, amount| TransferRequest { to: to.into(), amount };
    assert_eq!(client.transfer(&transfer("ab", 5)).await.expect("it is taken").transaction, "cafe");
    let refused = client.transfer(&transfer("ab", 6)).await.expect_err("too much");
    assert!(matches!(refused, ClientError::Refused { status: StatusCode::CONFLICT, .. }), "{refused:?}");
    let nobody = client.transfer(&transfer("", 5)).await.expect_err("nobody is named");
    assert!(matches!(nobody, ClientError::Refused { status: StatusCode::BAD_REQUEST, .. }), "{nobody:?}");
    let stranger = PeerClient::new(bench.address, "guessed");
    let propose = RecoveryRequest::Propose { members: vec!["ab".into()] };
    assert_eq!(client.recover(&propose).await.expect("it is made").document.height, 7);
    let accept = RecoveryRequest::AcceptOffered { recovery: "ab".into() };
    let refused = client.recover(&accept).await.expect_err("it is not followed");
    assert!(
        matches!(&refused, ClientError::Refused { status: StatusCode::CONFLICT, message } if message == "it goes on")
    );
    assert!(stranger.recover(&propose).await.is_err_and(|error| error.to_string().contains("control_token")));
    let refused = stranger.transfer(&transfer("ab", 5)).await.expect_err("no token");
    assert!(matches!(refused, ClientError::Refused { status: StatusCode::UNAUTHORIZED, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_name_that_was_rebound_to_us_is_refused() {
    let bench = Bench::start().await;
    for host in ["evil.example", "evil.example:8420", "10.0.0.1"] {
        for path in ["/", "/api/status", "/metrics", "/nothing"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let (status, _, body) = bench.raw(&request).await;
            assert_eq!(status, 403, "{host} {path}");
            assert!(error_of(&body).contains("127.0.0.1"), "{body}");
        }
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason_in_json() {
    let bench = Bench::start().await;
    let right = "Authorization: Bearer the-control-token\r\n";
    let change = |change: &dyn Fn(&mut OrderRequest)| {
        let mut order = order("nano");
        change(&mut order);
        serde_json::to_string(&order).expect("JSON")
    };
    let huge = " ".repeat(super::BODY_BYTES_MAX + 1);
    for (body, status, reason) in [
        (huge.as_str(), 413, "65536"),
        ("", 400, "not an order"),
        ("{}", 400, "missing field"),
        ("{\"surprise\":1}", 400, "unknown field"),
        (&change(&|order| order.preset = "giant".into()), 422, "nano, tiny, small"),
        (&change(&|order| order.peers_min = 5), 422, "the least first"),
        (&change(&|order| order.peers_min = 0), 422, "1 to 16"),
        (&change(&|order| order.peers_max = 1000), 422, "1 to 16"),
        (&change(&|order| order.rounds = 0), 422, "at least one round"),
        (&change(&|order| order.out = "relative".into()), 422, "`relative` is not an absolute path"),
        (&change(&|order| order.data = Some("text".into())), 422, "`text` is not an absolute path"),
    ] {
        let (found, answer) = bench.post("/api/orders", right, body).await;
        assert_eq!(found, status, "{answer}");
        assert!(error_of(&answer).contains(reason), "expected {reason} in {answer}");
    }
    for (path, status) in [("/nothing", 404), ("/api/orders", 405)] {
        let (found, _, answer) = bench.get(path).await;
        assert_eq!(found, status, "{path}");
        error_of(&answer);
    }
    let (status, answer) = bench.post("/api/stop/..%2Fx", right, "").await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn a_peer_that_has_gone_is_told_from_a_stranger_on_its_port() {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let client = PeerClient::new(address, TOKEN);
    let answer = tokio::join!(client.status(), async {
        let (mut stranger, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 16];
        stranger.read_exact(&mut request).await.expect("a request");
        stranger.write_all(b"220 mail ready\r\n").await.expect("sends");
    });
    assert!(matches!(answer.0, Err(ClientError::Broken { .. })), "{:?}", answer.0);
    drop(listener);
    let error = client.status().await.expect_err("nobody is there");
    assert!(matches!(error, ClientError::NotRunning(_)), "{error:?}");
    assert!(error.to_string().contains("`manta up`"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_names_the_address_and_the_option() {
    let first = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let address = first.local_addr().expect("an address");
    let error = bind(address).await.expect_err("taken");
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("--http"), "{text}");
}

#[tokio::test]
async fn connections_beyond_the_maximum_wait_and_are_served_later() {
    let bench = Bench::start().await;
    let mut idle = Vec::new();
    for _ in 0..super::connections::CONNECTIONS_MAX {
        idle.push(TcpStream::connect(bench.address).await.expect("connects"));
    }
    // It waits in the kernel's queue with its request, behind as many as are served.
    let mut beyond = TcpStream::connect(bench.address).await.expect("connects");
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    beyond.write_all(request).await.expect("sends");
    // The others are served meanwhile, each of them after that request had come; in turn, so that the server, which
    // shares our only thread, has looked for new connections many times.
    for served in &mut idle {
        served.write_all(request).await.expect("sends");
        served.read_u8().await.expect("an answer");
    }
    let error = beyond.try_read(&mut [0]).expect_err("there is no room");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    idle.clear();
    assert_eq!(beyond.read_u8().await.expect("an answer when there is room"), b'H');
}
