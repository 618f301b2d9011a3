//! Command lines of `threadws serve` in, options or an error out.

use super::super::tests::{check_help, command};
use super::*;

fn options(line: &str) -> ServeOptions {
    match command(line) {
        Ok(Command::Serve(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn without_options_it_serves_with_the_defaults() {
    assert_eq!(options(""), ServeOptions::default());
    assert_eq!(options("serve"), ServeOptions::default());
    assert_eq!(options("serve --echo").answer, Answer::Echo);
}

#[test]
fn every_option_is_parsed() {
    let line = "--listen [::1]:0 --every 500ms --message hi --broadcast --no-page --path /ws --max-clients 9 \
                --allow-origin https://a.example --allow-origin=https://b.example --max-message 64KiB --ping 0 --slow-peer skip \
                --trust-proxy 10.0.0.0/8 --trust-proxy loopback --log threadws=debug --proxy-protocol \
                --max-per-address 4 --handshake-rate 20/1s --message-rate 600/1m --max-lifetime 2h \
                --idle-timeout 90s --message-timeout 2m --subprotocol mqtt --subprotocol soap --max-head 64KiB \
                --cert a.pem --key a.key --client-ca ca.pem --events --workers 3 \
                --deflate --deflate-threshold 1 --deflate-takeover";
    let expected = ServeOptions {
        listen: Listen::Address("[::1]:0".to_owned()),
        every: Some(Duration::from_millis(500)),
        message: "hi".to_owned(),
        answer: Answer::Broadcast,
        trust: vec!["10.0.0.0/8".to_owned(), "loopback".to_owned()],
        origins: vec!["https://a.example".to_owned(), "https://b.example".to_owned()],
        path: Some("/ws".to_owned()),
        subprotocols: vec!["mqtt".to_owned(), "soap".to_owned()],
        max_clients: Some(9),
        max_message: 64 * 1024,
        max_head: 64 * 1024,
        message_timeout: Duration::from_secs(120),
        slow_peer: SlowPeer::Skip,
        max_per_address: Some(4),
        handshake_rate: Some((20, Duration::from_secs(1))),
        message_rate: Some((600, Duration::from_secs(60))),
        max_lifetime: Some(Duration::from_secs(7200)),
        idle_timeout: Some(Duration::from_secs(90)),
        proxy_protocol: true,
        ping: None,
        page: false,
        events: true,
        workers: Some(3),
        deflate: Some(DeflateOptions { threshold: 1, takeover: true }),
        cert: Some(CertOptions {
            cert: "a.pem".into(),
            key: Some("a.key".into()),
            client_ca: Some("ca.pem".into()),
        }),
        log: LogFilter::parse("threadws=debug").expect("a filter"),
    };
    assert_eq!(options(line), expected);
    assert_eq!(options("--listen unix:/run/a.sock").listen, Listen::Unix("/run/a.sock".into()));
    assert_eq!(options("--trust-proxy unix --trust-proxy ::1").trust, ["unix", "::1"]);
    assert_eq!(options("--deflate").deflate, Some(DeflateOptions::default()));
    assert_eq!(options("--trust-proxy none").trust, ["none"]);
    assert_eq!(options("--trust-proxy any").trust, ["any"]);
    assert_eq!(options("--topics").answer, Answer::Topics);
    assert_eq!(options("--slow-peer skip --slow-peer close").slow_peer, SlowPeer::Close);
    assert_eq!(options("--allow-origin any").origins, ["any"]);
    assert_eq!(options("--every 1s --every 0").every, None);
    assert_eq!(
        command("--listen systemd").map(|_| ()),
        if cfg!(feature = "systemd") {
            Ok(())
        } else {
            Err("--listen: this binary was built without the feature systemd".to_owned())
        }
    );
}

#[test]
fn help_and_version_are_found_anywhere() {
    for line in ["-h", "--help", "--echo --help", "serve -h", "-h --nonsense"] {
        assert_eq!(command(line), Ok(Command::Print(HELP)), "{line}");
    }
    for line in ["-V", "--version"] {
        assert_eq!(command(line), Ok(Command::Print(VERSION)), "{line}");
    }
    assert_eq!(VERSION, "threadws 0.1.0\n");
}

#[test]
fn help_names_every_option_with_its_default_in_less_than_80_columns() {
    check_help(HELP, "Usage: ", &OPTIONS);
    let defaults = ServeOptions::default();
    assert!(HELP.contains(&format!("[default: {LISTEN}]")));
    assert!(HELP.contains(&format!("[default: {}]", defaults.message)));
    assert!(HELP.contains(&format!("[default: {}s]", defaults.every.expect("on").as_secs())));
    assert!(HELP.contains(&format!("[default: {}s]", defaults.ping.expect("on").as_secs())));
    assert!(HELP.contains(&format!("[default: {}MiB]", defaults.max_message >> 20)));
    assert!(HELP.contains(&format!("[default: {}KiB]", defaults.max_head >> 10)));
    assert!(HELP.contains(&format!("compress [default: {}]", DeflateOptions::default().threshold)));
    assert!(HELP.contains(&format!("with 1008 [default: {}s]", defaults.message_timeout.as_secs())));
}

#[test]
fn a_wrong_command_line_is_refused_in_one_line() {
    let lines = [
        "--echo --broadcast",
        "--broadcast --echo",
        "--echo --topics",
        "--topics --broadcast",
        "--topics --path /ws",
        "--path /healthz",
        "--path /metrics",
        "--slow-peer wait",
        "--trust-proxy none --trust-proxy 10.0.0.0/8",
        "--trust-proxy any --trust-proxy loopback",
        "--trust-proxy nowhere",
        "--every 3",
        "--every",
        "--echo=yes",
        "--max-clients 0",
        "--max-message 0",
        "--max-per-address 0",
        "--handshake-rate 20",
        "--message-rate 0/1s",
        "--max-lifetime 1",
        "--message-timeout 0",
        "--proxy-protocol=yes",
        "--key key.pem",
        "--client-ca ca.pem",
        "--workers 2",
        "--deflate-threshold 1",
        "--deflate-takeover",
        "--deflate --deflate-threshold 0",
        "--cert",
        "--listen 65536",
        "-p 8080",
        "--port 8080",
        "--listen unix:",
        "--listen unix:@abstract",
        "--path ws",
        "--allow-origin example.com",
        "--log inof",
        "-x",
        "nonsense",
        "serve serve",
        "--echo serve",
    ];
    for line in lines {
        let error = command(line).expect_err(line);
        assert!(!error.is_empty() && !error.contains('\n'), "{line}: {error}");
    }
    let error = super::super::parse(["a\nb".into()], None).expect_err("no such command");
    assert!(!error.contains('\n'), "{error}");
}
