//! The page that `GET /` serves, in a real browser against the real binary.
//!
//! Screenshots remain in cargo's folder for test files (`target/tmp`) for a look by a person.
#![cfg(feature = "cli")]

mod helpers;

use helpers::*;
use std::thread;
use support::chromium::Chromium;
use support::nginx::below_app;
use support::{Nginx, RawPeer, program};

#[test]
#[ignore = "starts a browser"]
fn the_page_shows_received_and_sent_messages() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&[]);
    browser.show(1280, 900, "light");
    browser.open(&url(&server));
    // A timer of the test beside the page's timers measures how late the browser is with them.
    browser.evaluate(
        "(() => { window.late = 0; let last = performance.now();
           setInterval(() => { const now = performance.now();
             late = Math.max(late, now - last - 100); last = now }, 100); return 0 })()",
    );

    browser.wait_until("it is open", &state_is("Open"));
    browser.wait_until("the greeting is in the log", &entries_at_least("sent", 1));
    browser.wait_until("six messages came", &entries_at_least("received", 6));
    browser.wait_until("the switch sent two messages", &entries_at_least("sent", 3));
    server.wait_for_line(&["Hello from the browser!"]);
    assert_eq!(browser.text(ADDRESS), url(&server).replacen("http", "ws", 1));

    // The interval of the browser's messages, by the times in the log. The limits are extended by the delay that a busy
    // machine caused.
    let late = browser.evaluate("late").as_f64().expect("a number").min(900.0);
    let gap = browser
        .evaluate(
            "(() => { const times = [...document.querySelectorAll('#entries .sent')].slice(1)
               .map((entry) => Date.parse(entry.querySelector('time').dateTime));
               return (times.at(-1) - times[0]) / (times.length - 1) })()",
        )
        .as_f64()
        .expect("a number");
    assert!(
        (2900.0 - late..3500.0 + late).contains(&gap),
        "the 3-second messages are {gap} ms apart, a timer was late by {late} ms"
    );

    browser.wait_until("the plot has bars in both rows", &bars_at_least(6, 3));
    browser.wait_until(
        "the summary counts both directions",
        r"/^([6-9]|\d\d) received; ([3-9]|\d\d) sent$/.test(document.getElementById('summary').textContent)",
    );
    for scheme in ["light", "dark"] {
        browser.show(1280, 900, scheme);
        let [received, sent] = ["received", "sent"].map(|row| coloured_pixels(&mut browser, row));
        assert!(
            received.0 > 100 && received.1 == 0,
            "{scheme}: pixels of received messages, above and below: {received:?}"
        );
        assert!(sent.1 > 100 && sent.0 == 0, "{scheme}: pixels of sent messages, above and below: {sent:?}");
    }
    assert_eq!(browser.complaints(), [""; 0]);
    let host = server.addr().to_string();
    let elsewhere =
        |url: &String| url.split("://").nth(1).and_then(|rest| rest.split('/').next()) != Some(&*host);
    let requests = browser.requests();
    assert!(requests.len() >= 2, "the page and its WebSocket were asked for: {requests:?}");
    assert_eq!(requests.into_iter().filter(elsewhere).collect::<Vec<_>>(), [""; 0]);

    // The check above means something only if a violation would be reported.
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">'), 0");
    let complaints = browser.complaints();
    assert!(
        complaints.iter().any(|text| text.contains("style-src")),
        "a forbidden style went unseen: {complaints:?}"
    );
}

#[test]
#[cfg(feature = "tls")]
#[ignore = "starts a browser"]
fn the_page_over_https_uses_wss() {
    use support::certificate;
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    let server = serve(&["--cert", &cert, "--key", &key]);
    browser.open(&format!("https://{}/", server.addr()));
    browser.wait_until("it is open", &state_is("Open"));
    browser.wait_until("three messages came", &entries_at_least("received", 3));
    server.wait_for_line(&["Hello from the browser!"]);
    assert_eq!(browser.text(ADDRESS), format!("wss://{}/", server.addr()));
    assert_eq!(browser.complaints(), [""; 0]);
    browser.evaluate("document.getElementById('disconnect').click()");
    browser.wait_until("the close code is shown", &log_says("Closed with 1000 (normal closure)"));
}

