//! A client that seals and opens records itself, so that it can send any record at any time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use support::frame::{self, Frame};
use support::{PATIENCE, rustls_client, upgrade_request};
use threadws::tls::rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use threadws::tls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundPlainMessage,
};
use threadws::tls::rustls::kernel::KernelConnection;
use threadws::tls::rustls::pki_types::ServerName;
use threadws::tls::rustls::unbuffered::ConnectionState;
use threadws::tls::rustls::{ConnectionTrafficSecrets, SupportedCipherSuite, SupportedProtocolVersion};
pub(crate) use threadws::tls::rustls::{ContentType, ProtocolVersion};

/// The type of an alert, a handshake message and application data.
pub(crate) const ALERT: ContentType = ContentType::Alert;
pub(crate) const HANDSHAKE: ContentType = ContentType::Handshake;
pub(crate) const DATA: ContentType = ContentType::ApplicationData;
/// The body of a close_notify.
pub(crate) const CLOSE_NOTIFY: &[u8] = &[1, 0];

/// The keys of one direction, and the number of the next record.
struct Keys<T: ?Sized> {
    cipher: Box<T>,
    number: u64,
}

/// A client of a TLS server, after both handshakes.
pub(crate) struct TlsPeer {
    pub(crate) stream: TcpStream,
    kernel: KernelConnection<ClientConnectionData>,
    sealing: Keys<dyn MessageEncrypter>,
    opening: Keys<dyn MessageDecrypter>,
    /// Bytes that are not opened, and plaintext that is not parsed.
    sealed: Vec<u8>,
    plain: Vec<u8>,
    /// How many KeyUpdates of the server were opened.
    pub(crate) key_updates: usize,
}

impl TlsPeer {
    /// Connects with TLS 1.3, and upgrades.
    pub(crate) fn open(addr: SocketAddr) -> Self {
        Self::open_with(addr, &threadws::tls::rustls::version::TLS13)
    }

