//! Callbacks of a given rustls configuration that panic: the connection ends with an error, and nothing else does.

use crate::{connect, rustls_server};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{TestServer, certificate, echo, rustls_client, watchdog};
use threadws::tls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use threadws::tls::rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use threadws::tls::rustls::crypto::ring;
use threadws::tls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use threadws::tls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use threadws::tls::rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use threadws::tls::rustls::sign::CertifiedKey;
use threadws::tls::rustls::version::{TLS12, TLS13};
use threadws::tls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, KeyLog, NamedGroup, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use threadws::{Connection, Error};

const PANICKED: &str = "a callback of the TLS configuration panicked";

/// Every callback that a configuration of either role can have. The first call of the one that is named panics.
#[derive(Debug)]
struct Callbacks {
    panics: &'static str,
    has_panicked: AtomicBool,
    sessions: ClientSessionMemoryCache,
    certificate: Arc<dyn ResolvesServerCert>,
}

impl Callbacks {
    fn new(panics: &'static str) -> Arc<Self> {
        let certificate = rustls_server(ring::default_provider(), &[&TLS13]).cert_resolver;
        let (has_panicked, sessions) = (AtomicBool::new(false), ClientSessionMemoryCache::new(10));
        Arc::new(Self { panics, has_panicked, sessions, certificate })
    }

    fn called(&self, name: &str) {
        if self.panics == name && !self.has_panicked.swap(true, Ordering::Relaxed) {
            panic!("{name}");
        }
    }

    fn verify_signature(&self) -> Result<HandshakeSignatureValid, TlsError> {
        self.called("verify_signature");
        Ok(HandshakeSignatureValid::assertion())
    }

    fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Relaxed)
    }
}

impl KeyLog for Callbacks {
    fn log(&self, label: &str, _: &[u8], _: &[u8]) {
        self.called("log");
        self.called(label);
    }
}

impl ResolvesServerCert for Callbacks {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.called("resolve");
        self.certificate.resolve(hello)
    }
}

impl StoresServerSessions for Callbacks {
    fn put(&self, _: Vec<u8>, _: Vec<u8>) -> bool {
        self.called("put");
        true
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        self.called("can_cache");
        true
    }
}

/// The methods that the verifiers of both roles have.
macro_rules! check_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, TlsError> {
            self.verify_signature()
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, TlsError> {
            self.verify_signature()
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.called("supported_verify_schemes");
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for Callbacks {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.called("root_hint_subjects");
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.called("verify_client_cert");
        Ok(ClientCertVerified::assertion())
    }

    check_signatures!();
}

impl ServerCertVerifier for Callbacks {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.called("verify_server_cert");
        Ok(ServerCertVerified::assertion())
    }

    check_signatures!();
}

impl ResolvesClientCert for Callbacks {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.called("resolve");
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientSessionStore for Callbacks {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.called("set_kx_hint");
        self.sessions.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.called("kx_hint");
        self.sessions.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.called("set_tls12_session");
        self.sessions.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.called("tls12_session");
        self.sessions.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.sessions.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.called("insert_tls13_ticket");
        self.sessions.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.called("take_tls13_ticket");
        self.sessions.take_tls13_ticket(name)
    }
}

/// Sends and receives a message, and closes.
fn expect_echo(connection: threadws::Result<Connection>) -> threadws::Result<()> {
    let mut connection = connection?;
    connection.send("over TLS")?;
    match connection.recv()? {
        Some(message) => assert_eq!(message, "over TLS".into()),
        None => return Err(Error::Closed(connection.closed().expect("it has ended").clone())),
    }
    connection.close(1000, "")
}

/// Calls `round` with each version and callback. The callback has to be called with at least one of the versions.
fn for_each_callback(
    names: &[&'static str],
    round: impl Fn(&'static SupportedProtocolVersion, &Arc<Callbacks>),
) {
    for &name in names {
        let called = [&TLS12, &TLS13].map(|version| {
            let callbacks = Callbacks::new(name);
            round(version, &callbacks);
            callbacks.has_panicked()
        });
        assert!(called.contains(&true), "{name} was never called");
    }
}

#[test]
fn a_panic_in_a_clients_configuration_is_an_error() {
    let _dog = watchdog(60);
    // It asks for a certificate.
    let mut server_config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS12, &TLS13])
        .expect("versions")
        .with_client_cert_verifier(Callbacks::new("none"))
        .with_cert_resolver(Callbacks::new("none"));
    server_config.session_storage = ServerSessionMemoryCache::new(10);
    let server = TestServer::with(|server| server.tls(Arc::new(server_config)), echo);
    let names = [
        "kx_hint",
        "set_kx_hint",
        "tls12_session",
        "set_tls12_session",
        "take_tls13_ticket",
        // After the handshake, while the outbox is locked.
        "insert_tls13_ticket",
        "verify_server_cert",
        "verify_signature",
        "supported_verify_schemes",
        "resolve",
        "log",
        "CLIENT_TRAFFIC_SECRET_0",
    ];
    for_each_callback(&names, |version, callbacks| {
        let mut config = rustls_client(&[version]);
        config.dangerous().set_certificate_verifier(Arc::clone(callbacks) as _);
        config.client_auth_cert_resolver = Arc::clone(callbacks) as _;
        config.key_log = Arc::clone(callbacks) as _;
        config.resumption = Resumption::store(Arc::clone(callbacks) as _);
        let config = Arc::new(config);
        let result = expect_echo(connect(server.addr(), Arc::clone(&config)));
        let what = callbacks.panics;
        match result {
            Err(error) if callbacks.has_panicked() => {
                assert!(error.to_string().ends_with(PANICKED), "{what}: {error}");
            }
            Ok(()) if !callbacks.has_panicked() => {}
            other => panic!("{what}: {other:?}"),
        }
        expect_echo(connect(server.addr(), config)).expect(what);
    });
}

#[test]
fn a_panic_in_a_servers_configuration_ends_one_client() {
    let _dog = watchdog(60);
    let names = [
        "resolve",
        "put",
        "can_cache",
        "root_hint_subjects",
        "verify_client_cert",
        "verify_signature",
        "supported_verify_schemes",
        "log",
        "SERVER_TRAFFIC_SECRET_0",
    ];
    for_each_callback(&names, |version, callbacks| {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_client_cert_verifier(Arc::clone(callbacks) as _)
            .with_cert_resolver(Arc::clone(callbacks) as _);
        config.session_storage = Arc::clone(callbacks) as _;
        config.key_log = Arc::clone(callbacks) as _;
        let server = TestServer::with(|server| server.tls(Arc::new(config)), echo);
        let client = || {
            let pem = ["client.pem", "client.key"].map(certificate);
            let tls = crate::client_tls().certificate_files(&pem[0], &pem[1]);
            expect_echo(connect(server.addr(), tls))
        };
        let (result, what) = (client(), callbacks.panics);
        assert_eq!(result.is_err(), callbacks.has_panicked(), "{what}: {result:?}");
        client().expect(what);
        assert_eq!(server.stats().refused["tls"] == 1, callbacks.has_panicked(), "{what}");
    });
}
