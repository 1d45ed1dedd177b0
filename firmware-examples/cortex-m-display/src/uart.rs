/// A serial line: the UART of Arm's Cortex-M System Design Kit (DDI 0479, section 4.3), without interrupts.
pub struct Uart {
    /// First of its registers.
    base: *mut u32,
}

/// Words from the first register.
const DATA: usize = 0;
const STATE: usize = 1;
const CTRL: usize = 2;
const BAUDDIV: usize = 4;

const TX_FULL: u32 = 1;
const RX_FULL: u32 = 2;
const TX_AND_RX_ENABLE: u32 = 3;

impl Uart {
    /// UART 0 or 1 of the board, at its clock divided by `divider`, which must be at least 16.
    pub fn new(number: u8, divider: u32) -> Self {
        let mut uart = Self { base: if number == 0 { 0x4000_4000 } else { 0x4000_5000 } as *mut u32 };
        uart.write(BAUDDIV, divider.max(16));
        uart.write(CTRL, TX_AND_RX_ENABLE);
        uart
    }

    /// A byte, if one has come.
    pub fn read_byte(&mut self) -> Option<u8> {
        (self.read(STATE) & RX_FULL != 0).then(|| self.read(DATA) as u8)
    }

    /// Sends bytes, and waits until the last one is in the sender's register.
    pub fn write_all(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.read(STATE) & TX_FULL != 0 {}
            self.write(DATA, u32::from(byte));
        }
    }

    #[expect(unsafe_code, reason = "registers have addresses")]
    fn read(&mut self, register: usize) -> u32 {
        // SAFETY: `base` is one of the two addresses of `new`, each of 5 registers, and `register` one of the constants
        // above. Nothing but this value touches them: interrupts are off, and `main` makes one value a UART.
        unsafe { self.base.add(register).read_volatile() }
    }

    #[expect(unsafe_code, reason = "registers have addresses")]
    fn write(&mut self, register: usize, value: u32) {
        // SAFETY: as in `read`. The registers are written with values that the manual allows.
        unsafe { self.base.add(register).write_volatile(value) }
    }
}
