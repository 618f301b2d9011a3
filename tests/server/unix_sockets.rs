//! Servers that listen on a Unix socket, and clients that connect to one.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Barrier, mpsc};
use std::time::Instant;
use support::{Folder, PATIENCE, echo, ms, next, spawn, watchdog};
use threadws::{Addr, Config, Connect, Connection, Error, Server, ServerHandle, Timeout, connect};

fn url(socket: &Path) -> String {
    format!("ws+unix:{}:/", socket.display())
}

#[track_caller]
fn serve(socket: &Path) -> ServerHandle {
    Server::bind_unix(socket).and_then(|server| spawn(server, echo)).expect("the path is free")
}

#[track_caller]
fn expect_echo_over(mut connection: Connection) {
    connection.send("hello").expect("sent");
    assert_eq!(connection.recv().expect("open"), Some("hello".into()));
    connection.close(1000, "").expect("clean");
}

#[test]
fn a_server_on_a_path_serves_clients_without_an_address() {
    let _dog = watchdog(20);
    let (folder, (seen, sees)) = (Folder::new(), mpsc::channel());
    let socket = folder.path("ws.sock");
    let server = Server::bind_unix(&socket).expect("the path is free");
    assert_eq!(server.local_addr().expect("it is bound"), Addr::Unix);
    let handle = spawn(server, move |client| {
        let request = client.request();
        let host = request.header("host").map(str::to_owned);
        seen.send((client.client_addr(), client.peer_addr(), request.uri().to_string(), host)).unwrap_or(());
        echo(client)
    });
    let handle = handle.expect("the settings work");
    assert_eq!(handle.local_addr().expect("it listens"), Addr::Unix);
    let connection = connect(format!("ws+unix:{}:/room/7?a=b", socket.display())).expect("it listens");
    assert_eq!(connection.peer_addr(), Addr::Unix);
    let (client_addr, peer_addr, uri, host) = next(&sees, "the client");
    assert_eq!((client_addr, peer_addr), (Addr::Unix, Addr::Unix));
    assert_eq!((&*uri, host.as_deref()), ("/room/7?a=b", Some("localhost")));
    expect_echo_over(connection);
    // The request's URL can be another one.
    let stream = UnixStream::connect(&socket).expect("it listens");
    expect_echo_over(Connect::new("ws://a.example/").connect_over(stream).expect("a connection"));
}

#[test]
fn a_socket_file_ends_with_its_own_server() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    // Left behind by a program that was killed.
    drop(UnixListener::bind(&socket).expect("the path is free"));
    let handle = serve(&socket);
    expect_echo_over(connect(url(&socket)).expect("it listens"));
    drop(handle);
    assert!(!socket.exists(), "the file is still there");
    // A server that was never started removes it, too.
    drop(Server::bind_unix(&socket).expect("the path is free"));
    assert!(!socket.exists(), "the file is still there");
    // The file of another server remains.
    let replaced = serve(&socket);
    std::fs::remove_file(&socket).expect("it is there");
    let handle = serve(&socket);
    drop(replaced);
    expect_echo_over(connect(url(&socket)).expect("it listens"));
    drop(handle);
}

#[test]
fn a_path_in_use_is_refused_by_its_name() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let (socket, file) = (folder.path("ws.sock"), folder.path("file"));
    let handle = serve(&socket);
    std::fs::write(&file, "precious").expect("a file");
    let (deaf, missing) = (folder.path("full.sock"), folder.path("missing/ws.sock"));
    let full = UnixListener::bind(&deaf).expect("the path is free");
    rustix::net::listen(&full, 0).expect("a queue of one");
    let _waiting = UnixStream::connect(&deaf).expect("there is room for one");
    for path in [&socket, &file, &deaf, &missing] {
        let error = Server::bind_unix(path).expect_err("in use").to_string();
        assert!(error.starts_with(&format!("cannot listen on unix:{}: ", path.display())), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "precious");
    expect_echo_over(connect(url(&socket)).expect("it still listens"));
    drop(handle);
}

