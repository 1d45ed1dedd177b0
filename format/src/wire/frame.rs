use heapless::Vec;
use serde::{Deserialize, Serialize};

use super::MAX_EVIDENCE;

/// One frame. Texts are borrowed from the buffer that it was read from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Frame<'a> {
    /// A client opens a conversation, or opens it anew.
    Hello(Hello<'a>),
    /// The service's answer to a hello that it can speak with.
    Welcome(Welcome<'a>),
    /// A part of a text to be labelled.
    Request(RequestChunk<'a>),
    /// What the model says of a text, without its labels: they follow, a frame each.
    Report(ReportFrame<'a>),
    /// What the model says of a text about one label.
    Label(LabelFrame<'a>),
    /// A client asks for the service's status.
    StatusRequest,
    /// How the service does.
    Status(Status<'a>),
    /// A side is alive.
    Heartbeat(Heartbeat),
    /// A request, or something else, was refused.
    Error(ErrorFrame),
    /// A whole frame of a type that this version does not know: pass over it.
    Unknown {
        /// The frame's type byte.
        kind: u8,
    },
}

/// Opens a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// Oldest version that the client speaks.
    pub min_version: u16,
    /// Newest version that the client speaks.
    pub max_version: u16,
    /// What the client wants.
    pub role: Role,
    /// Number that tells this run of the client from its others: random, or counted over restarts. Answers carry it, so
    /// that those to an earlier run on the same line are told apart.
    pub session: u32,
    /// Name and version of the client, for the service's log.
    pub software: &'a str,
}

/// What a client wants of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Role {
    /// Sends texts and takes the answers to them.
    Requester,
    /// Sends no text and takes a copy of every answer. A copy that a slow display has no room for is dropped.
    Display,
}

/// Accepts a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome<'a> {
    /// The version that both sides speak from here on.
    pub version: u16,
    /// The session of the hello that this answers.
    pub session: u32,
    /// Longest text that the service takes, in bytes.
    pub max_text_len: u32,
    /// Most requests that the client may have without an answer. The service reads no further while there are as many.
    pub max_outstanding: u16,
    /// Labels of the model.
    pub labels: u8,
    /// Name of the model.
    pub model: &'a str,
    /// Version of the model.
    pub model_version: &'a str,
}

/// Names a request, over restarts of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Session of the client's hello.
    pub session: u32,
    /// Number of the request, chosen by the client. Not used twice in a session but to send an unanswered request again.
    pub number: u32,
}

/// A part of a text. The parts of a text follow each other, without those of another text between them.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestChunk<'a> {
    /// Names the request.
    pub id: RequestId,
    /// What the answer shall hold.
    pub flags: RequestFlags,
    /// Length of the whole text, in bytes.
    pub text_len: u32,
    /// [`crc32`](super::crc32) of the whole text.
    pub text_crc: u32,
    /// Where in the text the part begins, in bytes.
    pub offset: u32,
    /// The part. It may begin and end inside a character.
    pub bytes: &'a [u8],
}

/// What an answer shall hold: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFlags(pub u8);

impl RequestFlags {
    /// Answer with every label of the model, not only those that are given.
    pub const ALL_LABELS: Self = Self(1);

    /// Whether all bits of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// What the model says of a text. [`labels`](Self::labels) [`LabelFrame`]s of the same id follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportFrame<'a> {
    /// The request that this answers.
    pub id: RequestId,
    /// First eight bytes of the digest that identifies the bundle.
    pub bundle: [u8; 8],
    /// Label frames that follow.
    pub labels: u8,
    /// What is true of the whole text.
    pub flags: ReportFlags,
    /// Why the model abstains: empty when it does not.
    pub abstention: Abstention,
    /// Index of the operating point that decided, in the bundle's list; 0 when the bundle has none.
    pub operating_point: u8,
    /// Name of the operating point that decided; empty when the bundle has none.
    pub operating_point_name: &'a str,
    /// Tokens of the whole text.
    pub text_tokens: u32,
    /// Tokens that the model has seen.
    pub seen_tokens: u32,
    /// Tokens of the whole text that the vocabulary cannot spell.
    pub unknown_tokens: u32,
    /// How long labelling took, in microseconds.
    pub duration_us: u32,
}

/// What is true of a whole text: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportFlags(pub u8);

impl ReportFlags {
    /// The model has not seen all of the text.
    pub const TRUNCATED: Self = Self(1);

    /// Whether all bits of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// Why a model abstains: a set of bits, in the order of the runtime's reasons. A bit that a reader does not know still
/// means that the answer must not be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abstention(pub u32);

impl Abstention {
    /// Whether the model does not abstain.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What the model says of a text about one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelFrame<'a> {
    /// The request that this answers.
    pub id: RequestId,
    /// Position among the label frames of the answer, counted from 0.
    pub position: u8,
    /// Index of the label in the model.
    pub index: u8,
    /// Code of the label.
    pub code: &'a str,
    /// Probability of the label, between 0 and 1.
    pub probability: f32,
    /// The label is given when the probability is at least this.
    pub threshold: f32,
    /// What is true of the label.
    pub flags: LabelFlags,
    /// Sentences that carry the label, the strongest first.
    pub evidence: Vec<EvidenceRange, MAX_EVIDENCE>,
}

/// What is true of a label: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelFlags(pub u8);

impl LabelFlags {
    /// The label is given.
    pub const GIVEN: Self = Self(1);
    /// The probability is calibrated.
    pub const CALIBRATED: Self = Self(2);

    /// Whether all bits of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// A sentence that carries a label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRange {
    /// First byte of the sentence in the text.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
    /// The sentence's share of all evidence for the label, between 0 and 1.
    pub share: f32,
}

/// How the service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status<'a> {
    /// What it is about.
    pub state: ServiceState,
    /// Time since it started, in seconds.
    pub uptime_s: u32,
    /// Requests that it holds.
    pub held: u16,
    /// Most requests that it holds.
    pub capacity: u16,
    /// Texts that it has labelled since it started.
    pub labelled: u64,
    /// Requests that it has refused because it was busy.
    pub busy: u64,
    /// Requests that it has refused for another reason.
    pub failed: u64,
    /// Copies that displays had no room for.
    pub dropped_copies: u64,
    /// First eight bytes of the digest that identifies the bundle.
    pub bundle: [u8; 8],
    /// Name of the model.
    pub model: &'a str,
    /// Version of the model.
    pub model_version: &'a str,
}

/// What the service is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ServiceState {
    /// It labels.
    Ready,
    /// It checks a new bundle, and labels with the old one meanwhile.
    Reloading,
    /// It answers what it holds, and then ends.
    Draining,
}

/// A side is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts the sender's heartbeats.
    pub sequence: u32,
    /// Time since the sender started, in milliseconds; it wraps around.
    pub uptime_ms: u32,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// The request that is refused; `None` when it is not about one.
    pub id: Option<RequestId>,
    /// Why.
    pub code: ErrorCode,
    /// When to send the request again, in milliseconds from now; 0: the same request will be refused again.
    pub retry_after_ms: u32,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The service holds as many requests as it can: send it again later.
    Busy,
    /// The service is about to end: send it again to its successor.
    Draining,
    /// The service speaks no version of the hello.
    UnsupportedVersion,
    /// A request came before a hello, of another session, or from a display.
    NoSession,
    /// The text is longer than the service takes.
    TextTooLong,
    /// A part of the text is missing, or its checksum is wrong: send the request again.
    IncompleteText,
    /// The text is not UTF-8.
    NotUtf8,
    /// The text has no words.
    NoTokens,
    /// The model cannot answer.
    Internal,
}
