//! An echo server: each message goes back to its sender, as it came.
fn main() -> threadws::Result<()> {
    let port = std::env::args().nth(1).unwrap_or("8005".into());
    threadws::Server::bind(format!("127.0.0.1:{port}"))?
        .config(threadws::Config::new().max_message_size(20 << 20))
        .run(|client| {
            while let Some(mut received) = client.recv_ref()? {
                received.write(received.message())?;
            }
            Ok(())
        })
}
