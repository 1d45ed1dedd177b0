//! The audit trail: chained, bounded, repaired after a crash, and any change of it found.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use kdh_format::{AUDIT_HEADER_LEN, AUDIT_RECORD_LEN, AuditEntry, AuditError, AuditHead, AuditStatus, token_bucket};
use kdh_runtime::audit::{AuditLog, AuditOptions, TrailError, Verified, verify, verify_in};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::disk::{Disk, Fault, Image, Trail};

fn numbered(number: u64) -> AuditEntry {
    let mut entry = AuditEntry::new(1_700_000_000_000 + number, [number as u8; 32], AuditStatus::Labelled);
    entry.labels = number.rotate_left(60);
    entry.duration_us = 35_000;
    entry.token_bucket = token_bucket(number as usize);
    entry
}

fn options(records_per_file: u64, files: usize) -> AuditOptions {
    let mut options = AuditOptions::default();
    (options.records_per_file, options.files) = (records_per_file, files);
    options
}

/// A trail of so many records, and its head.
fn trail(records: u64, options: AuditOptions) -> (TempDir, AuditHead) {
    let folder = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(folder.path(), options).unwrap();
    (0..records).for_each(|number| log.append(&numbered(number)).unwrap());
    (folder, log.head())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "kda"));
    files.sort();
    files
}

fn check(folder: &Path) -> Result<Verified, TrailError> {
    verify(folder, None, |_, _| {})
}

#[test]
fn reads_what_it_writes_over_several_files_and_openings() {
    let (folder, _) = trail(25, options(10, 9));
    let mut log = AuditLog::open(folder.path(), options(10, 9)).unwrap();
    assert!(log.repaired().is_none());
    assert!(matches!(AuditLog::open(folder.path(), options(10, 9)), Err(TrailError::Busy)));
    (25..30).for_each(|number| log.append(&numbered(number)).unwrap());
    let mut read = Vec::new();
    let verified = verify(folder.path(), Some(log.head()), |number, entry| read.push((number, *entry))).unwrap();
    assert_eq!(read, (0..30).map(|number| (number, numbered(number))).collect::<Vec<_>>());
    assert_eq!((verified.first, verified.files, verified.torn_bytes, verified.repairs), (0, 3, 0, 0));
    assert_eq!(verified.head, log.head());
    assert_eq!(log.head().to_string().parse(), Ok(log.head()));
}

/// From `AUDIT.md` alone.
#[test]
fn writes_the_specified_bytes() {
    let (folder, _) = trail(2, AuditOptions::default());
    let [file] = &files(folder.path())[..] else { panic!("one file") };
    assert_eq!(file.file_name().unwrap(), "audit-00000000000000000000.kda");
    let mut expected = b"kdh-audit\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend([0; 40]);
    let mut digest = [0_u8; 32];
    for number in 0..2_u64 {
        let mut content = number.to_le_bytes().to_vec();
        content.extend((1_700_000_000_000 + number).to_le_bytes());
        content.extend([number as u8; 32]);
        content.extend((number << 60).to_le_bytes());
        content.extend(35_000_u32.to_le_bytes());
        content.extend([1, number as u8, 0, 0]);
        digest = Sha256::new()
            .chain_update("kdh-audit version 1")
            .chain_update(digest)
            .chain_update(&content)
            .finalize()
            .into();
        expected.extend(content);
        expected.extend(digest);
    }
    assert_eq!(fs::read(file).unwrap(), expected);
    assert_eq!([0, 1, 2, 3, 4, 511, 512].map(token_bucket), [0, 1, 2, 2, 3, 9, 10]);
}

/// Verifies: R-046
#[test]
fn is_bounded() {
    let (folder, head) = trail(95, options(10, 3));
    assert_eq!(files(folder.path()).len(), 3);
    let size: u64 = files(folder.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(size <= 3 * (64 + 10 * 96));
    let verified = check(folder.path()).unwrap();
    assert_eq!((verified.first, verified.head, verified.files), (70, head, 3));
}

/// Verifies: R-045
#[test]
fn every_flipped_bit_is_found() {
    let (folder, head) = trail(7, options(5, 9));
    for file in files(folder.path()) {
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, &bad).unwrap();
            assert!(matches!(check(folder.path()), Err(TrailError::Changed(_))), "{} byte {at}", file.display());
        }
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(check(folder.path()).unwrap().head, head);
}

