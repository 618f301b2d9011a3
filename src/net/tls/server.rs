//! The TLS settings of a server: its certificate, and which certificates of clients it asks for.

use super::pem::{self, Identity, Pem};
use super::rustls::crypto::ring::Ticketer;
use super::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use super::rustls::{self, ServerConfig, ServerConnection};
use super::{HTTP_1_1, check_alpn, explain, provider};
use crate::error::{Error, Result};
use crate::sync::Arc;
use std::path::PathBuf;

/// How a server uses TLS: its certificate, and which certificates of clients it asks for. For
/// [`Server::tls`](crate::Server::tls).
///
/// ```no_run
/// use threadws::tls::ServerTls;
///
/// # fn main() -> threadws::Result<()> {
/// threadws::Server::bind("0.0.0.0:443")?
///     .tls(ServerTls::files("cert.pem", "key.pem"))
///     .run(|client| Ok(client.ignore()?))
/// # }
/// ```
///
/// Files are read by [`Server::tls`](crate::Server::tls), and again by [`ServerHandle::set_tls`](crate::ServerHandle::set_tls).
///
/// A `ServerTls` can also be made from an `Arc<rustls::ServerConfig>`, for example for several certificates, of which one is
/// chosen by the name that the client asks for. Its list of ALPN protocols has to be empty, or to contain `http/1.1` and
/// not `h2`. Its session store and key log are called while a lock of the connection is held. They must not wait, nor use
/// this crate. If one of its callbacks panics, only the connection for which it was called ends.
#[derive(Debug, Clone)]
#[must_use = "it is passed to Server::tls"]
pub struct ServerTls {
    certificates: Certificates,
    redirects: bool,
}

#[derive(Debug, Clone)]
enum Certificates {
    Own { identity: Identity, client_cas: Vec<Pem>, is_optional: bool },
    Given(Arc<ServerConfig>),
}

impl ServerTls {
    /// Has the certificate and the private key in PEM files. The certificate is followed by the chain to its root. The same
    /// file can hold both, certificate and key.
    pub fn files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::own(Pem::File(certificate.into()), Pem::File(key.into()))
    }

    /// Has the certificate and the private key in PEM texts, like [`files`](Self::files).
    pub fn pem(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self::own(Pem::Text(certificate.into()), Pem::Text(key.into()))
    }

    fn own(certificate: Pem, key: Pem) -> Self {
        let identity = Identity { certificate, key };
        Self {
            certificates: Certificates::Own { identity, client_cas: Vec::new(), is_optional: false },
            redirects: false,
        }
    }

    /// Demands a certificate from each client, issued by a CA in a PEM file. Can be repeated, for more CAs. Defaults to no
    /// demand.
    ///
    /// [`Request::peer_certificate`](crate::handshake::Request::peer_certificate) returns it. A browser opens no
    /// WebSocket if it would have to ask its user for the certificate.
    ///
    /// Has no effect on a given `rustls::ServerConfig`, which has a verifier of its own.
    pub fn client_ca_file(self, path: impl Into<PathBuf>) -> Self {
        self.client_ca(Pem::File(path.into()))
    }

    /// Demands a certificate from each client, issued by a CA in a PEM text, like [`client_ca_file`](Self::client_ca_file).
    pub fn client_ca_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        self.client_ca(Pem::Text(pem.into()))
    }

    fn client_ca(mut self, pem: Pem) -> Self {
        if let Certificates::Own { client_cas, .. } = &mut self.certificates {
            client_cas.push(pem);
        }
        self
    }

    /// Sets whether clients without a certificate can connect, too, if there is a
    /// [`client_ca_file`](Self::client_ca_file). Defaults to false.
    pub fn client_certificate_optional(mut self, optional: bool) -> Self {
        if let Certificates::Own { is_optional, .. } = &mut self.certificates {
            *is_optional = optional;
        }
        self
    }

    /// Sets whether plain HTTP on the port is redirected to `https://` with status 308. Otherwise it is answered 400, with a
    /// text that says so. Defaults to false.
    pub fn redirect_http(mut self, redirects: bool) -> Self {
        self.redirects = redirects;
        self
    }

    /// Reads the files, and makes the configuration of the connections.
    pub(crate) fn build(&self) -> Result<TlsServer> {
        let config = match &self.certificates {
            Certificates::Given(config) => {
                check_alpn(&config.alpn_protocols)?;
                if config.max_early_data_size > 0 || config.send_half_rtt_data {
                    return Err(Error::invalid(
                        "tls: early data can be replayed: set max_early_data_size to 0 and send_half_rtt_data to false",
                    ));
                }
                Arc::clone(config)
            }
            Certificates::Own { identity, client_cas, is_optional } => {
                Arc::new(own_config(identity, client_cas, *is_optional)?)
            }
        };
        Ok(TlsServer { config, redirects: self.redirects })
    }
}

fn own_config(identity: &Identity, client_cas: &[Pem], is_optional: bool) -> Result<ServerConfig> {
    let unusable = |error: rustls::Error| explain(&error, "client");
    let provider = provider();
    let verifier = if client_cas.is_empty() {
        WebPkiClientVerifier::no_client_auth()
    } else {
        let roots = Arc::new(pem::roots(client_cas)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map_err(|error| Error::tls(format!("the CAs of clients cannot be used: {error}")))?
    };
    let (chain, key) = identity.read()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| identity.unusable(&error))?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    // The client keeps the state of a session, encrypted, so that no number of clients fills a store here. A new
    // configuration has new keys, so a session does not outlive the CAs that its client was checked with.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(unusable)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

impl From<Arc<ServerConfig>> for ServerTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { certificates: Certificates::Given(config), redirects: false }
    }
}

/// The checked TLS settings of a running server.
#[derive(Debug)]
pub(crate) struct TlsServer {
    config: Arc<ServerConfig>,
    redirects: bool,
}

impl TlsServer {
    /// Returns whether plain HTTP is redirected to `https://`.
    pub(crate) fn redirects(&self) -> bool {
        self.redirects
    }

    /// Starts the TLS connection of a client.
    pub(crate) fn connection(&self) -> Result<rustls::Connection> {
        let connection =
            ServerConnection::new(Arc::clone(&self.config)).map_err(|error| explain(&error, "client"))?;
        Ok(connection.into())
    }
}
