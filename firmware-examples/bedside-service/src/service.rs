//! The service: threads, signals, and its end.

use core::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kdh_runtime::format::wire::{ErrorCode, ErrorFrame, Frame, MAX_FRAME_LEN};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::line::Line;
use crate::model::{Model, ModelError};
use crate::notify::Notifier;
use crate::options::Options;
use crate::pool::Pool;
use crate::state::State;
use crate::{link, log, worker};

/// How often the service looks after itself when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// When a client that finds too many connections shall come again, in milliseconds.
const RECONNECT_AFTER_MS: u32 = 1000;

/// Runs the service until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`ServiceError`]: it cannot start, or it ended with texts unanswered.
pub fn run(options: &Options) -> Result<(), ServiceError> {
    // Before any thread is there: all of them inherit it, and signals come to the descriptor alone.
    let mut signals = SigSet::empty();
    [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block().map_err(|error| ServiceError::System(error.into()))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| ServiceError::System(error.into()))?;

    let model = Model::open(options).map_err(ServiceError::Model)?;
    let listener = options.socket.as_deref().map(listen).transpose().map_err(ServiceError::Socket)?;
    let (sender, receiver) = sync_channel(options.slots);
    let pool = Pool::new(options.slots, options.max_text_len);
    let state =
        State::new(model, pool, sender, options.outstanding.min(options.slots), options.max_text_len, options.threads);
    let state = Arc::new(state);
    let queue = Arc::new(Mutex::new(receiver));
    for index in 0..options.threads {
        let (state, queue) = (state.clone(), queue.clone());
        spawn("worker", move || worker::run(&state, &queue, index))?;
    }
    for (path, baud) in options.serial.clone() {
        let (state, flow_control) = (state.clone(), options.flow_control);
        spawn("serial", move || serve_serial(&state, &path, baud, flow_control))?;
    }
    announce(&state, options);
    let notifier = Arc::new(Notifier::from_environment());
    notifier.ready();
    let result = attend(&state, options, &signals, listener.as_ref(), &notifier);
    if let Some(path) = &options.socket {
        let _ = std::fs::remove_file(path);
    }
    result
}

/// Accepts connections and obeys signals, until the end.
fn attend(
    state: &Arc<State>,
    options: &Options,
    signals: &SignalFd,
    listener: Option<&UnixListener>,
    notifier: &Arc<Notifier>,
) -> Result<(), ServiceError> {
    let watchdog = notifier.watchdog_interval();
    let tick = watchdog.unwrap_or(TICK).min(TICK).max(Duration::from_millis(1));
    let mut told = Instant::now();
    notifier.watchdog();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(listener.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        // At most half a second.
        let _ = poll(&mut fds, PollTimeout::from(tick.as_millis() as u16));
        while let Ok(Some(signal)) = signals.read_signal() {
            match i32::try_from(signal.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGHUP)) => reload(state, options, notifier),
                _ => return end(state, options, notifier),
            }
        }
        if let Some(listener) = listener {
            accept(state, options, listener);
        }
        if watchdog.is_some_and(|interval| told.elapsed() + tick >= interval) && !state.is_stalled(options.stall) {
            told = Instant::now();
            notifier.watchdog();
        }
    }
}

fn accept(state: &Arc<State>, options: &Options, listener: &UnixListener) {
    while let Ok((stream, _)) = listener.accept() {
        // A serial line that is down is not among the links; then there is room for one more.
        if state.links().len() >= options.links + options.serial.len() {
            refuse(stream);
            continue;
        }
        let state = state.clone();
        let result = Line::socket(stream).and_then(|line| {
            thread::Builder::new().name("link".into()).spawn(move || link::serve(&state, line)).map(|_| ())
        });
        if result.is_err() {
            log::warning(format_args!("a connection could not be served; the client will come again"));
        }
    }
}

fn refuse(mut stream: UnixStream) {
    let error = Frame::Error(ErrorFrame { id: None, code: ErrorCode::Busy, retry_after_ms: RECONNECT_AFTER_MS });
    let mut buffer = [0; MAX_FRAME_LEN];
    if let Ok(bytes) = error.encode(&mut buffer) {
        // A new socket has room for one frame.
        let _ = stream.set_nonblocking(true);
        let _ = stream.write_all(bytes);
    }
}

/// Checks the bundle's file anew, beside the work, and takes its model when it is good.
fn reload(state: &Arc<State>, options: &Options, notifier: &Arc<Notifier>) {
    if state.is_reloading() {
        return log::warning(format_args!("already reloading; send SIGHUP again when that is over"));
    }
    state.set_reloading(true);
    notifier.reloading();
    let (shared, options, messages) = (state.clone(), options.clone(), notifier.clone());
    let thread = spawn("reload", move || {
        match Model::open(&options) {
            Ok(model) => {
                shared.set_model(model);
                announce(&shared, &options);
                messages.status("labelling");
            }
            Err(error) => {
                log::warning(format_args!("the new bundle is refused, the old model goes on: {error}"));
                messages.status("labelling with the old model: the new bundle was refused");
            }
        }
        shared.set_reloading(false);
        messages.ready();
    });
    if thread.is_err() {
        state.set_reloading(false);
        notifier.ready();
    }
}

/// Answers what was taken, and ends.
fn end(state: &State, options: &Options, notifier: &Notifier) -> Result<(), ServiceError> {
    notifier.stopping();
    state.drain();
    let deadline = Instant::now() + options.drain;
    while state.pool.held() > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let left = state.pool.held();
    for outbox in state.links() {
        outbox.close();
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while !state.links().is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let [labelled, busy, failed] = state.counts();
    log::info(format_args!("ended: {labelled} texts labelled, {busy} told to come again, {failed} refused"));
    if left > 0 { Err(ServiceError::Unanswered { texts: left }) } else { Ok(()) }
}

fn serve_serial(state: &Arc<State>, path: &Path, baud: u32, flow_control: bool) {
    let mut down = false;
    while !state.is_draining() {
        match Line::serial(path, baud, flow_control) {
            Ok(line) => {
                down = false;
                log::info(format_args!("serving {}", path.display()));
                link::serve(state, line);
            }
            Err(error) if !down => {
                down = true;
                log::warning(format_args!("cannot open {}, trying on: {error}", path.display()));
            }
            Err(_) => {}
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Listens on a socket, in the place of one that a service before left behind.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn announce(state: &State, options: &Options) {
    let model = state.model();
    let digest = u64::from_be_bytes(model.bundle);
    let (name, version, threads, slots) = (&model.name, &model.version, options.threads, options.slots);
    log::info(format_args!("ready: {name} {version}, bundle {digest:016x}, {threads} workers, {slots} slots"));
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ServiceError> {
    thread::Builder::new().name(name.into()).spawn(body).map(|_| ()).map_err(ServiceError::System)
}

/// The service cannot start, or did not end well.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServiceError {
    /// The bundle gives no model.
    Model(ModelError),
    /// The socket cannot be listened on.
    Socket(io::Error),
    /// The system refuses something.
    System(io::Error),
    /// Texts were taken and not answered in time.
    Unanswered {
        /// How many.
        texts: usize,
    },
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(error) => error.fmt(f),
            Self::Socket(error) => write!(f, "cannot listen on the socket: {error}; is another service running?"),
            Self::System(error) => write!(f, "the system refuses: {error}"),
            Self::Unanswered { texts } => {
                write!(f, "{texts} texts stay unanswered; their clients will send them again; raise --drain-seconds")
            }
        }
    }
}

impl core::error::Error for ServiceError {}
