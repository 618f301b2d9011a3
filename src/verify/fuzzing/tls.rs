//! Any bytes in the place of a TLS handshake.

use crate::error::Error;
use crate::net::session::record_len;
use crate::net::tls::{ClientTls, ServerTls, TlsServer, accept, connect};
use crate::net::{Deadline, Line, Stream};
use crate::sync::{Arc, OnceLock};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

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
        let certificate = include_bytes!("../../../tests/certificates/server.pem");
        let key = include_bytes!("../../../tests/certificates/server.key");
        let server =
            SERVER.get_or_init(|| ServerTls::pem(*certificate, *key).build().expect("a certificate"));
        accept(&mut line, server, &mut Vec::new(), deadline)
    } else {
        connect(&mut line, &ClientTls::new().dangerous_accept_any_certificate(), "localhost", deadline)
    };
    // Without the keys of a live peer no handshake succeeds.
    let error = result.expect_err("it cannot succeed");
    assert!(!matches!(error, Error::Timeout(_)), "{error}");
    drop(line);
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
