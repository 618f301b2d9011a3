//! The peers: the servers that are measured. Each echoes or broadcasts, in its own process, on a free port of the loopback
//! interface.

use crate::stream::{CERTIFICATE, KEY};
use crate::{event_floor, floor, tokio_servers};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use threadws::connection::Arrival;
use threadws::server::Events;
use threadws::tls::ServerTls;
use threadws::{Addr, BoxError, Config, Connection, Message, Server, deflate::Deflate};
use threadws_benches::{FORGETTING, REMEMBERING};
use tokio_rustls::TlsAcceptor;

pub type Done = Result<(), Box<dyn Error>>;

/// The largest message that the peers accept. One load has messages of 16 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// Longer than any run, because the load generator expects answers only, without pings between them.
const PING: Duration = Duration::from_secs(600);
/// The stack of the threads that are started here.
pub const STACK: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Threadws,
    ThreadwsOwned,
    ThreadwsEvents,
    Floor,
    EventFloor,
    Naive,
    Tokio,
    TokioWebsockets,
    Node,
    ThreadwsTls,
    TokioTls,
    NodeTls,
    PythonTls,
    ThreadwsDeflate,
    ThreadwsTakeover,
    ThreadwsEventsDeflate,
    YawcDeflate,
    NodeDeflate,
    PythonDeflate,
}

