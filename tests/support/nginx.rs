//! A real nginx in front of a server.

use super::process::Process;
use super::programs::target_tmp;
use super::time::PATIENCE;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// nginx on a free port, in the foreground, with its own configuration. It ends when this is dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    addr: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    /// Passes everything on to `backend`. `settings` are further lines of `location /`, beside `proxy_pass`.
    #[track_caller]
    pub fn before(nginx: &Path, backend: SocketAddr, settings: &str) -> Self {
        Self::with(nginx, |addr| {
            format!(
                "server {{\n        listen {addr};\n        location / {{\n            proxy_pass http://{backend};\n\
                 {settings}\n        }}\n    }}"
            )
        })
    }

    /// Starts nginx with these lines in its `http` section. They depend on the address where it has to listen.
    #[track_caller]
    pub fn with(nginx: &Path, settings: impl FnOnce(SocketAddr) -> String) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = target_tmp().join(format!("nginx-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder below the target folder");
        // nginx does not accept port 0, and a free port may be taken a moment later. But nginx inherits a listener
        // whose descriptor is named in the environment, as it does during an upgrade of itself. It gets one as its
        // standard input. Connections wait in the queue of that listener from now on, so there is nothing to wait for.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        let addr = listener.local_addr().expect("it is bound");
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", folder.display()))
            .concat();
        let config = format!(
            "daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr notice;\nevents {{}}\n\
             http {{\n    access_log off;\n{temp}    {settings}\n}}\n",
            folder = folder.display(),
            settings = settings(addr),
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config).expect("a configuration");
        let mut command = Command::new(nginx);
        command.arg("-p").arg(&folder).arg("-c").arg(&file).args(["-e", "stderr"]);
        command.env("NGINX", "0;").stdin(OwnedFd::from(listener));
        Self { process: Process::spawn_with_stdin(command), addr, folder }
    }

    /// Returns the address where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Returns a configuration that passes everything below `/app/` on to `backend`, without this prefix.
pub fn below_app(addr: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "merge_slashes off;\n    server {{\n        listen {addr};\n        location /app/ {{\n            \
         proxy_pass http://{backend}/;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Upgrade $http_upgrade;\n            proxy_set_header Connection $http_connection;\n            \
         proxy_set_header Host $http_host;\n        }}\n    }}"
    )
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave its worker alive. (With `master_process off` nginx 1.22 crashes instead of inheriting a
        // listener.)
        self.process.signal(rustix::process::Signal::TERM);
        self.process.ended(PATIENCE);
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
