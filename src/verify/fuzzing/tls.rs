//! Any bytes in the place of a TLS handshake, and any records after one.

use crate::config::Config;
use crate::connection::{Connection, Early, Parts};
use crate::error::Error;
use crate::flush_thread::FlushThread;
use crate::hub::Hub;
use crate::message::{Message, MessageRef};
use crate::net::session::record_len;
use crate::net::tls::rustls::crypto::cipher::{AeadKey, Iv, MessageEncrypter, OutboundPlainMessage};
use crate::net::tls::rustls::crypto::ring;
use crate::net::tls::rustls::pki_types::pem::PemObject;
use crate::net::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use crate::net::tls::rustls::version::{TLS12, TLS13};
use crate::net::tls::rustls::{
    self, ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
};
use crate::net::tls::{ClientTls, ServerTls, TlsServer, TlsSession, accept, connect};
use crate::net::{Deadline, Line, Stream};
use crate::outbox::Outbox;
use crate::protocol::Role;
use crate::protocol::decoder::{Decoder, Item, text};
use crate::request::Request;
use crate::sender::Sender;
use crate::sync::{Arc, OnceLock};
use crate::timer::Timer;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const CERTIFICATE: &[u8] = include_bytes!("../../../tests/certificates/server.pem");
const KEY: &[u8] = include_bytes!("../../../tests/certificates/server.key");
const CA: &[u8] = include_bytes!("../../../tests/certificates/ca.pem");
/// A socket pair takes this many bytes without a reader. A longer input would block `write_all`.
const MOST_BYTES: usize = 32 * 1024;

/// Whatever arrives, a handshake ends in time, and answers with whole records, of which an alert is the last. The first byte
/// chooses the role.
pub fn tls_handshake(input: &[u8]) {
    static SERVER: OnceLock<TlsServer> = OnceLock::new();
    let [role, bytes @ ..] = input else { return };
    let bytes = bytes.get(..MOST_BYTES).unwrap_or(bytes);
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(bytes).expect("there is room");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let mut line = Line::new(Arc::new(Stream::new(ours).expect("a stream")));
    let deadline = Deadline::after(Duration::from_secs(10));
    let result = if role % 2 == 0 {
        let server = SERVER.get_or_init(|| ServerTls::pem(CERTIFICATE, KEY).build().expect("a certificate"));
        accept(&mut line, server, &mut Vec::new(), deadline)
    } else {
        connect(&mut line, &ClientTls::new().dangerous_accept_any_certificate(), "localhost", deadline)
    };
    // Without the keys of a live peer no handshake succeeds.
    let error = result.expect_err("it cannot succeed");
    assert!(!matches!(error, Error::Timeout(_)), "{error}");
    drop(line);
    check_answer(theirs);
}

/// Reads until the end. The answer consists of whole records.
fn check_answer(mut theirs: UnixStream) {
    let mut answer = Vec::new();
    // A reset, because not all bytes were read.
    drop(theirs.read_to_end(&mut answer));
    let mut rest = &answer[..];
    while !rest.is_empty() {
        let len = record_len(rest).expect("whole records");
        assert!((20..=23).contains(&rest[0]) && len > 5, "{rest:02x?}");
        rest = &rest[len..];
    }
}

