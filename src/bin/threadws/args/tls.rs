//! The options for `wss://`, shared by `connect` and `bench`. All but `--server-name` are named as in curl. No I/O.

use super::{one_line, value};
use crate::args::values;
use lexopt::Arg;
use lexopt::prelude::{Long, Short};
use std::path::PathBuf;

/// The part of the help that both commands have. A macro, because `concat!` takes no constant.
macro_rules! tls_help {
    () => {
        "\
TLS, for wss://:
  --cacert FILE         trust the CA certificates in this PEM file instead of
                        the system's [default: the system's]
  --cert FILE           certificate of the client, a PEM file [default: none]
  --key FILE            its private key [default: the file of --cert]
  --server-name NAME    name that the server's certificate has to be for
                        [default: the host in the URL]
  -k, --insecure        accept any certificate: everyone on the way can read
                        and change what is sent [default: off]
"
    };
}
pub(super) use tls_help;

/// How a client uses TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    pub(crate) cacert: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's file by default.
    pub(crate) key: Option<PathBuf>,
    pub(crate) insecure: bool,
    pub(crate) server_name: Option<String>,
}

/// An option of TLS.
pub(super) enum TlsOption {
    CaCert,
    Cert,
    Key,
    Insecure,
    ServerName,
}

impl TlsOption {
    pub(super) fn of(arg: &Arg<'_>) -> Option<Self> {
        match arg {
            Long("cacert") => Some(Self::CaCert),
            Long("cert") => Some(Self::Cert),
            Long("key") => Some(Self::Key),
            Long("insecure") | Short('k') => Some(Self::Insecure),
            Long("server-name") => Some(Self::ServerName),
            _ => None,
        }
    }
}

impl TlsOptions {
    pub(super) fn take(&mut self, option: TlsOption, parser: &mut lexopt::Parser) -> Result<(), String> {
        match option {
            TlsOption::CaCert => self.cacert = Some(file(parser)?),
            TlsOption::Cert => self.cert = Some(file(parser)?),
            TlsOption::Key => self.key = Some(file(parser)?),
            TlsOption::Insecure => self.insecure = true,
            TlsOption::ServerName => {
                self.server_name = Some(value(parser, "server-name", values::host)?);
            }
        }
        Ok(())
    }

    /// Refuses options that cannot work together, or in this binary.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.insecure && self.cacert.is_some() {
            return Err("--insecure and --cacert cannot be combined".to_owned());
        }
        check_needs_cert(self.cert.is_some(), "--key", self.key.is_some())?;
        check_feature(*self != Self::default())
    }
}

/// Takes the path of a file.
pub(super) fn file(parser: &mut lexopt::Parser) -> Result<PathBuf, String> {
    parser.value().map(PathBuf::from).map_err(one_line)
}

/// Refuses an option that needs `--cert`.
pub(super) fn check_needs_cert(has_cert: bool, name: &str, is_given: bool) -> Result<(), String> {
    if is_given && !has_cert { Err(format!("{name} needs --cert")) } else { Ok(()) }
}

/// Refuses options of TLS in a binary without it.
pub(super) fn check_feature(uses_tls: bool) -> Result<(), String> {
    if uses_tls && !cfg!(feature = "tls") {
        Err("this binary was built without the feature tls".to_owned())
    } else {
        Ok(())
    }
}
