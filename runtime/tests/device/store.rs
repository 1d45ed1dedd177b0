//! The model store: what it takes, when it goes back, and that no crash and no full disk leaves a device without a model.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use kdh_format::{KeyRole, SecretKey, sign_bundle};
use kdh_runtime::store::{Files, MAX_FAILED_STARTS, Slot, Store, StoreError, WentBack};
use kdh_runtime::{ARITHMETIC, Bundle, LabelerOptions, Trust, Untrusted};

use crate::disk::{Disk, Fault, Image};
use crate::self_test::recorded;

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32], KeyRole::Release, "maker").unwrap()
}

fn options() -> LabelerOptions {
    LabelerOptions::new().trust(Trust::new().key(key().public().clone()).unwrap())
}

fn signed(bytes: &[u8]) -> Vec<u8> {
    sign_bundle(&Bundle::parse(bytes).unwrap(), &key()).unwrap()
}

/// Signed bundles of counters 1 to 4.
static RELEASES: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| (1..=4).map(|counter| signed(&recorded(ARITHMETIC, counter, |bits| bits))).collect());

fn release(counter: usize) -> &'static [u8] {
    &RELEASES[counter - 1]
}

fn digest(counter: u64) -> [u8; 32] {
    Bundle::parse(release(counter as usize)).unwrap().digest()
}

/// The counter of the bundle that a start takes.
fn start<F: Files>(store: &Store<F>) -> Result<u64, StoreError> {
    let started = store.start(&options())?;
    Ok((1..=4).find(|&counter| digest(counter) == started.labeler.bundle_digest()).unwrap())
}

/// Verifies: R-041
#[test]
fn an_update_is_tried_and_called_good() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("models")).unwrap();
    assert!(matches!(Store::open(folder.path().join("models")), Err(StoreError::Busy)));
    assert!(matches!(store.start(&options()), Err(StoreError::Empty)));
    assert!(matches!(store.mark_good([0; 32]), Err(StoreError::NotActive)));

    assert_eq!(store.install(release(1), &options()).unwrap(), Slot::A);
    let started = store.start(&options()).unwrap();
    assert!(started.trial && started.went_back.is_none() && started.slot == Slot::A);
    assert_eq!(store.path(Slot::A), folder.path().join("models/a.kdh"));
    store.mark_good(started.labeler.bundle_digest()).unwrap();
    assert_eq!(store.install(release(2), &options()).unwrap(), Slot::B);
    // Still on trial: the old one is kept, and may come back.
    assert_eq!(store.status().unwrap().minimum_rollback_counter, 1);
    assert_eq!(start(&store).unwrap(), 2);
    assert!(matches!(store.mark_good(digest(1)), Err(StoreError::NotActive)));
    store.mark_good(digest(2)).unwrap();
    assert!(!store.start(&options()).unwrap().trial);

    // The way back is closed now.
    let rollback = store.install(release(1), &options()).unwrap_err();
    assert!(matches!(rollback, StoreError::Untrusted(Untrusted::Rollback { counter: 1, minimum: 2 })), "{rollback}");
    assert!(matches!(store.go_back(), Err(StoreError::NoWayBack)));
    let status = store.status().unwrap();
    assert_eq!((status.active, status.failed_starts, status.minimum_rollback_counter), (Some(Slot::B), 0, 2));
    // And stays closed when the store is opened again.
    drop(store);
    let store = Store::open(folder.path().join("models")).unwrap();
    assert!(store.install(release(1), &options()).is_err());
    assert_eq!(store.install(release(3), &options()).unwrap(), Slot::A);
    assert_eq!(store.go_back().unwrap(), Slot::B);
    assert_eq!(start(&store).unwrap(), 2);
}