/// The page tries again until the server was restarted.
#[test]
#[ignore = "starts a browser"]
fn the_page_shows_a_killed_server_and_reconnects_later() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&[]);
    let addr = server.addr();
    browser.show(1280, 900, "dark");
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));
    browser.wait_until("a message came", &entries_at_least("received", 1));

    drop(server);
    browser.wait_until("the loss is seen", "failures > 0");
    browser.wait_until("the close code is in the log", &log_says("Closed with 1006"));
    browser.wait_until(
        "the wait is shown in words",
        r"/Reconnecting in \d+ s/.test(document.getElementById('notice').textContent)",
    );

    browser.evaluate("document.getElementById('text').focus()");
    browser.type_text("the server is away");
    browser.press("Enter");
    browser.wait_until("sending while closed says so", &log_says("Not sent, because there is no connection"));
    browser.wait_until("with the text", &log_says("the server is away"));
    assert_eq!(
        browser.text("document.getElementById('text').value"),
        "the server is away",
        "the text stays to be sent again"
    );

    // It tries several times by itself, with longer pauses, before the server is back.
    browser.wait_until("a third failed attempt", "failures >= 4");
    let server = serve_at(&addr.to_string(), &[]);
    browser.wait_until("it is open again", &state_is("Open"));
    let before = count(&mut browser, "received");
    browser.wait_until("messages come again", &entries_at_least("received", before + 2));
    browser.wait_until(
        "the plot shows two connections",
        "document.querySelectorAll('#plot .connected').length === 2",
    );

    // The typed text is still there. Another Enter sends it.
    browser.press("Enter");
    server.wait_for_line(&["the server is away"]);

    server.signal(rustix::process::Signal::TERM);
    browser.wait_until(
        "the server's goodbye is shown with code and meaning",
        &log_says("Closed with 1001 (going away)"),
    );
}

#[test]
#[ignore = "starts a browser"]
fn enter_sends_the_text_and_the_server_logs_it() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&[]);
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));

    let mut order = Vec::new();
    for _ in 0..10 {
        browser.press("Tab");
        order.push(browser.text("document.activeElement.id"));
    }
    let expected =
        ["connect", "disconnect", "path", "protocols", "clear", "log", "text", "as-text", "send", "auto"];
    assert_eq!(order, expected);

    browser.evaluate("document.getElementById('text').focus()");
    browser.type_text("typed by hand, <b>not markup</b>, 안녕하세요");
    browser.press("Enter");
    server.wait_for_line(&["typed by hand"]);
    browser.wait_until("the log shows it as text", &log_says("typed by hand, <b>not markup</b>, 안녕하세요"));
    assert_eq!(
        browser.text("document.getElementById('text').value"),
        "",
        "the box is empty for the next message"
    );

    // The switch is turned off by keyboard. Four ticks of the server are more than 3 s, in which nothing is sent.
    browser.evaluate("document.getElementById('auto').focus()");
    browser.press(" ");
    assert_eq!(browser.evaluate("document.getElementById('auto').checked"), false);
    let (sent, received) = (count(&mut browser, "sent"), count(&mut browser, "received"));
    browser.wait_until("the server goes on", &entries_at_least("received", received + 4));
    assert_eq!(count(&mut browser, "sent"), sent, "the switch is off and yet something was sent");
    browser.press(" ");
    browser.wait_until("the switch sends again", &entries_at_least("sent", sent + 1));
}

#[test]
#[ignore = "starts a browser"]
fn a_deliberate_disconnect_stays_disconnected_until_connect() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&[]);
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));

    browser.evaluate("document.getElementById('disconnect').click()");
    browser.wait_until("it is disconnected", &state_is("Disconnected"));
    browser.wait_until("the close code is shown", &log_says("Closed with 1000 (normal closure)"));
    assert_eq!(browser.evaluate("retry"), serde_json::Value::Null, "an attempt to reconnect is planned");
    let sockets =
        |browser: &mut Chromium| browser.requests().iter().filter(|url| url.starts_with("ws:")).count();
    assert_eq!(sockets(&mut browser), 1);
    assert_eq!(browser.complaints(), [""; 0]);

    browser.evaluate("document.getElementById('connect').click()");
    browser.wait_until("it is open again", &state_is("Open"));
    assert_eq!(sockets(&mut browser), 2);
}

