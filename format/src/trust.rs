use core::fmt;

use heapless::{String, Vec};

use crate::bundle::Bundle;
use crate::key::{KeyError, KeyId, KeyRole, MAX_KEY_LABEL_LEN, PublicKey};
use crate::signature::SignaturesError;

/// Whose bundles a device takes: keys, revoked keys and the lowest rollback counter. Empty, it takes nothing.
///
/// A trust file holds the same, one thing a line; a public key file is a trust file with one key:
///
/// ```
/// use kdh_format::Trust;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let trust = Trust::parse(
///     "kdh-trust 1
///      key release 642e09dcebac593b15a2ae1769f82d56 3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c Maker 2026
///      revoked 00112233445566778899aabbccddeeff
///      minimum-rollback-counter 4",
/// )?;
/// assert_eq!(trust.keys()[0].label(), "Maker 2026");
/// # Ok(())
/// # }
/// ```
///
/// That test keys or unsigned bundles are taken cannot be said in a file, only in code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    keys: Vec<PublicKey, MAX_TRUSTED_KEYS>,
    revoked: Vec<KeyId, MAX_REVOKED_KEYS>,
    minimum_rollback_counter: u64,
    allow_test_keys: bool,
    allow_unsigned: bool,
}

/// Who vouches for a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signer {
    /// A trusted key.
    Key {
        /// What it is for.
        role: KeyRole,
        /// Its name for machines.
        id: KeyId,
        /// Its name for people.
        label: String<MAX_KEY_LABEL_LEN>,
    },
    /// Nobody that is trusted; the integrator allows that.
    Nobody,
}

/// Most keys of a [`Trust`].
pub const MAX_TRUSTED_KEYS: usize = 16;
/// Most revoked keys of a [`Trust`].
pub const MAX_REVOKED_KEYS: usize = 64;

impl Trust {
    /// Trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a trust file.
    ///
    /// # Errors
    ///
    /// [`TrustError`] names the line.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        if lines.next().is_none_or(|(_, line)| line != HEADER) {
            return Err(TrustError::NotATrustFile);
        }
        lines.try_fold(Self::new(), |trust, (line, text)| trust.with_line(text, line))
    }

    fn with_line(mut self, text: &str, line: u32) -> Result<Self, TrustError> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "key" => self.key(PublicKey::parse(rest).map_err(|error| TrustError::Key { line, error })?),
            "revoked" => self.revoke(rest.parse().map_err(|error| TrustError::Key { line, error })?),
            "minimum-rollback-counter" => {
                self.minimum_rollback_counter = rest.parse().map_err(|_| TrustError::Line { line })?;
                Ok(self)
            }
            _ => Err(TrustError::Line { line }),
        }
    }

    /// Trusts one more key.
    ///
    /// # Errors
    ///
    /// [`TrustError::Full`].
    pub fn key(mut self, key: PublicKey) -> Result<Self, TrustError> {
        self.keys.push(key).map_err(|_| TrustError::Full)?;
        Ok(self)
    }

    /// Refuses what a key has signed, even if the key is trusted.
    ///
    /// # Errors
    ///
    /// [`TrustError::Full`].
    pub fn revoke(mut self, key: KeyId) -> Result<Self, TrustError> {
        self.revoked.push(key).map_err(|_| TrustError::Full)?;
        Ok(self)
    }

    /// Refuses bundles of a lower counter. A lower minimum than the one that is set changes nothing.
    #[must_use]
    pub fn minimum_rollback_counter(mut self, counter: u64) -> Self {
        self.minimum_rollback_counter = self.minimum_rollback_counter.max(counter);
        self
    }

    /// Lets the trusted keys of role [`KeyRole::Test`] count. Not for devices in use.
    #[must_use]
    pub fn allow_test_keys(mut self) -> Self {
        self.allow_test_keys = true;
        self
    }

    /// Takes bundles that nobody trusted has signed. Whoever can write the file then chooses the model.
    #[must_use]
    pub fn allow_unsigned(mut self) -> Self {
        self.allow_unsigned = true;
        self
    }

    /// The trusted keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Finds who vouches for a bundle: one good signature by a trusted key is enough.
    ///
    /// # Errors
    ///
    /// [`Untrusted`] when the bundle must not be used. With [`allow_unsigned`](Self::allow_unsigned) that is a bundle with
    /// a wrong or revoked signature of a trusted key, with a damaged trailer, or with too low a counter.
    pub fn verify(&self, bundle: &Bundle<'_>) -> Result<Signer, Untrusted> {
        let signer = match self.signer(bundle) {
            Err(Untrusted::Unsigned | Untrusted::UnknownKey { .. } | Untrusted::TestKey { .. })
                if self.allow_unsigned =>
            {
                Signer::Nobody
            }
            signer => signer?,
        };
        let (counter, minimum) = (bundle.rollback_counter(), self.minimum_rollback_counter);
        if counter < minimum { Err(Untrusted::Rollback { counter, minimum }) } else { Ok(signer) }
    }

    fn signer(&self, bundle: &Bundle<'_>) -> Result<Signer, Untrusted> {
        let records = bundle.signatures().map_err(Untrusted::Trailer)?;
        let digest = bundle.digest();
        // The reason that says most.
        let mut reason = Untrusted::Unsigned;
        for record in records.iter() {
            let known = self.keys.iter().find(|key| key.id() == record.key && key.role() == record.role);
            let refusal = match known {
                None => Untrusted::UnknownKey { key: record.key },
                Some(key) if key.role() == KeyRole::Test && !self.allow_test_keys => {
                    Untrusted::TestKey { key: record.key }
                }
                Some(_) if self.revoked.contains(&record.key) => Untrusted::Revoked { key: record.key },
                Some(key) if !key.verifies(digest, &record.signature) => Untrusted::Signature { key: record.key },
                Some(key) => {
                    let label = String::try_from(key.label()).unwrap_or_default();
                    return Ok(Signer::Key { role: key.role(), id: record.key, label });
                }
            };
            if refusal.weight() > reason.weight() {
                reason = refusal;
            }
        }
        Err(reason)
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { role, id, label } if label.is_empty() => write!(f, "{} key {id}", role.name()),
            Self::Key { role, id, label } => write!(f, "{} key {id} ({label})", role.name()),
            Self::Nobody => f.write_str("nobody that is trusted"),
        }
    }
}