/// Verifies: R-044
#[test]
fn goes_back_after_failed_starts() {
    let disk = Disk::new(&Image::new(), None);
    let store = Store::new(&disk);
    store.install(release(1), &options()).unwrap();
    // There is nothing to go back to.
    for _ in 0..=MAX_FAILED_STARTS + 2 {
        assert_eq!(start(&store).unwrap(), 1);
    }
    store.mark_good(digest(1)).unwrap();
    store.install(release(2), &options()).unwrap();
    for _ in 0..MAX_FAILED_STARTS {
        assert_eq!(start(&store).unwrap(), 2);
    }
    let back = store.start(&options()).unwrap();
    assert!(matches!(back.went_back, Some(WentBack::FailedStarts)) && !back.trial);
    assert_eq!(start(&store).unwrap(), 1);
    // The next update goes where the failed one was.
    assert_eq!(store.install(release(3), &options()).unwrap(), Slot::B);
    // An update over one on trial leaves the good one alone.
    assert_eq!(store.install(release(4), &options()).unwrap(), Slot::B);
    assert_eq!(start(&store).unwrap(), 4);
    assert!(store.status().unwrap().slots[0].unwrap().good);
}

/// Verifies: R-044
#[test]
fn goes_back_from_a_bundle_that_cannot_be_started() {
    let disk = Disk::new(&Image::new(), None);
    let (store, files) = (Store::new(&disk), &disk);
    store.install(release(1), &options()).unwrap();
    store.mark_good(digest(1)).unwrap();
    store.install(release(2), &options()).unwrap();
    let mut damaged = release(2).to_vec();
    damaged[5_000] ^= 1;
    files.write("b.kdh", &damaged).unwrap();
    let back = store.start(&options()).unwrap();
    assert!(matches!(back.went_back, Some(WentBack::Unusable(StoreError::Build { slot: Slot::B, .. }))));
    assert_eq!(back.labeler.bundle_digest(), digest(1));
    // A bundle that somebody put there, well signed but not installed, is not started either.
    store.install(release(3), &options()).unwrap();
    files.write("b.kdh", release(4)).unwrap();
    let back = store.start(&options()).unwrap();
    assert!(matches!(back.went_back, Some(WentBack::Unusable(StoreError::Changed { slot: Slot::B }))));
    // When the good one is damaged and no other is left, that is said, and installing helps.
    files.write("a.kdh", b"").unwrap();
    assert!(matches!(store.start(&options()), Err(StoreError::Build { slot: Slot::A, .. })));
    store.install(release(4), &options()).unwrap();
    assert_eq!(start(&store).unwrap(), 4);
}

#[test]
fn refuses_bad_updates_and_keeps_what_it_has() {
    let disk = Disk::new(&Image::new(), None);
    let store = Store::new(&disk);
    store.install(release(1), &options()).unwrap();
    store.mark_good(digest(1)).unwrap();
    let before = store.status().unwrap();
    let refused = |bytes: &[u8]| {
        let error = store.install(bytes, &options()).unwrap_err();
        assert_eq!(store.status().unwrap(), before);
        assert_eq!(start(&store).unwrap(), 1);
        error
    };
    assert!(matches!(refused(b""), StoreError::Bundle(_)));
    assert!(matches!(refused(&release(2)[..9_000]), StoreError::Bundle(_)));
    let unsigned = recorded(ARITHMETIC, 2, |bits| bits);
    assert!(matches!(refused(&unsigned), StoreError::Untrusted(Untrusted::Unsigned)));
    // Well signed, and computes something else here: the self-test finds it in its slot.
    let drifted = signed(&recorded(ARITHMETIC, 2, |bits| bits ^ 1));
    assert!(matches!(refused(&drifted), StoreError::Build { slot: Slot::B, .. }));
}

#[test]
fn a_damaged_state_is_an_error_and_not_a_rollback() {
    let disk = Disk::new(&Image::new(), None);
    let (store, files) = (Store::new(&disk), &disk);
    store.install(release(2), &options()).unwrap();
    let mut state = files.read("state").unwrap();
    state[33] ^= 1;
    files.write("state", &state).unwrap();
    assert!(matches!(store.start(&options()), Err(StoreError::State)));
    assert!(matches!(store.install(release(1), &options()), Err(StoreError::State)));
}

