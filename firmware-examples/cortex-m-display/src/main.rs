//! Shows what a bedside service says of texts: frames in over one serial line, a grid of characters out over another.
//!
//! No heap and no interrupts: one loop that takes bytes as they come. Built for the board `mps2-an386` (a Cortex-M4), which
//! QEMU has; on another board, `uart.rs` and `memory.x` change.
#![no_std]
#![no_main]

mod display;
mod grid;
mod link;
mod uart;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use panic_halt as _;

use crate::link::Link;
use crate::uart::Uart;

/// The board's clock, in hertz.
const CLOCK_HZ: u32 = 25_000_000;
/// The timer's bits.
const COUNTER: u32 = 0xFF_FFFF;

#[entry]
fn main() -> ! {
    let mut service = Uart::new(0, CLOCK_HZ / 115_200);
    let mut screen = Uart::new(1, CLOCK_HZ / 115_200);
    let mut link = Link::new();
    if let Some(peripherals) = cortex_m::Peripherals::take() {
        let mut timer = peripherals.SYST;
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(COUNTER);
        timer.clear_current();
        timer.enable_counter();
        let mut last = SYST::get_current();
        let mut cycles = 0;
        loop {
            // It counts down. A step takes less than the 0.67 seconds in which it comes around.
            let now = SYST::get_current();
            cycles += last.wrapping_sub(now) & COUNTER;
            last = now;
            let elapsed_ms = cycles / (CLOCK_HZ / 1000);
            cycles %= CLOCK_HZ / 1000;
            link.step(elapsed_ms, &mut service, &mut screen);
        }
    }
    // Nobody else takes the peripherals.
    loop {
        cortex_m::asm::wfi();
    }
}