#[test]
#[ignore = "starts a browser"]
fn with_topics_the_address_names_the_room_of_the_page() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&["--topics"]);
    browser.open(&format!("{}room/7", url(&server)));
    browser.wait_until("it is open", &state_is("Open"));
    let address = browser.text(ADDRESS);
    assert_eq!(address, format!("ws://{}/room/7", server.addr()));
    let came = |text: &str| {
        format!(
            "[...document.querySelectorAll('#entries .received')].some((entry) => entry.textContent.includes('{text}'))"
        )
    };

    let second = browser.new_tab();
    browser.open(&format!("{}room/7?again", url(&server)));
    browser.wait_until("its greeting is passed on to itself", &came("Hello from the browser!"));
    let third = browser.new_tab();
    browser.open(&format!("{}room/8", url(&server)));
    browser.wait_until("its greeting is passed on to itself", &came("Hello from the browser!"));

    browser.turn_to(second);
    browser.evaluate("send('only in room 7'), 0");
    for tab in [0, second] {
        browser.turn_to(tab);
        browser.wait_until("it comes to the room", &came("only in room 7"));
    }
    browser.turn_to(third);
    browser.evaluate("send('only in room 8'), 0");
    browser.wait_until("the other room goes on", &came("only in room 8"));
    assert_eq!(browser.evaluate(&came("only in room 7")), false);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// A person at any of these windows sees whether it is connected, and can type.
#[test]
#[ignore = "starts a browser"]
fn state_and_input_are_in_sight_in_every_state() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&[]);
    browser.show(1280, 900, "light");
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));
    browser.wait_until("some messages came", &entries_at_least("received", 4));
    expect_all_in_sight(&mut browser, "open");

    browser.evaluate("disconnect(), 0");
    browser.wait_until("it is disconnected", &state_is("Disconnected"));
    expect_colour(&mut browser, "Closed with 1000", "--muted");
    expect_all_in_sight(&mut browser, "disconnected");
    browser.evaluate("connect(), 0");
    browser.wait_until("it is open again", &state_is("Open"));

    // The states last for long enough to be looked at.
    browser.evaluate(
        "retryLater = () => { failures += 1; retry = { at: performance.now() + 9000, timer: 0 }; return 9000 }, 0",
    );
    drop(server);
    browser.wait_until("it is lost", &state_is("Connection lost"));
    expect_colour(&mut browser, "Closed with 1006", "--bad");
    let colour = |id: &str| format!("getComputedStyle(document.getElementById('{id}')).color");
    assert_eq!(browser.text(&colour("notice")), browser.text(&colour("state")));
    expect_all_in_sight(&mut browser, "lost");

    browser.evaluate("connect(), 0");
    browser.wait_until("no server is there", &state_is("Not connected"));
    expect_colour(&mut browser, "Not connected", "--bad");
    expect_all_in_sight(&mut browser, "refused");
}

#[test]
#[ignore = "starts a browser"]
fn lines_bytes_and_earlier_messages_can_be_sent() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&["--echo"]);
    browser.show(1280, 900, "light");
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));
    let typed = |browser: &mut Chromium| browser.text("document.getElementById('text').value");
    browser.evaluate("document.getElementById('text').focus()");

    browser.type_text("first line");
    browser.press("Shift+Enter");
    browser.type_text("second line");
    assert_eq!(browser.evaluate("document.getElementById('text').rows"), 2, "the box grows");
    browser.press("Enter");
    server.wait_for_line(&[r"text: first line\nsecond line"]);
    browser.type_text("another");
    browser.press("Enter");
    server.wait_for_line(&["text: another"]);

    // Up and down, as in a shell. What is being typed is not lost.
    browser.type_text("unfinished");
    browser.press("ArrowUp");
    assert_eq!(typed(&mut browser), "another");
    browser.press("ArrowUp");
    assert_eq!(typed(&mut browser), "first line\nsecond line");
    browser.press("ArrowUp");
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    assert_eq!(typed(&mut browser), "unfinished");

    browser.evaluate("document.getElementById('text').value = '', document.getElementById('as-hex').click()");
    browser.evaluate("document.getElementById('text').focus()");
    browser.type_text("de ad 0");
    browser.press("Enter");
    browser.wait_until("half a byte is refused", &log_says("not pairs of hexadecimal digits: de ad 0"));
    browser.type_text("0 FF");
    browser.press("Enter");
    server.wait_for_line(&["binary, 4 bytes: de ad 00 ff"]);
    let both = "['sent', 'received'].every((way) => [...document.querySelectorAll(`#entries .${way}`)]
                  .some((entry) => entry.textContent.includes('binary, 4 bytes: de ad 00 ff')))";
    browser.wait_until("both directions show the bytes", both);
    browser.press("ArrowUp");
    assert_eq!(typed(&mut browser), "de ad 00 FF");
    browser.press("ArrowUp");
    assert_eq!(browser.evaluate("document.getElementById('as-text').checked"), true, "another was a text");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