    pub(crate) fn open_with(addr: SocketAddr, version: &'static SupportedProtocolVersion) -> Self {
        let mut stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("TCP");
        let mut config = rustls_client(&[version]);
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = UnbufferedClientConnection::new(Arc::new(config), name).expect("it works");
        let (mut sealed, mut out) = (Vec::new(), Vec::new());
        // One record at a time: what follows the handshake is for the keys below.
        let mut shown = 0;
        loop {
            let status = connection.process_tls_records(&mut sealed[..shown]);
            let (discard, mut is_done, mut wants_more) = (status.discard, false, false);
            match status.state.expect("the server shakes hands") {
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = out.len();
                    out.resize(at + 20_000, 0);
                    let count = data.encode(&mut out[at..]).expect("room");
                    out.truncate(at + count);
                }
                ConnectionState::TransmitTlsData(data) => {
                    stream.write_all(&std::mem::take(&mut out)).expect("it is read");
                    data.done();
                }
                ConnectionState::BlockedHandshake => wants_more = true,
                ConnectionState::WriteTraffic(_) => is_done = true,
                other => panic!("{other:?}"),
            }
            sealed.drain(..discard);
            shown -= discard;
            if is_done {
                break;
            }
            if wants_more {
                shown += loop {
                    match record_len(&sealed[shown..]) {
                        Some(len) => break len,
                        None => fill(&mut stream, &mut sealed).expect("the server shakes hands"),
                    }
                };
            }
        }
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().expect("all is sent");
        let suite = kernel.negotiated_cipher_suite();
        let sealing = Keys { cipher: encrypter(suite, secrets.tx.1), number: secrets.tx.0 };
        let opening = Keys { cipher: decrypter(suite, secrets.rx.1), number: secrets.rx.0 };
        let mut peer = Self { stream, kernel, sealing, opening, sealed, plain: Vec::new(), key_updates: 0 };
        peer.send(DATA, upgrade_request(addr, "/", &[]).as_bytes());
        let end = loop {
            if let Some(at) = peer.plain.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            // The first record has the session tickets.
            peer.read_record().expect("an answer");
        };
        let head: Vec<u8> = peer.plain.drain(..end).collect();
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", frame::excerpt(&head));
        peer
    }

    /// Returns a sealed record.
    pub(crate) fn seal(&mut self, kind: ContentType, body: &[u8]) -> Vec<u8> {
        let version = ProtocolVersion::TLSv1_2;
        let message = OutboundPlainMessage { typ: kind, version, payload: body.into() };
        let record = self.sealing.cipher.encrypt(message, self.sealing.number).expect("it can be sealed");
        self.sealing.number += 1;
        record.encode()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub(crate) fn send(&mut self, kind: ContentType, body: &[u8]) {
        let record = self.seal(kind, body);
        self.write(&record);
    }

    pub(crate) fn send_frame(&mut self, frame: Frame) {
        self.send(DATA, &frame.encode());
    }

    /// Sends a KeyUpdate, and seals with new keys from now on.
    pub(crate) fn update_keys(&mut self, wants_answer: bool) {
        self.send(HANDSHAKE, &[24, 0, 0, 1, u8::from(wants_answer)]);
        let suite = self.kernel.negotiated_cipher_suite();
        let (number, secrets) = self.kernel.update_tx_secret().expect("TLS 1.3");
        self.sealing = Keys { cipher: encrypter(suite, secrets), number };
    }

    /// Reads and opens one record. Plaintext is kept for [`next_frame`](Self::next_frame). An error is the end of the stream.
    pub(crate) fn read_record(&mut self) -> io::Result<(ContentType, Vec<u8>)> {
        let len = loop {
            match record_len(&self.sealed) {
                Some(len) => break len,
                None => fill(&mut self.stream, &mut self.sealed)?,
            }
        };
        let mut record: Vec<u8> = self.sealed.drain(..len).collect();
        let kind = ContentType::from(record[0]);
        let message = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, &mut record[5..]);
        let opened =
            self.opening.cipher.decrypt(message, self.opening.number).expect("the server's keys fit");
        self.opening.number += 1;
        let (kind, body) = (opened.typ, opened.payload.to_vec());
        match (kind, &*body) {
            (DATA, _) => self.plain.extend_from_slice(&body),
            (HANDSHAKE, [24, 0, 0, 1, _]) => {
                self.key_updates += 1;
                let suite = self.kernel.negotiated_cipher_suite();
                let (number, secrets) = self.kernel.update_rx_secret().expect("TLS 1.3");
                self.opening = Keys { cipher: decrypter(suite, secrets), number };
            }
            _ => {}
        }
        Ok((kind, body))
    }

    /// Returns the next frame.
    #[track_caller]
    pub(crate) fn next_frame(&mut self) -> Frame {
        loop {
            if let Some((frame, used)) = frame::parse(&self.plain).expect("a valid frame") {
                self.plain.drain(..used);
                return frame;
            }
            let (kind, body) = self.read_record().expect("a frame comes");
            assert!(kind != ALERT, "alert {body:?}");
        }
    }

    #[track_caller]
    pub(crate) fn expect_text(&mut self, text: &str) {
        assert_eq!(self.next_frame().as_text(), text);
    }

    /// Reads until an alert, which is the last record. Returns its body, or `None` if the stream ends without one.
    #[track_caller]
    pub(crate) fn last_alert(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.read_record() {
                Ok((ALERT, body)) => {
                    let after = self.read_record().expect_err("nothing follows an alert");
                    assert_eq!(after.kind(), ErrorKind::UnexpectedEof, "FIN follows an alert");
                    return Some(body);
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => {
            bytes.extend_from_slice(&buffer[..count]);
            Ok(())
        }
    }
}

fn record_len(bytes: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low] = bytes.first_chunk::<5>()?;
    let len = 5 + usize::from(u16::from_be_bytes([high, low]));
    (bytes.len() >= len).then_some(len)
}

fn keys(secrets: ConnectionTrafficSecrets) -> (AeadKey, Iv) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => panic!("another cipher"),
    }
}

fn encrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageEncrypter> {
    let (key, iv) = keys(secrets);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, rest) = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
            suite.aead_alg.encrypter(key, fixed, rest)
        }
    }
}

fn decrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageDecrypter> {
    let (key, iv) = keys(secrets);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len).0;
            suite.aead_alg.decrypter(key, fixed)
        }
    }
}
