//! Who may change something over the admin port: a person on the server's own machine. Nobody over
//! a network, and no web page.
//!
//! The port knows no credential yet, so what it lets do is bound by where the caller is. A page in
//! the browser of an operator is on the operator's machine too; it gives itself away by where it
//! was loaded from:
//!
//! | header | refused when |
//! |---|---|
//! | `Host` | it is a name other than `localhost`: a name of the page's owner may lead here (DNS rebinding) |
//! | `Origin` | it is not this very host |
//! | `Sec-Fetch-Site` | it is `cross-site` or `same-site` |
//!
//! Does not guard what only asks (GET, HEAD, OPTIONS), which changes nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, Uri, header};
use shuffle_proto::kind::Kind;

use super::{Refused, front::Front};
use crate::error::Refusal;

/// Lets through what only asks, and changes that come from this machine.
pub(super) async fn guard(
    State(front): State<Arc<Front>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let asks = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let checked = match asks {
        true => Ok(()),
        false => may_change(peer.ip(), request.uri(), request.headers()),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let (method, path) = (request.method(), request.uri().path());
            let why = &refusal.message;
            if front.may_log() {
                tracing::warn!(%peer, %method, path, why, "a change over the admin port is refused");
            }
            Refused(refusal).into_response()
        }
    }
}

/// Whether this caller may change something; if not, which of its fields says so.
fn may_change(peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    // invariant: changes-from-loopback
    // `::ffff:127.0.0.1` is how a socket of both families shows 127.0.0.1.
    let peer = peer.to_canonical();
    if !peer.is_loopback() {
        return refuse(
            "peer",
            &peer.to_string(),
            "what changes something is done on the server's own machine: run `forebay … --server 127.0.0.1:PORT` there \
             (in Kubernetes: `kubectl exec POD -- forebay …`)",
        );
    }
    let text = |name| match headers.get(name) {
        None => Ok(None),
        Some(value) => value.to_str().map(Some).or_else(|_| {
            refuse(
                "a header",
                "no text",
                "leave it out, or send what a browser would",
            )
        }),
    };
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => text(header::HOST)?,
    };
    if let Some(host) = host
        && !is_local(host)
    {
        let remedy =
            "name the server by 127.0.0.1, [::1] or localhost: another name may be a web page's";
        return refuse("Host", host, remedy);
    }
    if let Some(origin) = text(header::ORIGIN)?
        && origin.strip_prefix("http://") != host
    {
        return refuse(
            "Origin",
            origin,
            "web pages change nothing here: use the tool `forebay`",
        );
    }
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))?
        && !["same-origin", "none"].contains(&site)
    {
        return refuse(
            "Sec-Fetch-Site",
            site,
            "web pages change nothing here: use the tool `forebay`",
        );
    }
    Ok(())
}

/// Whether nobody's DNS decides where this host leads: an address, or `localhost`.
fn is_local(host: &str) -> bool {
    let Ok(host) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = host.host().trim_end_matches('.');
    let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    bare.unwrap_or(name).parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
}

fn refuse<T>(field: &str, value: &str, remedy: &str) -> Result<T, Refusal> {
    let value: String = value.chars().take(160).collect();
    Err(Refusal::new(
        Kind::Denied,
        format!("{field} is {value}: {remedy}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: &str, headers: &[(&'static str, &str)]) -> Result<(), String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header"));
        }
        let peer = peer.parse().expect("an address");
        may_change(peer, &Uri::from_static("/api/v1/drain"), &map)
            .map_err(|refusal| refusal.message)
    }

    #[test]
    fn only_this_machine_changes_something() {
        for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(asked(peer, &[("host", "127.0.0.1:7401")]), Ok(()), "{peer}");
        }
        for peer in [
            "10.0.0.7",
            "192.168.1.1",
            "::ffff:10.0.0.7",
            "fe80::1",
            "0.0.0.0",
            "::",
            "::127.0.0.1",
        ] {
            let why = asked(peer, &[("host", "127.0.0.1:7401")]).expect_err(peer);
            assert!(
                why.contains("peer is") && why.contains("kubectl exec"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_host_whose_address_somebody_elses_dns_decides_is_refused() {
        for host in [
            "127.0.0.1:7401",
            "127.0.0.1",
            "localhost:7401",
            "LOCALHOST",
            "localhost.",
            "[::1]:7401",
            "a.localhost:1",
        ] {
            assert_eq!(asked("127.0.0.1", &[("host", host)]), Ok(()), "{host}");
        }
        // Clients that are no browser may leave it out.
        assert_eq!(asked("127.0.0.1", &[]), Ok(()));
        for host in [
            "evil.example",
            "evil.example:7401",
            "localhost.evil.example",
            "127.0.0.1.evil.example:7401",
            "127.0.0.1:7401, evil",
            "",
        ] {
            let why = asked("127.0.0.1", &[("host", host)]).expect_err(host);
            assert!(why.contains("Host is"), "{host:?}: {why}");
        }
    }

    #[test]
    fn a_web_page_changes_nothing() {
        let host = ("host", "localhost:7401");
        let own = ("origin", "http://localhost:7401");
        assert_eq!(asked("::1", &[host, own]), Ok(()));
        assert_eq!(
            asked("::1", &[host, own, ("sec-fetch-site", "same-origin")]),
            Ok(())
        );
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:8080",
            "https://localhost:7401",
            "http://localhost",
            "",
        ] {
            let why = asked("::1", &[host, ("origin", origin)]).expect_err(origin);
            assert!(why.contains("Origin is"), "{why}");
        }
        for site in ["cross-site", "same-site", "x"] {
            let why = asked("::1", &[host, ("sec-fetch-site", site)]).expect_err(site);
            assert!(why.contains("Sec-Fetch-Site is"), "{why}");
        }
    }
}
