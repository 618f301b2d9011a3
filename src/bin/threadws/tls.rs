//! TLS as the options say.

#![cfg(feature = "tls")]

use crate::args::serve::CertOptions;
use crate::args::tls::TlsOptions;
use crate::signals;
use log::{info, warn};
use std::io;
use std::sync::Arc;
use threadws::ServerHandle;
use threadws::tls::{ClientTls, ServerTls};

pub(crate) fn client(options: &TlsOptions) -> ClientTls {
    let mut tls = ClientTls::new();
    if let Some(file) = &options.cacert {
        tls = tls.ca_file(file);
    }
    if let Some(cert) = &options.cert {
        tls = tls.certificate_files(cert, options.key.as_ref().unwrap_or(cert));
    }
    if let Some(name) = &options.server_name {
        tls = tls.server_name(name);
    }
    if options.insecure { tls.dangerous_accept_any_certificate() } else { tls }
}

pub(crate) fn server(options: &CertOptions) -> ServerTls {
    let key = options.key.as_ref().unwrap_or(&options.cert);
    let tls = ServerTls::files(&options.cert, key);
    match &options.client_ca {
        Some(file) => tls.client_ca_file(file),
        None => tls,
    }
}

/// Reads the files again at each SIGHUP.
pub(crate) fn reload_at_sighup(options: &CertOptions, handle: &Arc<ServerHandle>) -> io::Result<()> {
    let (options, handle) = (options.clone(), Arc::clone(handle));
    signals::at_sighup(move || match handle.set_tls(server(&options)) {
        Ok(()) => info!("new clients get the certificate that is in {} now", options.cert.display()),
        Err(error) => warn!("the old certificate stays: {error}"),
    })
}
