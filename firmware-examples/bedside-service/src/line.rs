//! A socket or a serial line, read and written with a time limit.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, BaudRate, ControlFlags, SetArg};
use nix::unistd;

/// A line that gives and takes bytes.
#[derive(Debug)]
pub struct Line {
    fd: OwnedFd,
}

/// What a wait for bytes brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes came.
    Bytes(usize),
    /// None came in time.
    Nothing,
    /// The other side has closed the line.
    Closed,
}

impl Line {
    /// A connected socket.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn socket(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { fd: stream.into() })
    }

    /// A serial device at `baud`: eight bits, no parity, one stop bit, raw, hardware flow control when asked for.
    ///
    /// # Errors
    ///
    /// When the device cannot be opened or set, or the speed is none that the system knows.
    pub fn serial(path: &Path, baud: u32, flow_control: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(O_NOCTTY | O_NONBLOCK).open(path)?;
        let speed = baud_rate(baud).ok_or_else(|| io::Error::other("unknown speed; see --help"))?;
        let mut settings = termios::tcgetattr(&file)?;
        termios::cfmakeraw(&mut settings);
        settings.control_flags.insert(ControlFlags::CLOCAL | ControlFlags::CREAD);
        settings.control_flags.set(ControlFlags::CRTSCTS, flow_control);
        termios::cfsetspeed(&mut settings, speed)?;
        termios::tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        Ok(Self { fd: file.into() })
    }

    /// Anything that is open, raw and does not block: one side of a pseudo-terminal.
    pub fn open(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Waits at most `timeout` for bytes, and reads them.
    ///
    /// # Errors
    ///
    /// When the line is broken.
    pub fn read(&self, buffer: &mut [u8], timeout: Duration) -> io::Result<Read> {
        if !self.wait(PollFlags::POLLIN, timeout)? {
            return Ok(Read::Nothing);
        }
        match unistd::read(&self.fd, buffer) {
            Ok(0) => Ok(Read::Closed),
            Ok(len) => Ok(Read::Bytes(len)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Read::Nothing),
            // The other side of a pseudo-terminal has gone.
            Err(Errno::EIO) => Ok(Read::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// When the line is broken, or takes nothing for `timeout`.
    pub fn write_all(&self, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let mut deadline = Instant::now() + timeout;
        while !bytes.is_empty() {
            match unistd::write(&self.fd, bytes) {
                Ok(len) => {
                    bytes = &bytes[len..];
                    deadline = Instant::now() + timeout;
                    continue;
                }
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(PollFlags::POLLOUT, left)? && Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Writes what the line takes at once: how many bytes.
    ///
    /// # Errors
    ///
    /// When the line is broken.
    pub fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match unistd::write(&self.fd, bytes) {
            Ok(len) => Ok(len),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the line can be read or, if `writable`, written.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn ready(&self, writable: bool, timeout: Duration) -> io::Result<()> {
        let flags = if writable { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        self.wait(flags, timeout).map(|_| ())
    }

    /// Whether something of `flags`, or an error, came within `timeout`.
    fn wait(&self, flags: PollFlags, timeout: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.fd.as_fd(), flags)];
        // Rounded up: a wait of less than a millisecond is none.
        let millis = timeout.as_micros().div_ceil(1000).min(u128::from(u16::MAX)) as u16;
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The speeds that both Linux and serial devices know.
fn baud_rate(baud: u32) -> Option<BaudRate> {
    Some(match baud {
        9600 => BaudRate::B9600,
        19_200 => BaudRate::B19200,
        38_400 => BaudRate::B38400,
        57_600 => BaudRate::B57600,
        115_200 => BaudRate::B115200,
        230_400 => BaudRate::B230400,
        460_800 => BaudRate::B460800,
        921_600 => BaudRate::B921600,
        _ => return None,
    })
}
