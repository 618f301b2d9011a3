//! Each example does what its comment says. It is run as cargo built it, on a free port, with a client of the test.

use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use support::example::Example;
use tungstenite::Message;

/// Checks an example that prints what its clients do, and sends every 3 seconds.
fn expect_messages_and_ticks(name: &str, says_left: impl Fn(&str) -> bool) {
    let example = Example::run(name);
    let expect_left = || {
        let line = example.line();
        assert!(says_left(&line), "{line}");
    };
    let mut client = example.connect();
    assert_eq!(example.line(), "client connected from 127.0.0.1");
    client.send("good day");
    assert_eq!(example.line(), r#"Text("good day")"#);
    client.expect("a message from the server");
    assert_eq!(client.close(), None);
    expect_left();
    // The next client vanishes.
    drop(example.connect());
    assert_eq!(example.line(), "client connected from 127.0.0.1");
    expect_left();
}

#[test]
fn hello_prints_messages_and_sends_every_3_seconds() {
    expect_messages_and_ticks("hello", |line| line == "client left");
}

#[test]
fn events_prints_messages_and_sends_every_3_seconds() {
    expect_messages_and_ticks("events", |line| line.starts_with("client left: "));
}

#[test]
fn crowd_sends_each_message_to_its_room() {
    let example = Example::run("crowd");
    let mut clients = [example.connect(), example.connect()];
    for client in &mut clients {
        client.expect("welcome");
    }
    clients[1].send("good day");
    for client in &mut clients {
        let message = client.recv().to_string();
        assert!(message.ends_with(": good day"), "{message}");
    }
}

/// `main` prints the error that it returns by `Debug`.
#[test]
fn an_error_of_main_is_printed_as_a_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("it is bound").to_string();
    let (code, stderr) = Example::fail("hello", &addr);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with(&format!("Error: cannot listen on {addr}: Address")), "{stderr}");
    assert!(stderr.lines().count() == 1 && !stderr.contains('{'), "{stderr}");
}

#[test]
fn hello_is_13_lines() {
    let text = include_str!("../../examples/hello.rs");
    let code = text.lines().skip_while(|line| line.is_empty() || line.starts_with("//!"));
    assert_eq!(code.count(), 13);
}

#[test]
fn echo_returns_text_and_binary_up_to_20_mib() {
    let example = Example::run("echo");
    let mut client = example.connect();
    for message in
        [Message::text("grüß dich"), Message::binary(vec![0, 255]), Message::binary(vec![7; 3 << 20])]
    {
        client.send(message.clone());
        assert_eq!(client.recv(), message);
    }
    let large = vec![7; (20 << 20) + 1];
    // The refusal may cut it off before it is sent.
    drop(client.0.send(Message::binary(large)));
    let Ok(Message::Close(Some(frame))) = client.0.read() else { panic!("expected a Close") };
    assert_eq!(u16::from(frame.code), 1009);
}