/// A device's life: what each step must leave is the counter that a start then takes, and the lowest that is installed.
type Step = (fn(&Store<&Disk>) -> Result<(), StoreError>, &'static [u64], u64);
const LIFE: [Step; 12] = [
    (|store| store.install(release(1), &options()).map(drop), &[1], 0),
    (|store| start(store).map(drop), &[1], 0),
    (|store| store.mark_good(digest(1)), &[1], 1),
    (|store| store.install(release(2), &options()).map(drop), &[2], 1),
    (|store| start(store).map(drop), &[2], 1),
    (|store| store.mark_good(digest(2)), &[2], 2),
    (|store| store.install(release(3), &options()).map(drop), &[3], 2),
    (|store| start(store).map(drop), &[3], 2),
    // Over one on trial: the good one stands in while the slot is rewritten.
    (|store| store.install(release(4), &options()).map(drop), &[4, 2], 2),
    (|store| start(store).map(drop), &[4], 2),
    (|store| store.go_back().map(drop), &[2], 2),
    (|store| start(store).map(drop), &[2], 2),
];

/// Lives through [`LIFE`] from `first` until a step fails; the number of steps that were done.
fn live(disk: &Disk) -> usize {
    let store = Store::new(disk);
    LIFE.iter().take_while(|(step, ..)| step(&store).is_ok()).count()
}

/// What must hold after a fault in step `done`, the steps before it having been done.
fn check(image: &Image, done: usize, context: &str) {
    let disk = Disk::new(image, None);
    let store = Store::new(&disk);
    let status = store.status().unwrap_or_else(|error| panic!("{context}: {error}"));
    let (before, floor) = done.checked_sub(1).map_or((&[][..], 0), |last| (LIFE[last].1, LIFE[last].2));
    let (after, next_floor) = LIFE.get(done).map_or((&[][..], floor), |step| (step.1, step.2));
    let minimum = status.minimum_rollback_counter;
    assert!(minimum == floor || minimum == next_floor, "{context}: the lowest counter is {minimum}");
    match start(&store) {
        // Only what a step before left, or what this one leaves.
        Ok(counter) => assert!(
            before[..1.min(before.len())].contains(&counter) || after.contains(&counter),
            "{context}: {counter}"
        ),
        Err(StoreError::Empty) => assert_eq!(done, 0, "{context}: the device has lost its model"),
        Err(error) => panic!("{context}: {error}"),
    }
    // The store is not stuck: the next update works, rubbish of the crash or not.
    store.install(release(4), &options()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(start(&store).unwrap(), 4, "{context}");
}

fn fingerprint(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// Verifies: R-043
#[test]
fn survives_a_power_cut_at_every_operation() {
    let whole = Disk::new(&Image::new(), None);
    assert_eq!(live(&whole), LIFE.len());
    let (mut images, mut again) = (0, 0);
    // Most disks are the same as another: a check of each is enough.
    let mut checked = HashSet::new();
    let mut check = |image: &Image, done: usize, context: &str| {
        if checked.insert((done, fingerprint(image))) {
            check(image, done, context);
            true
        } else {
            false
        }
    };
    for at in 0..whole.operations() {
        let disk = Disk::new(&Image::new(), Some((at, Fault::PowerCut)));
        let done = live(&disk);
        assert!(done < LIFE.len());
        for image in disk.survivors() {
            images += 1;
            let context = format!("power cut at operation {at}, in step {done}");
            if !check(&image, done, &context) {
                continue;
            }
            // And a second one while the device starts again.
            for second in 0.. {
                let disk = Disk::new(&image, Some((second, Fault::PowerCut)));
                let _ = start(&Store::new(&disk));
                if disk.operations() <= second {
                    break;
                }
                for image in disk.survivors() {
                    again += 1;
                    check(&image, done, &format!("{context}, again at {second}"));
                }
            }
        }
    }
    println!("{} operations, {images} disks after a power cut, {again} after a second", whole.operations());
    assert!(images > 4 * whole.operations());
}

/// Verifies: R-043
#[test]
fn survives_a_failure_of_every_operation_and_a_full_disk() {
    let whole = Disk::new(&Image::new(), None);
    live(&whole);
    let mut checked = HashSet::new();
    for fault in [Fault::Error, Fault::Full] {
        for at in 0..whole.operations() {
            let disk = Disk::new(&Image::new(), Some((at, fault)));
            let done = live(&disk);
            if done > 0 {
                // Without room for a byte the device still has a model.
                assert!(start(&Store::new(&disk)).is_ok(), "{fault:?} at operation {at}, in step {done}");
            }
            // The process lives on and sees its own files; a power cut may follow.
            for image in disk.survivors() {
                if checked.insert((done, fingerprint(&image))) {
                    check(&image, done, &format!("{fault:?} at operation {at}, in step {done}"));
                }
            }
        }
    }
}
