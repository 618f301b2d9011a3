//! Answers plain HTTP requests: the page, the health check, the metrics, and errors for the rest. No I/O.

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use threadws::stats::Stats;

/// The page. Its script and its style have `{{nonce}}` in place of the nonce.
const PAGE: &str = include_str!("page.html");
const NONCE: &str = "{{nonce}}";

/// The settings that decide the answer to a plain request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainHttp {
    /// Whether the page is served, at the paths where WebSockets are accepted: the page connects to its own address.
    pub(crate) page: bool,
    /// The only path that accepts WebSockets, if there is only one.
    pub(crate) path: Option<String>,
    /// Whether each path is a topic, and so has the page.
    pub(crate) topics: bool,
}

impl PlainHttp {
    /// Answers a GET or HEAD of `path` without an upgrade. `host` is the request's Host header.
    pub(crate) fn answer(&self, path: &str, host: Option<&str>) -> Response<Vec<u8>> {
        match path {
            "/healthz" => text(StatusCode::OK, "ok"),
            path if self.page && (self.topics || path == self.home()) => page(host),
            "/" if self.page => see_home(self.home()),
            // WebSockets are accepted here, so only the upgrade is missing.
            path if self.path.as_deref() == Some(path) => upgrade_required(),
            _ if self.path.is_none() && !self.page => upgrade_required(),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn home(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }
}

/// Answers a GET of `/metrics`.
pub(crate) fn metrics(stats: &Stats) -> Response<Vec<u8>> {
    let mut text = Vec::new();
    // Writing to a `Vec` never fails.
    drop(stats.write_prometheus(&mut text));
    let mut response = Response::new(text);
    set(&mut response, header::CONTENT_TYPE, Stats::CONTENT_TYPE);
    response
}

fn page(host: Option<&str>) -> Response<Vec<u8>> {
    // A key for Sec-WebSocket-Key is 16 random bytes in base64, which is also a good nonce: a new one for each answer.
    let nonce = tungstenite::handshake::client::generate_key();
    let mut response = Response::new(PAGE.replace(NONCE, &nonce).into_bytes());
    set(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
    // Never fails, because nonce and host are ASCII without control characters. Without a policy, no page is served.
    match HeaderValue::from_str(&policy(&nonce, host)) {
        Ok(policy) => response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy),
        Err(_) => return text(StatusCode::BAD_REQUEST, "bad Host\n"),
    };
    response
}

/// Returns a Content-Security-Policy that allows the page's own script and style, and WebSockets to its own host.
fn policy(nonce: &str, host: Option<&str>) -> String {
    let mut policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'"
    );
    // In CSP 3, 'self' includes ws: and wss:, but Safari before 15.4 needs them by name.
    if let Some(host) = host.filter(|host| is_host_source(host)) {
        policy.push_str(&format!(" ws://{host} wss://{host}"));
    }
    policy
}

/// Returns whether a policy can name this host, perhaps with a port. Browsers complain about any other, such as an IPv6
/// address or a name with an underscore (CSP 3 §2.3.1, `host-part` and `port-part`). It could also add a directive.
fn is_host_source(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.split('.').all(is_label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Redirects from `/` to another path.
///
/// The reference is relative (RFC 3986 §4.2). An absolute path would lead out of the prefix that a proxy has removed, and
/// `//host` to another host.
fn see_home(path: &str) -> Response<Vec<u8>> {
    let mut response = text(StatusCode::FOUND, "");
    // Never fails, because the parser of `--path` accepts printable ASCII only.
    if let Ok(location) = HeaderValue::from_str(&format!(".{path}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

const METHODS: &str = "GET, HEAD, OPTIONS";

/// Answers OPTIONS, which HAProxy's `option httpchk` sends if it names no method.
pub(crate) fn options() -> Response<Vec<u8>> {
    let mut response = text(StatusCode::NO_CONTENT, "");
    set(&mut response, header::ALLOW, METHODS);
    response
}

/// Answers every request except GET, HEAD and OPTIONS.
pub(crate) fn method_not_allowed() -> Response<Vec<u8>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and OPTIONS\n");
    set(&mut response, header::ALLOW, METHODS);
    response
}

fn upgrade_required() -> Response<Vec<u8>> {
    let mut response = text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket server\n");
    set(&mut response, header::UPGRADE, "websocket");
    set(&mut response, header::SEC_WEBSOCKET_VERSION, "13");
    response
}

fn text(status: StatusCode, body: &str) -> Response<Vec<u8>> {
    let mut response = Response::new(body.as_bytes().to_vec());
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

/// Sets a header, and the headers that every answer has.
fn set(response: &mut Response<Vec<u8>>, name: HeaderName, value: &'static str) {
    let headers = response.headers_mut();
    headers.insert(name, HeaderValue::from_static(value));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: PlainHttp = PlainHttp { page: true, path: None, topics: false };

    fn status(plain: &PlainHttp, path: &str) -> u16 {
        plain.answer(path, Some("127.0.0.1:8005")).status().as_u16()
    }

    fn policy_of(host: Option<&str>) -> String {
        let response = OPEN.answer("/", host);
        let policy = response.headers().get(header::CONTENT_SECURITY_POLICY).expect("a policy");
        policy.to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn each_path_gets_its_status() {
        let closed = PlainHttp { page: false, ..OPEN };
        let at_ws = PlainHttp { path: Some("/ws".to_owned()), ..OPEN };
        let only_ws = PlainHttp { page: false, ..at_ws.clone() };
        let topics = PlainHttp { topics: true, ..OPEN };
        let bare_topics = PlainHttp { page: false, topics: true, ..OPEN };
        for (plain, path, expected) in [
            (&OPEN, "/", 200),
            (&OPEN, "/healthz", 200),
            (&OPEN, "/favicon.ico", 404),
            (&closed, "/", 426),
            (&closed, "/anything", 426),
            (&closed, "/healthz", 200),
            (&at_ws, "/", 302),
            (&at_ws, "/ws", 200),
            (&at_ws, "/other", 404),
            (&only_ws, "/ws", 426),
            (&only_ws, "/", 404),
            (&topics, "/", 200),
            (&topics, "/room/7", 200),
            (&topics, "/healthz", 200),
            (&bare_topics, "/room/7", 426),
        ] {
            assert_eq!(status(plain, path), expected, "{plain:?} {path}");
        }
    }

    #[test]
    fn the_redirect_stays_on_this_host_and_below_a_prefix() {
        for (path, location) in [("/ws", "./ws"), ("/a/b", "./a/b"), ("//host", ".//host"), ("/a:b", "./a:b")]
        {
            let response = PlainHttp { path: Some(path.to_owned()), ..OPEN }.answer("/", None);
            assert_eq!(
                (response.status().as_u16(), &response.headers()["location"]),
                (302, &location.parse().expect("ASCII"))
            );
        }
    }

    #[test]
    fn the_health_check_answers_ok() {
        assert_eq!(OPEN.answer("/healthz", None).body(), b"ok");
    }

    #[test]
    fn a_426_names_the_upgrade_it_wants() {
        let response = PlainHttp { page: false, ..OPEN }.answer("/", None);
        assert_eq!(response.headers()["upgrade"], "websocket");
        assert_eq!(response.headers()["sec-websocket-version"], "13");
    }

    #[test]
    fn every_answer_forbids_guessing_caching_and_referrers() {
        for path in ["/", "/healthz", "/else"] {
            let response = OPEN.answer(path, None);
            let expected = [
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-store"),
            ];
            for (name, value) in expected {
                assert_eq!(response.headers()[name], value, "{path} {name}");
            }
            assert!(response.headers().contains_key("content-type"), "{path}");
        }
    }

    #[test]
    fn page_and_policy_share_a_new_nonce_each_time() {
        let response = OPEN.answer("/", None);
        let body = String::from_utf8(response.body().clone()).expect("UTF-8");
        let policy = response.headers()["content-security-policy"].to_str().expect("ASCII");
        let (_, rest) = policy.split_once("script-src 'nonce-").expect("a nonce");
        let (nonce, _) = rest.split_once('\'').expect("its end");
        assert!(nonce.len() >= 22, "{nonce}"); // 128 bits, as CSP asks
        assert!(!body.contains(NONCE));
        assert_eq!(body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        assert_eq!(body.matches("<script").count() + body.matches("<style").count(), 2);
        assert_ne!(policy_of(None), policy_of(None));
    }

    #[test]
    fn the_page_needs_nothing_that_the_policy_forbids() {
        let body = PAGE.to_lowercase();
        let attributes =
            [" style=\"", " onclick=", " onload=", " onsubmit=", "<base", "<form action", "eval(", "@import"];
        for forbidden in attributes {
            assert!(!body.contains(forbidden), "{forbidden}");
        }
        for external in ["src=\"http", "href=\"http", "src=\"//", "url(http"] {
            assert!(!body.contains(external), "{external}");
        }
    }

    #[test]
    fn the_policy_names_the_host_only_if_it_is_plain() {
        assert!(
            policy_of(Some("127.0.0.1:8005")).ends_with("'self' ws://127.0.0.1:8005 wss://127.0.0.1:8005")
        );
        assert!(policy_of(Some("a-b.example")).ends_with("'self' ws://a-b.example wss://a-b.example"));
        let dangerous = ["x; script-src *", "a,b", "a b", "*", "a'b", "a:*"];
        let unknown_to_browsers = ["[::1]", "[::1]:8005", "my_host:8005", "a.example.", "a..b", ".a", "a:"];
        for host in dangerous.into_iter().chain(unknown_to_browsers).chain([""]) {
            assert!(policy_of(Some(host)).ends_with("connect-src 'self'"), "{host:?}");
        }
        assert!(policy_of(None).ends_with("connect-src 'self'"));
    }
}