/// Verifies: R-045
#[test]
fn removed_added_and_moved_records_are_found() {
    let (folder, head) = trail(6, AuditOptions::default());
    let [file] = &files(folder.path())[..] else { panic!("one file") };
    let good = fs::read(file).unwrap();
    let (header, records) = good.split_at(AUDIT_HEADER_LEN);
    let records: Vec<&[u8]> = records.chunks(AUDIT_RECORD_LEN).collect();
    let with = |records: &[&[u8]]| {
        fs::write(file, [header, &records.concat()].concat()).unwrap();
        check(folder.path())
    };
    for at in 0..5 {
        let mut removed = records.clone();
        removed.remove(at);
        let error = with(&removed).unwrap_err();
        let expected = AuditError::Sequence { expected: at as u64, found: at as u64 + 1 };
        assert!(matches!(error, TrailError::Changed(error) if error == expected), "{error}");
        let mut moved = records.clone();
        moved.swap(at, at + 1);
        assert!(matches!(with(&moved), Err(TrailError::Changed(AuditError::Sequence { .. }))));
        let mut twice = records.clone();
        twice.insert(at, records[at]);
        assert!(matches!(with(&twice), Err(TrailError::Changed(AuditError::Sequence { .. }))));
    }
    // A chain cannot know that its end is missing; a head that was kept elsewhere does.
    assert_eq!(with(&records[..4]).unwrap().head.sequence, 4);
    assert!(matches!(verify(folder.path(), Some(head), |_, _| {}), Err(TrailError::CutOff)));
    // Nor that it was written anew as a whole.
    let (other, _) = {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AuditLog::open(folder.path(), AuditOptions::default()).unwrap();
        (5..15).for_each(|number| log.append(&numbered(number)).unwrap());
        (folder, log.head())
    };
    assert!(check(other.path()).is_ok());
    assert!(matches!(verify(other.path(), Some(head), |_, _| {}), Err(TrailError::OtherTrail)));
    // A head of the past is passed through.
    with(&records).unwrap();
    let mut past = AuditHead::START;
    numbered(0).to_record(&mut past);
    assert!(verify(folder.path(), Some(past), |_, _| {}).is_ok());
}

/// Verifies: R-045
#[test]
fn removed_and_mixed_files_are_found() {
    let (folder, _) = trail(25, options(10, 9));
    let names = files(folder.path());
    let middle = fs::read(&names[1]).unwrap();
    fs::remove_file(&names[1]).unwrap();
    assert!(matches!(check(folder.path()), Err(TrailError::Changed(AuditError::Sequence { expected: 10, found: 20 }))));
    // A middle that is as good in itself, but of another chain.
    let foreign = {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AuditLog::open(folder.path(), options(10, 9)).unwrap();
        (1..21).for_each(|number| log.append(&numbered(number)).unwrap());
        fs::read(&files(folder.path())[1]).unwrap()
    };
    fs::write(&names[1], foreign).unwrap();
    assert!(matches!(check(folder.path()), Err(TrailError::Changed(AuditError::Digest { .. }))));
    fs::write(&names[1], &middle).unwrap();
    assert!(check(folder.path()).is_ok());
    // Only the last file may end in a part of a record.
    fs::write(&names[1], &middle[..middle.len() - 5]).unwrap();
    assert!(matches!(check(folder.path()), Err(TrailError::Changed(_))));
}

