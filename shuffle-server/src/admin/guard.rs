//! Who gets past the admin port's door: who it is, says [`crate::auth::roles`]; that it is no web
//! page, this module. Whatever is refused is told in the audit.
//!
//! A page in the browser of an operator is on the operator's machine too; it gives itself away by
//! where it was loaded from:
//!
//! | header | refused when |
//! |---|---|
//! | `Host` | it is a name other than `localhost`, where being on this machine is what counts: a name of the page's owner may lead here (DNS rebinding) |
//! | `Origin` | it is not this very host |
//! | `Sec-Fetch-Site` | it is `cross-site` or `same-site` |
//!
//! What only asks (GET, HEAD, OPTIONS) changes nothing, and is not looked at for those.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use shuffle_proto::kind::Kind;

use super::{Refused, front::Front};
use crate::{
    auth::{
        audit,
        roles::{Certificate, No, Question, Who},
    },
    error::Refusal,
};

/// Lets through who may do what is asked, with [`Who`] it is.
pub(super) async fn guard(
    State(front): State<Arc<Front>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let looks = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let admins = &front.auth.admins;
    let no_page = match looks {
        true => Ok(()),
        false => no_page(request.uri(), request.headers(), admins.is_local()),
    };
    let admitted = match no_page {
        Err(refusal) => Err(No::Denied {
            who: "nobody".into(),
            why: refusal.message,
        }),
        Ok(()) => {
            let authorization = request.headers().get(header::AUTHORIZATION);
            let question = Question {
                peer: peer.ip(),
                method: request.method().as_str(),
                path: request.uri().path(),
                // What is no text is no token.
                authorization: authorization.map(|value| value.to_str().unwrap_or_default()),
                certificate: request.extensions().get::<Certificate>(),
                looks,
            };
            admins.admit(&question).await
        }
    };
    match admitted {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(no) => refused(&no, looks, peer, &request),
    }
}

fn refused(no: &No, looks: bool, peer: SocketAddr, request: &Request) -> Response {
    let (kind, who, why) = match no {
        No::Unknown { why } => (Kind::Denied, "nobody", why),
        No::Denied { who, why } => (Kind::Denied, who.as_str(), why),
        No::Unavailable { why } => (Kind::Unavailable, "nobody", why),
    };
    let action = match looks {
        true => "look",
        false => "change",
    };
    let path: String = request.uri().path().chars().take(300).collect();
    let path = format!("{} {path}", request.method());
    audit::refused(action, who, Some(peer), None, &path, why);
    let mut answer = Refused(Refusal::new(kind, why)).into_response();
    if matches!(no, No::Unknown { .. }) {
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        let challenge = HeaderValue::from_static("Bearer realm=\"forebay\"");
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

/// Who asks, for the audit.
pub(super) fn who(extension: Option<&Who>) -> &str {
    extension.map_or("nobody", |Who(name)| name)
}

/// Whether this is no web page's doing; if it may be, which of its fields says so. `local`: whether
/// being on this machine is what counts.
fn no_page(uri: &Uri, headers: &HeaderMap, local: bool) -> Result<(), Refusal> {
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
        && local
        && !is_local(host)
    {
        let remedy =
            "name the server by 127.0.0.1, [::1] or localhost: another name may be a web page's";
        return refuse("Host", host, remedy);
    }
    if let Some(origin) = text(header::ORIGIN)?
        && origin.split_once("://").map(|(_, of)| of) != host
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
    use futures_util::FutureExt;

    use super::*;
    use crate::auth::roles::Admins;

    fn asked(peer: &str, headers: &[(&'static str, &str)]) -> Result<(), String> {
        as_in(true, peer, headers)
    }

    fn as_in(local: bool, peer: &str, headers: &[(&'static str, &str)]) -> Result<(), String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header"));
        }
        let question = Question {
            peer: peer.parse().expect("an address"),
            method: "POST",
            path: "/api/v1/drain",
            authorization: None,
            certificate: None,
            looks: false,
        };
        if local
            && let Err(No::Denied { why, .. }) = Admins::Local
                .admit(&question)
                .now_or_never()
                .expect("no wait")
        {
            return Err(why);
        }
        no_page(&Uri::from_static("/api/v1/drain"), &map, local).map_err(|refusal| refusal.message)
    }

    #[test]
    fn with_tokens_a_server_may_have_any_name_and_a_page_still_changes_nothing() {
        let host = ("host", "forebay-0.forebay:7401");
        assert_eq!(as_in(false, "10.0.0.7", &[host]), Ok(()));
        let page = ("origin", "https://evil.example");
        let why = as_in(false, "10.0.0.7", &[host, page]).expect_err("a page");
        assert!(why.contains("Origin is"), "{why}");
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
            "https://localhost:7402",
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
