//! The configurations of the guide on deploying, exactly as it contains them: its proxies with TLS in front of the
//! binary, and its units.
#![cfg(feature = "cli")]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Folder, Haproxy, Nginx, PATIENCE, Process, RawPeer, TestServer, program, watchdog};
use threadws::{Config, Connect, Error, Event, Message, Server, handshake::Response};

const GUIDE: &str = include_str!("../../src/guide/deploying.md");
/// The name of the server in the guide.
const NAME: &str = "ws.example.com";

/// Returns the guide's blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    let ends = |rest: &'static str| rest.split_once("\n```").expect("an end").0;
    GUIDE.split(fence.as_str()).skip(1).map(ends).collect()
}

#[track_caller]
fn only(language: &str) -> &'static str {
    let blocks = blocks(language);
    assert_eq!(blocks.len(), 1, "blocks of {language}");
    blocks[0]
}

/// Replaces text that occurs once.
#[track_caller]
fn with(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    text.replace(from, to)
}

/// A key and a self-signed certificate, in a folder that is removed when this is dropped.
#[derive(Debug)]
struct Identity(PathBuf);

impl Identity {
    #[track_caller]
    fn new(openssl: &Path) -> Self {
        let test = std::thread::current().name().unwrap_or("main").to_owned();
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("identity-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder below the target folder");
        let identity = Self(folder);
        let mut command = Command::new(openssl);
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "2", "-subj", &format!("/CN={NAME}")]);
        command.args(["-addext", &format!("subjectAltName=DNS:{NAME}")]);
        command.arg("-keyout").arg(identity.key()).arg("-out").arg(identity.certificate());
        let made = command.stdin(Stdio::null()).output().expect("openssl starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let [key, certificate] = [identity.key(), identity.certificate()]
            .map(|file| std::fs::read_to_string(file).expect("it was made"));
        std::fs::write(identity.both(), certificate + &key).expect("a file");
        identity
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("certificate.pem")
    }

    /// Returns key and certificate in one file, as HAProxy expects them.
    fn both(&self) -> PathBuf {
        self.0.join("both.pem")
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A proxy as the guide configures it, except for its address, its backend and its certificate.
enum Proxy {
    Nginx(Nginx),
    Haproxy(Haproxy),
}

impl Proxy {
    #[track_caller]
    fn nginx(nginx: &Path, backend: SocketAddr, identity: &Identity, timeout: &str) -> Self {
        Self::nginx_to(nginx, &format!("http://{backend}"), identity, timeout)
    }

    /// With the URL of the backend, and perhaps the group of servers that it names.
    #[track_caller]
    fn nginx_to(nginx: &Path, backend: &str, identity: &Identity, timeout: &str) -> Self {
        let [server, upstream] = blocks("nginx")[..] else { panic!("expected two blocks of nginx") };
        let config = with(server, "http://127.0.0.1:8005", backend);
        let config = match backend.strip_prefix("unix:") {
            Some(path) => {
                let upstream = with(upstream, "/run/threadws/ws.sock", path);
                upstream
                    + "\n"
                    + &with(&config, &format!("proxy_pass {backend};"), "proxy_pass http://threadws;")
            }
            None => config,
        };
        let config = with(&config, "/etc/ssl/ws.example.com.pem", &shown(&identity.certificate()));
        let config = with(&config, "/etc/ssl/private/ws.example.com.key", &shown(&identity.key()));
        let config = with(&config, "proxy_read_timeout 60s;", &format!("proxy_read_timeout {timeout};"));
        Self::Nginx(Nginx::with(nginx, |addr| {
            with(&config, "listen 443 ssl;", &format!("listen {addr} ssl;"))
        }))
    }

    #[track_caller]
    fn haproxy(haproxy: &Path, backend: SocketAddr, identity: &Identity, timeout: &str) -> Self {
        let config = with(only("haproxy"), "127.0.0.1:8005", &backend.to_string());
        let config = with(&config, "/etc/haproxy/ws.example.com.pem", &shown(&identity.both()));
        let config = with(&config, "timeout tunnel 60s", &format!("timeout tunnel {timeout}"));
        Self::Haproxy(Haproxy::with(haproxy, &(with(&config, "bind :443", "bind fd@0") + "\n")))
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Nginx(nginx) => nginx.addr(),
            Self::Haproxy(haproxy) => haproxy.addr(),
        }
    }
}