/// Whatever length a crash leaves, whole records stay, and the trail says what happened.
/// Verifies: R-045
#[test]
fn a_cut_off_record_is_repaired_at_every_length() {
    let (folder, _) = trail(3, options(10, 9));
    let [file] = &files(folder.path())[..] else { panic!("one file") };
    let good = fs::read(file).unwrap();
    let end = |records: usize| AUDIT_HEADER_LEN + records * AUDIT_RECORD_LEN;
    let mut ambiguous = 0;
    for len in 0..=good.len() {
        for zeros in [0, 50, AUDIT_RECORD_LEN, 150] {
            let mut bytes = good[..len].to_vec();
            bytes.resize(len + zeros, 0);
            // Zeros may be what the next bytes are.
            let is_whole = |records: &usize| bytes.get(..end(*records)) == Some(&good[..end(*records)]);
            let whole = (0..=3).rfind(is_whole);
            let torn = bytes.len() > whole.map_or(0, end);
            fs::write(file, &bytes).unwrap();
            // Only a part of a digest with zeros behind it cannot be told from a changed record. No disk leaves it: sectors of
            // 512 bytes end between the three thirds of a record.
            let digest = whole.map(|whole| bytes.get(end(whole + 1) - 32..end(whole + 1)));
            if digest.flatten().is_some_and(|digest| digest != [0; 32]) {
                assert!(matches!(AuditLog::open(folder.path(), options(10, 9)), Err(TrailError::Changed(_))));
                assert_eq!(fs::read(file).unwrap(), bytes);
                ambiguous += 1;
                continue;
            }
            let cut_off = check(folder.path()).unwrap();
            assert_eq!(cut_off.torn_bytes, (bytes.len() - whole.map_or(0, end)) as u64, "{len} + {zeros}");
            let mut log = AuditLog::open(folder.path(), options(10, 9)).unwrap();
            assert_eq!(log.repaired().is_some(), torn, "{len} + {zeros}");
            log.append(&numbered(99)).unwrap();
            drop(log);
            let mut read = Vec::new();
            let verified = verify(folder.path(), None, |_, entry| read.push(*entry)).unwrap();
            let whole = whole.unwrap_or_default();
            assert_eq!((verified.torn_bytes, verified.repairs), (0, u64::from(torn)));
            assert_eq!(read.len(), whole + usize::from(torn) + 1, "{len} + {zeros}");
            assert!((0..whole).all(|number| read[number] == numbered(number as u64)));
        }
    }
    // 31 lengths of a digest's part in each record, with 50 zeros or more.
    assert_eq!(ambiguous, 3 * 31 * 3);
    // Reading alone repairs nothing, and says it.
    fs::write(file, &good[..good.len() - 1]).unwrap();
    let verified = check(folder.path()).unwrap();
    assert_eq!((verified.torn_bytes, verified.head.sequence), (95, 2));
}

#[test]
fn a_crash_while_a_file_begins_loses_no_record() {
    let (folder, head) = trail(10, options(10, 9));
    for left in [&b""[..], b"kdh-audit", &[0; 64]] {
        let begun = folder.path().join("audit-00000000000000000010.kda");
        fs::write(&begun, left).unwrap();
        let log = AuditLog::open(folder.path(), options(11, 9)).unwrap();
        assert_eq!(log.repaired(), (!left.is_empty()).then_some(left.len() as u64));
        drop(log);
        assert!(verify(folder.path(), Some(head), |_, _| {}).is_ok());
        // Back to ten records.
        let first = &files(folder.path())[0];
        let bytes = fs::read(first).unwrap();
        fs::write(first, &bytes[..64 + 960]).unwrap();
        if begun.exists() {
            fs::remove_file(begun).unwrap();
        }
    }
}

#[test]
fn a_changed_trail_is_not_written_to() {
    let (folder, _) = trail(3, AuditOptions::default());
    let [file] = &files(folder.path())[..] else { panic!("one file") };
    let mut bytes = fs::read(file).unwrap();
    bytes[AUDIT_HEADER_LEN + 48] ^= 1;
    fs::write(file, &bytes).unwrap();
    assert!(matches!(
        AuditLog::open(folder.path(), AuditOptions::default()),
        Err(TrailError::Changed(AuditError::Digest { sequence: 0 }))
    ));
    assert_eq!(fs::read(file).unwrap(), bytes);
}

/// Three records a file, two files, a wait for the disk at every second record.
fn small() -> AuditOptions {
    let mut small = options(3, 2);
    small.sync_every = 2;
    small
}

/// Opens a trail and appends ten records, from the number where it stands; how many were appended, and the number of the
/// first that a power cut may take.
fn write(disk: &Disk) -> (u64, u64) {
    let (mut appended, mut safe) = (0, 0);
    let Ok(mut log) = AuditLog::open_in(Trail::new(disk), small()) else { return (0, 0) };
    for number in 0..10 {
        if log.append(&numbered(number)).is_err() {
            break;
        }
        appended = number + 1;
        // A file that begins waits for those before, then every second record of it does.
        safe = appended - [1, 0, 1][number as usize % 3];
    }
    (appended, safe)
}

