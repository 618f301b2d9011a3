//! permessage-deflate (RFC 7692) on a connection: the handshake, compressed messages in both directions, many senders.
#![cfg(feature = "deflate")]

mod handshake;
mod receiving;
mod sending;

use support::{RawPeer, TestServer, echo};
use threadws::{Config, Connect, Connection, deflate::Deflate};

/// Both directions with context takeover, and compression from the first byte on.
fn takeover() -> Deflate {
    Deflate::new().threshold(0).context_takeover(true).peer_context_takeover(true)
}

fn with(deflate: Deflate) -> Config {
    Config::new().with_deflate(deflate)
}

fn echo_server(config: Config) -> TestServer {
    TestServer::with(|server| server.config(config), echo)
}

/// Opens a connection that offers this.
fn offering(server: &TestServer, offer: &str) -> RawPeer {
    RawPeer::open_at(server.addr(), "/", &[("Sec-WebSocket-Extensions", offer)])
}

fn connect(server: &TestServer, config: Config) -> Connection {
    Connect::new(format!("ws://{}/", server.addr())).config(config).connect().expect("it opens")
}

/// A JSON message of this length with a number, so that no two are the same.
fn json(number: usize, len: usize) -> String {
    let mut text = format!("{{\"number\":{number},\"items\":[");
    let mut state = number as u64 + 1;
    while text.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &format!("{{\"id\":\"{:08x}\",\"name\":\"a user\",\"price\":{}}},", state >> 32, state % 997);
    }
    text.truncate(len);
    text
}

/// Bytes that no compressor makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}
