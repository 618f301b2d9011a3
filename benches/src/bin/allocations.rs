//! Counts allocations while messages are echoed. Fails if the echo of a borrowed message allocates.

#![expect(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use threadws::{Connection, Server};
use threadws_benches::{BINARY, TEXT, client_frame, header, open};

/// Bursts before the count begins. The buffers grow meanwhile.
const WARM_UP: usize = 100;
const BURSTS: usize = 1000;
/// A pause before the count begins. Otherwise the allocations of server threads that still start would be counted.
const SETTLE: Duration = Duration::from_millis(200);

#[global_allocator]
static COUNTING: Counting = Counting(AtomicU64::new(0));

struct Counting(AtomicU64);

// SAFETY: every call is passed to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `GlobalAlloc`, which are those of `System`. The same holds below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("allocations of the whole process in {BURSTS} bursts, after {WARM_UP} bursts of warm-up:");
    let mut too_many = false;
    for (opcode, size, messages, at_most) in [
        (BINARY, 32, 1, 0),
        (BINARY, 32, 64, 0),
        (TEXT, 32, 64, 0),
        (BINARY, 1024, 16, 0),
        (BINARY, 16 * 1024, 4, 0),
    ] {
        let kind = if opcode == TEXT { "text" } else { "binary" };
        let counted = count(borrowed, opcode, size, messages)?;
        println!("{kind} {size} B, {messages} a burst, recv_ref: {counted}");
        too_many |= counted > at_most;
    }
    // This checks the counter itself, because each owned message is one allocation.
    let counted = count(owned, BINARY, 32, 64)?;
    println!("binary 32 B, 64 a burst, recv: {counted}");
    if counted != BURSTS as u64 * 64 {
        return Err("recv: expected one allocation per message".into());
    }
    if too_many { Err("recv_ref: expected no allocation".into()) } else { Ok(()) }
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

fn count(
    echo: fn(&mut Connection) -> threadws::Result<()>,
    opcode: u8,
    size: usize,
    messages: usize,
) -> Result<u64, Box<dyn Error>> {
    let server = Server::bind("127.0.0.1:0")?;
    let to = server.local_addr()?;
    let handle = server.spawn(move |client| Ok(echo(client)?))?;
    let mut stream = open(to, "")?;
    let payload = vec![b'a'; size];
    let burst = client_frame(opcode, &payload).repeat(messages);
    let mut bytes = vec![0; (header(opcode, size).len() + size) * messages];
    let mut before = 0;
    for round in 0..WARM_UP + BURSTS {
        if round == WARM_UP {
            std::thread::sleep(SETTLE);
            before = COUNTING.0.load(Ordering::SeqCst);
        }
        stream.write_all(&burst)?;
        stream.read_exact(&mut bytes)?;
    }
    let counted = COUNTING.0.load(Ordering::SeqCst) - before;
    drop(stream);
    drop(handle);
    Ok(counted)
}
