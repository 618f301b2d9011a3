//! The servers on one thread of tokio.

use crate::peers::{Done, listen};
use futures_util::{SinkExt, StreamExt};
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite;

/// Runs a server.
pub fn run(server: impl Future<Output = Done>) -> Done {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(server)
}

fn listener() -> Result<TcpListener, Box<dyn Error>> {
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub async fn yawc() -> Done {
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use yawc::{CompressionLevel, DeflatePool, Options, WebSocket};
    let listener = listener()?;
    let options = Options::default()
        .with_compression_level(CompressionLevel::new(6))
        .with_compression_threshold(0)
        .with_deflate_pool(DeflatePool::new(8))
        .server_no_context_takeover()
        .client_no_context_takeover();
    loop {
        let stream = accept(&listener).await?;
        let options = options.clone();
        let service = service_fn(move |mut request| {
            let opened = WebSocket::upgrade_with_options(&mut request, options.clone());
            async move {
                let (response, opening) = opened?;
                tokio::spawn(async move {
                    let Ok(mut socket) = opening.await else { return };
                    while let Some(frame) = socket.next().await {
                        if socket.send(frame).await.is_err() {
                            return;
                        }
                    }
                });
                Ok::<_, yawc::WebSocketError>(response)
            }
        });
        let serve = hyper::server::conn::http1::Builder::new();
        tokio::spawn(serve.serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}

type Queues = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<tungstenite::Message>>>>;

pub async fn tungstenite(tls: Option<TlsAcceptor>, broadcast: bool) -> Done {
    let listener = listener()?;
    let queues = Queues::default();
    for id in 0.. {
        let stream = accept(&listener).await?;
        let queues = broadcast.then(|| Arc::clone(&queues));
        match tls.clone() {
            None => drop(tokio::spawn(tokio_serve(stream, id, queues))),
            Some(tls) => drop(tokio::spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    tokio_serve(stream, id, queues).await;
                }
            })),
        }
    }
    Ok(())
}

async fn tokio_serve(stream: impl TokioStream, id: u64, queues: Option<Queues>) {
    match queues {
        None => tokio_echo(stream).await,
        Some(queues) => tokio_broadcast(stream, id, queues).await,
    }
}

pub async fn tokio_websockets() -> Done {
    let listener = listener()?;
    loop {
        let stream = accept(&listener).await?;
        tokio::spawn(async move {
            let Ok((_, mut socket)) = tokio_websockets::ServerBuilder::new().accept(stream).await else {
                return;
            };
            while let Some(Ok(message)) = socket.next().await {
                if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}

trait TokioStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> TokioStream for T {}

async fn tokio_echo(stream: impl TokioStream) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn tokio_broadcast(stream: impl TokioStream, id: u64, queues: Queues) {
    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let (mut sink, mut source) = socket.split();
    let (queue, mut queued) = mpsc::unbounded_channel();
    let lock = || queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    lock().insert(id, queue);
    let writer = tokio::spawn(async move {
        while let Some(message) = queued.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(message)) = source.next().await {
        if message.is_text() || message.is_binary() {
            for queue in lock().values() {
                // Fails only if the writer has ended.
                _ = queue.send(message.clone());
            }
        }
    }
    lock().remove(&id);
    writer.abort();
}