#[test]
fn push_sends_from_another_thread_while_the_handler_waits() {
    let example = Example::run("push");
    let mut client = example.connect();
    client.expect("push 1");
    client.send("still here");
    assert!(example.line().ends_with(r#": Text("still here")"#));
    client.expect("push 2");
    client.close();
    assert!(example.line().contains("is gone: connection closed"));
}

#[test]
fn chat_has_names_and_rooms_and_announces_members() {
    let example = Example::run("chat");
    assert!(example.get("/").to_ascii_lowercase().contains("\r\nlocation: ./room/lobby\r\n"));
    let page = example.get("/room/lobby");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("</html>\n"), "{page}");
    assert!(!page.contains("{{"), "a nonce is missing");
    assert!(example.get("/other").starts_with("HTTP/1.1 404 "));
    for nowhere in ["/", "/room/", "/room/a/b", &format!("/room/{}", "x".repeat(201))] {
        assert_eq!(example.ask(nowhere, &[]).err(), Some(404), "{nowhere}");
    }
    let enter = |room: &str, name: &str| {
        let mut client = example.ask(&format!("/room/{room}"), &[]).expect("accepted");
        client.send(name);
        client
    };

    let mut ann = enter("tea", "Ann");
    let joined = |name: &str, people: &[&str]| json!({ "type": "join", "name": name, "people": people });
    assert_eq!(ann.json(), joined("Ann", &["Ann"]));
    let mut elsewhere = enter("coffee", "Ann");
    assert_eq!(elsewhere.json(), joined("Ann", &["Ann"]));

    // The page asks for a name until it gets a good one.
    let mut other = enter("tea", " ann ");
    assert_eq!(other.json(), json!({ "type": "refused", "why": "ann is taken here" }));
    let long = "x".repeat(25);
    for odd in ["", "\t", "a\u{202e}b", "a\nb", &long] {
        other.send(odd);
        assert_eq!(other.json()["type"], "refused", "{odd:?}");
    }
    other.send("<b>Bo</b>");
    for client in [&mut ann, &mut other] {
        assert_eq!(client.json(), joined("<b>Bo</b>", &["Ann", "<b>Bo</b>"]));
    }

    ann.send("hello, \"all\"");
    for client in [&mut ann, &mut other] {
        assert_eq!(client.json(), json!({ "type": "text", "name": "Ann", "text": "hello, \"all\"" }));
    }
    ann.send(vec![1, 2]);
    assert_eq!(ann.json(), json!({ "type": "refused", "why": "only text, please" }));
    // She leaves without a Close, and is announced too.
    drop(ann);
    assert_eq!(other.json(), json!({ "type": "leave", "name": "Ann", "people": ["<b>Bo</b>"] }));

    // The other room has heard none of this, because its own message is the next.
    elsewhere.send("x".repeat(3000));
    assert_eq!(elsewhere.json()["text"].as_str().map(str::len), Some(3000));
    elsewhere.send("x".repeat(3001));
    let Message::Close(Some(frame)) = elsewhere.recv() else { panic!("expected a Close") };
    assert_eq!(u16::from(frame.code), 1009);
}

#[test]
fn behind_proxy_believes_proxies_only() {
    let example = Example::run("behind_proxy");
    let printed = |headers: &[(&'static str, &'static str)]| {
        let mut client = example.ask("/", headers).expect("accepted");
        let Message::Text(text) = client.recv() else { panic!("expected text") };
        text.to_string()
    };
    let forwarded =
        [("x-forwarded-for", "198.51.100.1, 203.0.113.9, 10.1.2.3"), ("user-agent", "a \"test\"")];
    let text = printed(&forwarded);
    assert!(text.starts_with("you are 203.0.113.9, via 127.0.0.1:"), "{text}");
    assert!(text.ends_with(r#", with "a \"test\"""#), "{text}");
    example.line_with("203.0.113.9 asks for \"/\"");
    assert!(printed(&[]).starts_with("you are 127.0.0.1, via 127.0.0.1:"));

    assert_eq!(example.ask("/", &[("via", "1.1 loop")]).err(), Some(508));
    example.line_with("failed with 508: this proxy calls itself");
}

#[test]
fn auth_needs_a_token_and_names_its_user() {
    let example = Example::run("auth");
    for (target, headers, name) in
        [("/", &[("authorization", "Bearer apple")][..], "alice"), ("/?a=b&token=cherry", &[], "carol")]
    {
        example.ask(target, headers).expect("accepted").expect(&format!("hello, {name}"));
        assert_eq!(example.line(), format!("{name} connected from 127.0.0.1"));
    }
    for (target, headers) in [("/", &[][..]), ("/?token=pear", &[("authorization", "Bearer secret")])] {
        assert_eq!(example.ask(target, headers).err(), Some(401));
        let line = example.line();
        assert!(line.contains("failed with 401: who are you?"), "{line}");
        assert!(!line.contains("pear") && !line.contains("secret"), "{line}");
    }
}

#[test]
fn shutdown_closes_with_1001_and_ends_with_0() {
    let example = Example::run("shutdown");
    let mut client = example.connect();
    client.send("hello");
    client.expect("hello");
    example.terminate();
    let Message::Close(Some(frame)) = client.recv() else { panic!("expected a Close") };
    assert_eq!(u16::from(frame.code), 1001);
    drop(client);
    assert_eq!(example.line(), "1 connection closed");
    assert_eq!(example.status(), Some(0));
}

#[test]
fn attach_passes_upgrades_on_and_answers_pages() {
    let example = Example::run("attach");
    assert!(example.get("/").ends_with("\r\n\r\n0 WebSockets are open\n"));
    assert!(example.get("/other").starts_with("HTTP/1.1 404 "));
    assert_eq!(example.ask("/elsewhere", &[]).err(), Some(404));

    let mut client = example.ask("/ws", &[]).expect("accepted");
    client.send("through two servers");
    client.expect("through two servers");
    assert!(example.get("/").ends_with("\r\n\r\n1 WebSockets are open\n"));
    assert_eq!(client.close(), None);
}

#[test]
fn beside_rest_serves_tiny_http_and_websockets_on_one_port() {
    let example = Example::run("beside_rest");
    let ask = |request: &str| {
        let mut socket = example.socket();
        socket.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer, and its end");
        answer
    };
    let get = |path: &str| ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert!(get("/notes").starts_with("HTTP/1.1 200 "));
    assert!(get("/").starts_with("HTTP/1.1 404 "));
    assert_eq!(example.ask("/elsewhere", &[]).err(), Some(404));
    let mut client = example.ask("/ws", &[]).expect("accepted");
    let post = "POST /notes HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nConnection: close\r\n\r\nbuy milk";
    assert!(ask(post).starts_with("HTTP/1.1 201 "));
    client.expect("buy milk");
    assert!(get("/notes").contains("\r\n\r\nbuy milk\n"));
    assert_eq!(client.close(), None);
    assert!(ask("GET / HTTP/1.1\nHost: a\n\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn attach_keeps_the_bytes_behind_the_head() {
    let example = Example::run("attach");
    let mut socket = example.socket();
    let request = "GET /ws HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // "hi", masked with zeros.
    let frame = b"\x81\x82\0\0\0\0hi";
    socket.write_all(&[request.as_bytes(), frame].concat()).expect("written");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n\x81\x02hi") {
        match socket.read(&mut byte) {
            Ok(0) => panic!("the end after {:?}", String::from_utf8_lossy(&answer)),
            Ok(_) => answer.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&answer)),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
}
