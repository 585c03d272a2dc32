//! What web pages may do: those of listed origins send requests, all others none.
//!
//! A browser sends a page's request before it knows whether the page may read the answer, so CORS
//! headers alone do not keep a page from exchanging adapters. And a page whose name is made to point
//! at this machine (DNS rebinding) is of the server's own origin for the browser.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, extract::State};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::control;
use crate::serve::Config;
use crate::serve::error::ApiError;

/// Whose pages may send requests, and under which names the server is reached.
#[derive(Clone, Debug, PartialEq)]
struct Pages {
    /// Origins, `localhost` for those of this machine, or `*`.
    origins: Vec<String>,
    /// Names of the server; none: any.
    names: Option<Vec<String>>,
}

/// The router behind the rules for pages.
pub(super) fn guarded(router: Router, config: &Config) -> Router {
    let pages = Arc::new(Pages::of(config));
    let router = if pages.origins.is_empty() {
        router
    } else {
        router.layer(cors(Arc::clone(&pages)))
    };
    router.layer(middleware::from_fn_with_state(pages, admit))
}

async fn admit(State(pages): State<Arc<Pages>>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(Authority::as_str);
    let host = authority.or_else(|| text(request.headers(), &header::HOST));
    // An origin that is no text is one that no list has.
    let origin = request.headers().get(header::ORIGIN);
    let origin = origin.map(|origin| origin.to_str().unwrap_or("null"));
    if let Some(reason) = pages.refuse(host, origin) {
        return ApiError::forbidden(reason).into_response();
    }
    if request.method() == Method::POST && changes(request.uri().path()) && !is_json(&request) {
        return ApiError::media_type().into_response();
    }
    next.run(request).await
}

/// Whether a path exchanges adapters or starts transfers.
pub(super) fn changes(path: &str) -> bool {
    const PATHS: [&str; 5] = [
        "/lora-adapters",
        "/v1/adapters",
        "/v1/load_lora_adapter",
        "/v1/transfers",
        "/v1/unload_lora_adapter",
    ];
    PATHS.iter().any(|changing| path.starts_with(changing))
}

/// No body, or one that a page cannot send without asking first.
fn is_json(request: &Request) -> bool {
    let headers = request.headers();
    let empty = text(headers, &header::CONTENT_LENGTH).is_none_or(|length| length == "0")
        && !headers.contains_key(header::TRANSFER_ENCODING);
    let media = text(headers, &header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    empty || media.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Pages {
    fn of(config: &Config) -> Self {
        let everywhere = |host: &String| !is_this_machine(without_port(host));
        let names = if config.has_keys()
            || config.hosts.iter().any(everywhere)
            || config.origins.iter().any(|origin| origin == "*")
        {
            None
        } else {
            let listed = config.origins.iter().map(|origin| host_of(origin));
            let own = config.hosts.iter().map(|host| without_port(host));
            Some(listed.chain(own).map(str::to_owned).collect())
        };
        Self {
            origins: config.origins.clone(),
            names,
        }
    }

    /// Why a request is not answered; none where it is.
    ///
    /// `host`: what the client calls the server. `origin`: of the page; programs send none
    fn refuse(&self, host: Option<&str>, origin: Option<&str>) -> Option<String> {
        if let (Some(names), Some(host)) = (&self.names, host) {
            let name = without_port(host);
            if !is_this_machine(name) && !names.iter().any(|known| known == name) {
                return Some(format!(
                    "without an API key this server answers to localhost, and not to {name:?}: \
                    give it a key, or list http://{name} among the origins of pages"
                ));
            }
        }
        let origin = origin?;
        let own = host.is_some_and(|host| {
            origin
                .split_once("://")
                .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host))
        });
        if own || self.has(origin) {
            return None;
        }
        Some(format!(
            "pages of {origin:?} may send no requests: it is not among the origins of pages"
        ))
    }

    fn has(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allows(allowed, origin))
    }
}

/// Let the pages of listed origins read answers.
fn cors(pages: Arc<Pages>) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, _: &Parts| {
        origin.to_str().is_ok_and(|origin| pages.has(origin))
    };
    let headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static(control::REQUEST_ID),
    ];
    let shown = [control::GENERATION, control::REQUEST_ID].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers)
        .expose_headers(shown)
}

/// `*` allows every origin, `localhost` those of this machine whatever their port, anything else
/// itself.
fn allows(allowed: &str, origin: &str) -> bool {
    allowed == "*"
        || allowed == origin
        || (allowed == "localhost" && is_this_machine(host_of(origin)))
}

fn is_this_machine(name: &str) -> bool {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// `example.org` of `https://example.org:8080`.
fn host_of(origin: &str) -> &str {
    without_port(origin.split_once("://").map_or(origin, |(_, rest)| rest))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // Not the last part of an address in brackets, nor of one without them.
        Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => authority,
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_of_this_machine_are_told_from_others() {
        for origin in [
            "http://localhost",
            "https://localhost:8080",
            "http://127.0.0.1:3000",
            "http://[::1]",
            "http://[::1]:3000",
        ] {
            assert!(
                allows("localhost", origin) && allows("*", origin),
                "{origin}"
            );
        }
        for origin in [
            "http://web.mydomain.fr",
            "http://notlocalhost",
            "http://localhost.evil.com",
            "http://localhost:80.evil.com",
            "http://127.0.0.1.evil.com",
            "null",
        ] {
            assert!(
                !allows("localhost", origin) && allows("*", origin) && allows(origin, origin),
                "{origin}"
            );
        }
    }

    #[test]
    fn a_page_is_answered_where_its_origin_is_listed_and_the_name_is_the_servers() {
        let pages = |origins: &[&str], names: Option<&[&str]>| Pages {
            origins: origins.iter().map(ToString::to_string).collect(),
            names: names.map(|names| names.iter().map(ToString::to_string).collect()),
        };
        let evil = Some("http://evil.example");
        let cases = [
            // A program, under a name of this machine and under others.
            (&[][..], Some(&[][..]), Some("localhost:80"), None, true),
            (&[], Some(&[]), Some("127.0.0.1:8080"), None, true),
            (&[], Some(&[]), Some("[::1]:8080"), None, true),
            (&[], Some(&[]), None, None, true),
            (&[], Some(&[]), Some("evil.example:80"), None, false),
            (&[], Some(&["box"]), Some("box:80"), None, true),
            (&[], None, Some("box:80"), None, true),
            // A page: the server's own, another one, one that is listed.
            (
                &[],
                Some(&[]),
                Some("localhost:80"),
                Some("http://localhost:80"),
                true,
            ),
            (
                &[],
                Some(&[]),
                Some("localhost:80"),
                Some("http://localhost:81"),
                false,
            ),
            (&[], Some(&[]), Some("localhost:80"), evil, false),
            (&[], None, Some("box:80"), evil, false),
            (&[], Some(&[]), Some("localhost:80"), Some("null"), false),
            (&["http://evil.example"], None, Some("box:80"), evil, true),
            (
                &["localhost"],
                None,
                Some("box"),
                Some("http://localhost:3"),
                true,
            ),
            (&["*"], None, Some("box:80"), Some("null"), true),
            // A name that was made to point here.
            (&[], Some(&[]), Some("evil.example"), evil, false),
        ];
        for (origins, names, host, origin, answered) in cases {
            let refused = pages(origins, names).refuse(host, origin);
            let case = format!("{origins:?} {names:?} {host:?} {origin:?}: {refused:?}");
            assert_eq!(refused.is_none(), answered, "{case}");
        }
    }
}
