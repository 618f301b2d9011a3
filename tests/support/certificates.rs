//! The certificates in `tests/certificates/`, which its script `make` has made.
//!
//! `server` and `renewed` are for localhost, 127.0.0.1, ::1 and *.threadws.test. `client` is for clients. `ca` has issued them.

use threadws::tls::{ClientTls, ServerTls};

/// Returns the path of a file in `tests/certificates/`.
pub fn certificate(file: &str) -> String {
    format!("{}/tests/certificates/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The TLS of a server with one of the certificates.
pub fn server_tls(name: &str) -> ServerTls {
    ServerTls::files(certificate(&format!("{name}.pem")), certificate(&format!("{name}.key")))
}

/// The TLS of a client that trusts `ca`.
pub fn client_tls() -> ClientTls {
    ClientTls::new().ca_file(certificate("ca.pem"))
}
