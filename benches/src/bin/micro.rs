//! The cases of `.ci/instructions`, which counts their instructions. `micro --list` prints the messages per round and the
//! name of each case. `micro NAME ROUNDS` runs one.
//!
//! Some cases run the crate's internals without a socket (built with `--cfg bench_internals`). The others run a server and
//! one client, which does little more than to send and to read whole rounds.

use rustix::net::RecvFlags;
use std::error::Error;
use std::io::{Read, Write};
use threadws::{Config, Connection, Server};
use threadws_benches::{BINARY, TEXT, client_frame, header, open};

/// A name, the messages per round, and the function that runs a number of rounds.
type Case = (&'static str, usize, fn(usize) -> Result<(), Box<dyn Error>>);

const SERVED: &[Case] = &[
    ("served, 32 B, 64 a read, recv_ref", 64, |rounds| serve(rounds, BINARY, 32, [64; 2], borrowed)),
    ("served, 32 B, 64 a read, recv", 64, |rounds| serve(rounds, BINARY, 32, [64; 2], owned)),
    ("served, text 32 B, 64 a read, recv_ref", 64, |rounds| serve(rounds, TEXT, 32, [64; 2], borrowed)),
    ("served, 32 B, 1 a read, recv_ref", 1, |rounds| serve(rounds, BINARY, 32, [1; 2], borrowed)),
    ("served, 1 KiB, 16 a read, recv_ref", 16, |rounds| serve(rounds, BINARY, 1024, [16; 2], borrowed)),
    ("sent, 32 B, send", 64, |rounds| serve(rounds, BINARY, 32, [1, 64], sent)),
    ("sent, 32 B, broadcast", 64, |rounds| serve(rounds, BINARY, 32, [1, 64], broadcast)),
    ("sent, 512 B, try_send", 64, |rounds| serve(rounds, BINARY, 512, [1, 64], tried)),
    ("handshake and close, 1 a read", 1, handshakes),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let mut cases = internal::CASES.iter().chain(SERVED).chain(compressed::CASES);
    if name == "--list" {
        cases.for_each(|(name, messages, _)| println!("{messages}\t{name}"));
        return Ok(());
    }
    let (_, _, body) = cases.find(|case| case.0 == name).ok_or("micro --list | micro NAME ROUNDS")?;
    body(args.next().ok_or("how many rounds?")?.parse()?)
}

/// The cases without a socket.
#[cfg(bench_internals)]
mod internal {
    use super::Case;
    use std::error::Error;
    use std::hint::black_box;
    use threadws::verify::internals::{EchoPath, mask};
    use threadws_benches::{BINARY, TEXT, masked_frame};

    const KOREAN: &str = "스레드 하나에 클라이언트 하나. ";
    const MIB: usize = 1 << 20;

    pub(super) const CASES: &[Case] = &[
        ("decode, 32 B, 64 a read", 64, |rounds| run(rounds, BINARY, &[7; 32], 64, EchoPath::decode)),
        ("echo borrowed, 32 B, 64 a read", 64, |rounds| {
            run(rounds, BINARY, &[7; 32], 64, EchoPath::echo_borrowed)
        }),
        ("echo owned, 32 B, 64 a read", 64, |rounds| run(rounds, BINARY, &[7; 32], 64, EchoPath::echo_owned)),
        ("echo borrowed, 32 B, 1 a read", 1, |rounds| {
            run(rounds, BINARY, &[7; 32], 1, EchoPath::echo_borrowed)
        }),
        ("echo borrowed, text 32 B, 64 a read", 64, |rounds| {
            run(rounds, TEXT, &[b'a'; 32], 64, EchoPath::echo_borrowed)
        }),
        ("echo borrowed, 1 KiB, 16 a read", 16, |rounds| {
            run(rounds, BINARY, &[7; 1024], 16, EchoPath::echo_borrowed)
        }),
        ("mask, 1 MiB", 1, |rounds| {
            let mut bytes = vec![7; MIB];
            for _ in 0..rounds {
                mask(black_box(&mut bytes), [1, 2, 3, 4]);
            }
            Ok(())
        }),
        ("text, 1 MiB in pieces of 16 KiB, ASCII", 1, |rounds| pieces(rounds, &"a".repeat(MIB))),
        ("text, 1 MiB in pieces of 16 KiB, Korean", 1, |rounds| {
            pieces(rounds, &KOREAN.repeat(MIB / KOREAN.len()))
        }),
    ];

    /// Runs `body` on the same bytes in each round.
    fn run(
        rounds: usize,
        opcode: u8,
        payload: &[u8],
        messages: usize,
        body: fn(&mut EchoPath, &mut [u8]) -> usize,
    ) -> Result<(), Box<dyn Error>> {
        let mut window = masked_frame(opcode, payload, [0; 4]).repeat(messages);
        let mut path = EchoPath::default();
        for _ in 0..rounds {
            assert_eq!(body(&mut path, black_box(&mut window)), messages);
        }
        Ok(())
    }

    /// Decodes a message in pieces of 16 KiB.
    fn pieces(rounds: usize, text: &str) -> Result<(), Box<dyn Error>> {
        let mut window = masked_frame(TEXT, text.as_bytes(), [0; 4]);
        let mut path = EchoPath::default();
        for _ in 0..rounds {
            let messages: usize = window.chunks_mut(16 * 1024).map(|piece| path.decode(piece)).sum();
            assert_eq!(messages, 1);
        }
        Ok(())
    }
}
#[cfg(not(bench_internals))]
mod internal {
    pub(super) const CASES: &[super::Case] = &[];
}

/// The cases of compression, with the feature `deflate`. `.ci/instructions` does not have them: see Cargo.toml.
#[cfg(all(bench_internals, feature = "deflate"))]
mod compressed {
    use super::{Case, borrowed, sent, serve_with};
    use rustix::net::RecvFlags;
    use std::error::Error;
    use std::hint::black_box;
    use threadws::verify::internals::CompressionPath;
    use threadws::{Config, Connection, Server, deflate::Deflate};
    use threadws_benches::{BINARY, FORGETTING, json, open};

    pub(super) const CASES: &[Case] = &[
        ("compress, 16 messages of 1 KiB of JSON", 1, |rounds| {
            compression(rounds, |path| path.compress(false))
        }),
        ("compress, 16 messages of 1 KiB of JSON, takeover", 1, |rounds| {
            compression(rounds, |path| path.compress(true))
        }),
        ("decompress, 16 messages of 1 KiB of JSON", 1, |rounds| {
            compression(rounds, CompressionPath::decompress)
        }),
        ("served, 32 B, 64 a read, recv_ref, agreed", 64, |rounds| agreed(rounds, 32, [64; 2], borrowed)),
        ("sent, 256 B, send", 64, |rounds| serve_with(Config::new(), "", rounds, BINARY, 256, [1, 64], sent)),
        ("sent, 256 B, send, agreed", 64, |rounds| agreed(rounds, 256, [1, 64], sent)),
        ("broadcast, 1 KiB to 20", 20, |rounds| broadcast_to(20, "", rounds)),
        ("broadcast, 1 KiB to 120", 120, |rounds| broadcast_to(120, "", rounds)),
        ("broadcast, 1 KiB to 20, compressed", 20, |rounds| broadcast_to(20, FORGETTING, rounds)),
        ("broadcast, 1 KiB to 120, compressed", 120, |rounds| broadcast_to(120, FORGETTING, rounds)),
    ];

    /// More than the window holds, so that no message finds itself in it.
    const MESSAGES: usize = 16;

    fn compression(rounds: usize, body: fn(&mut CompressionPath) -> usize) -> Result<(), Box<dyn Error>> {
        let messages = json(MESSAGES << 10).chunks(1 << 10).map(<[u8]>::to_vec).collect();
        let mut path = CompressionPath::new(messages).ok_or("no compression")?;
        for _ in 0..rounds {
            assert_eq!(body(black_box(&mut path)), MESSAGES);
        }
        Ok(())
    }

    /// Echoes on a connection that has agreed on compression. The messages are shorter than the threshold.
    fn agreed(
        rounds: usize,
        size: usize,
        counts: [usize; 2],
        echo: fn(&mut Connection) -> threadws::Result<()>,
    ) -> Result<(), Box<dyn Error>> {
        let config = Config::new().with_deflate(Deflate::new());
        serve_with(config, FORGETTING, rounds, BINARY, size, counts, echo)
    }

    /// In each round broadcasts a message of JSON to this many clients, which read it. It is compressed once for all, if they
    /// have agreed on compression.
    fn broadcast_to(clients: usize, headers: &str, rounds: usize) -> Result<(), Box<dyn Error>> {
        let mut config = Config::new();
        if !headers.is_empty() {
            config = config.with_deflate(Deflate::new());
        }
        let server = Server::bind("127.0.0.1:0")?.config(config);
        let to = server.local_addr()?;
        let handle = server.spawn(|client| Ok(client.ignore()?))?;
        let streams = (0..clients).map(|_| open(to, headers)).collect::<Result<Vec<_>, _>>()?;
        let message = json(1024);
        let mut len = 0;
        let mut bytes = vec![0; 2048];
        for _ in 0..rounds {
            let delivery = handle.hub().broadcast(&message[..]);
            assert_eq!(delivery.sent, clients);
            for stream in &streams {
                (_, len) = rustix::net::recv(stream, &mut *bytes, RecvFlags::empty())?;
            }
        }
        assert!(len < if headers.is_empty() { 1030 } else { 500 });
        drop(streams);
        drop(handle);
        Ok(())
    }
}
#[cfg(not(all(bench_internals, feature = "deflate")))]
mod compressed {
    pub(super) const CASES: &[super::Case] = &[];
}

fn borrowed(client: &mut Connection) -> threadws::Result<()> {
    while let Some(mut received) = client.recv_ref()? {
        received.write(received.message)?;
    }
    Ok(())
}

fn owned(client: &mut Connection) -> threadws::Result<()> {
    while let Some(message) = client.recv()? {
        client.write(message)?;
    }
    Ok(())
}

/// Sends each message back 64 times, as another thread would.
fn sent(client: &mut Connection) -> threadws::Result<()> {
    let sender = client.sender();
    while let Some(message) = client.recv()? {
        (0..64).try_for_each(|_| sender.send(&message))?;
    }
    Ok(())
}

fn tried(client: &mut Connection) -> threadws::Result<()> {
    let sender = client.sender();
    while let Some(message) = client.recv()? {
        (0..64).try_for_each(|_| sender.try_send(&message))?;
    }
    Ok(())
}

/// Sends each message 64 times to every client, of which there is one.
fn broadcast(client: &mut Connection) -> threadws::Result<()> {
    let hub = client.hub()?.clone();
    while let Some(message) = client.recv()? {
        for _ in 0..64 {
            hub.broadcast(&message);
        }
    }
    Ok(())
}

/// In each round sends a burst and reads all answers, so that the server always reads the same number of messages at a
/// time.
fn serve(
    rounds: usize,
    opcode: u8,
    size: usize,
    counts: [usize; 2],
    echo: fn(&mut Connection) -> threadws::Result<()>,
) -> Result<(), Box<dyn Error>> {
    serve_with(Config::new(), "", rounds, opcode, size, counts, echo)
}

fn serve_with(
    config: Config,
    headers: &str,
    rounds: usize,
    opcode: u8,
    size: usize,
    [messages, answers]: [usize; 2],
    echo: fn(&mut Connection) -> threadws::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let server = Server::bind("127.0.0.1:0")?.config(config);
    let to = server.local_addr()?;
    let handle = server.spawn(move |client| Ok(echo(client)?))?;
    let mut stream = open(to, headers)?;
    let payload = vec![b'a'; size];
    let burst = client_frame(opcode, &payload).repeat(messages);
    let mut answer = header(opcode, size);
    answer.extend_from_slice(&payload);
    let answer = answer.repeat(answers);
    let mut bytes = vec![0; answer.len()];
    for _ in 0..rounds {
        stream.write_all(&burst)?;
        // One call, whenever the parts of the answer arrive. Otherwise the number of calls, and so the figure, would vary.
        rustix::net::recv(&stream, &mut *bytes, RecvFlags::WAITALL)?;
    }
    assert_eq!(bytes, answer);
    drop(stream);
    drop(handle);
    Ok(())
}

/// Opens and closes one connection after another. The client's half is counted, too.
fn handshakes(rounds: usize) -> Result<(), Box<dyn Error>> {
    let server = Server::bind("127.0.0.1:0")?;
    let to = server.local_addr()?;
    let handle = server.spawn(|client| Ok(owned(client)?))?;
    for _ in 0..rounds {
        let mut stream = open(to, "")?;
        stream.write_all(&client_frame(8, &1000_u16.to_be_bytes()))?;
        stream.read_to_end(&mut Vec::new())?;
    }
    drop(handle);
    Ok(())
}