#[ignore = "starts a browser"]
fn another_path_and_a_subprotocol_can_be_chosen() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&["--topics", "--subprotocol", "mqtt", "--deflate"]);
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));
    let fill = |browser: &mut Chromium, id: &str, text: &str| {
        browser
            .evaluate(&format!("document.getElementById('{id}').focus(), document.activeElement.select()"));
        browser.type_text(text);
    };
    fill(&mut browser, "path", "/room/9?x=1");
    fill(&mut browser, "protocols", "soap, mqtt");
    browser
        .wait_until("the button offers it", "document.getElementById('connect').textContent === 'Reconnect'");
    browser.press("Enter");
    browser.wait_until("it is open with mqtt", "isOpen() && socket.protocol === 'mqtt'");
    assert_eq!(browser.text("socket.url"), format!("ws://{}/room/9?x=1", server.addr()));
    browser.wait_until("the page says so", "document.getElementById('age').textContent.endsWith('mqtt')");
    browser.wait_until(
        "and shows the extension",
        "document.getElementById('entries').textContent.includes('Connection opened, subprotocol mqtt, ' +
           'permessage-deflate; server_no_context_takeover; client_no_context_takeover')",
    );
    assert_eq!(browser.complaints(), [""; 0]);

    fill(&mut browser, "protocols", "not/a/token");
    browser.press("Enter");
    browser.wait_until("a name that cannot be is refused", &state_is("Not connected"));
    browser.wait_until("and named", "document.getElementById('notice').textContent.includes('not/a/token')");
}

/// Other clients send more than a person can read.
#[test]
#[ignore = "starts a browser"]
fn a_flood_of_messages_does_not_slow_the_page() {
    const FLOOD: u64 = 20_000;
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = serve(&["--broadcast", "--every", "0", "--log", "off"]);
    browser.show(1280, 900, "light");
    browser.open(&url(&server));
    browser.wait_until("it is open", &state_is("Open"));
    let mut flood = RawPeer::open(server.addr());
    let sent = thread::spawn(move || {
        for number in 0..FLOOD {
            let text = format!("message {number} of many");
            flood.send_text(&text);
            // It also gets what the page sends.
            while flood.message().as_text() != text {}
        }
    });
    browser.wait_until("thousands came", "plot.sum('received') > 5000");
    // The page answers, while more come than it shows.
    browser.evaluate("document.getElementById('text').focus()");
    browser.type_text("can you hear me");
    browser.press("Enter");
    browser.wait_until("what was typed is sent", "document.getElementById('text').value === ''");
    expect_all_in_sight(&mut browser, "busy");
    sent.join().expect("all were sent and came back");
    browser.wait_until("all are counted", &format!("plot.sum('received') >= {FLOOD}"));
    browser.wait_until("the last one is shown", &log_says(&format!("message {} of many", FLOOD - 1)));
    browser.wait_until("some were left out", &log_says("more, too fast to show"));
    let nodes = browser.evaluate("document.querySelectorAll('*').length").as_u64();
    assert!(nodes < Some(4000), "the page has {nodes:?} elements");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// A policy cannot name these hosts, and browsers complain if it does (subfloor#819).
#[test]
#[ignore = "starts a browser"]
fn the_console_stays_empty_for_every_kind_of_host() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let (four, six) = (serve(&[]), serve_at("[::1]:0", &[]));
    let port = four.addr().port();
    let named = ["localhost", "my_host.localhost", "a-b.localhost", "localhost."]
        .map(|name| format!("{name}:{port}"));
    let own = [&four, &six].map(|server| server.addr().to_string());
    for host in named.iter().chain(&own) {
        browser.open(&format!("http://{host}/"));
        browser.wait_until(host, &state_is("Open"));
        assert_eq!(browser.complaints(), [""; 0], "{host}");
    }
}

/// nginx removes `/app` from the path before it passes the request on.
#[test]
#[ignore = "starts a browser"]
fn the_page_finds_its_socket_below_a_prefix() {
    let _turn = turn();
    let (Some(mut browser), Some(nginx)) = (Chromium::start(), program("nginx")) else { return };
    let server = serve(&["--path", "/ws"]);
    let nginx = Nginx::with(&nginx, |addr| below_app(addr, server.addr()));
    browser.open(&format!("http://{}/app/", nginx.addr()));
    browser.wait_until("it is open", &state_is("Open"));
    assert_eq!(browser.text("socket.url"), format!("ws://{}/app/ws", nginx.addr()));
    server.wait_for_line(&["Hello from the browser!"]);
    assert_eq!(browser.complaints(), [""; 0]);
}
