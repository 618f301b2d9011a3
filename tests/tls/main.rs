//! `wss://` and `https://`: certificates, the handshake of both roles, and what happens when it fails.
#![cfg(feature = "tls")]

mod connecting;
mod gnutls;
mod openssl;
mod panics;
mod records;
mod sending;
mod serving;
mod system_calls;
mod tls_peer;

use std::net::SocketAddr;
use std::sync::Arc;
use support::{TestServer, certificate};
use threadws::tls::rustls::crypto::CryptoProvider;
use threadws::tls::rustls::pki_types::pem::PemObject as _;
use threadws::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use threadws::tls::rustls::{ServerConfig, SupportedProtocolVersion};
use threadws::tls::{ClientTls, ServerTls};
use threadws::{BoxError, Connect, Connection, Result};

/// The TLS of a server with one of the certificates.
fn server_tls(name: &str) -> ServerTls {
    ServerTls::files(certificate(&format!("{name}.pem")), certificate(&format!("{name}.key")))
}

/// The TLS of a client that trusts `ca`.
fn client_tls() -> ClientTls {
    ClientTls::new().ca_file(certificate("ca.pem"))
}

/// Starts a server with the usual certificate.
fn serve(handler: impl Fn(&mut Connection) -> Result<(), BoxError> + Send + Sync + 'static) -> TestServer {
    TestServer::with(|server| server.tls(server_tls("server")), handler)
}

fn connect(addr: SocketAddr, tls: impl Into<ClientTls>) -> Result<Connection> {
    Connect::new(format!("wss://{addr}/")).tls(tls).connect()
}

/// Returns a configuration of rustls with the usual certificate.
fn rustls_server(provider: CryptoProvider, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let chain = CertificateDer::from_pem_file(certificate("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("they fit")
}
