//! A TCP proxy with the faults of a network: it delays, trickles, stalls, cuts and resets.

use super::time::PATIENCE;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The fault in one direction of every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    Pass,
    /// Each read is passed on after this time.
    Delay(Duration),
    /// After this number of bytes, one byte is passed on in each interval.
    Trickle { after: usize, every: Duration },
    /// After this number of bytes, nothing is read or passed on. The connection stays open.
    Stall { after: usize },
    /// After this number of bytes, this direction ends with a FIN. The other direction stays open.
    HalfClose { after: usize },
    /// After this number of bytes, both sides get an RST.
    Reset { after: usize },
}

/// A running proxy. Dropping it resets its connections.
#[derive(Debug)]
pub struct FaultyProxy {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FaultyProxy {
    /// Starts a proxy in front of a server, with a fault for each direction: to the server, and back.
    #[track_caller]
    pub fn before(server: SocketAddr, there: Fault, back: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let acceptor = std::thread::spawn(move || {
            let mut pumps = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let Ok(server) = TcpStream::connect_timeout(&server, PATIENCE) else { continue };
                let (client, server) = (Arc::new(client), Arc::new(server));
                for (from, to, chaos) in [(&client, &server, there), (&server, &client, back)] {
                    let (from, to, stop) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stopped));
                    pumps.push(std::thread::spawn(move || drop(pump(&from, &to, chaos, &stop))));
                }
            }
            for pump in pumps {
                drop(pump.join());
            }
        });
        Self { addr, stop, acceptor: Some(acceptor) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// Passes bytes on in one direction until its end.
fn pump(from: &TcpStream, to: &TcpStream, chaos: Fault, stop: &AtomicBool) -> io::Result<()> {
    from.set_nonblocking(false)?;
    to.set_nodelay(true)?;
    from.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut left = match chaos {
        Fault::Pass | Fault::Delay(_) => usize::MAX,
        Fault::Trickle { after, .. }
        | Fault::Stall { after }
        | Fault::HalfClose { after }
        | Fault::Reset { after } => after,
    };
    let mut buffer = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let most = match (left, chaos) {
            (0, Fault::Trickle { every, .. }) => {
                std::thread::sleep(every);
                1
            }
            (0, Fault::Stall { .. }) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            (0, Fault::HalfClose { .. }) => return to.shutdown(Shutdown::Write),
            (0, _) => {
                for stream in [from, to] {
                    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
                    // AF_UNSPEC would send the RST at once. The other pump notices the end and drops the socket too.
                    stream.shutdown(Shutdown::Both)?;
                }
                return Ok(());
            }
            _ => buffer.len().min(left),
        };
        let bytes = match (&mut &*from).read(&mut buffer[..most]) {
            Ok(0) => return to.shutdown(Shutdown::Write),
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => {
                drop(to.shutdown(Shutdown::Both));
                return Err(error);
            }
        };
        if let Fault::Delay(delay) = chaos {
            std::thread::sleep(delay);
        }
        (&mut &*to).write_all(&buffer[..bytes])?;
        if left != usize::MAX {
            left = left.saturating_sub(bytes);
        }
    }
    Ok(())
}
