//! `wss://` and `https://`: certificates, the handshake of both roles, and what happens when it fails.
#![cfg(feature = "tls")]

mod connecting;
mod openssl;
mod records;
mod sending;
mod serving;
mod tls_peer;

use support::certificate;
use threadws::tls::{ClientTls, ServerTls};

/// The TLS of a server with one of the certificates.
fn server_tls(name: &str) -> ServerTls {
    ServerTls::files(certificate(&format!("{name}.pem")), certificate(&format!("{name}.key")))
}

/// The TLS of a client that trusts `ca`.
fn client_tls() -> ClientTls {
    ClientTls::new().ca_file(certificate("ca.pem"))
}