impl Peer {
    pub const ALL: [Self; 19] = [
        Self::Threadws,
        Self::ThreadwsOwned,
        Self::ThreadwsEvents,
        Self::Floor,
        Self::EventFloor,
        Self::Naive,
        Self::Tokio,
        Self::TokioWebsockets,
        Self::Node,
        Self::ThreadwsTls,
        Self::TokioTls,
        Self::NodeTls,
        Self::PythonTls,
        Self::ThreadwsDeflate,
        Self::ThreadwsTakeover,
        Self::ThreadwsEventsDeflate,
        Self::YawcDeflate,
        Self::NodeDeflate,
        Self::PythonDeflate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Threadws => "threadws",
            Self::ThreadwsOwned => "threadws-recv",
            Self::ThreadwsEvents => "threadws-events",
            Self::Floor => "floor",
            Self::EventFloor => "event-floor",
            Self::Naive => "tungstenite",
            Self::Tokio => "tokio-tungstenite",
            Self::TokioWebsockets => "tokio-websockets",
            Self::Node => "node-ws",
            Self::ThreadwsTls => "threadws-tls",
            Self::TokioTls => "tokio-tungstenite-tls",
            Self::NodeTls => "node-ws-tls",
            Self::PythonTls => "python-websockets-tls",
            Self::ThreadwsDeflate => "threadws-deflate",
            Self::ThreadwsTakeover => "threadws-takeover",
            Self::ThreadwsEventsDeflate => "threadws-events-deflate",
            Self::YawcDeflate => "yawc-deflate",
            Self::NodeDeflate => "node-ws-deflate",
            Self::PythonDeflate => "python-websockets-deflate",
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Self::Threadws => "this crate: `recv_ref` and `Received::write`; `write_broadcast`",
            Self::ThreadwsOwned => "this crate: `recv` and `write`",
            Self::ThreadwsEvents => {
                "this crate with shared threads and one worker: `received`, `write`; `write_broadcast`"
            }
            Self::EventFloor => {
                "one thread with epoll that reads, unmasks in place and writes back, without checks, limits, timeouts or locks"
            }
            Self::Floor => {
                "one thread per client that reads, unmasks in place and writes back, without checks, limits, timeouts or locks"
            }
            Self::Naive => "tungstenite with one thread per client: accept, read, send",
            Self::Tokio => "tokio-tungstenite on one thread (`current_thread`)",
            Self::TokioWebsockets => "tokio-websockets on one thread (`current_thread`)",
            Self::Node => "the package `ws` on Node.js",
            Self::ThreadwsTls => "this crate with TLS (rustls, ring)",
            Self::TokioTls => {
                "tokio-tungstenite over tokio-rustls (ring) on one thread, with the same TLS settings: one session ticket, \
                 no session store"
            }
            Self::NodeTls => "`ws` on `https` of Node.js (OpenSSL)",
            Self::PythonTls => "`websockets` on asyncio with `ssl` (OpenSSL)",
            Self::ThreadwsDeflate => "this crate with compression, each message by itself",
            Self::ThreadwsTakeover => "the same, with context takeover in both directions",
            Self::ThreadwsEventsDeflate => "this crate with events and compression",
            Self::YawcDeflate => {
                "`yawc` on one thread of tokio, without context takeover, with its pool and flate2 (miniz_oxide)"
            }
            Self::NodeDeflate => "`ws` without context takeover (C zlib in a thread pool), threshold 0",
            Self::PythonDeflate => "`websockets` on asyncio without context takeover (C zlib)",
        }
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::ThreadwsTls | Self::TokioTls | Self::NodeTls | Self::PythonTls)
    }

    /// Returns the header line with which a client offers compression to this peer.
    fn offer(self) -> &'static str {
        match self {
            Self::ThreadwsDeflate
            | Self::ThreadwsEventsDeflate
            | Self::YawcDeflate
            | Self::NodeDeflate
            | Self::PythonDeflate => FORGETTING,
            Self::ThreadwsTakeover => REMEMBERING,
            _ => "",
        }
    }

    /// Whether the peer can run this kind of load.
    pub fn has(self, broadcast: bool) -> bool {
        let only_echoes = matches!(
            self,
            Self::ThreadwsOwned | Self::EventFloor | Self::Naive | Self::TokioWebsockets | Self::YawcDeflate
        );
        !broadcast || !only_echoes
    }

    /// Whether the peer is installed.
    pub fn is_installed(self) -> bool {
        let (program, args) = match self {
            Self::Node | Self::NodeTls | Self::NodeDeflate => ("node", ["-e", "require.resolve('ws')"]),
            Self::PythonTls | Self::PythonDeflate => ("python3", ["-c", "import websockets"]),
            _ => return true,
        };
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Starts the peer on the cores of the caller.
    pub fn start(self, broadcast: bool) -> Result<Running, Box<dyn Error>> {
        let mode = if broadcast { "broadcast" } else { "echo" };
        let (program, args) = match self {
            Self::Node | Self::NodeTls | Self::NodeDeflate => ("node".into(), ["-e", include_str!("ws.js")]),
            Self::PythonTls | Self::PythonDeflate => {
                ("python3".into(), ["-c", include_str!("websockets.py")])
            }
            _ => (std::env::current_exe()?, ["peer", self.name()]),
        };
        let mut command = Command::new(program);
        command.args(args).arg(mode);
        if self.is_tls() {
            command.args([CERTIFICATE, KEY]);
        } else if !self.offer().is_empty() {
            command.arg("deflate");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let running = |port| Running {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            is_tls: self.is_tls(),
            offer: self.offer(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim().parse() {
            Ok(port) => Ok(running(port)),
            Err(_) => {
                drop(running(0));
                Err(format!("{} did not start", self.name()).into())
            }
        }
    }

    /// Runs the peer, in the process that [`start`](Self::start) has started.
    pub fn serve(self, broadcast: bool) -> Done {
        match self {
            Self::Threadws
            | Self::ThreadwsOwned
            | Self::ThreadwsTls
            | Self::ThreadwsDeflate
            | Self::ThreadwsTakeover => self.threadws(broadcast),
            Self::ThreadwsEvents | Self::ThreadwsEventsDeflate => self.threadws_events(broadcast),
            Self::Floor => floor::serve(broadcast),
            Self::EventFloor => event_floor::serve(),
            Self::Naive => naive(),
            Self::TokioWebsockets => tokio_servers::run(tokio_servers::tokio_websockets()),
            Self::Tokio | Self::TokioTls => {
                let tls = if self.is_tls() { Some(TlsAcceptor::from(server_config()?)) } else { None };
                tokio_servers::run(tokio_servers::tungstenite(tls, broadcast))
            }
            Self::YawcDeflate => tokio_servers::run(tokio_servers::yawc()),
            Self::Node | Self::NodeTls | Self::PythonTls | Self::NodeDeflate | Self::PythonDeflate => {
                Err("does not run in this program".into())
            }
        }
    }

    fn server(self) -> threadws::Result<Server> {
        let mut config = Config::new().with_max_message_size(MAX_MESSAGE).with_ping_interval(PING);
        if !self.offer().is_empty() {
            let takeover = self == Self::ThreadwsTakeover;
            let deflate = Deflate::new().context_takeover(takeover).peer_context_takeover(takeover);
            config = config.with_deflate(deflate);
        }
        Ok(Server::bind("127.0.0.1:0")?.config(config))
    }

    fn threadws_events(self, broadcast: bool) -> Done {
        // The generator has the other core.
        let server = self.server()?.workers(1);
        print_port(&server)?;
        Ok(server.run_events(move |_| Ok(Answers { broadcast }))?)
    }

    fn threadws(self, broadcast: bool) -> Done {
        let mut server = self.server()?;
        if self.is_tls() {
            server = server.tls(ServerTls::files(CERTIFICATE, KEY));
        }
        print_port(&server)?;
        let owned = self == Self::ThreadwsOwned;
        server.run(move |client| {
            if broadcast {
                while let Some(message) = client.recv()? {
                    client.write_broadcast(message)?;
                }
            } else if owned {
                while let Some(message) = client.recv()? {
                    client.write(message)?;
                }
            } else {
                echo_borrowed(client)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// The process of a peer. It is killed when this is dropped.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
    pub is_tls: bool,
    /// The header line that offers compression.
    pub offer: &'static str,
}

impl Running {
    pub fn compresses(&self) -> bool {
        !self.offer.is_empty()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process has ended.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn print_port(server: &Server) -> threadws::Result<()> {
    if let Addr::Tcp(addr) = server.local_addr()? {
        println!("{}", addr.port());
    }
    Ok(())
}

/// The callbacks of a client.
struct Answers {
    broadcast: bool,
}

impl Events for Answers {
    fn message(&mut self, client: &mut Connection, message: Message) -> Result<(), BoxError> {
        Ok(if self.broadcast { client.write_broadcast(message)? } else { client.write(message)? })
    }

    fn received(&mut self, arrival: Arrival<'_>) -> Result<(), BoxError> {
        if self.broadcast {
            let (client, message) = arrival.take()?;
            return self.message(client, message);
        }
        let mut received = arrival.lend()?;
        Ok(received.write(received.message)?)
    }
}

fn echo_borrowed(client: &mut Connection) -> threadws::Result<()> {
    while let Some(mut received) = client.recv_ref()? {
        received.write(received.message)?;
    }
    Ok(())
}

pub fn listen() -> Result<TcpListener, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // The listen queue of std is too short for hundreds of clients at once.
    rustix::net::listen(&listener, 4096)?;
    println!("{}", listener.local_addr()?.port());
    Ok(listener)
}

fn naive() -> Done {
    for stream in listen()?.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        thread::Builder::new().stack_size(STACK).spawn(move || {
            let Ok(mut socket) = tungstenite::accept(stream) else { return };
            while let Ok(message) = socket.read() {
                if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(())
}

/// The TLS settings of this crate's server.
fn server_config() -> Result<Arc<ServerConfig>, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(CERTIFICATE)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(KEY)?)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
