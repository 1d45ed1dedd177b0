//! What a service tells systemd: datagrams to the socket that `NOTIFY_SOCKET` names (`sd_notify(3)`).

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The connection to systemd, or to nobody.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`. Without the first, nothing is told to anybody.
    pub fn from_environment() -> Self {
        let address = env::var("NOTIFY_SOCKET").ok().and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let socket = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // A service must not stand still because systemd does.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let watchdog = env::var("WATCHDOG_USEC").ok().and_then(|value| value.parse().ok()).map(Duration::from_micros);
        // Set for another process: that of a shell around the service.
        let ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        Self { socket, watchdog: watchdog.filter(|_| ours) }
    }

    /// How often the watchdog must be told, at the latest: half of what it waits.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|interval| interval / 2)
    }

    /// The service labels.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=labelling\n");
    }

    /// The service checks a new bundle.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.as_micros()));
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    /// The service is alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={line}\n"));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}
