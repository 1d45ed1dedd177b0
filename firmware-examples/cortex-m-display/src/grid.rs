use core::fmt;

/// Columns of the display.
pub const COLUMNS: usize = 40;
/// Rows of the display.
pub const ROWS: usize = 12;

/// What a character display shows. Whatever does not fit is cut off; what is not ASCII is a question mark.
pub struct Grid {
    cells: [[u8; COLUMNS]; ROWS],
}

impl Grid {
    /// An empty grid.
    pub const fn new() -> Self {
        Self { cells: [[b' '; COLUMNS]; ROWS] }
    }

    /// Writes a row anew.
    pub fn set_row(&mut self, row: usize, text: fmt::Arguments<'_>) {
        if let Some(cells) = self.cells.get_mut(row) {
            cells.fill(b' ');
            let mut writer = Writer { cells, column: 0 };
            // A row that is full cuts off.
            let _ = fmt::write(&mut writer, text);
        }
    }

    /// Empties the rows from `first` on.
    pub fn clear_from(&mut self, first: usize) {
        self.cells.iter_mut().skip(first).for_each(|row| row.fill(b' '));
    }

    /// The rows, from the top.
    pub fn rows(&self) -> impl Iterator<Item = &[u8; COLUMNS]> {
        self.cells.iter()
    }
}

struct Writer<'g> {
    cells: &'g mut [u8; COLUMNS],
    column: usize,
}

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let cell = self.cells.get_mut(self.column).ok_or(fmt::Error)?;
            *cell = if matches!(character, ' '..='~') { character as u8 } else { b'?' };
            self.column += 1;
        }
        Ok(())
    }
}
