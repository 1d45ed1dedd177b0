//! Frames of every type.

use kdh_format::heapless;
use kdh_format::wire::{
    Abstention, ErrorCode, ErrorFrame, EvidenceRange, Frame, Heartbeat, Hello, LabelFlags, LabelFrame, MAX_CHUNK_LEN,
    MAX_FRAME_LEN, ReportFlags, ReportFrame, RequestChunk, RequestFlags, RequestId, Role, ServiceState, Status,
    Welcome,
};

pub(crate) const ID: RequestId = RequestId { session: 0xC0FF_EE00, number: 41 };

/// One frame of each type.
pub(crate) fn samples() -> Vec<Frame<'static>> {
    let bundle = [1, 2, 3, 4, 5, 6, 7, 0];
    let evidence =
        [EvidenceRange { start: 0, end: 74, share: 0.75 }, EvidenceRange { start: 300, end: 1_048_576, share: 0.25 }];
    vec![
        Frame::Hello(Hello {
            min_version: 1,
            max_version: 1,
            role: Role::Display,
            session: ID.session,
            software: "monitor 4.2",
        }),
        Frame::Welcome(Welcome {
            version: 1,
            session: ID.session,
            max_text_len: 1 << 20,
            max_outstanding: 4,
            labels: 10,
            model: "hoc",
            model_version: "2026-11",
        }),
        Frame::Request(RequestChunk {
            id: ID,
            flags: RequestFlags::ALL_LABELS,
            text_len: 27,
            text_crc: 0x1234_5678,
            offset: 0,
            bytes: b"The wound is red \0 and warm",
        }),
        Frame::Report(ReportFrame {
            id: ID,
            bundle,
            labels: 1,
            flags: ReportFlags::TRUNCATED,
            abstention: Abstention(0x8000_0001),
            operating_point: 2,
            operating_point_name: "screening",
            text_tokens: 700,
            seen_tokens: 510,
            unknown_tokens: 3,
            duration_us: 35_120,
        }),
        Frame::Label(LabelFrame {
            id: ID,
            position: 0,
            index: 9,
            code: "GI",
            probability: 0.875,
            threshold: 0.5,
            flags: LabelFlags(LabelFlags::GIVEN.0 | LabelFlags::CALIBRATED.0),
            evidence: heapless::Vec::from_slice(&evidence).unwrap(),
        }),
        Frame::StatusRequest,
        Frame::Status(Status {
            state: ServiceState::Reloading,
            uptime_s: 86_400,
            held: 3,
            capacity: 8,
            labelled: 1_000_000,
            busy: 17,
            failed: 1,
            dropped_copies: 0,
            bundle,
            model: "hoc",
            model_version: "2026-11",
        }),
        Frame::Heartbeat(Heartbeat { sequence: 7, uptime_ms: 1500 }),
        Frame::Error(ErrorFrame { id: Some(ID), code: ErrorCode::Busy, retry_after_ms: 250 }),
        Frame::Error(ErrorFrame { id: None, code: ErrorCode::UnsupportedVersion, retry_after_ms: 0 }),
    ]
}

/// Frames that are as long as their type may be.
pub(crate) fn longest() -> Vec<Frame<'static>> {
    let id = RequestId { session: u32::MAX, number: u32::MAX };
    let name: &'static str = "n".repeat(128).leak();
    let range = EvidenceRange { start: u32::MAX, end: u32::MAX, share: 1.0 };
    vec![
        Frame::Request(RequestChunk {
            id,
            flags: RequestFlags(u8::MAX),
            text_len: 1 << 20,
            text_crc: u32::MAX,
            offset: (1 << 20) - MAX_CHUNK_LEN as u32,
            bytes: vec![0xFF; MAX_CHUNK_LEN].leak(),
        }),
        Frame::Label(LabelFrame {
            id,
            position: u8::MAX,
            index: u8::MAX,
            code: name,
            probability: 1.0,
            threshold: 1.0,
            flags: LabelFlags(u8::MAX),
            evidence: heapless::Vec::from_slice(&[range; 8]).unwrap(),
        }),
        Frame::Status(Status {
            state: ServiceState::Draining,
            uptime_s: u32::MAX,
            held: u16::MAX,
            capacity: u16::MAX,
            labelled: u64::MAX,
            busy: u64::MAX,
            failed: u64::MAX,
            dropped_copies: u64::MAX,
            bundle: [0xFF; 8],
            model: name,
            model_version: name,
        }),
    ]
}

pub(crate) fn encode(frame: &Frame<'_>) -> Vec<u8> {
    frame.encode(&mut [0; MAX_FRAME_LEN]).unwrap().to_vec()
}
