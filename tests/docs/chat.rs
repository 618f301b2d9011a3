//! `examples/chat.rs` and its page, in a real browser.
//!
//! Screenshots remain in cargo's folder for test files (`target/tmp`) for a look by a person.
#![cfg(unix)]

use std::path::Path;
use support::chromium::Chromium;
use support::example::Example;

const ANN: usize = 0;

#[test]
#[ignore = "starts a browser"]
fn a_room_hears_its_own_messages_only() {
    let Some(mut browser) = Chromium::start() else { return };
    let example = Example::run("chat");
    let host = example.addr.to_string();

    browser.show(1000, 720, "light");
    browser.open(&format!("http://{host}/"));
    assert_eq!(browser.text("location.pathname"), "/room/lobby");
    assert_eq!(browser.text("document.activeElement.id"), "own-name");
    browser.keep_screenshot(&kept("door"));
    enter(&mut browser, "Ann", "tea & cake");
    assert_eq!(browser.text("location.pathname"), "/room/tea%20%26%20cake");
    assert_eq!(browser.text("document.activeElement.id"), "text", "one can write at once");

    // A taken name is refused, and the page asks for another one.
    let bo = browser.new_tab();
    browser.show(1000, 720, "light");
    browser.open(&format!("http://{host}/room/tea%20%26%20cake"));
    assert_eq!(browser.text("document.getElementById('place').value"), "tea & cake");
    fill(&mut browser, "own-name", "ann");
    browser.press("Enter");
    browser.wait_until("the name is refused", &says("trouble", "ann is taken here"));
    fill(&mut browser, "own-name", "Bo <b>");
    browser.press("Enter");
    browser.wait_until("Bo is in", IN);

    let third = browser.new_tab();
    browser.show(1000, 720, "light");
    browser.open(&format!("http://{host}/room/coffee"));
    enter(&mut browser, "Ann", "coffee");
    let before = browser.text("document.getElementById('entries').innerText");

    browser.turn_to(ANN);
    browser.wait_until("Bo is announced, as text", &says("entries", "Bo <b> is here"));
    browser.wait_until("and among the people", &says("people", "Bo <b>"));
    for line in ["Good morning!", "Is there cake?", "Äpfel? <img src=x onerror=alert(1)>"] {
        browser.type_text(line);
        browser.press("Enter");
    }
    browser.turn_to(bo);
    browser.wait_until("Bo hears Ann", &said_by("Ann", "Is there cake?"));
    browser.wait_until("markup is text", &said_by("Ann", "<img src=x onerror=alert(1)>"));
    assert_eq!(browser.evaluate("document.querySelectorAll('#entries img, #entries b').length"), 0);
    for line in [
        "There is. Lemon, and a very long sentence about it, which has to be broken into lines.",
        "Two left.",
    ] {
        browser.type_text(line);
        browser.press("Enter");
    }
    browser.wait_until("one sees what one has said", "document.querySelectorAll('.own').length === 2");
    browser.turn_to(ANN);
    browser.wait_until("Ann hears Bo", &said_by("Bo <b>", "Two left."));
    browser.keep_screenshot(&kept("light"));
    browser.show(1000, 720, "dark");
    browser.keep_screenshot(&kept("dark"));
    browser.show(360, 640, "light");
    browser.wait_until(
        "a phone needs no sideways scrolling",
        "document.documentElement.scrollWidth <= innerWidth",
    );
    browser.keep_screenshot(&kept("phone"));

    browser.turn_to(bo);
    browser.evaluate("document.getElementById('leave').focus()");
    browser.press("Enter");
    browser
        .wait_until("Bo is at the door again", "!document.getElementById('door').hidden && socket === null");
    browser.turn_to(ANN);
    browser.wait_until("Bo's leaving is announced", &says("entries", "Bo <b> has left"));
    assert_eq!(browser.text("document.getElementById('people').textContent"), "Ann(you)");

    // All messages of the first room have passed. The third client's own message is the first that it sees.
    browser.turn_to(third);
    browser.type_text("hello?");
    browser.press("Enter");
    browser.wait_until("the third hears itself", &said_by("Ann", "hello?"));
    let after = browser.text("document.getElementById('entries').innerText");
    assert_eq!(after.strip_prefix(&before).map(|new| new.matches("hello?").count()), Some(1), "{after}");
    assert_eq!(browser.evaluate("document.querySelectorAll('#entries .words').length"), 1, "{after}");

    assert_eq!(browser.complaints(), [""; 0]);
    let elsewhere = |url: &String| url.split('/').nth(2) != Some(&host) && url != "about:blank";
    let requests = browser.requests();
    assert!(requests.iter().filter(|url| url.starts_with("ws:")).count() >= 3, "{requests:?}");
    assert_eq!(requests.into_iter().filter(elsewhere).collect::<Vec<_>>(), [""; 0]);

    // The page shows the end of the server, and that it tries again.
    drop(example);
    browser.wait_until("the loss is shown", &says("entries", "The connection is lost"));
    browser.wait_until("and what is done", &says("state", "connecting again"));
    fill(&mut browser, "text", "anybody?");
    browser.press("Enter");
    browser.wait_until("nothing is sent without a connection", &says("entries", "Not sent"));
    assert_eq!(
        browser.text("document.getElementById('text').value"),
        "anybody?",
        "it stays to be sent again"
    );
}

const IN: &str = "!document.getElementById('room').hidden && isOpen()";

/// By keyboard, as a person would.
fn enter(browser: &mut Chromium, name: &str, room: &str) {
    fill(browser, "own-name", name);
    browser.press("Tab");
    fill(browser, "place", room);
    browser.press("Enter");
    browser.wait_until("the room is open", IN);
}

fn fill(browser: &mut Chromium, field: &str, text: &str) {
    browser.evaluate(&format!(
        "document.getElementById('{field}').select(), document.getElementById('{field}').focus()"
    ));
    browser.type_text(text);
}

fn says(element: &str, text: &str) -> String {
    format!("document.getElementById('{element}').textContent.includes({})", serde_json::Value::from(text))
}

/// Returns the condition that an entry with these words has this name.
fn said_by(name: &str, words: &str) -> String {
    let (name, words) = (serde_json::Value::from(name), serde_json::Value::from(words));
    format!(
        "[...document.querySelectorAll('#entries li')].some((item) =>
           item.querySelector('.name')?.textContent === {name} && item.querySelector('.words').textContent.includes({words}))"
    )
}

fn kept(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chat-{name}.png"))
}
