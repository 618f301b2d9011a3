//! The guide for those who come from npm's `ws` leaves out nothing that its documentation has.

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
    let guide = include_str!("../src/guide/coming_from_ws.md");
    for name in NAMES.split_whitespace() {
        assert!(guide.contains(&format!("`{name}`")), "`{name}` is missing");
    }
}

#[test]
fn whatever_is_not_here_says_why() {
    let guide = include_str!("../src/guide/coming_from_ws.md");
    for line in guide.lines().filter(|line| line.starts_with('|') && line.contains("not here")) {
        assert!(line.contains("not here, because"), "{line}");
    }
}
