//! The rows of RFC 7692 §7.1, and the offers and answers of other implementations.

use super::*;
use crate::protocol::noise::Noise;

fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(line).expect("a value"));
    }
    headers
}

fn answered(line: &str, settings: &Deflate) -> Option<String> {
    let (_, value) = answer(&headers(&[line]), settings)?;
    Some(value.to_str().expect("ASCII").to_owned())
}

fn takeover() -> Deflate {
    Deflate::new().context_takeover(true).peer_context_takeover(true)
}

const NO: Option<&str> = None;

#[test]
fn a_server_answers_the_offers_of_other_implementations() {
    let both_off = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let (own, kept) = (Deflate::new(), takeover());
    let rows = [
        // Chrome, ws and Python's websockets.
        ("permessage-deflate; client_max_window_bits", &own, Some(both_off)),
        (
            "permessage-deflate; client_max_window_bits",
            &kept,
            Some("permessage-deflate; client_max_window_bits=12"),
        ),
        // Firefox and Safari: they cannot be limited to twelve bits, so they have to forget.
        ("permessage-deflate", &own, Some(both_off)),
        ("permessage-deflate", &kept, Some("permessage-deflate; client_no_context_takeover")),
        // gorilla, which demands both flags in the answer.
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", &kept, Some(both_off)),
        // Autobahn.
        (
            "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_max_window_bits=9",
            &kept,
            Some("permessage-deflate; client_no_context_takeover; server_max_window_bits=9"),
        ),
        (
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=15",
            &kept,
            Some("permessage-deflate; server_max_window_bits=12; client_max_window_bits=10"),
        ),
        // There is no compressor for 8 bits, so it forgets.
        (
            "permessage-deflate; server_max_window_bits=8",
            &kept,
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=8",
            ),
        ),
        // Several offers: the first that can be accepted.
        ("permessage-deflate; server_max_window_bits=7, permessage-deflate", &own, Some(both_off)),
        ("x-other; a=\"b, permessage-deflate; c\", PerMessage-Deflate", &own, Some(both_off)),
        (", ,permessage-deflate ; Client_Max_Window_Bits = \"9\" ,", &own, Some(both_off)),
        (
            "permessage-deflate; server_max_window_bits=\"1\\0\"",
            &own,
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10",
            ),
        ),
        ("", &own, NO),
        ("x-webkit-deflate-frame", &own, NO),
        ("permessage-deflate2", &own, NO),
    ];
    for (offer, settings, expected) in rows {
        assert_eq!(answered(offer, settings).as_deref(), expected, "{offer}");
    }
    let two = headers(&["permessage-deflate; x", "permessage-deflate"]);
    assert!(answer(&two, &own).is_some(), "the second line");
}

#[test]
fn an_offer_with_an_invalid_parameter_is_declined() {
    let parameters = [
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=015",
        "server_max_window_bits=+9",
        "server_max_window_bits=",
        "server_max_window_bits",
        "server_max_window_bits=9x",
        "server_max_window_bits=\"\"",
        "server_max_window_bits=\"9",
        "server_max_window_bits=\" 9\"",
        "server_max_window_bits=9; server_max_window_bits=9",
        "client_max_window_bits=0",
        "client_max_window_bits=100",
        "client_max_window_bits; client_max_window_bits",
        "server_no_context_takeover=1",
        "client_no_context_takeover; client_no_context_takeover",
        "unknown",
        "unknown=1",
        "",
        "=",
        "a b",
    ];
    for parameter in parameters {
        let offer = format!("permessage-deflate; {parameter}");
        assert_eq!(answered(&offer, &takeover()), None, "{offer}");
        let (headers, settings) = (headers(&[&offer]), takeover());
        agree(&headers, Some(&settings)).expect_err(&offer);
    }
    assert!(answered("permessage-deflate; server_max_window_bits=\"9\"", &takeover()).is_some());
}

