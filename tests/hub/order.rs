//! Messages that a handler writes are held while unread messages follow the one that it answers. They are sent when the
//! last one has been read, in the order of the calls, and however the handler ends.

use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::frame::TEXT;
use support::{Frame, PATIENCE, RawPeer, TestServer, eventually, ms, next, watchdog};
use threadws::Error;

/// Sends several messages in one segment, so that all but the last find unread input behind them.
fn together(peer: &mut RawPeer, texts: &[&str]) {
    let bytes: Vec<u8> = texts.iter().flat_map(|text| Frame::text(text).encode()).collect();
    peer.write(bytes);
}

#[track_caller]
fn asks(peer: &mut RawPeer, text: &str, answer: &str) {
    peer.send_text(text);
    peer.expect_text(answer);
}

#[test]
fn a_burst_is_flushed_after_its_last_message_is_read() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let mut sent = Vec::new();
        while let Some(message) = client.recv()? {
            client.write_broadcast(message)?;
            sent.push(
                client
                    .hub()?
                    .clients()
                    .iter()
                    .map(|client| client.sender().stats().traffic.messages_sent)
                    .sum::<u64>(),
            );
            if sent.len() == 10 {
                tx.send(std::mem::take(&mut sent)).unwrap_or(());
            }
        }
        Ok(())
    });
    let mut other = RawPeer::open(server.addr());
    let mut peer = RawPeer::open(server.addr());
    eventually("both are in", || server.hub().count() == 2);
    let texts: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    together(&mut peer, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    // Nine are held, and the tenth sends all of them to both.
    assert_eq!(next(&rx, "ten counts"), [0, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    for text in &texts {
        peer.expect_text(text);
        other.expect_text(text);
    }
    // With nothing unread it is sent at once.
    asks(&mut peer, "alone", "alone");
    other.expect_text("alone");
    peer.close(1000);
    other.close(1000);
}

/// The order is the same for the client that asked for them and for the others.
#[test]
fn answers_and_broadcasts_keep_the_order_of_the_calls() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            let text = message.as_text().unwrap_or_default().to_owned();
            match text.split_at(1) {
                ("w", text) => client.write(text)?,
                ("b", text) => client.write_broadcast(text)?,
                ("s", text) => client.send(text)?,
                ("p", text) => {
                    // It comes after the held messages.
                    client.flush()?;
                    client.hub()?.publish("topic", text);
                }
                (_, topic) => client.subscribe(topic)?,
            }
        }
        Ok(())
    });
    let [mut peer, mut other] = [(); 2].map(|()| RawPeer::open(server.addr()));
    eventually("both are in", || server.hub().count() == 2);
    peer.send_text("+topic");
    other.send_text("+topic");
    eventually("both listen", || server.hub().subscribers("topic").len() == 2);
    let rounds: [(&[&str], &[&str]); 6] = [
        (&["w1", "b2", "w3", "b4"], &["2", "4"]),
        (&["b1", "w2", "b3", "w4"], &["1", "3"]),
        (&["b1", "b2", "s3", "b4"], &["1", "2", "4"]),
        (&["w1", "b2", "p3", "w4"], &["2", "3"]),
        (&["b1", "b2", "p3", "w4"], &["1", "2", "3"]),
        (&["b1", "b2", "b3", "b4"], &["1", "2", "3", "4"]),
    ];
    for (texts, others) in rounds {
        together(&mut peer, texts);
        for text in ["1", "2", "3", "4"] {
            peer.expect_text(text);
        }
        for text in others {
            other.expect_text(text);
        }
    }
    // More than a cork holds, in small and large messages.
    let sizes = (0..40).map(|number| number * 1000).chain([100_000]);
    let large: Vec<_> = sizes.map(|size| format!("b{}", "x".repeat(size))).collect();
    together(&mut peer, &large.iter().map(String::as_str).collect::<Vec<_>>());
    for text in &large {
        peer.expect_text(&text[1..]);
        other.expect_text(&text[1..]);
    }
    peer.close(1000);
    other.close(1000);
}

