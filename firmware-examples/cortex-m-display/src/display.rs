use heapless::Vec;
use kdh_format::wire::{Frame, LabelFlags, LabelFrame, ReportFlags, ReportFrame, RequestId};

use crate::grid::{Grid, ROWS};

/// Row of what is true of the whole text. The two above it are the link's, so that no welcome hides a warning.
const TEXT: usize = 2;
/// Row of how many labels there are, or that some were damaged.
const COUNT: usize = 3;
/// Row of the first label.
const FIRST_LABEL: usize = 4;
/// Labels that have a row.
const MAX_ROWS: usize = ROWS - FIRST_LABEL;

/// What of an answer is shown, and whether it is whole.
pub struct Display {
    grid: Grid,
    answer: Option<Answer>,
}

struct Answer {
    id: RequestId,
    expected: u8,
    received: u8,
    rows: Vec<Row, MAX_ROWS>,
}

struct Row {
    code: heapless::String<12>,
    per_mille: u16,
    given: bool,
    sentences: u8,
}

impl Display {
    /// A display that waits for a service.
    pub fn new() -> Self {
        let mut display = Self { grid: Grid::new(), answer: None };
        display.grid.set_row(0, format_args!("kdh display"));
        display.disconnected();
        display
    }

    /// What to show.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The service has not been heard: what is shown may be out of date.
    pub fn disconnected(&mut self) {
        self.grid.set_row(1, format_args!("NO SERVICE"));
    }

    /// Takes a frame. Whether the grid has changed.
    pub fn take(&mut self, frame: &Frame<'_>) -> bool {
        match frame {
            Frame::Welcome(welcome) => {
                self.grid.set_row(0, format_args!("{} {}", welcome.model, welcome.model_version));
                self.grid.set_row(1, format_args!("connected, {} labels", welcome.labels));
                true
            }
            Frame::Report(report) => self.begin(report),
            Frame::Label(label) => self.add(label),
            _ => false,
        }
    }

    fn begin(&mut self, report: &ReportFrame<'_>) -> bool {
        let incomplete = self.answer.take().is_some();
        let (number, labels) = (report.id.number, report.labels);
        self.grid.clear_from(TEXT);
        // Of a bit that is not known too.
        if !report.abstention.is_empty() {
            self.grid.set_row(TEXT, format_args!("ABSTAINS ({:#x}): DO NOT RELY ON IT", report.abstention.0));
        } else if report.flags.contains(ReportFlags::TRUNCATED) {
            self.grid.set_row(TEXT, format_args!("text {number}: ONLY ITS BEGINNING WAS SEEN"));
        } else {
            self.grid.set_row(TEXT, format_args!("text {number}: {} tokens", report.text_tokens));
        }
        self.answer = Some(Answer { id: report.id, expected: labels, received: 0, rows: Vec::new() });
        self.finish_if_whole() || incomplete
    }

    fn add(&mut self, label: &LabelFrame<'_>) -> bool {
        let Some(answer) = self.answer.as_mut().filter(|answer| answer.id == label.id) else { return false };
        if label.position != answer.received {
            // One before it was damaged. An answer that is not whole is not shown as if it were.
            self.answer = None;
            self.grid.set_row(COUNT, format_args!("DAMAGED ON THE LINE: ask again"));
            return true;
        }
        answer.received += 1;
        let mut code = heapless::String::new();
        // What does not fit is cut off.
        let _ = label.code.chars().try_for_each(|character| code.push(character));
        let row = Row {
            code,
            per_mille: (label.probability * 1000.0) as u16,
            given: label.flags.contains(LabelFlags::GIVEN),
            sentences: label.evidence.len() as u8,
        };
        // More labels than rows: the row of the count says so.
        let _ = answer.rows.push(row);
        self.finish_if_whole()
    }

    fn finish_if_whole(&mut self) -> bool {
        let Some(answer) = self.answer.take_if(|answer| answer.received == answer.expected) else { return false };
        let hidden = usize::from(answer.expected) - answer.rows.len();
        if hidden > 0 {
            self.grid.set_row(COUNT, format_args!("{} labels, {hidden} NOT SHOWN", answer.expected));
        } else {
            self.grid.set_row(COUNT, format_args!("{} labels", answer.expected));
        }
        for (place, row) in (FIRST_LABEL..).zip(&answer.rows) {
            let mark = if row.given { '*' } else { ' ' };
            let (tenths, sentences) = (row.per_mille, row.sentences);
            let (percent, tenth) = (tenths / 10, tenths % 10);
            self.grid.set_row(place, format_args!("{mark} {:<12} {percent:>3}.{tenth} %  {sentences} sent.", row.code));
        }
        true
    }
}