/// What must hold of a disk after a power cut while the records up to `appended`, or one more, were written.
fn check_image(image: &Image, (appended, safe): (u64, u64), context: &str) {
    let disk = Disk::new(image, None);
    let read = |disk: &Disk| {
        let mut read = Vec::new();
        let verified = verify_in(&Trail::new(disk), None, |number, entry| read.push((number, *entry)));
        (verified.unwrap_or_else(|error| panic!("{context}: {error}")), read)
    };
    // Reading finds no change, only perhaps a part at the end, and every record that was waited for.
    let (before, records) = read(&disk);
    let head = before.head.sequence;
    assert!((safe..=appended + 1).contains(&head), "{context}: {head} records, {safe} to {appended} were written");
    assert!(records.iter().all(|(number, entry)| *entry == numbered(*number)), "{context}");
    assert!(records.iter().map(|(number, _)| *number).eq(before.first..head), "{context}");
    assert!(before.files <= 3, "{context}: {} files", before.files);
    // The trail goes on, and says of a part that it removed.
    let mut log = AuditLog::open_in(Trail::new(&disk), small()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(log.repaired().is_some(), before.torn_bytes > 0, "{context}");
    (0..7).for_each(|_| log.append(&numbered(77)).unwrap());
    let (after, _) = read(&disk);
    let said = u64::from(before.torn_bytes > 0);
    assert_eq!((after.head.sequence, after.torn_bytes), (head + said + 7, 0), "{context}");
    assert!(after.files <= 2, "{context}: {} files", after.files);
}

/// Verifies
#[test]
fn a_power_cut_at_every_operation_loses_no_record_that_was_waited_for() {
    let whole = Disk::new(&Image::new(), None);
    assert_eq!(write(&whole), (10, 9));
    let (mut images, mut again) = (0, 0);
    let mut checked = HashSet::new();
    for at in 0..whole.operations() {
        let disk = Disk::new(&Image::new(), Some((at, Fault::PowerCut)));
        let written = write(&disk);
        for image in disk.survivors() {
            images += 1;
            let context = format!("power cut at operation {at}, after {} records", written.0);
            if !checked.insert((written, image.clone())) {
                continue;
            }
            check_image(&image, written, &context);
            // And a second one while the trail is opened again.
            for second in 0.. {
                let disk = Disk::new(&image, Some((second, Fault::PowerCut)));
                let _cut = AuditLog::open_in(Trail::new(&disk), small());
                if disk.operations() <= second {
                    break;
                }
                for image in disk.survivors() {
                    again += 1;
                    let disk = Disk::new(&image, None);
                    let read =
                        |disk: &Disk| verify_in(&Trail::new(disk), None, |_, _| {}).map(|verified| verified.head);
                    let before = read(&disk).unwrap_or_else(|error| panic!("{context}, again at {second}: {error}"));
                    assert!(before.sequence >= written.1, "{context}, again at {second}");
                    AuditLog::open_in(Trail::new(&disk), small()).unwrap();
                    assert!(read(&disk).unwrap().sequence >= before.sequence);
                }
            }
        }
    }
    println!("{} operations, {images} disks after a power cut, {again} after a second", whole.operations());
    assert!(images > 3 * whole.operations() && again > images);
}

/// Verifies
#[test]
fn a_failure_of_every_operation_and_a_full_disk_leave_a_trail() {
    let whole = Disk::new(&Image::new(), None);
    write(&whole);
    for fault in [Fault::Error, Fault::Full] {
        for at in 0..whole.operations() {
            let disk = Disk::new(&Image::new(), Some((at, fault)));
            // What cannot be written is an error each time, and what was appended stays.
            let mut kept = Vec::new();
            if let Ok(mut log) = AuditLog::open_in(Trail::new(&disk), small()) {
                for number in 0..10 {
                    let before = log.head();
                    if log.append(&numbered(number)).is_ok() || log.head() != before {
                        kept.push(numbered(number));
                    }
                }
                assert_eq!(log.head().sequence, kept.len() as u64);
            }
            assert!(fault == Fault::Full || kept.len() >= 9 || at < 3, "{fault:?} at {at}: {}", kept.len());
            // The process lives on and sees its own files; a power cut may follow.
            let mut read = Vec::new();
            let verified = verify_in(&Trail::new(&disk), None, |number, entry| read.push((number, *entry)));
            assert_eq!(verified.unwrap().head.sequence, kept.len() as u64, "{fault:?} at operation {at}");
            assert!(read.iter().all(|(number, entry)| *entry == kept[*number as usize]), "{fault:?} at operation {at}");
            for image in disk.survivors() {
                let disk = Disk::new(&image, None);
                let verified = verify_in(&Trail::new(&disk), None, |_, _| {});
                assert!(verified.is_ok(), "{fault:?} at operation {at}: {verified:?}");
                assert!(AuditLog::open_in(Trail::new(&disk), small()).is_ok(), "{fault:?} at operation {at}");
            }
        }
    }
}
