//! The guide for users of npm's `ws` has every name of its documentation, and every promise of the guide on security
//! has a test.

use std::collections::BTreeSet;
use std::path::Path;

/// Options, events, methods, properties, variables and error codes of `ws` 8.23, by the comments of its source and its
/// `doc/ws.md`.
const NAMES: &str = "allowSynchronousEvents autoPong backlog clientTracking closeTimeout handleProtocols host port \
    maxBufferedChunks maxFragments maxPayload maxPendingAutoPongs noServer path perMessageDeflate server \
    skipUTF8Validation verifyClient WebSocket close connection error headers listening wsClientError address() clients \
    close() handleUpgrade() shouldHandle() CONNECTING OPEN CLOSING CLOSED address protocols finishRequest \
    followRedirects generateMask handshakeTimeout maxRedirects origin protocolVersion ws+unix: message open ping pong \
    redirect unexpected-response upgrade addEventListener() binaryType bufferedAmount extensions isPaused onclose \
    onerror onmessage onopen pause() ping() pong() protocol readyState removeEventListener() resume() send() binary \
    compress fin mask terminate() url createWebSocketStream() WS_NO_BUFFER_UTIL WS_NO_UTF_8_VALIDATE \
    WS_ERR_EXPECTED_FIN WS_ERR_EXPECTED_MASK WS_ERR_INVALID_CLOSE_CODE WS_ERR_INVALID_CONTROL_PAYLOAD_LENGTH \
    WS_ERR_INVALID_OPCODE WS_ERR_INVALID_UTF8 WS_ERR_TOO_MANY_BUFFERED_PARTS WS_ERR_UNEXPECTED_MASK \
    WS_ERR_UNEXPECTED_RSV_1 WS_ERR_UNEXPECTED_RSV_2_3 WS_ERR_UNSUPPORTED_DATA_PAYLOAD_LENGTH \
    WS_ERR_UNSUPPORTED_MESSAGE_LENGTH";

#[test]
fn every_name_of_ws_is_in_the_guide() {
    let guide = include_str!("../../src/guide/coming_from_ws.md");
    for name in NAMES.split_whitespace() {
        assert!(guide.contains(&format!("`{name}`")), "`{name}` is missing");
    }
}

#[test]
fn every_missing_feature_has_a_reason() {
    let guide = include_str!("../../src/guide/coming_from_ws.md");
    for line in guide.lines().filter(|line| line.starts_with('|') && line.contains("not here")) {
        assert!(line.contains("not here, because"), "{line}");
    }
}

/// Collects the names of all tests in the Rust files below a folder that run by default: the first function behind each
/// `#[test]`.
fn tests_below(folder: &Path, names: &mut BTreeSet<String>) {
    for path in crate::files_below(folder, "rs") {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let parts: Vec<_> = text.split("#[test]").collect();
        for (before, behind) in parts.iter().zip(parts.iter().skip(1)) {
            let Some((attributes, function)) = behind.split_once("fn ") else { continue };
            let is_ignored = [before.lines().last().unwrap_or(""), attributes]
                .iter()
                .any(|attributes| attributes.contains("#[ignore"));
            let name = function.split_once('(').map_or("", |(name, _)| name);
            // It only starts a server for other tests.
            if !is_ignored && name != "run_as_helper_process" {
                names.insert(name.to_owned());
            }
        }
    }
}

#[test]
fn each_promise_on_security_names_existing_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    ["src", "tests"].iter().for_each(|folder| tests_below(&root.join(folder), &mut tests));
    let guide = include_str!("../../src/guide/security.md");
    let rows: Vec<_> =
        guide.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |")).collect();
    let promises: Vec<_> = rows.iter().filter(|row| !row.starts_with("| ---")).collect();
    assert!(promises.len() > 60, "{} promises", promises.len());
    for row in promises {
        let (_, named) = row.trim_end_matches([' ', '|']).rsplit_once(" | ").expect("two cells");
        assert!(named.starts_with('`') && named.ends_with('`'), "no test: {row}");
        for name in named.split(", ") {
            let name = name.trim_matches('`');
            assert!(tests.contains(name), "no test that is run is called {name}: {row}");
        }
    }
}
