//! The defence against DNS rebinding.
//!
//! A browser lets a page talk to the page's own name. If that name suddenly
//! resolves to 127.0.0.1, the page talks to us, but the `Host` header still
//! holds the name. Literal addresses cannot be rebound.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use std::net::IpAddr;

/// Accepts `localhost`, loopback addresses, the address that the server is
/// bound to, and, where it is bound to all addresses, any literal address.
///
/// # Errors
/// Says which host was asked for and how to reach the server.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, bound: IpAddr) -> Result<(), String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => authority.host().to_owned(),
        (None, Some(host), None) => {
            let authority: Option<Authority> = host.to_str().ok().and_then(|host| host.parse().ok());
            authority.ok_or("the Host header is not a host")?.host().to_owned()
        }
        (None, None, None) => return Err("the Host header is missing".into()),
        _ => return Err("there is more than one Host header".into()),
    };
    if accepts(&host, bound) {
        return Ok(());
    }
    Err(format!(
        "requests for host `{host}` are not answered, so that web pages cannot reach this peer through a name of \
         theirs; use its address, as in http://127.0.0.1"
    ))
}

fn accepts(host: &str, bound: IpAddr) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == bound || bound.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_ours_are_hosts() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let lan: IpAddr = [192, 168, 1, 7].into();
        let all: IpAddr = [0, 0, 0, 0].into();
        for (host, bound, accepted) in [
            ("localhost", loopback, true),
            ("LOCALHOST", loopback, true),
            ("127.0.0.1", loopback, true),
            ("[::1]", loopback, true),
            ("192.168.1.7", lan, true),
            ("192.168.1.8", lan, false),
            ("192.168.1.7", loopback, false),
            ("203.0.113.9", all, true),
            ("evil.example", all, false),
            ("evil.example", loopback, false),
            ("localhost.evil.example", loopback, false),
            ("127.0.0.1.evil.example", loopback, false),
            ("", loopback, false),
        ] {
            assert_eq!(accepts(host, bound), accepted, "{host} at {bound}");
        }
    }

    #[test]
    fn the_port_does_not_matter_and_there_is_exactly_one_host() {
        let bound = [127, 0, 0, 1].into();
        let ask = |uri: &'static str, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, axum::http::HeaderValue::from_static(host));
            }
            check(&headers, &Uri::from_static(uri), bound)
        };
        assert_eq!(ask("/", &["localhost:9000"]), Ok(()));
        assert_eq!(ask("http://127.0.0.1:8420/", &["127.0.0.1:8420"]), Ok(()));
        assert!(ask("/", &[]).is_err_and(|e| e.contains("missing")));
        assert!(ask("/", &["localhost", "localhost"]).is_err_and(|e| e.contains("more than one")));
        assert!(ask("http://evil.example/", &["localhost"]).is_err_and(|e| e.contains("evil.example")));
        assert!(ask("/", &["a b"]).is_err());
    }
}
