//! The TLS settings of a client: which servers it trusts, and its own certificate.

use super::pem::{self, Identity, Pem};
use super::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use super::rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use super::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use super::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use super::rustls::sign::CertifiedKey;
use super::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use super::{HTTP_1_1, LOG, check_alpn, explain, provider};
use crate::error::{Error, Result};
use crate::logging::log_line;
use crate::sync::{Arc, OnceLock};
use std::path::PathBuf;

/// How a client uses TLS: the servers that it trusts, and its own certificate. For [`Connect::tls`](crate::Connect::tls).
///
/// By default it trusts the roots of the system, which the variables `SSL_CERT_FILE` and `SSL_CERT_DIR` can replace. If the
/// system has none, it trusts the roots of Mozilla that were built into the program. The system's roots are read once for
/// the process.
///
/// ```no_run
/// use threadws::tls::ClientTls;
///
/// # fn main() -> threadws::Result<()> {
/// let tls = ClientTls::new().ca_file("/etc/ssl/our-ca.pem");
/// let connection = threadws::Connect::new("wss://intranet.example/").tls(tls).connect()?;
/// # Ok(())
/// # }
/// ```
///
/// Files are read each time a connection is made. A program that connects often passes an `Arc<rustls::ClientConfig>`, from
/// which a `ClientTls` can be made. Its list of ALPN protocols has to be empty, or to contain `http/1.1` and not `h2`. Its
/// session store and key log are called while a lock of the connection is held. They must not wait, nor use this crate.
/// If one of its callbacks panics, the connection fails with [`Error::Tls`], and the panic goes no further.
#[derive(Debug, Clone, Default)]
#[must_use = "it is passed to Connect::tls"]
pub struct ClientTls {
    roots: Vec<Pem>,
    identity: Option<Identity>,
    server_name: Option<String>,
    accepts_any: bool,
    given: Option<Arc<ClientConfig>>,
    /// The configuration that was made from the others.
    made: Option<Arc<ClientConfig>>,
}

impl ClientTls {
    /// Trusts the default roots, and has no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the CA certificates in a PEM file instead of the default roots. Can be repeated, to trust more.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots.push(Pem::File(path.into()));
        self
    }

    /// Trusts the CA certificates in a PEM text, like [`ca_file`](Self::ca_file).
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(Pem::Text(pem.into()));
        self
    }

    /// Sets the certificate and the key that the client presents to a server that asks for one, as PEM files. The same
    /// file can hold both. Defaults to none.
    pub fn certificate_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (Pem::File(certificate.into()), Pem::File(key.into()));
        self.identity = Some(Identity { certificate, key });
        self
    }

    /// Sets the certificate and the key of the client as PEM texts, like [`certificate_files`](Self::certificate_files).
    pub fn certificate_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (certificate, key) = (Pem::Text(certificate.into()), Pem::Text(key.into()));
        self.identity = Some(Identity { certificate, key });
        self
    }

    /// Sets the name or address that the server's certificate has to be for. The client also sends it (SNI) if it is a
    /// name. Defaults to the host of the URL.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Accepts any certificate, of any issuer and for any name. Everyone on the way to the server can then read and change
    /// what is sent.
    pub fn dangerous_accept_any_certificate(mut self) -> Self {
        self.accepts_any = true;
        self
    }

    /// Checks the settings, and reads the files, before anything is sent.
    pub(crate) fn built(self) -> Result<Self> {
        self.server_name.as_deref().map(server_name).transpose()?;
        Ok(Self { made: Some(self.config()?), ..self })
    }

    /// Returns the settings for another host, to which the first one redirects: the certificate and the name are not meant
    /// for it.
    pub(crate) fn for_another_host(&self) -> Self {
        let given = self.given.as_deref().map(|config| {
            let mut config = config.clone();
            config.client_auth_cert_resolver = Arc::new(NoCertificate);
            Arc::new(config)
        });
        Self { identity: None, server_name: None, made: None, given, ..self.clone() }
    }

    /// Starts a TLS connection to a host.
    pub(crate) fn connection(&self, host: &str) -> Result<rustls::Connection> {
        let name = server_name(self.server_name.as_deref().unwrap_or(host))?;
        let connection =
            ClientConnection::new(self.config()?, name).map_err(|error| explain(&error, "server"))?;
        Ok(connection.into())
    }

    fn config(&self) -> Result<Arc<ClientConfig>> {
        if let Some(config) = &self.made {
            return Ok(Arc::clone(config));
        }
        if let Some(config) = &self.given {
            if !self.roots.is_empty() || self.identity.is_some() || self.accepts_any {
                return Err(Error::invalid(
                    "tls: roots and certificates belong into the given rustls::ClientConfig",
                ));
            }
            check_alpn(&config.alpn_protocols)?;
            if config.enable_early_data {
                return Err(Error::invalid(
                    "tls: early data can be replayed: set enable_early_data to false",
                ));
            }
            return Ok(Arc::clone(config));
        }
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = if self.accepts_any {
            Arc::new(AcceptAny(Arc::clone(&provider)))
        } else {
            let roots =
                if self.roots.is_empty() { default_roots() } else { Arc::new(pem::roots(&self.roots)?) };
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| Error::tls(format!("the roots cannot be used: {error}")))?
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| explain(&error, "server"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| identity.unusable(&error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        // A resumed session saves little with TLS 1.3, and a server could recognise the client by it.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self { given: Some(config), ..Self::default() }
    }
}

/// Returns the name or address that a certificate has to be for.
fn server_name(host: &str) -> Result<ServerName<'static>> {
    // A zone names an interface of this machine, and the dot at the end is not a part of the name (RFC 6066 §3).
    let name = host.split('%').next().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name).to_owned();
    ServerName::try_from(name)
        .map_err(|_| Error::invalid("tls: no certificate can be for the host or server_name"))
}

/// Returns the roots of the system, or those of Mozilla if it has none, as in an empty chroot.
fn default_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        for error in native.errors {
            log_line!(Debug, LOG, "some roots of the system cannot be read: {error}");
        }
        // Some systems have roots in forms that are too old to be parsed.
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            log_line!(Debug, LOG, "the system has no roots, so the built-in roots are trusted");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    });
    Arc::clone(roots)
}

/// Presents no certificate to a server that asks for one.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The verifier of [`ClientTls::dangerous_accept_any_certificate`].
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