#[test]
fn of_many_starts_at_once_on_a_path_one_listens() {
    let _dog = watchdog(60);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    for round in 0..30 {
        if round % 2 == 0 {
            // Left behind by a program that was killed.
            drop(UnixListener::bind(&socket).expect("the path is free"));
        }
        let barrier = Barrier::new(4);
        let start = || {
            barrier.wait();
            Server::bind_unix(&socket)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads = [start; 4].map(|start| scope.spawn(start));
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert_eq!(errors.len(), 3, "round {round}: {errors:?}");
        for error in errors {
            assert!(error.to_string().contains("in use"), "round {round}: {error}");
        }
        UnixStream::connect(&socket).expect("one listens");
    }
}

#[test]
fn a_locked_folder_is_waited_for_a_second() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    let lock = File::open(socket.parent().expect("a folder")).expect("it is readable");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let error = Server::bind_unix(&socket).expect_err("locked").to_string();
    assert!(error.contains(&*socket.to_string_lossy()) && error.contains("locked its folder"), "{error}");
    let start = std::thread::spawn(move || Server::bind_unix(socket));
    std::thread::sleep(ms(100));
    drop(lock);
    drop(start.join().expect("no panic").expect("the lock is released"));
}

#[test]
fn listeners_of_either_kind_are_taken_over_and_no_other() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    let listener = UnixListener::bind(&socket).expect("the path is free");
    let handle = spawn(Server::from_listener(listener), echo).expect("a listener");
    expect_echo_over(connect(url(&socket)).expect("it listens"));
    drop(handle);
    assert!(socket.exists(), "the file is its owner's");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let handle = spawn(Server::from_listener(OwnedFd::from(listener)), echo).expect("a listener");
    assert_eq!(handle.local_addr().expect("it listens"), Addr::Tcp(addr));
    expect_echo_over(connect(format!("ws://{addr}/")).expect("it listens"));
    let others: [OwnedFd; 4] = [
        UdpSocket::bind("127.0.0.1:0").expect("a free port").into(),
        UnixDatagram::unbound().expect("a socket").into(),
        std::fs::File::open("/dev/null").expect("a device").into(),
        UnixStream::pair().expect("a pair").0.into(),
    ];
    for other in others {
        let error = spawn(Server::from_listener(other), echo).expect_err("no listener").to_string();
        assert!(error.contains("from_listener: ") || error.contains("cannot listen on"), "{error}");
    }
}

#[test]
fn a_full_server_answers_503_over_a_unix_socket() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    let server = Server::bind_unix(&socket).expect("the path is free").max_clients(1);
    let handle = spawn(server, echo).expect("the settings work");
    let first = connect(url(&socket)).expect("it has room");
    match connect(url(&socket)) {
        Err(Error::Refused(response)) => assert_eq!(response.status(), 503),
        other => panic!("expected a refusal, got {other:?}"),
    }
    expect_echo_over(first);
    drop(handle);
}

#[test]
fn a_proxy_on_a_unix_socket_names_its_clients() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let socket = folder.path("ws.sock");
    for (trusted, expected) in
        [("unix", "203.0.113.7 via unix socket"), ("loopback", "unix socket via unix socket")]
    {
        let server = Server::bind_unix(&socket).expect("the path is free").trust_proxy(trusted);
        let handle = spawn(server, |client| {
            client.send(format!("{} via {}", client.client_addr(), client.peer_addr()))?;
            Ok(client.ignore()?)
        });
        let handle = handle.expect("the settings work");
        let settings = Connect::new(url(&socket)).header("x-forwarded-for", "198.51.100.1, 203.0.113.7");
        let mut connection = settings.connect().expect("it listens");
        assert_eq!(connection.recv().expect("open"), Some(expected.into()));
        drop((connection, handle));
    }
}

#[test]
fn a_client_fails_in_time_and_names_the_path() {
    let _dog = watchdog(20);
    let folder = Folder::new();
    let (missing, deaf) = (folder.path("missing.sock"), folder.path("full.sock"));
    match connect(url(&missing)) {
        Err(Error::Io(error)) => {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(
                error.to_string().starts_with(&format!("cannot connect to unix:{}: ", missing.display()))
            );
        }
        other => panic!("expected an io error, got {other:?}"),
    }
    let full = UnixListener::bind(&deaf).expect("the path is free");
    rustix::net::listen(&full, 0).expect("a queue of one");
    let _waiting = UnixStream::connect(&deaf).expect("there is room for one");
    let begin = Instant::now();
    let config = Config::new().with_handshake_timeout(ms(300));
    let result = Connect::new(url(&deaf)).config(config).connect();
    assert!(matches!(result, Err(Error::Timeout(Timeout::Handshake))), "{result:?}");
    assert!(begin.elapsed() >= ms(300) && begin.elapsed() < PATIENCE);
}
