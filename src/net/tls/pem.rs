//! Certificates and keys in PEM (RFC 7468), from files or from memory.

use super::rustls::RootCertStore;
use super::rustls::pki_types::pem::{self, PemObject};
use super::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use crate::error::{Error, Result, context};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// A PEM text. A file is read when a configuration is made from it.
#[derive(Clone)]
pub(super) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

/// A certificate with the chain to its root, and its private key. Both may be in one text.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) certificate: Pem,
    pub(super) key: Pem,
}

impl Pem {
    fn read(&self) -> Result<Cow<'_, [u8]>> {
        Ok(match self {
            Self::File(path) => Cow::Owned(
                std::fs::read(path).map_err(|error| context(format_args!("cannot read {self}"), error))?,
            ),
            Self::Text(text) => Cow::Borrowed(text),
        })
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let text = self.read()?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| self.malformed(&error))?;
        if certificates.is_empty() {
            return Err(Error::tls(format!("{self} has no certificate (BEGIN CERTIFICATE)")));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let text = self.read()?;
        // Both the header of PKCS #8 and the one of OpenSSL's old format have this word. The Base64 text of a key
        // contains it only by chance: about one in 2^43 for an RSA key.
        if text.windows(b"ENCRYPTED".len()).any(|word| word == b"ENCRYPTED") {
            return Err(Error::tls(format!(
                "the key in {self} is encrypted: decrypt it with `openssl pkey -in FILE -out NEW_FILE`"
            )));
        }
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound => Error::tls(format!("{self} has no private key (BEGIN PRIVATE KEY)")),
            error => self.malformed(&error),
        })
    }

    fn malformed(&self, error: &pem::Error) -> Error {
        Error::tls(format!("{self} is malformed: {error}"))
    }
}

impl Identity {
    pub(super) fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        Ok((self.certificate.certificates()?, self.key.key()?))
    }
}

/// Returns the certificates of all texts as roots.
pub(super) fn roots(texts: &[Pem]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for pem in texts {
        for certificate in pem.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| Error::tls(format!("a certificate in {pem} cannot be used: {error}")))?;
        }
    }
    Ok(roots)
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text(_) => f.write_str("the PEM text"),
        }
    }
}

/// Hides the text, because it can be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
