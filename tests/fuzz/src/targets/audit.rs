//! The files of an audit trail: any bytes, and a trail of ours that was damaged.

use kdh_format::{AUDIT_HEADER_LEN, AUDIT_RECORD_LEN, AuditEntry, AuditHead, AuditStatus};
use kdh_runtime::audit::{AuditLog, AuditOptions, verify_in};

use super::disk::{Disk, Image, Trail};
use super::{Outcome, Target, broken};

pub(super) const AUDIT: Target = Target {
    name: "audit",
    about: "files of an audit trail, any bytes and a damaged trail: repaired to its beginning and said so, or refused",
    short: 8_000,
    dictionary: &[
        b"kdh-audit\0\0\0\0\0\0\0\x01\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 32],
        b"\x01\x00\x05\x03",
        b"\x03\x01",
        b"\x05\x00\x02\x01",
        b"\x07\x01\x01",
    ],
    files: &[],
    made: || {
        let mut files = vec![0];
        for bytes in written(9).image.values() {
            files.extend([0, (bytes.len() / 2) as u8]);
            files.extend(bytes);
        }
        // A flipped bit, a cut and zeros, a file less and bytes that became zeros, a record over another, bytes behind the end.
        let damages: [&[u8]; 5] = [
            b"\x01\x09\x00\x00\x00\x50",
            b"\x01\x0b\x01\x02\x00\x60\x02\x02\x00\x40",
            b"\x01\x08\x03\x00\x04\x00\x01\x10",
            b"\x01\x0a\x05\x01\x00\x02\x00\x01",
            b"\x01\x07\x06\x01\x00\x05zebra",
        ];
        [vec![files], damages.map(<[u8]>::to_vec).to_vec()].concat()
    },
    start: || {
        let trails: Vec<Ours> = (0..16).map(written).collect();
        if trails.iter().any(|trail| trail.entries.len() != trail.head.sequence as usize) {
            return broken(&"a trail was not written");
        }
        Box::new(move |input| match input.split_first() {
            Some((kind, [records, damage @ ..])) if kind % 2 == 1 => {
                damaged(&trails[usize::from(*records) % trails.len()], damage)
            }
            _ => any(input.get(1..).unwrap_or_default()),
        })
    },
};

fn options() -> AuditOptions {
    let mut options = AuditOptions::default();
    (options.records_per_file, options.files, options.sync_every) = (4, 3, 2);
    options
}

/// A trail as it was written.
struct Ours {
    image: Image,
    /// From number 0 on, those too that are in files no longer kept.
    entries: Vec<AuditEntry>,
    head: AuditHead,
}

fn entry(number: u64) -> AuditEntry {
    let mut entry = AuditEntry::new(number << 20, [number as u8 + 1; 32], AuditStatus::Labelled);
    (entry.labels, entry.duration_us, entry.token_bucket) = (number, 35_000, 9);
    entry
}

fn written(records: u64) -> Ours {
    let disk = Disk::new(&Image::new(), None);
    let mut head = AuditHead::START;
    let mut entries = Vec::new();
    if let Ok(mut log) = AuditLog::open_in(Trail::new(&disk), options()) {
        entries.extend((0..records).map(entry).filter(|entry| log.append(entry).is_ok()));
        head = log.head();
    }
    Ours { image: disk.survivor(|end| end - 1), entries, head }
}

/// Files of any bytes: reading them ends in good order, and a trail that is written to can be read again.
fn any(mut input: &[u8]) -> Outcome {
    let _ = str::from_utf8(input).map(str::parse::<AuditHead>);
    let mut image = Image::new();
    // A file is its number (the header's own if that is as small), its length and its bytes.
    while let [number, len, rest @ ..] = input {
        let (bytes, rest) = rest.split_at(rest.len().min(2 * usize::from(*len)));
        let number = bytes.get(24).filter(|own| **own < 128).unwrap_or(number);
        image.insert(format!("audit-{number:020}.kda"), bytes.to_vec());
        input = rest;
    }
    let disk = Disk::new(&image, None);
    let read = |disk: &Disk| verify_in(&Trail::new(disk), None, |_, _| {});
    let before = read(&disk);
    let mut log = match AuditLog::open_in(Trail::new(&disk), options()) {
        Ok(log) => log,
        Err(error) => {
            assert!(before.is_err(), "what is verified is not refused");
            return Outcome::refused(&error);
        }
    };
    let repaired = log.repaired().is_some();
    for number in 0..5 {
        log.append(&entry(number)).unwrap_or_else(|error| panic!("it cannot be written to: {error}"));
    }
    let after = read(&disk);
    if let Ok(before) = before {
        let after = after.unwrap_or_else(|error| panic!("written to it is another: {error}"));
        assert_eq!(before.torn_bytes > 0, repaired, "a repair that was not told, or none");
        assert_eq!(after.head.sequence, before.head.sequence + 5 + u64::from(repaired));
        assert_eq!((after.head, after.torn_bytes), (log.head(), 0));
        return Outcome::accepted(1 + after.files + 10 * usize::from(repaired));
    }
    // Only the last file is read before it is written to: an older one may have been bad, and still is.
    Outcome::accepted(100 * usize::from(after.is_ok()) + usize::from(repaired))
}

