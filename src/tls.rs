//! TLS: the settings of [`Connect::tls`](crate::Connect::tls) and [`Server::tls`](crate::Server::tls). Needs the feature
//! `tls`, which is on by default.
//!
//! The library uses [`rustls`], TLS 1.2 and 1.3. Its version is part of this crate's interface, but only programs that pass a
//! configuration of their own depend on it. The cryptography is ring's, or that of the process's default provider if
//! the program has installed one.

pub use crate::net::tls::{ClientTls, ServerTls, rustls};
