//! The model store: any sequence of what a device does, with power cuts and failures.

use kdh_runtime::store::{Store, StoreError};
use kdh_runtime::{Bundle, LabelerOptions};

use super::disk::{Disk, Fault, Image};
use super::{Outcome, Target, broken, small};

pub(super) const STORE: Target = Target {
    name: "store",
    about: "sequences of the model store with faults of the disk: there is always one good bundle, and no way back behind it",
    short: 1_500,
    dictionary: &[b"\x00\x01\x02\x01", b"\x08\x00\x01", b"\x0c\x03\x01", b"\x0e\x05\x01", b"\x10\x02\x01\x01\x01\x01"],
    files: &[],
    // A life of a device; the same with a power cut, a failure and a full disk in it.
    made: || {
        let life = b"\x00\x01\x02\x08\x01\x02\x10\x01\x03\x18\x01\x01\x01\x01\x18\x08\x01\x02";
        let mut seeds = vec![life.to_vec()];
        for fault in [0x0c, 0x0d, 0x0e] {
            seeds.push([&life[..6], &[fault, 4], &life[6..], &[0x0f, 0x5a, 0x01]].concat());
        }
        seeds
    },
    start: || {
        // The store is the same with signatures, which `bundle` and `trust` damage, and takes twice as long.
        let releases =
            (0..RELEASES).map(|at| small::unsigned(at % 2 == 0, 8, at / 2)).collect::<anyhow::Result<Vec<_>>>();
        let releases = match releases {
            Ok(releases) => releases,
            Err(error) => return broken(&error),
        };
        let options = LabelerOptions::new().allow_unsigned();
        let digests = releases.iter().map(|bytes| Bundle::parse(bytes).map_or([0; 32], |bundle| bundle.digest()));
        let device = Device { digests: digests.collect(), releases, options };
        Box::new(move |input| device.live(input))
    },
};

/// Bundles, two of each rollback counter.
const RELEASES: u64 = 8;

struct Device {
    releases: Vec<Vec<u8>>,
    digests: Vec<[u8; 32]>,
    options: LabelerOptions,
}

/// What is known of the store for certain.
#[derive(Clone, Copy, Default)]
struct Known {
    /// An install has succeeded.
    installed: bool,
    /// The highest counter that was called good, with success.
    good: u64,
    /// The highest counter that was called good, perhaps.
    perhaps_good: u64,
}

impl Device {
    fn live(&self, input: &[u8]) -> Outcome {
        let mut image = Image::new();
        let mut known = Known::default();
        let (mut faults, mut steps) = (0, 0_usize);
        // Each round is a life between two power cuts.
        let mut script = input.iter().copied().take(48);
        let mut fault = None;
        loop {
            let cut = matches!(fault, Some((_, Fault::PowerCut)));
            let disk = Disk::new(&image, fault.take());
            let store = Store::new(&disk);
            let mut next = None;
            while let Some(step) = script.next() {
                steps += 1;
                if step % 8 >= 4 {
                    // How it ends is chosen by the next bytes, and what goes wrong in the next life.
                    let at = usize::from(script.next().unwrap_or_default());
                    next = Some(match step % 4 {
                        0 => Some((at % 16, Fault::PowerCut)),
                        1 => Some((at % 16, Fault::Error)),
                        2 => Some((at % 16, Fault::Full)),
                        _ => None,
                    });
                    break;
                }
                self.step(&store, step, &mut known);
            }
            if known.installed && !cut {
                let started = store.start(&self.options);
                assert!(started.is_ok(), "without a byte of room the device does not start");
            }
            faults += usize::from(next.is_some());
            let mut choice = steps;
            image = disk.survivor(|end| {
                choice = choice.wrapping_mul(31).wrapping_add(usize::from(script.next().unwrap_or_default()));
                choice % end
            });
            self.check(&image, &mut known);
            match next {
                Some(next) => fault = next,
                None => break,
            }
        }
        let status = Store::new(&Disk::new(&image, None)).status();
        let held = status.map_or(0, |status| {
            let good = status.slots.iter().flatten().filter(|slot| slot.good).count();
            1 + good + 3 * usize::from(status.active.is_some()) + 6 * status.failed_starts.min(3) as usize
        });
        Outcome::accepted(held + 40 * faults.min(5))
    }

    fn step(&self, store: &Store<&Disk>, step: u8, known: &mut Known) {
        let release = usize::from(step / 8) % self.releases.len();
        match step % 4 {
            0 => known.installed |= store.install(&self.releases[release], &self.options).is_ok(),
            1 => {
                if let Ok(started) = store.start(&self.options) {
                    self.check_started(started.labeler.bundle_digest(), *known);
                }
            }
            2 => {
                // Of the active bundle, or of any.
                let active = store.status().ok().and_then(|status| status.slots[status.active? as usize]);
                let digest = active.filter(|_| step < 128).map_or(self.digests[release], |slot| slot.digest);
                let counter = (0..).zip(&self.digests).find(|(_, of)| **of == digest).map_or(0, |(at, _)| at / 2);
                match store.mark_good(digest) {
                    Ok(()) => known.good = known.good.max(counter),
                    Err(StoreError::NotActive | StoreError::State) => return,
                    Err(_) => {}
                }
                known.perhaps_good = known.perhaps_good.max(counter);
            }
            _ => {
                let _ = store.go_back();
            }
        }
    }

    /// What must hold whenever the power comes back.
    fn check(&self, image: &Image, known: &mut Known) {
        let disk = Disk::new(image, None);
        let store = Store::new(&disk);
        let status = store.status().unwrap_or_else(|error| panic!("the state is lost: {error}"));
        let minimum = status.minimum_rollback_counter;
        assert!((known.good..=known.perhaps_good).contains(&minimum), "the lowest counter has changed");
        (known.good, known.perhaps_good) = (minimum, minimum);
        match store.start(&self.options) {
            Ok(started) => {
                self.check_started(started.labeler.bundle_digest(), *known);
                known.installed = true;
            }
            Err(StoreError::Empty) => assert!(!known.installed, "the device has lost its model"),
            Err(error) => panic!("the device does not start: {error}"),
        }
        // And the next update works.
        let newest = self.releases.len() - 1;
        store.install(&self.releases[newest], &self.options).unwrap_or_else(|error| panic!("it is stuck: {error}"));
        let started = store.start(&self.options).unwrap_or_else(|error| panic!("the update does not start: {error}"));
        assert_eq!(started.labeler.bundle_digest(), self.digests[newest], "another bundle than the update");
    }

    fn check_started(&self, digest: [u8; 32], known: Known) {
        let at = self.digests.iter().position(|of| *of == digest).unwrap_or_else(|| panic!("a bundle of nobody"));
        assert!(at as u64 / 2 >= known.good, "a bundle behind the last good one");
    }
}
