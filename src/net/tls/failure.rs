//! The texts of TLS errors. Each names the cure, because the cause is nearly always a certificate or an address.

use super::pem::Identity;
use super::rustls::pki_types::UnixTime;
use super::rustls::{self, AlertDescription, CertificateError, InconsistentKeys};
use crate::error::Error;
use crate::request::Escaped;

const DAY: u64 = 24 * 60 * 60;

/// Returns the error of a handshake with a peer, which is the "server" or the "client".
pub(super) fn explain(error: &rustls::Error, peer: &str) -> Error {
    Error::tls(match error {
        rustls::Error::InvalidCertificate(error) => certificate(error, peer),
        rustls::Error::NoCertificatesPresented => format!("the {peer} has sent no certificate"),
        rustls::Error::AlertReceived(alert) => received(*alert, peer),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
            format!("the {peer} and this program have no version or method in common: {error}")
        }
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
            let names = presented.join(", ");
            format!(
                "the certificate of the {peer} is not for {:?}, but for {}",
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

fn received(alert: AlertDescription, peer: &str) -> String {
    match alert {
        AlertDescription::CertificateRequired => format!("the {peer} demands a certificate"),
        AlertDescription::UnknownCA => {
            format!("the {peer} does not trust the issuer of our certificate")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => format!("the {peer} refuses our certificate: {alert:?}"),
        AlertDescription::UnrecognisedName => format!("the {peer} has no certificate for the name"),
        AlertDescription::InternalError => format!("the {peer} failed, or is full"),
        AlertDescription::AccessDenied => {
            format!("the {peer} has too many connections or handshakes from here")
        }
        alert => format!("the {peer} sent the alert {alert:?}"),
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
