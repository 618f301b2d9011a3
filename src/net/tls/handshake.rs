//! The TLS handshake of either role, before one deadline.

use super::client::ClientTls;
use super::rustls::{self, Connection, ProtocolVersion};
use super::server::TlsServer;
use super::{LOG, PANICKED, TlsSession, explain};
use crate::error::{Error, Result, Timeout};
use crate::logging::{contain, log_line};
use crate::net::line::{Line, write_sealed};
use crate::net::session::record_len;
use crate::net::{Deadline, Session};
use crate::sync::{Condvar, Mutex, OnceLock, now, processors};
use std::io::{self, ErrorKind};

/// Shakes hands with a server.
pub(crate) fn connect(line: &mut Line, tls: &ClientTls, host: &str, deadline: Deadline) -> Result<()> {
    shake_hands(line, start(|| tls.connection(host))?, deadline)
}

/// Shakes hands with a client, of which `bytes` were already read. They are replaced by the plaintext that has arrived behind
/// the handshake.
pub(crate) fn accept(
    line: &mut Line,
    tls: &TlsServer,
    bytes: &mut Vec<u8>,
    deadline: Deadline,
) -> Result<()> {
    line.sealed = std::mem::take(bytes);
    shake_hands(line, start(|| tls.connection())?, deadline)?;
    match line.open(bytes) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
        _ => Ok(()),
    }
}

/// Starts a TLS connection, which asks a client's session store, and can call other callbacks of a given configuration.
///
/// # Stack
///
/// A session is large, and the values that are moved here are not in the frames below the steps of the handshake, which need
/// the most stack. The pages that they touch stay resident as long as a server's client stays.
#[inline(never)]
fn start(connection: impl FnOnce() -> Result<Connection>) -> Result<Box<TlsSession>> {
    let connection = contain(LOG, "a callback of the TLS configuration", connection);
    let connection = connection.unwrap_or_else(|| Err(Error::tls(PANICKED)))?;
    Ok(Box::new(TlsSession::new(connection)))
}

fn shake_hands(line: &mut Line, mut session: Box<TlsSession>, deadline: Deadline) -> Result<()> {
    let is_client = matches!(session.connection, Connection::Client(_));
    let peer = if is_client { "server" } else { "client" };
    while session.is_handshaking() {
        write(&mut session, line, deadline)?;
        let Some(record) = record_len(&line.sealed).and_then(|len| line.sealed.get(..len)) else {
            read(line, peer, deadline)?;
            continue;
        };
        if is_client && record == b"HTTP/" {
            return Err(Error::tls("the server answered without TLS: ws:// instead of wss://?"));
        }
        let mut step = || session.feed(record);
        let fed = if is_client { step() } else { gate().compute(deadline, step)? };
        if let Err(error) = fed {
            if error == rustls::Error::General(PANICKED.into()) {
                log_line!(Error, LOG, "{PANICKED}");
            }
            // The alert for the peer. Ignored: the handshake has failed.
            drop(session.write(&**line.stream()));
            return Err(explain(&error, peer));
        }
        let used = record.len();
        line.sealed.drain(..used);
    }
    // With TLS 1.3 the rest leaves with the first bytes of the program: a server's session tickets, or a client's Finished.
    // A peer that has closed already cannot fail the handshake then, and one system call less is made.
    if session.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
        write(&mut session, line, deadline)?;
    }
    if !is_client {
        let certificate = session.connection.peer_certificates().and_then(<[_]>::first);
        line.peer_certificate = certificate.map(|certificate| certificate.as_ref().into());
    }
    line.session = Some(session);
    Ok(())
}

fn write(session: &mut TlsSession, line: &Line, deadline: Deadline) -> Result<()> {
    write_sealed(session, line.stream(), || deadline).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => Error::Timeout(Timeout::Handshake),
        _ => Error::Io(error),
    })
}

fn read(line: &mut Line, peer: &str, deadline: Deadline) -> Result<()> {
    if !line.stream.wait_readable(deadline)? {
        return Err(Error::Timeout(Timeout::Handshake));
    }
    match line.read_sealed(false) {
        Ok(0) => {
            let what = format!("the {peer} closed the connection during the TLS handshake");
            Err(Error::Io(io::Error::new(ErrorKind::UnexpectedEof, what)))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(Error::Io(error)),
    }
}

/// Limits the handshakes that compute at a time to the number of processors.
///
/// Otherwise thousands of clients that reconnect at once would share the processors, and all of them would miss the deadline.
/// This way the first ones finish early.
struct HandshakeGate {
    most: usize,
    computing: Mutex<usize>,
    /// Notified when a step has ended.
    freed: Condvar,
}

/// Returns the gate of the process.
fn gate() -> &'static HandshakeGate {
    static GATE: OnceLock<HandshakeGate> = OnceLock::new();
    GATE.get_or_init(|| HandshakeGate {
        most: processors(),
        computing: Mutex::new(0),
        freed: Condvar::default(),
    })
}

impl HandshakeGate {
    /// Calls a step that computes, and that does not panic. It fails if there is no place before the deadline.
    fn compute<T>(&self, deadline: Deadline, step: impl FnOnce() -> T) -> Result<T> {
        let mut computing = self.computing.lock();
        while *computing >= self.most {
            if deadline.has_passed(now()) {
                return Err(Error::Timeout(Timeout::Handshake));
            }
            computing = self.freed.wait_until(computing, deadline.instant());
        }
        *computing += 1;
        drop(computing);
        let result = step();
        *self.computing.lock() -= 1;
        self.freed.notify_one();
        Ok(result)
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::sync::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn no_more_steps_compute_than_processors_and_none_waits_forever() {
        let gate = HandshakeGate { most: 2, computing: Mutex::new(0), freed: Condvar::default() };
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let step = || {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            now.fetch_sub(1, Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| gate.compute(Deadline::NEVER, step).expect("no deadline"));
            }
        });
        assert_eq!(most.load(Ordering::Relaxed), 2);
        let full = HandshakeGate { most: 0, ..gate };
        let result = full.compute(Deadline::after(Duration::from_millis(10)), step);
        assert!(matches!(result, Err(Error::Timeout(Timeout::Handshake))));
    }
}
