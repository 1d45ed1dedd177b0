//! A report as frames.

use std::time::Duration;

use kdh_runtime::format::heapless;
use kdh_runtime::format::wire::{
    Abstention, ErrorCode, EvidenceRange, Frame, LabelFlags, LabelFrame, MAX_FRAME_LEN, ReportFlags, ReportFrame,
    RequestFlags, RequestId,
};
use kdh_runtime::{LabelError, LabelReport, Report};

/// Appends the frames of `report` to `answer`: the report, and the labels that the request asks for.
///
/// # Errors
///
/// [`ErrorCode::NoTokens`] of an empty text; [`ErrorCode::Internal`] when a frame would break a rule of the protocol. What was
/// appended is to be thrown away.
pub fn encode_report(
    answer: &mut Vec<u8>,
    id: RequestId,
    flags: RequestFlags,
    bundle: [u8; 8],
    report: &Report<'_>,
    duration: Duration,
) -> Result<(), ErrorCode> {
    if report.abstention.contains(kdh_runtime::Abstention::EMPTY) {
        return Err(ErrorCode::NoTokens);
    }
    let all = flags.contains(RequestFlags::ALL_LABELS);
    // A model that abstains gives no label.
    let given = |label: &LabelReport<'_>| report.abstention.is_empty() && label.positive();
    let wanted = || report.labels.iter().enumerate().filter(move |(_, label)| all || given(label));
    let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    let head = ReportFrame {
        id,
        bundle,
        labels: u8::try_from(wanted().count()).map_err(|_| ErrorCode::Internal)?,
        flags: if report.truncated() { ReportFlags::TRUNCATED } else { ReportFlags::default() },
        abstention: Abstention(report.abstention.bits()),
        // The service keeps to the bundle's first.
        operating_point: 0,
        operating_point_name: if report.calibrated { report.operating_point } else { "" },
        text_tokens: count(report.text_tokens),
        seen_tokens: count(report.kept_tokens),
        unknown_tokens: count(report.unknown_tokens),
        duration_us: u32::try_from(duration.as_micros()).unwrap_or(u32::MAX),
    };
    append(answer, &Frame::Report(head))?;
    for (position, (index, label)) in (0..).zip(wanted()) {
        let index = u8::try_from(index).map_err(|_| ErrorCode::Internal)?;
        let flags = [(given(label), LabelFlags::GIVEN), (report.calibrated, LabelFlags::CALIBRATED)];
        let flags = flags.into_iter().filter(|(holds, _)| *holds).fold(0, |all, (_, flag)| all | flag.0);
        append(answer, &Frame::Label(label_frame(id, position, index, label, LabelFlags(flags))))?;
    }
    Ok(())
}

/// The code for a text that gets no report.
pub fn error_code(error: &LabelError) -> ErrorCode {
    match error {
        LabelError::TextTooLong { .. } => ErrorCode::TextTooLong,
        LabelError::NoTokens => ErrorCode::NoTokens,
        _ => ErrorCode::Internal,
    }
}

/// Appends one frame.
///
/// # Errors
///
/// [`ErrorCode::Internal`] when the frame breaks a rule of the protocol.
pub fn append(answer: &mut Vec<u8>, frame: &Frame<'_>) -> Result<(), ErrorCode> {
    let mut buffer = [0; MAX_FRAME_LEN];
    answer.extend_from_slice(frame.encode(&mut buffer).map_err(|_| ErrorCode::Internal)?);
    Ok(())
}

fn label_frame<'r>(
    id: RequestId,
    position: u8,
    index: u8,
    label: &LabelReport<'r>,
    flags: LabelFlags,
) -> LabelFrame<'r> {
    let ranges = label.evidence.iter().map(|sentence| EvidenceRange {
        start: sentence.start,
        end: sentence.end,
        // A sum of rounded shares may be a little above one.
        share: sentence.share.clamp(0.0, 1.0),
    });
    LabelFrame {
        id,
        position,
        index,
        code: label.code,
        probability: label.probability,
        threshold: label.threshold,
        flags,
        evidence: ranges.collect::<heapless::Vec<_, _>>(),
    }
}
