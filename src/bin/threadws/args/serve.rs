//! The command line of `threadws serve`, the default command. No I/O.

use super::{Command, LogChoice, LogOption, VERSION, check_deflate, one_line, unknown_option, value};
use crate::args::{tls, values};
use crate::log_filter::LogFilter;
use lexopt::prelude::{Long, Short, Value};
use log::LevelFilter;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use threadws::hub::SlowPeer;

/// The options of `threadws serve`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServeOptions {
    pub(crate) listen: Listen,
    pub(crate) every: Option<Duration>,
    pub(crate) message: String,
    pub(crate) answer: Answer,
    /// `any` alone, `none` alone, or `loopback`, `unix`, addresses and CIDR blocks.
    pub(crate) trust: Vec<String>,
    /// `any`, or origins.
    pub(crate) origins: Vec<String>,
    pub(crate) path: Option<String>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) max_clients: Option<usize>,
    pub(crate) max_message: usize,
    pub(crate) max_head: usize,
    pub(crate) message_timeout: Duration,
    pub(crate) slow_peer: SlowPeer,
    pub(crate) max_per_address: Option<usize>,
    pub(crate) handshake_rate: Option<(u32, Duration)>,
    pub(crate) message_rate: Option<(u32, Duration)>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) proxy_protocol: bool,
    pub(crate) ping: Option<Duration>,
    pub(crate) page: bool,
    /// Shares a few threads among all clients.
    pub(crate) events: bool,
    pub(crate) workers: Option<usize>,
    /// `None` without compression.
    pub(crate) deflate: Option<DeflateOptions>,
    /// `None` without TLS.
    pub(crate) cert: Option<CertOptions>,
    pub(crate) log: LogFilter,
}

/// How the server compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeflateOptions {
    pub(crate) threshold: usize,
    pub(crate) takeover: bool,
}

impl Default for DeflateOptions {
    fn default() -> Self {
        Self { threshold: 512, takeover: false }
    }
}

/// The files of a server with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertOptions {
    pub(crate) cert: PathBuf,
    /// The certificate's file by default.
    pub(crate) key: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
}

