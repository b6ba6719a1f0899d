//! The one program of Manta.
#![allow(dead_code)]

mod api;
mod board;
mod checkpoint;
mod data;
mod driver;
mod host;
mod http;
mod identity;
mod metrics;
mod net;
mod preset;
mod run;
mod status;
mod store;
mod up;

fn main() {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let a: Vec<String> = std::env::args().collect();
    let o = up::UpOptions { data_dir: a[1].clone().into(), network: "t".into(), join: a[2..].to_vec(),
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        http: "127.0.0.1:0".parse().unwrap(), mdns: false, region: "".into(), threads: 1, offer: true, duration_max_s: 1 << 20 };
    let rt = tokio::runtime::Runtime::new().unwrap();
    let r = rt.block_on(up::run(o, |p, _| println!("{}", serde_json::to_string(p).unwrap()), async { tokio::signal::ctrl_c().await.ok(); }));
    if let Err(e) = r { eprintln!("error: {e}"); }
}