#[test]
fn try_send_never_waits_and_goes_behind_what_write_holds() {
    let _dog = watchdog(20);
    let (sent, results) = mpsc::channel();
    let server = TestServer::new(move |client| {
        while let Some(message) = client.recv()? {
            let text = message.as_text().unwrap_or_default().to_owned();
            match text.split_at(1) {
                ("f", _) => {
                    let mut is_settled = false;
                    while !is_settled {
                        for size in [64 << 10, 1000, 1] {
                            while client.try_send(vec![7; size]).is_ok() {}
                        }
                        // The kernel still moves bytes into the peer's buffer: 200 ms later it fills a window that is
                        // smaller than a segment.
                        std::thread::sleep(ms(400));
                        is_settled = client.try_send([7]).is_err();
                    }
                    sent.send((None, Duration::ZERO)).unwrap_or(());
                }
                ("w", text) => client.write(text)?,
                (_, text) => {
                    let start = Instant::now();
                    let result = client.try_send(text);
                    sent.send((Some(result), start.elapsed())).unwrap_or(());
                }
            }
        }
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("fill");
    assert!(next(&results, "a full backlog").0.is_none());
    together(&mut peer, &["w1", "t2", "w3"]);
    let (result, time) = next(&results, "try_send has returned");
    assert!(matches!(result, Some(Err(Error::Full))), "{result:?}");
    assert!(time < PATIENCE / 4, "it took {time:?}");
    let first = std::iter::from_fn(|| Some(peer.message())).find(|frame| frame.opcode == TEXT);
    assert_eq!(first.expect("a text").as_text(), "1", "it is held, and not lost");
    peer.expect_text("3");
    together(&mut peer, &["w4", "t5", "w6"]);
    assert!(matches!(next(&results, "try_send has returned").0, Some(Ok(()))));
    for text in ["4", "5", "6"] {
        peer.expect_text(text);
    }
    peer.close(1000);
}

#[test]
fn held_messages_are_sent_however_the_handler_ends() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        loop {
            let Some(message) = client.recv()? else {
                client.write_broadcast("and gone")?;
                return Ok(());
            };
            let text = message.as_text().unwrap_or_default().to_owned();
            // It fails after "terminate", and still reaches the others.
            client.write_broadcast(&*text).unwrap_or(());
            match &*text {
                "return" => return Ok(()),
                "fail" => return Err("it failed".into()),
                "panic" => panic!("a handler's own fault"),
                "close" => client.close(1000, "")?,
                "terminate" => client.sender().terminate(),
                _ => {}
            }
        }
    });
    let mut other = RawPeer::open(server.addr());
    eventually("in", || server.hub().count() == 1);
    for (text, gone) in
        [("return", false), ("fail", false), ("panic", false), ("close", true), ("terminate", false)]
    {
        let mut peer = RawPeer::open(server.addr());
        eventually("in", || server.hub().count() == 2);
        // Two unread messages behind it keep it in the cork, and the handler never reads them.
        together(&mut peer, &["held", text, "unread", "unread"]);
        other.expect_text("held");
        other.expect_text(text);
        if text == "terminate" {
            // Messages that were read before are still delivered.
            other.expect_text("unread");
            other.expect_text("unread");
        }
        if gone {
            peer.send(&Frame::close(1000, ""));
            peer.fin();
            other.expect_text("and gone");
        }
        drop(peer);
        eventually("out", || server.hub().count() == 1);
    }
    // It is followed by a Close, by a violation, or by the end of the stream inside a frame.
    for bytes in [Frame::close(1000, "").encode(), Frame::text("x").rsv(0x40).encode(), vec![0x81, 0xff]] {
        let mut peer = RawPeer::open(server.addr());
        eventually("in", || server.hub().count() == 2);
        peer.write([Frame::text("last words").encode(), bytes.clone()].concat());
        other.expect_text("last words");
        if bytes[0] == 0x88 {
            peer.expect_text("last words");
            peer.expect_close(1000);
            peer.expect_eof();
            other.expect_text("and gone");
        }
        drop(peer);
        eventually("out", || server.hub().count() == 1);
    }
    other.expect_silence(ms(20));
    other.close(1000);
}