/// The socket that accepts clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// The service manager's socket if it passed one, otherwise [`LISTEN`].
    Default,
    /// The service manager's socket. It is an error if there is none.
    Systemd,
    Address(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Displays as the value of the option.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str(LISTEN),
            Self::Systemd => f.write_str("systemd"),
            Self::Address(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The default of `--listen`.
pub(crate) const LISTEN: &str = "127.0.0.1:8005";

/// How the server answers a message, after it was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Nothing,
    Echo,
    Broadcast,
    /// Publishes it to the clients that connected with the same path.
    Topics,
}

pub(crate) const HELP: &str = "\
Usage: threadws [serve] [OPTIONS]
   or: threadws connect [OPTIONS] URL
   or: threadws bench [OPTIONS] URL

Runs a WebSocket server with one thread per client. The server logs each
message that it receives, and sends every client a message every 3 seconds. To
try it, open the printed address in a browser. 'threadws connect' is a client
for terminals and scripts, 'threadws bench' is a load generator; see 'threadws
connect --help' and 'threadws bench --help'.

Examples:
  threadws
  threadws --listen 0.0.0.0:8080 --every 500ms --message tick
  threadws --echo --every 0 --max-message 16MiB
  threadws --broadcast --every 0 --trust-proxy 10.0.0.0/8
  threadws --topics --every 0 --slow-peer skip
  threadws --listen 0.0.0.0:443 --cert cert.pem --key key.pem

Messages:
  --every DURATION      how often to send each client the message: 500ms, 3s,
                        1m; 0 turns it off [default: 3s]
  --message TEXT        the text of that message
                        [default: hello from threadws]
  --echo                send each message back to its sender [default: off]
  --broadcast           send each message to every client, including its
                        sender [default: off]
  --topics              send each message to every client that connected with
                        the same path, such as /room/7, including its sender;
                        the query does not count [default: off]
  --no-page             serve no page: answer a plain GET with 426
                        [default: the page]

Threads:
  --events              share a few threads among all clients, instead of one
                        thread per client: for many clients, and for more
                        messages per second [default: off]
  --workers N           how many threads wait for clients with --events
                        [default: the number of processors]

Connections:
  --listen ADDR         address and port, or a port alone: 8080 is
                        127.0.0.1:8080, and :8080 is every address of this
                        machine; port 0 picks a free port; 'unix:/path' is a
                        Unix socket; 'systemd' takes the socket that systemd
                        passes; without this option, such a socket is used if
                        there is one
                        [default: 127.0.0.1:8005]
  --path PATH           the only path that accepts WebSockets; other paths get
                        404 [default: any path]
  --subprotocol NAME    a subprotocol to accept; the first one that the client
                        offers and the server accepts is used; repeatable
                        [default: none]
  --allow-origin ORIGIN allow pages of another site to connect, or of any site
                        with 'any': https://a.example, file:// or another value
                        as it is sent; https://*.a.example, *://a.example and
                        http://a.example:* are patterns; repeatable
                        [default: same host]
  --trust-proxy WHO     believe the X-Forwarded-For header of this proxy:
                        loopback, unix, none, any, an address or a CIDR block;
                        repeatable [default: loopback]
  --proxy-protocol      require trusted proxies to send a PROXY protocol
                        header, version 1 or 2 [default: off]

Compression:
  --deflate             compress messages for clients that can decompress them
                        (permessage-deflate), and accept theirs [default: off]
  --deflate-threshold SIZE
                        shortest message to compress [default: 512]
  --deflate-takeover    let messages refer to those before them: smaller short
                        messages, and 8 KiB more for a client [default: off]

TLS:
  --cert FILE           serve https:// and wss:// with the certificate in this
                        PEM file; SIGHUP reads the files again
                        [default: no TLS]
  --key FILE            its private key [default: the file of --cert]
  --client-ca FILE      demand a certificate of each client, issued by a CA in
                        this PEM file [default: off]

Limits:
  --max-clients N       connections at a time; further ones get 503
                        [default: the machine's capacity]
  --max-per-address N   connections at a time from one address, or from one
                        IPv6 /64; further ones get 429 [default: no limit]
  --handshake-rate RATE handshakes and plain requests from one address, as
                        N/DURATION: 20/1s, 100/1m; further ones get 429
                        [default: no limit]
  --message-rate RATE   messages from one address over all its connections; one
                        more closes the connection with 1008
                        [default: no limit]
  --max-lifetime DURATION
                        how long a connection may last before it is closed
                        with 1001; 0 turns it off [default: 0]
  --idle-timeout DURATION
                        how long a connection may be without messages in
                        either direction before it is closed with 1001; 0
                        turns it off [default: 0]
  --max-message SIZE    largest message to accept: 64KiB, 16MiB, or a number
                        of bytes; a larger one closes with 1009
                        [default: 1MiB]
  --max-head SIZE       largest head of a request; a larger one gets 431, or
                        414 if its first line alone is larger [default: 16KiB]
  --message-timeout DURATION
                        how long a message may take for each MiB of it that
                        has begun to arrive, before its connection is closed
                        with 1008 [default: 30s]
  --slow-peer WHAT      what to do when 1 MiB is queued for a client: 'close'
                        its connection with 1013, or 'skip' further messages
                        for it [default: close]
  --ping DURATION       how long a client may be silent before it gets a ping,
                        and how long it has to answer; 0 turns it off
                        [default: 20s]

Log, on stderr:
  --log LEVEL           off, error, warn, info, debug or trace, or a list such
                        as info,threadws=debug
                        [env: THREADWS_LOG] [default: info]
  -q, --quiet           same as --log warn
  -v, --verbose         same as --log debug; -vv is --log trace

Other:
  -h, --help            print this help
  -V, --version         print the version

GET /healthz returns ok, GET /metrics returns counters for Prometheus.
When the server is listening, it prints one line with its address on stdout.

Exit status:
  0    stopped by SIGINT or SIGTERM
  1    the server cannot run
  2    the command line is wrong
  130  stopped at once, by a second signal
";

/// All long options, from which a misspelt one is guessed.
const OPTIONS: [&str; 36] = [
    "every",
    "message",
    "echo",
    "broadcast",
    "topics",
    "no-page",
    "events",
    "workers",
    "listen",
    "path",
    "subprotocol",
    "allow-origin",
    "trust-proxy",
    "proxy-protocol",
    "deflate",
    "deflate-threshold",
    "deflate-takeover",
    "cert",
    "key",
    "client-ca",
    "max-clients",
    "max-per-address",
    "handshake-rate",
    "message-rate",
    "max-lifetime",
    "idle-timeout",
    "max-message",
    "max-head",
    "message-timeout",
    "slow-peer",
    "ping",
    "log",
    "quiet",
    "verbose",
    "help",
    "version",
];

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: Listen::Default,
            every: Some(Duration::from_secs(3)),
            message: "hello from threadws".to_owned(),
            answer: Answer::Nothing,
            trust: vec!["loopback".to_owned()],
            origins: Vec::new(),
            path: None,
            subprotocols: Vec::new(),
            max_clients: None,
            max_message: 1 << 20,
            max_head: 16 * 1024,
            message_timeout: Duration::from_secs(30),
            slow_peer: SlowPeer::Close,
            max_per_address: None,
            handshake_rate: None,
            message_rate: None,
            max_lifetime: None,
            idle_timeout: None,
            proxy_protocol: false,
            ping: Some(Duration::from_secs(20)),
            page: true,
            events: false,
            workers: None,
            deflate: None,
            cert: None,
            log: LogFilter::level(LevelFilter::Info),
        }
    }
}

