//! A redirect that cannot be followed is an answer of the server, and not a mistake of the caller.

use support::{RawServer, watchdog};
use threadws::{Connect, Error};

#[test]
fn a_redirect_that_cannot_be_followed_is_a_refusal() {
    let _dog = watchdog(20);
    let locations = ["ftp://x/", "http://", "ws://user:secret@127.0.0.1/", "/a b"];
    for location in locations {
        let host = RawServer::answering(format!(
            "HTTP/1.1 301 no\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\ngone"
        ));
        match Connect::new(host.url()).max_redirects(3).connect() {
            Err(Error::Refused(response)) => {
                assert_eq!(
                    (response.status().as_u16(), &response.body()[..]),
                    (301, &b"gone"[..]),
                    "{location}"
                );
            }
            other => panic!("{location}: {other:?}"),
        }
    }
    // A URL that the caller gives is the caller's mistake.
    let error = Connect::new("ftp://127.0.0.1:1/").max_redirects(3).connect().expect_err("another scheme");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}
