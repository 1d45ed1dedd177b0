//! How commands label texts: in windows, or the begin of them.

use clap::ValueEnum;
use kdh_runtime::{
    Aggregation, DocumentOptions, DocumentScratch, LabelError, Labeler, LabelerOptions, Overflow, Report, Scratch,
};

#[derive(clap::Args)]
pub(crate) struct TextArgs {
    /// What to do with a text of more tokens than the model takes
    #[arg(long, value_enum, default_value = "window")]
    on_overflow: OverflowArg,
    /// How the windows of a long text become one result
    #[arg(long, value_enum, default_value = "head")]
    pub(crate) aggregate: AggregateArg,
    /// Most tokens of a window that repeat the end of the one before it; an eighth of a window unless given
    #[arg(long, value_name = "TOKENS")]
    overlap: Option<usize>,
    /// Operating point whose thresholds hold, instead of the bundle's first; `kdh inspect` shows them
    #[arg(long, value_name = "NAME")]
    operating_point: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OverflowArg {
    /// Label all of it, in windows of whole sentences
    Window,
    /// Label the first tokens
    Truncate,
    /// Refuse the text
    Refuse,
    /// Abstain
    Abstain,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AggregateArg {
    /// As the model's head does: over the sentences of all windows
    Head,
    /// The window with the largest logit
    Max,
    /// As if windows were independent: 1 - prod(1 - p)
    NoisyOr,
}

impl TextArgs {
    /// Longest text in windows, in bytes: it is held in memory.
    const MAX_BYTES: usize = 64 << 20;

    pub(crate) fn options(&self, options: LabelerOptions) -> LabelerOptions {
        let options = options.on_overflow(match self.on_overflow {
            OverflowArg::Window | OverflowArg::Truncate => Overflow::Truncate,
            OverflowArg::Refuse => Overflow::Refuse,
            OverflowArg::Abstain => Overflow::Abstain,
        });
        match &self.operating_point {
            Some(name) => options.operating_point(name),
            None => options,
        }
    }

    /// Longest text, in bytes.
    pub(crate) fn max_bytes(&self) -> usize {
        match self.on_overflow {
            OverflowArg::Window => Self::MAX_BYTES,
            OverflowArg::Truncate | OverflowArg::Refuse | OverflowArg::Abstain => {
                LabelerOptions::DEFAULT_MAX_TEXT_BYTES
            }
        }
    }

    /// How windows are made, if they are.
    pub(crate) fn windows(&self) -> Option<DocumentOptions> {
        let options = DocumentOptions::new().aggregation(match self.aggregate {
            AggregateArg::Head => Aggregation::Head,
            AggregateArg::Max => Aggregation::Max,
            AggregateArg::NoisyOr => Aggregation::NoisyOr,
        });
        let options = self.overlap.map_or(options, |tokens| options.overlap_tokens(tokens));
        (self.on_overflow == OverflowArg::Window).then_some(options)
    }
}

/// Labels the texts of one thread.
pub(crate) struct TextLabeler<'l> {
    labeler: &'l Labeler,
    scratch: Memory,
    windows: Option<DocumentOptions>,
}

enum Memory {
    Windows(Box<DocumentScratch<'static>>),
    Begin(Box<Scratch<'static>>),
}

/// What a model says of a text.
pub(crate) struct Labelled<'l> {
    pub(crate) report: Report<'l>,
    /// Runs of the model.
    pub(crate) windows: usize,
    /// Places where a sentence that is too long was split.
    pub(crate) splits: usize,
}

impl<'l> TextLabeler<'l> {
    pub(crate) fn new(labeler: &'l Labeler, args: &TextArgs) -> Self {
        let windows = args.windows();
        let scratch = match windows {
            Some(_) => Memory::Windows(Box::new(labeler.document_scratch())),
            None => Memory::Begin(Box::new(labeler.scratch())),
        };
        Self { labeler, scratch, windows }
    }

    pub(crate) fn labeler(&self) -> &'l Labeler {
        self.labeler
    }

    pub(crate) fn label(&mut self, text: &str) -> Result<Labelled<'l>, LabelError> {
        match &mut self.scratch {
            Memory::Windows(scratch) => {
                let options = self.windows.unwrap_or_default();
                let found = self.labeler.label_document(scratch, &options, text)?;
                Ok(Labelled { report: found.report, windows: found.windows, splits: found.splits })
            }
            Memory::Begin(scratch) => {
                let report = self.labeler.label(scratch, text)?;
                Ok(Labelled { report, windows: 1, splits: 0 })
            }
        }
    }
}
