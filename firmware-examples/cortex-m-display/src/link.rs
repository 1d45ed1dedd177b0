use kdh_format::wire::{Decoder, Frame, Heartbeat, Hello, MAX_FRAME_LEN, MIN_VERSION, Role, VERSION};

use crate::display::Display;
use crate::uart::Uart;

/// Milliseconds between two hellos, and between two heartbeats.
const INTERVAL_MS: u32 = 1000;
/// A service that has said nothing for so long, in milliseconds, is gone: it sends a heartbeat every second.
const SILENCE_MS: u32 = 3500;
/// One display, one session: it sends no requests whose answers could be mixed up.
const SESSION: u32 = 1;

/// The conversation with the service.
pub struct Link {
    decoder: Decoder,
    display: Display,
    buffer: [u8; MAX_FRAME_LEN],
    connected: bool,
    now_ms: u32,
    said_ms: u32,
    heard_ms: u32,
    sequence: u32,
    dirty: bool,
}

impl Link {
    /// A link that has said nothing yet.
    pub fn new() -> Self {
        Self {
            decoder: Decoder::new(),
            display: Display::new(),
            buffer: [0; MAX_FRAME_LEN],
            connected: false,
            now_ms: 0,
            // The first hello goes out at once.
            said_ms: 0_u32.wrapping_sub(INTERVAL_MS),
            heard_ms: 0,
            sequence: 0,
            dirty: true,
        }
    }

    /// Takes what has come, says what is to be said, shows what has changed. `elapsed_ms`: time since the last step.
    pub fn step(&mut self, elapsed_ms: u32, service: &mut Uart, screen: &mut Uart) {
        self.now_ms = self.now_ms.wrapping_add(elapsed_ms);
        if let Some(byte) = service.read_byte()
            // What is damaged is passed over: an answer without its labels is not shown.
            && let Some(Ok(frame)) = self.decoder.push(byte)
        {
            self.heard_ms = self.now_ms;
            self.connected |= matches!(frame, Frame::Welcome(_));
            self.dirty |= self.display.take(&frame);
        }
        if self.connected && self.now_ms.wrapping_sub(self.heard_ms) > SILENCE_MS {
            self.connected = false;
            self.display.disconnected();
            self.dirty = true;
        }
        if self.now_ms.wrapping_sub(self.said_ms) >= INTERVAL_MS {
            self.said_ms = self.now_ms;
            self.speak(service);
        }
        if self.dirty {
            self.dirty = false;
            // A form feed begins a screen.
            screen.write_all(b"\x0C");
            for row in self.display.grid().rows() {
                screen.write_all(row);
                screen.write_all(b"\n");
            }
        }
    }

    fn speak(&mut self, service: &mut Uart) {
        let frame = if self.connected {
            self.sequence = self.sequence.wrapping_add(1);
            Frame::Heartbeat(Heartbeat { sequence: self.sequence, uptime_ms: self.now_ms })
        } else {
            Frame::Hello(Hello {
                min_version: MIN_VERSION,
                max_version: VERSION,
                role: Role::Display,
                session: SESSION,
                software: "cortex-m-display",
            })
        };
        // A frame of ours keeps the rules of the protocol.
        if let Ok(bytes) = frame.encode(&mut self.buffer) {
            service.write_all(bytes);
        }
    }
}