/// Whatever records follow a handshake, a connection returns the messages in them up to the first record that breaks a rule,
/// and ends in time. The first byte chooses the role and the version. Then each record has a byte for its type, one for its
/// length, and its plaintext.
pub fn tls_records(input: &[u8]) {
    let [flags, bytes @ ..] = input else { return };
    let mut bytes = bytes.get(..MOST_BYTES / 4).unwrap_or(bytes);
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let (session, mut sealer) = session(role, flags & 2 != 0);
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let (mut sealed, mut plain) = (Vec::new(), Vec::new());
    while let [kind, len, rest @ ..] = bytes {
        let (body, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        bytes = rest;
        let kind = match kind % 8 {
            // Without a seal.
            0 => {
                sealed.extend_from_slice(body);
                continue;
            }
            1..=3 => ContentType::ApplicationData,
            4 => ContentType::Handshake,
            5 => ContentType::Alert,
            6 => ContentType::ChangeCipherSpec,
            _ => ContentType::from(*kind),
        };
        sealed.extend(sealer.seal(kind, body));
        if kind == ContentType::ApplicationData {
            plain.extend_from_slice(body);
        }
    }
    sealed.truncate(MOST_BYTES);
    theirs.write_all(&sealed).expect("there is room");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let mut connection = connection(role, session, ours);
    let expected = messages(role, &mut plain);
    let mut received = Vec::new();
    // Any error, or the end.
    while let Ok(Some(message)) = connection.recv() {
        received.push(message);
    }
    assert!(connection.closed().is_some());
    assert_eq!(Some(&*received), expected.get(..received.len()), "these were not sent");
    drop(connection);
    check_answer(theirs);
}

/// Returns the messages in `plain`, up to the first frame that breaks a rule.
fn messages(role: Role, plain: &mut [u8]) -> Vec<Message> {
    let mut decoder = Decoder::new(role, Config::new().max_message_size());
    let (mut messages, mut at) = (Vec::new(), 0);
    while let Ok(step) = decoder.next(&mut plain[at..]) {
        let bytes = &plain[at..];
        match step.item {
            Some(Item::Binary(span)) => messages.push(MessageRef::Binary(&bytes[span.range()]).into()),
            Some(Item::Text(span)) => match text(&bytes[span.range()]) {
                Ok(text) => messages.push(MessageRef::Text(text).into()),
                Err(_) => break,
            },
            Some(Item::Assembled) => messages.push(decoder.take()),
            Some(Item::Close(_)) | None => break,
            Some(_) => {}
        }
        at += step.used;
    }
    messages
}

/// Makes the connection that a handshake would.
fn connection(role: Role, session: TlsSession, stream: UnixStream) -> Box<Connection> {
    static THREADS: OnceLock<(Arc<FlushThread>, Arc<Timer>)> = OnceLock::new();
    let (flush, timer) = THREADS
        .get_or_init(|| (FlushThread::start().expect("a thread").0, Timer::start().expect("a thread").0));
    let config = Config::new().with_close_timeout(Duration::from_secs(10));
    let stream = Arc::new(Stream::new(stream).expect("a stream"));
    let outbox = Outbox::new(role, &config, Arc::clone(&stream), Arc::clone(flush), None);
    outbox.seal_with(Box::new(session));
    let addr = stream.peer_addr().expect("a peer");
    let parts = Parts {
        sender: Sender::new(1, outbox),
        request: Box::new(Request::new(http::Request::new(()), addr, addr)),
        response: None,
        subprotocol: None,
        hub: Hub::default(),
        hooks: Arc::default(),
        counters: Arc::default(),
        timer: Arc::clone(timer),
        message_rate: None,
    };
    Connection::new(&config, stream, Early { plain: &[], sealed: Some(&[]) }, parts).expect("a connection")
}

/// Seals records with the keys of the peer.
struct RecordSealer {
    cipher: Box<dyn MessageEncrypter>,
    number: u64,
}

impl RecordSealer {
    fn seal(&mut self, kind: ContentType, body: &[u8]) -> Vec<u8> {
        let version = ProtocolVersion::TLSv1_2;
        let message = OutboundPlainMessage { typ: kind, version, payload: body.into() };
        let record = self.cipher.encrypt(message, self.number).expect("it can be sealed");
        self.number += 1;
        record.encode()
    }
}

/// Shakes hands in memory. Returns our session, and the keys of the peer.
fn session(role: Role, is_tls12: bool) -> (TlsSession, RecordSealer) {
    static CONFIGS: OnceLock<[(Arc<ClientConfig>, Arc<ServerConfig>); 2]> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| [&TLS13, &TLS12].map(configs));
    let (client, server) = &configs[usize::from(is_tls12)];
    let name = "localhost".try_into().expect("a name");
    let mut client =
        rustls::Connection::from(ClientConnection::new(Arc::clone(client), name).expect("it works"));
    let mut server = rustls::Connection::from(ServerConnection::new(Arc::clone(server)).expect("it works"));
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    let (ours, theirs) = if role == Role::Server { (server, client) } else { (client, server) };
    let suite = theirs.negotiated_cipher_suite().expect("a suite");
    let (number, secrets) = theirs.dangerous_extract_secrets().expect("they are extracted").tx;
    let (key, iv) = keys(secrets);
    let cipher = match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, rest) = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
            suite.aead_alg.encrypter(key, fixed, rest)
        }
    };
    (TlsSession::new(ours), RecordSealer { cipher, number })
}

fn configs(version: &'static rustls::SupportedProtocolVersion) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(ring::default_provider());
    let certificate = |pem: &[u8]| CertificateDer::from_pem_slice(pem).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate(CA)).expect("a root");
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate(CERTIFICATE)], key)
        .expect("they fit");
    (client.enable_secret_extraction, server.enable_secret_extraction) = (true, true);
    (Arc::new(client), Arc::new(server))
}

/// Passes what one end has to send to the other.
fn pass(from: &mut rustls::Connection, to: &mut rustls::Connection) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).expect("memory");
    }
    let mut wire = &wire[..];
    while !wire.is_empty() {
        to.read_tls(&mut wire).expect("memory");
        to.process_new_packets().expect("a handshake");
    }
}

fn keys(secrets: ConnectionTrafficSecrets) -> (AeadKey, Iv) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => panic!("another cipher"),
    }
}
