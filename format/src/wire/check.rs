use super::{Frame, FrameError, LabelFrame, MAX_CHUNK_LEN, MAX_NAME_LEN, MAX_TEXT_LEN, RequestChunk};

/// The rules of the protocol that the types do not state, for writers and readers alike.
pub(super) fn check(frame: &Frame<'_>) -> Result<(), FrameError> {
    let holds = match frame {
        Frame::Hello(hello) => name(hello.software),
        Frame::Welcome(welcome) => name(welcome.model) && name(welcome.model_version),
        Frame::Request(chunk) => request(chunk),
        Frame::Report(report) => name(report.operating_point_name) && report.seen_tokens <= report.text_tokens,
        Frame::Label(frame) => label(frame),
        Frame::Status(status) => name(status.model) && name(status.model_version) && status.held <= status.capacity,
        Frame::StatusRequest | Frame::Heartbeat(_) | Frame::Error(_) | Frame::Unknown { .. } => true,
    };
    if holds { Ok(()) } else { Err(FrameError::Malformed) }
}

/// The rule of names in a manifest, but that they may be empty: a display prints them as they are.
fn name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN && !name.chars().any(char::is_control)
}

fn request(chunk: &RequestChunk<'_>) -> bool {
    let len = chunk.bytes.len();
    let end = u32::try_from(len).ok().and_then(|len| chunk.offset.checked_add(len));
    len <= MAX_CHUNK_LEN
        && chunk.text_len <= MAX_TEXT_LEN
        && end.is_some_and(|end| end <= chunk.text_len)
        // An empty part brings nothing on, but for the one of an empty text.
        && (len > 0 || chunk.text_len == 0)
}

fn label(frame: &LabelFrame<'_>) -> bool {
    let within = |value: f32| (0.0..=1.0).contains(&value);
    name(frame.code)
        && within(frame.probability)
        && within(frame.threshold)
        && frame.evidence.iter().all(|range| range.start <= range.end && within(range.share))
}