/// A trail of ours with damage.
fn damaged(trail: &Ours, damage: &[u8]) -> Outcome {
    let mut image = trail.image.clone();
    let kinds = spoil(&mut image, damage);
    let disk = Disk::new(&image, None);
    let mut read = Vec::new();
    let verified = verify_in(&Trail::new(&disk), None, |number, entry| read.push((number, *entry)));
    let is_ours = |(number, entry): &(u64, AuditEntry)| trail.entries.get(*number as usize) == Some(entry);
    if let Ok(verified) = verified {
        assert!(read.iter().all(is_ours), "a wrong record is taken");
        let first = verified.first;
        assert!(read.iter().map(|(number, _)| *number).eq(first..verified.head.sequence), "a record is missing");
        // The head that was kept elsewhere finds what is missing at the end.
        let against = verify_in(&Trail::new(&disk), Some(trail.head), |_, _| {});
        assert_eq!(against.is_ok(), verified.head == trail.head, "a cut at the end is not found");
    }
    let mut log = match AuditLog::open_in(Trail::new(&disk), options()) {
        Ok(log) => log,
        Err(error) => {
            assert!(verified.is_err(), "what is verified is not refused");
            return Outcome::refused(&error);
        }
    };
    let repaired = log.repaired();
    let head = log.head().sequence - u64::from(repaired.is_some());
    assert!(head <= trail.head.sequence, "records that nobody wrote");
    // Nothing is changed without being told; a file that was begun and is empty holds nothing.
    let now = disk.survivor(|end| end - 1);
    let unchanged = |(name, bytes): (&String, &Vec<u8>)| bytes.is_empty() || now.get(name) == Some(bytes);
    assert!(repaired.is_some() || image.iter().all(unchanged), "a repair that was not told");
    let added = entry(99);
    log.append(&added).unwrap_or_else(|error| panic!("it cannot be written to: {error}"));
    if verified.is_ok() {
        let mut read = Vec::new();
        let after = verify_in(&Trail::new(&disk), None, |number, entry| read.push((number, *entry)));
        assert!(after.is_ok() && read.last().map(|(_, entry)| entry) == Some(&added), "what was added is not there");
        read.truncate(read.len() - 1 - usize::from(repaired.is_some()));
        assert!(read.iter().all(is_ours) && read.last().is_none_or(|(number, _)| number + 1 == head));
    }
    Outcome::accepted(kinds + 256 * usize::from(repaired.is_some()) + 512 * usize::from(verified.is_ok()))
}

/// Applies the damage that the bytes say; which kinds there were.
fn spoil(image: &mut Image, damage: &[u8]) -> usize {
    let mut kinds = 0;
    let mut bytes = damage.iter().copied();
    while let (Some(kind), Some(file)) = (bytes.next(), bytes.next()) {
        let Some(name) = image.keys().nth(usize::from(file) % image.len().max(1)).cloned() else { break };
        let mut content = image.remove(&name).unwrap_or_default();
        let mut next = || usize::from(bytes.next().unwrap_or_default());
        // A place anywhere in the file.
        let mut place = |len: usize| (next() * 256 + next()) % len.max(1);
        kinds |= 1 << (kind % 8);
        match kind % 8 {
            0 => {
                let at = place(content.len());
                if let Some(byte) = content.get_mut(at) {
                    *byte ^= 1 << (file % 8);
                }
            }
            1 => {
                let at = place(content.len() + 1);
                content.truncate(at);
            }
            2 => {
                let more = place(300);
                content.resize(content.len() + more, 0);
            }
            3 => continue,
            4 => {
                let at = place(content.len() + 1);
                content.iter_mut().skip(at).for_each(|byte| *byte = 0);
            }
            5 => {
                let records = content.len().saturating_sub(AUDIT_HEADER_LEN) / AUDIT_RECORD_LEN;
                let [from, to] = [place(records), place(records)].map(|at| AUDIT_HEADER_LEN + at * AUDIT_RECORD_LEN);
                if content.len() >= from.max(to) + AUDIT_RECORD_LEN {
                    let record = content[from..from + AUDIT_RECORD_LEN].to_vec();
                    content[to..to + AUDIT_RECORD_LEN].copy_from_slice(&record);
                }
            }
            6 => {
                let more = place(200).min(damage.len());
                content.extend_from_slice(&damage[..more]);
            }
            // Another file's bytes, or twice the same.
            _ => {
                let other = place(image.len().max(1));
                if let Some(other) = image.values().nth(other) {
                    content.clone_from(other);
                }
            }
        }
        image.insert(name, content);
    }
    kinds
}