fn shown(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// `openssl s_client`, which secures one stream. It ends when this is dropped.
#[derive(Debug)]
struct Tunnel(Child);

impl Tunnel {
    /// Connects from 127.0.0.2 to the proxy, whose name has to be the given one. Returns this end of the stream.
    #[track_caller]
    fn to(proxy: &Proxy, openssl: &Path, identity: &Identity) -> (UnixStream, Self) {
        let (ours, its) = UnixStream::pair().expect("a pair");
        let mut command = Command::new(openssl);
        command.args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-servername", NAME]);
        command.args(["-verify_hostname", NAME, "-connect", &proxy.addr().to_string()]);
        command.args(["-bind", "127.0.0.2:0"]).arg("-CAfile").arg(identity.certificate());
        command.stdin(OwnedFd::from(its.try_clone().expect("a descriptor"))).stdout(OwnedFd::from(its));
        (ours, Self(command.spawn().expect("openssl starts")))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Prepares a connection as a browser would open it, from a page of the same host.
fn connect(proxy: &Proxy) -> Connect {
    let port = proxy.addr().port();
    Connect::new(format!("ws://{NAME}:{port}/"))
        .header("origin", format!("https://{NAME}:{port}"))
        .config(Config::new().with_ping_interval(None))
}

/// Runs `check` with each of the two proxies that is installed.
fn with_each(check: impl Fn(&dyn Fn(SocketAddr, &Identity, &str) -> Proxy)) {
    if let Some(nginx) = program("nginx") {
        println!("nginx");
        check(&|backend, identity, timeout| Proxy::nginx(&nginx, backend, identity, timeout));
    }
    if let Some(haproxy) = program("haproxy") {
        println!("HAProxy");
        check(&|backend, identity, timeout| Proxy::haproxy(&haproxy, backend, identity, timeout));
    }
}

#[test]
fn the_proxies_of_the_guide_pass_addresses_origins_and_closes() {
    let _dog = watchdog(120);
    let Some(openssl) = program("openssl") else { return };
    let Some(curl) = program("curl") else { return };
    let identity = Identity::new(&openssl);
    with_each(|proxy| {
        let mut server = Process::threadws(&["--echo", "--every", "0", "--trust-proxy", "127.0.0.1"]);
        let proxy = proxy(server.addr(), &identity, "60s");
        let (stream, _tunnel) = Tunnel::to(&proxy, &openssl, &identity);
        let mut connection = connect(&proxy)
            .header("X-Forwarded-For", "198.51.100.1")
            .connect_over(stream)
            .expect("a page of the same host may connect");
        // The client's own header is not believed. The proxy has seen 127.0.0.2.
        server.wait_for_line(&["connected from 127.0.0.2 via 127.0.0.1"]);
        for message in [Message::from("through TLS"), Message::from(vec![7; 1 << 20])] {
            connection.send(message.clone()).expect("sent");
            assert!(connection.recv().expect("open").as_ref() == Some(&message), "another message");
        }

        let (stream, _tunnel) = Tunnel::to(&proxy, &openssl, &identity);
        let url = format!("ws://{NAME}:{}/", proxy.addr().port());
        match Connect::new(url).header("origin", "https://evil.example").connect_over(stream) {
            Err(Error::Refused(response)) => assert_eq!(response.status(), 403),
            other => panic!("a page of another host: {other:?}"),
        }

        let port = proxy.addr().port();
        for (path, status, body) in
            [("healthz", "200", "ok"), ("metrics", "403", ""), ("", "200", "</script>")]
        {
            let mut command = Command::new(&curl);
            command.args([
                "-q",
                "-sS",
                "--noproxy",
                "*",
                "--http1.1",
                "--max-time",
                "10",
                "-w",
                "%{http_code}",
            ]);
            command.args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")]);
            command.arg("--cacert").arg(identity.certificate());
            let output = command.arg(format!("https://{NAME}:{port}/{path}")).output().expect("curl starts");
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(answer.ends_with(status) && answer.contains(body), "/{path}: {answer}{errors}");
        }

        server.signal(rustix::process::Signal::TERM);
        assert_eq!(connection.recv().expect("a clean end"), None);
        assert_eq!(connection.closed().map(|closed| closed.code().into()), Some(1001_u16));
        server.wait_for_success(PATIENCE);
    });
}

#[test]
fn nginx_names_its_clients_over_a_unix_socket() {
    let _dog = watchdog(60);
    let Some(openssl) = program("openssl") else { return };
    let Some(nginx) = program("nginx") else { return };
    let identity = Identity::new(&openssl);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    let listen = format!("unix:{}", socket.display());
    let line =
        GUIDE.lines().find_map(|line| line.strip_prefix("threadws --listen unix:/run/threadws/ws.sock "));
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
    command.args(["--listen", &listen, "--echo", "--every", "0"]).args(line.expect("a command").split(' '));
    let mut server = Process::spawn(command);
    server.wait_for_stdout("threadws listening on unix:");
    // The worker of nginx may be another user.
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&socket, everyone).expect("our file");
    let proxy = Proxy::nginx_to(&nginx, &listen, &identity, "60s");
    let (stream, _tunnel) = Tunnel::to(&proxy, &openssl, &identity);
    let settings = connect(&proxy).header("X-Forwarded-For", "198.51.100.1");
    let mut connection = settings.connect_over(stream).expect("a page of the same host may connect");
    server.wait_for_line(&["connected from 127.0.0.2 via unix socket"]);
    connection.send("through a file").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some("through a file".into()));
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(connection.recv().expect("a clean end"), None);
    server.wait_for_success(PATIENCE);
}

#[test]
fn only_pings_keep_a_quiet_connection_through_a_proxy() {
    let _dog = watchdog(120);
    let Some(openssl) = program("openssl") else { return };
    let identity = Identity::new(&openssl);
    let server = |ping: Option<Duration>| {
        let config = Config::new().with_ping_interval(ping).with_ping_timeout(Duration::from_secs(60));
        // HAProxy checks the health of the server, and would answer 503 without this.
        let settings = |server: Server| server.config(config).serve_http(|_| Response::default());
        TestServer::with(settings, |client| Ok(client.ignore()?))
    };
    let (pinging, silent) = (server(Some(Duration::from_millis(500))), server(None));
    with_each(|proxy| {
        let proxy_of = |server: &TestServer| proxy(server.addr(), &identity, "4s");
        let (alive, dead) = (proxy_of(&pinging), proxy_of(&silent));
        let (stream, _tunnel) = Tunnel::to(&alive, &openssl, &identity);
        let mut quiet = connect(&alive).connect_over(stream).expect("a connection");
        let (stream, _tunnel) = Tunnel::to(&dead, &openssl, &identity);
        let mut cut = connect(&dead).connect_over(stream).expect("a connection");
        // A second longer than the proxy waits.
        for _ in 0..10 {
            let event = quiet.next_event().expect("the proxy has not cut it");
            assert!(matches!(event, Some(Event::Ping(_))), "{event:?}");
        }
        quiet.close(1000, "").expect("clean");
        assert!(cut.recv().is_err());
        assert_eq!(cut.closed().map(|closed| closed.code().into()), Some(1006_u16));
    });
}

#[test]
fn systemd_accepts_the_units_of_the_guide() {
    let _dog = watchdog(60);
    let Some(analyze) = program("systemd-analyze") else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("units-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder below the target folder");
    let units: Vec<_> = blocks("ini")
        .into_iter()
        .map(|unit| {
            let line = unit.lines().next().and_then(|line| line.strip_prefix("# /etc/systemd/system/"));
            let file = folder.join(line.expect("a unit begins with its name"));
            let here = unit.replace("/usr/local/bin/threadws", env!("CARGO_BIN_EXE_threadws"));
            std::fs::write(&file, here + "\n").expect("a file");
            file
        })
        .collect();
    assert_eq!(units.len(), 2, "{units:?}");
    // An unknown option is a warning, and not a failure.
    let verified =
        Command::new(&analyze).args(["verify", "--man=no"]).args(&units).output().expect("it starts");
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let service = units.iter().find(|unit| unit.extension().is_some_and(|kind| kind == "service"));
    let safe = Command::new(&analyze)
        .args(["security", "--offline=true", "--threshold=10"])
        .arg(service.expect("a service"))
        .output()
        .expect("it starts");
    drop(std::fs::remove_dir_all(&folder));
    assert!(verified.status.success() && !said.contains("threadws"), "{said}");
    let (stdout, stderr) = (String::from_utf8_lossy(&safe.stdout), String::from_utf8_lossy(&safe.stderr));
    assert!(safe.status.success(), "{stdout}{stderr}");
}

#[test]
fn the_command_of_the_unit_works_as_the_guide_says() {
    let _dog = watchdog(30);
    let command = GUIDE.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/threadws "));
    let options: Vec<_> = command.expect("a command").split(' ').collect();
    let server = Process::threadws(&options);
    let (before, after) = only("text").split_once("127.0.0.1:8005").expect("an address");
    let address = server.addr().to_string();
    let words = after.split(|symbol: char| symbol.is_ascii_digit()).filter(|part| !part.is_empty());
    let capacity: Vec<_> = words.map(|part| part.trim_end_matches("vm.max_map_count)")).collect();
    server.wait_for_line(&[&[before, &address], capacity.as_slice()].concat());
    let mut peer = RawPeer::connect(server.addr());
    peer.write("GET /metrics HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let metrics = peer.answer().text();
    let names = GUIDE.split('`').filter(|word| word.starts_with("threadws_"));
    assert_eq!(names.clone().count(), 5);
    for name in names {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "{name} is not in {metrics}");
    }
    server.stop();
}

#[test]
#[cfg(feature = "tls")]
fn the_commands_of_the_guide_make_a_certificate_that_works() {
    let _dog = watchdog(60);
    if program("openssl").is_none() {
        return;
    }
    let commands = blocks("sh").into_iter().find(|block| block.starts_with("openssl req")).expect("a block");
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).to_str().expect("UTF-8").to_owned();
    let made =
        Command::new("sh").args(["-e", "-c", commands]).current_dir(path("")).output().expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    let server = Process::threadws(&["--echo", "--every", "0", "--cert", &cert, "--key", &key]);
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("wss://{host}:{}/", server.addr().port());
        let tls = threadws::tls::ClientTls::new().ca_file(&ca);
        let mut connection = Connect::new(url).tls(tls).connect().expect("a certificate that is accepted");
        connection.close(1000, "").expect("a clean end");
    }
    server.stop();
}
