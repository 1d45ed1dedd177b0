/// What a call came to. kdh_last_error() says more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A pointer is null that must not be.
    Null = 1,
    /// A pointer is not aligned for its type, or a size is larger than an object can be.
    Pointer = 2,
    /// The labeler is not open, or the scratch is none: never made, or closed or released before.
    Handle = 3,
    /// Another thread is using the labeler or the scratch; or KDH_MAX_LABELERS are open.
    Busy = 4,
    /// Memory that the caller gave is too small.
    TooSmall = 5,
    /// An option has a value that this library does not know, or the bundle has no operating point of the name.
    Option = 6,
    /// An index is not below the number of labels, or of operating points.
    Index = 7,
    /// The file cannot be opened.
    Open = 8,
    /// The bundle is damaged, or does not make a labeler.
    Bundle = 9,
    /// This machine does not compute what the bundle's golden texts say.
    SelfTest = 10,
    /// The text, or a string, is not UTF-8.
    Utf8 = 11,
    /// The text has no words.
    NoTokens = 12,
    /// The text has more bytes than the options allow.
    TextTooLong = 13,
    /// The text has more tokens than the model takes, and the options say KDH_OVERFLOW_REFUSE.
    TooManyTokens = 14,
    /// The scratch was made for another model, or for a labeler that treats texts that are too long in another way.
    ForeignScratch = 15,
    /// The model failed on the text.
    Engine = 16,
    /// An error of this library, which it caught: please report it. The labeler and the scratch can still be used.
    Panic = 17,
    /// Nobody that the options trust has signed the bundle.
    Untrusted = 18,
    /// The text took longer than the options allow.
    Deadline = 19,
}