/// Parses the arguments after `serve`, which may be left out. If an option is given twice, the last one counts, except
/// for the repeatable ones.
pub(super) fn parse(mut parser: lexopt::Parser, env_log: Option<OsString>) -> Result<Command, String> {
    let mut options = ServeOptions::default();
    let (mut echo, mut broadcast, mut topics) = (false, false, false);
    let mut trust = Vec::new();
    let (mut cert, mut key, mut client_ca) = (None, None, None);
    let (mut deflate, mut threshold, mut takeover) = (false, None, false);
    let mut log = LogChoice::default();
    while let Some(arg) = parser.next().map_err(one_line)? {
        if let Some(option) = LogOption::of(&arg) {
            log.take(option, &mut parser)?;
            continue;
        }
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(HELP)),
            Short('V') | Long("version") => return Ok(Command::Print(VERSION)),
            Long("every") => options.every = value(&mut parser, "every", values::duration_or_off)?,
            Long("message") => options.message = value(&mut parser, "message", |text| Ok(text.to_owned()))?,
            Long("echo") => echo = true,
            Long("broadcast") => broadcast = true,
            Long("topics") => topics = true,
            Long("no-page") => options.page = false,
            Long("events") => options.events = true,
            Long("workers") => options.workers = Some(value(&mut parser, "workers", values::count)?),
            Long("listen") => options.listen = value(&mut parser, "listen", listen)?,
            Long("path") => options.path = Some(value(&mut parser, "path", values::path)?),
            Long("subprotocol") => {
                options.subprotocols.push(value(&mut parser, "subprotocol", |text| Ok(text.to_owned()))?);
            }
            Long("allow-origin") => {
                options.origins.push(value(&mut parser, "allow-origin", |text| match text {
                    "any" => Ok(text.to_owned()),
                    origin => values::origin(origin),
                })?)
            }
            Long("trust-proxy") => trust.push(value(&mut parser, "trust-proxy", |text| match text {
                "loopback" | "unix" | "none" | "any" => Ok(text.to_owned()),
                network => values::network(network),
            })?),
            Long("deflate") => deflate = true,
            Long("deflate-threshold") => {
                threshold = Some(value(&mut parser, "deflate-threshold", values::size)?);
            }
            Long("deflate-takeover") => takeover = true,
            Long("cert") => cert = Some(tls::file(&mut parser)?),
            Long("key") => key = Some(tls::file(&mut parser)?),
            Long("client-ca") => client_ca = Some(tls::file(&mut parser)?),
            Long("max-clients") => {
                options.max_clients = Some(value(&mut parser, "max-clients", values::count)?);
            }
            Long("max-per-address") => {
                options.max_per_address = Some(value(&mut parser, "max-per-address", values::count)?);
            }
            Long("handshake-rate") => {
                options.handshake_rate = Some(value(&mut parser, "handshake-rate", values::rate)?);
            }
            Long("message-rate") => {
                options.message_rate = Some(value(&mut parser, "message-rate", values::rate)?);
            }
            Long("max-lifetime") => {
                options.max_lifetime = value(&mut parser, "max-lifetime", values::duration_or_off)?;
            }
            Long("idle-timeout") => {
                options.idle_timeout = value(&mut parser, "idle-timeout", values::duration_or_off)?;
            }
            Long("proxy-protocol") => options.proxy_protocol = true,
            Long("max-message") => options.max_message = value(&mut parser, "max-message", values::size)?,
            Long("max-head") => options.max_head = value(&mut parser, "max-head", values::size)?,
            Long("message-timeout") => {
                options.message_timeout = value(&mut parser, "message-timeout", values::timeout)?;
            }
            Long("slow-peer") => options.slow_peer = value(&mut parser, "slow-peer", values::slow_peer)?,
            Long("ping") => options.ping = value(&mut parser, "ping", values::duration_or_off)?,
            Short('l' | 'p') | Long("port") => {
                return Err("the port is set by --listen PORT or --listen ADDRESS:PORT".to_owned());
            }
            Long(name) => return Err(unknown_option(name, &OPTIONS)),
            // The URL may contain a password, so the error does not show it.
            Value(word) if word.to_string_lossy().contains("://") => {
                return Err("a URL is for 'threadws connect'".to_owned());
            }
            other => return Err(one_line(other.unexpected())),
        }
    }
    options.answer = answer(echo, broadcast, topics)?;
    if topics && options.path.is_some() {
        return Err("--topics and --path cannot be combined".to_owned());
    }
    if let Some(path @ ("/healthz" | "/metrics")) = options.path.as_deref().filter(|_| options.page) {
        return Err(format!("--path {path} needs --no-page: a plain GET of it does not get the page"));
    }
    if trust.len() > 1 && trust.iter().any(|who| who == "any" || who == "none") {
        // Contradictory, and addresses must not be believed on a guess.
        return Err("--trust-proxy: none and any cannot be combined with other values".to_owned());
    }
    if !trust.is_empty() {
        options.trust = trust;
    }
    if options.workers.is_some() && !options.events {
        return Err("--workers needs --events".to_owned());
    }
    if !deflate && (threshold.is_some() || takeover) {
        return Err("--deflate-threshold and --deflate-takeover need --deflate".to_owned());
    }
    check_deflate(deflate)?;
    options.deflate = deflate.then(|| DeflateOptions {
        threshold: threshold.unwrap_or(DeflateOptions::default().threshold),
        takeover,
    });
    tls::check_needs_cert(cert.is_some(), "--key", key.is_some())?;
    tls::check_needs_cert(cert.is_some(), "--client-ca", client_ca.is_some())?;
    tls::check_feature(cert.is_some())?;
    options.cert = cert.map(|cert| CertOptions { cert, key, client_ca });
    options.log = log.resolve(env_log)?;
    Ok(Command::Serve(Box::new(options)))
}

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "systemd" if cfg!(feature = "systemd") => Ok(Listen::Systemd),
        "systemd" => Err("this binary was built without the feature systemd".to_owned()),
        text => match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs a path, such as unix:/run/threadws.sock".to_owned()),
            // Other programs write abstract names like this.
            Some(path) if path.starts_with('@') => {
                Err(format!("unix:{path}: abstract names are not supported; unix:./{path} is a file"))
            }
            Some(path) => Ok(Listen::Unix(path.into())),
            None => values::listen_address(text).map(Listen::Address),
        },
    }
}

fn answer(echo: bool, broadcast: bool, topics: bool) -> Result<Answer, String> {
    match (echo, broadcast, topics) {
        (false, false, false) => Ok(Answer::Nothing),
        (true, false, false) => Ok(Answer::Echo),
        (false, true, false) => Ok(Answer::Broadcast),
        (false, false, true) => Ok(Answer::Topics),
        (true, true, _) => Err("--echo and --broadcast cannot be combined".to_owned()),
        (true, _, true) => Err("--echo and --topics cannot be combined".to_owned()),
        (_, true, true) => Err("--broadcast and --topics cannot be combined".to_owned()),
    }
}

#[cfg(test)]
mod tests;