#[test]
fn both_ends_understand_the_answer_alike() {
    let offers = [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=8; client_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover; client_max_window_bits",
        "permessage-deflate; client_no_context_takeover; server_max_window_bits=11",
    ];
    for offer in offers {
        for bits in 9..=15 {
            for (ours, peers) in [(false, false), (false, true), (true, false), (true, true)] {
                let settings =
                    Deflate::new().window_bits(bits).context_takeover(ours).peer_context_takeover(peers);
                let (server, value) = answer(&headers(&[offer]), &settings).expect("acceptable");
                let mut response = HeaderMap::new();
                response.insert(SEC_WEBSOCKET_EXTENSIONS, value);
                let widest = takeover().window_bits(15);
                let client = agree(&response, Some(&widest)).expect("valid").expect("agreed");
                assert_eq!(server.ours.takeover, client.peers.takeover, "{response:?}");
                assert!(server.ours.bits <= client.peers.bits, "{response:?}");
                assert!(!client.ours.takeover || server.peers.takeover, "{response:?}");
                assert!(!client.ours.takeover || client.ours.bits <= server.peers.bits, "{response:?}");
            }
        }
    }
}

#[test]
fn a_client_offers_the_same_as_chrome() {
    assert_eq!(offer(&Deflate::new()), "permessage-deflate; client_max_window_bits");
    assert_eq!(
        offer(&Deflate::new().peer_context_takeover(false)),
        "permessage-deflate; server_no_context_takeover; client_max_window_bits"
    );
}

#[test]
fn a_client_accepts_only_an_answer_to_its_offer() {
    let forgets = Deflate::new().peer_context_takeover(false);
    let (own, kept) = (Deflate::new(), takeover());
    let direction = |bits, takeover| Direction { bits, takeover };
    let agreed = |ours, peers| Some(Agreed { ours, peers });
    let rows = [
        ("permessage-deflate", &own, agreed(direction(12, false), direction(15, true))),
        ("permessage-deflate", &kept, agreed(direction(12, true), direction(15, true))),
        (
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=10",
            &kept,
            agreed(direction(9, true), direction(10, true)),
        ),
        (
            "permessage-deflate; client_max_window_bits=8",
            &kept,
            agreed(direction(8, false), direction(15, true)),
        ),
        (
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            &kept,
            agreed(direction(12, false), direction(15, false)),
        ),
        (
            "permessage-deflate; server_no_context_takeover",
            &forgets,
            agreed(direction(12, false), direction(15, false)),
        ),
        ("", &kept, None),
    ];
    for (line, settings, expected) in rows {
        assert_eq!(agree(&headers(&[line]), Some(settings)), Ok(expected), "{line}");
    }
    assert_eq!(agree(&HeaderMap::new(), None), Ok(None));
    let bad = [
        ("permessage-deflate", None),
        ("permessage-deflate", Some(&forgets)),
        ("permessage-deflate, permessage-deflate", Some(&own)),
        ("permessage-deflate, x", Some(&own)),
        ("x", Some(&own)),
        ("permessage-deflate; client_max_window_bits", Some(&own)),
        ("permessage-deflate;", Some(&own)),
        ("permessage-deflate x", Some(&own)),
    ];
    for (line, settings) in bad {
        assert!(agree(&headers(&[line]), settings).is_err(), "{line}");
    }
}

#[test]
fn no_header_can_make_it_panic() {
    let words = [
        "permessage-deflate",
        ";",
        ",",
        "=",
        "\"",
        "\\",
        " ",
        "client_max_window_bits",
        "server_max_window_bits",
        "server_no_context_takeover",
        "8",
        "15",
        "9",
        "16",
        "x",
    ];
    let mut agreements = 0;
    for seed in 0..20_000 {
        let text = Noise::new(seed).text(&words, 14);
        let Ok(value) = HeaderValue::from_bytes(&text) else { continue };
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, value);
        agree(&headers, Some(&takeover())).ok();
        if let Some((_, value)) = answer(&headers, &takeover()) {
            let mut response = HeaderMap::new();
            response.insert(SEC_WEBSOCKET_EXTENSIONS, value);
            assert!(matches!(agree(&response, Some(&takeover())), Ok(Some(_))), "{response:?}");
            agreements += 1;
        }
    }
    assert!(agreements > 10, "{agreements}");
}
