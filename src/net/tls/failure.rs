//! The texts of TLS errors. Each names the cure, because the cause is nearly always a certificate or an address.

use super::pem::Identity;
use super::rustls::pki_types::UnixTime;
use super::rustls::{self, AlertDescription, CertificateError, InconsistentKeys, PeerMisbehaved};
use super::{PANICKED, WITHOUT_DATA};
use crate::error::Error;
use crate::request::Escaped;

const DAY: u64 = 24 * 60 * 60;

/// Returns the error of a handshake with a peer, which is the "server" or the "client".
pub(super) fn explain(error: &rustls::Error, peer: &str) -> Error {
    Error::tls(match error {
        rustls::Error::InvalidCertificate(error) => certificate(error, peer),
        rustls::Error::NoCertificatesPresented => format!("the {peer} has sent no certificate"),
        rustls::Error::AlertReceived(alert) => received(*alert).to_owned(),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
            format!("the {peer} and this program have no version or method in common: {error}")
        }
        rustls::Error::General(text) => format!("{}", Escaped(text)),
        error => format!("{}", Escaped(&error.to_string())),
    })
}

fn certificate(error: &CertificateError, peer: &str) -> String {
    let days = |from: UnixTime, to: UnixTime| to.as_secs().saturating_sub(from.as_secs()).div_ceil(DAY);
    match error {
        CertificateError::UnknownIssuer => format!(
            "the certificate of the {peer} is issued by no CA that is trusted here: trust the issuer's certificate (ca_file, --cacert)"
        ),
        CertificateError::Expired => format!("the certificate of the {peer} has expired"),
        CertificateError::ExpiredContext { time, not_after } => {
            format!(
                "the certificate of the {peer} has expired {} days ago: is the clock right?",
                days(*not_after, *time)
            )
        }
        CertificateError::NotValidYet => {
            format!("the certificate of the {peer} is not valid yet: is the clock right?")
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate of the {peer} is not valid yet, but in {} days: is the clock right?",
            days(*time, *not_before)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let names = names.join(", ");
            format!(
                "the certificate of the {peer} is for {1} and not for {0:?}",
                expected.to_str(),
                Escaped(&names)
            )
        }
        // The error of the crate webpki, which rustls does not export.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            format!("the certificate of the {peer} is one of a CA: make it with basicConstraints=CA:FALSE")
        }
        error => format!("the certificate of the {peer} cannot be used: {}", Escaped(&format!("{error:?}"))),
    }
}

/// Returns the name in `DnsName("a.example")` or `IpAddress(127.0.0.1)`, as rustls shows a certificate's names.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// Returns the text of an error after the handshake. With TLS 1.3 a client learns only then that the server refuses its
/// certificate, because the server checks it after the client has finished.
pub(super) fn short(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::DecryptError => "a record cannot be decrypted",
        rustls::Error::PeerSentOversizedRecord => "a record is too large",
        rustls::Error::InvalidMessage(_) => "a record is malformed",
        rustls::Error::AlertReceived(alert) => received(*alert),
        rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments) => WITHOUT_DATA,
        rustls::Error::General(text) if text == PANICKED => PANICKED,
        _ => "the peer broke a rule of TLS",
    }
}

fn received(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => "the peer demands a certificate",
        AlertDescription::UnknownCA => "the peer does not trust the issuer of our certificate",
        AlertDescription::CertificateExpired => "the peer takes our certificate for expired",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => "the peer refuses our certificate",
        AlertDescription::UnrecognisedName => "the peer has no certificate for this name",
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity
        | AlertDescription::NoApplicationProtocol => "the peer found no version or method in common",
        AlertDescription::InternalError => "the peer failed, or is full",
        AlertDescription::AccessDenied => "the peer has too many connections or handshakes from here",
        alert => alert.as_str().unwrap_or("the peer sent an unknown alert"),
    }
}

impl Identity {
    /// Returns the error of a certificate and key that cannot be used.
    pub(super) fn unusable(&self, error: &rustls::Error) -> Error {
        let Self { certificate, key } = self;
        Error::tls(match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("the key in {key} does not belong to the certificate in {certificate}")
            }
            error => {
                format!("the certificate in {certificate}, or the key in {key}, cannot be used: {error}")
            }
        })
    }
}
