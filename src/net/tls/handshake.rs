//! The TLS handshake of either role, before one deadline.

use super::client::ClientTls;
use super::rustls::ProtocolVersion;
use super::server::TlsServer;
use super::{LOG, TlsSession, explain};
use crate::error::{Error, Result, Timeout};
use crate::logging::contain;
use crate::net::line::{Line, write_sealed};
use crate::net::session::record_len;
use crate::net::{Deadline, Session};
use crate::sync::{Condvar, Mutex, OnceLock, now, processors};
use std::io::{self, ErrorKind};

/// How many bytes are read at least in one call. A certificate chain has 1 to 4 KiB.
const READ: usize = 4096;

/// Shakes hands with a server.
pub(crate) fn connect(line: &mut Line, tls: &ClientTls, host: &str, deadline: Deadline) -> Result<()> {
    let session = TlsSession::new(tls.connection(host)?);
    shake_hands(line, session, "server", deadline, |step| Some(step()))
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
    let session = TlsSession::new(tls.connection()?);
    shake_hands(line, session, "client", deadline, |step| compute(deadline, step))?;
    match line.open(bytes) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(Error::tls(error.to_string())),
        _ => Ok(()),
    }
}

/// Shakes hands. `run` calls a step that computes, or returns `None` at the deadline.
fn shake_hands(
    line: &mut Line,
    mut session: TlsSession,
    peer: &'static str,
    deadline: Deadline,
    run: impl Fn(&mut dyn FnMut() -> Result<()>) -> Option<Result<()>>,
) -> Result<()> {
    while session.is_handshaking() {
        write(&mut session, line, deadline)?;
        let Some(len) = record_len(&line.sealed) else {
            read(line, peer, deadline)?;
            continue;
        };
        let record: Vec<u8> = line.sealed.drain(..len).collect();
        if peer == "server" && record.starts_with(b"HTTP/") {
            return Err(Error::tls("the server answered without TLS: ws:// instead of wss://?"));
        }
        let result = run(&mut || {
            // Calls the verifiers and resolvers of the program, if it has any.
            let fed = contain(LOG, "a callback of the TLS configuration", || session.feed(&record));
            fed.ok_or_else(|| Error::tls("a callback panicked"))?.map_err(|error| explain(&error, peer))
        });
        match result {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                // The alert for the peer. Ignored: the handshake has failed.
                drop(session.write(&**line.stream()));
                return Err(error);
            }
            None => return Err(Error::Timeout(Timeout::Handshake)),
        }
    }
    // With TLS 1.3 the rest leaves with the first bytes of the program: a server's session tickets, or a client's Finished.
    // A peer that has closed already cannot fail the handshake then, and one system call less is made.
    if session.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
        write(&mut session, line, deadline)?;
    }
    if peer == "client" {
        let certificates = session.connection.peer_certificates().unwrap_or_default();
        line.peer_certificate =
            certificates.first().map(|certificate| certificate.to_vec().into_boxed_slice());
    }
    line.session = Some(Box::new(session));
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
    line.sealed.reserve(READ);
    match line.stream.read_append(&mut line.sealed, false) {
        Ok(0) => {
            let what = format!("the {peer} closed the connection during the TLS handshake");
            Err(Error::Io(io::Error::new(ErrorKind::UnexpectedEof, what)))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(Error::Io(error)),
    }
}

/// How many handshakes compute at this moment, and a signal for those that wait.
static COMPUTING: (Mutex<usize>, OnceLock<Condvar>) = (Mutex::new(0), OnceLock::new());

/// Calls a step that computes, in at most as many threads at a time as there are processors. Returns `None` at the deadline.
///
/// Otherwise thousands of clients that reconnect at once would share the processors, and all of them would miss the deadline.
/// This way the first ones finish early.
fn compute<T>(deadline: Deadline, step: impl FnOnce() -> T) -> Option<T> {
    let (count, freed) = (&COMPUTING.0, COMPUTING.1.get_or_init(Condvar::default));
    let most = processors();
    let mut computing = count.lock();
    while *computing >= most {
        if deadline.has_passed(now()) {
            return None;
        }
        computing = freed.wait_until(computing, deadline.instant());
    }
    *computing += 1;
    drop(computing);
    // The step contains the panics of callbacks, so the count goes down again.
    let result = step();
    *count.lock() -= 1;
    freed.notify_one();
    Some(result)
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use crate::sync::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn no_more_steps_compute_than_processors_and_none_waits_forever() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let step = || {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            now.fetch_sub(1, Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 * processors() {
                scope.spawn(|| compute(Deadline::NEVER, step).expect("no deadline"));
            }
        });
        assert_eq!(most.load(Ordering::Relaxed), processors());
        std::thread::scope(|scope| {
            let start = Instant::now();
            for _ in 0..processors() {
                scope.spawn(|| compute(Deadline::NEVER, || std::thread::sleep(Duration::from_millis(500))));
            }
            // Others may compute here, too, so it is not certain that all places are taken.
            let late = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(1));
                compute(Deadline::at(Instant::now()), || ()).is_none()
            });
            assert!(late && start.elapsed() < Duration::from_millis(500));
        });
    }
}