/// A bundle must not be used: nobody that is trusted vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Untrusted {
    /// It has no signature.
    Unsigned,
    /// Its trailer cannot be read.
    Trailer(SignaturesError),
    /// None of its signatures is by a trusted key.
    UnknownKey {
        /// Who signed.
        key: KeyId,
    },
    /// It is signed by a test key.
    TestKey {
        /// Who signed.
        key: KeyId,
    },
    /// It is signed by a revoked key.
    Revoked {
        /// Who signed.
        key: KeyId,
    },
    /// A signature of a trusted key is wrong.
    Signature {
        /// Who is said to have signed.
        key: KeyId,
    },
    /// Its counter is lower than the minimum: it is older than what this device has taken before.
    Rollback {
        /// Of the bundle.
        counter: u64,
        /// The lowest that is taken.
        minimum: u64,
    },
}

impl Untrusted {
    fn weight(&self) -> u8 {
        match self {
            Self::Unsigned => 0,
            Self::UnknownKey { .. } => 1,
            Self::TestKey { .. } => 2,
            Self::Revoked { .. } => 3,
            _ => 4,
        }
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => {
                f.write_str("the bundle is not signed; sign it with `kdh-export sign`, or allow unsigned bundles")
            }
            Self::Trailer(error) => error.fmt(f),
            Self::UnknownKey { key } => write!(
                f,
                "the bundle is signed by key {key}, which is not trusted; give a trust file that has the key, or get the \
                 bundle from its maker"
            ),
            Self::TestKey { key } => write!(
                f,
                "the bundle is signed by test key {key}, and test keys are not allowed; sign it with a release key"
            ),
            Self::Revoked { key } => {
                write!(f, "the bundle is signed by key {key}, which is revoked; get one that is signed by another key")
            }
            Self::Signature { key } => write!(
                f,
                "the signature of key {key} is not of this bundle; do not use it, and get it from its maker again"
            ),
            Self::Rollback { counter, minimum } => write!(
                f,
                "the bundle's rollback counter is {counter}, the lowest that is taken is {minimum}; install a later release"
            ),
        }
    }
}

impl core::error::Error for Untrusted {}

/// A trust file cannot be read, or a [`Trust`] is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustError {
    /// The text does not begin as a trust file.
    NotATrustFile,
    /// A line says nothing that is known.
    Line {
        /// Counted from 1.
        line: u32,
    },
    /// A key of a line cannot be read.
    Key {
        /// Counted from 1.
        line: u32,
        /// Why.
        error: KeyError,
    },
    /// More than [`MAX_TRUSTED_KEYS`] or [`MAX_REVOKED_KEYS`].
    Full,
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrustFile => {
                f.write_str("this is not a trust file or public key: its first line must be `kdh-trust 1`")
            }
            Self::Line { line } => write!(
                f,
                "line {line} of the trust file is none of `key`, `revoked`, `minimum-rollback-counter` and what belongs to it"
            ),
            Self::Key { line, error } => write!(f, "line {line} of the trust file: {error}"),
            Self::Full => {
                write!(f, "{MAX_TRUSTED_KEYS} keys and {MAX_REVOKED_KEYS} revoked ones are possible; remove some")
            }
        }
    }
}

impl core::error::Error for TrustError {}

/// A bundle with one more signature in its trailer; an earlier one by the same key is replaced. The content stays as it is.
///
/// # Errors
///
/// [`SignaturesError`] when the trailer holds something else, or is full.
#[cfg(feature = "alloc")]
pub fn sign_bundle(bundle: &Bundle<'_>, key: &crate::key::SecretKey) -> Result<alloc::vec::Vec<u8>, SignaturesError> {
    let id = key.public().id();
    let mut records: alloc::vec::Vec<_> = bundle.signatures()?.iter().filter(|record| record.key != id).collect();
    records.push(key.sign(bundle));
    let trailer = crate::signature::Signatures::to_vec(&records)?;
    Ok([bundle.content(), &trailer].concat())
}

/// The first line of a trust file.
pub(crate) const HEADER: &str = "kdh-trust 1";
