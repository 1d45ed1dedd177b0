use core::fmt;
use core::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use heapless::String;
use sha2::{Digest, Sha256};

use crate::bundle::Bundle;
use crate::hex::{self, Hex};
use crate::signature::{SignatureRecord, message};

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum KeyRole {
    /// Signs what goes to devices in use.
    Release = 1,
    /// Signs what is tried out. Nothing accepts it unless the integrator's code says so.
    Test = 2,
}

/// Names a key: digest of its role and its public half.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 16]);

/// The public half of a key: verifies signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    role: KeyRole,
    label: String<MAX_KEY_LABEL_LEN>,
    key: VerifyingKey,
}

/// The secret half of a key: signs. Its memory is overwritten when it is dropped.
pub struct SecretKey {
    public: PublicKey,
    key: SigningKey,
}

/// Longest label of a key, in bytes.
pub const MAX_KEY_LABEL_LEN: usize = 96;

impl KeyRole {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Release, Self::Test].into_iter().find(|&role| role as u32 == number)
    }

    /// The role's name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Test => "test",
        }
    }
}

impl FromStr for KeyRole {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        [Self::Release, Self::Test].into_iter().find(|role| role.name() == name).ok_or(KeyError::Role)
    }
}

impl KeyId {
    pub(crate) const LEN: usize = 16;

    fn new(role: KeyRole, public: &[u8; 32]) -> Self {
        let digest = Sha256::new().chain_update(b"kdh-key version 1").chain_update((role as u32).to_le_bytes());
        let digest: [u8; 32] = digest.chain_update(public).finalize().into();
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&digest[..Self::LEN]);
        Self(id)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(digits: &str) -> Result<Self, KeyError> {
        hex::decode(digits).map(Self).ok_or(KeyError::Malformed)
    }
}

impl PublicKey {
    /// What the key is for.
    pub fn role(&self) -> KeyRole {
        self.role
    }

    /// The key's name for machines.
    pub fn id(&self) -> KeyId {
        KeyId::new(self.role, self.key.as_bytes())
    }

    /// The key's name for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Reads the rest of a line `key ROLE ID PUBLIC LABEL`.
    pub(crate) fn parse(fields: &str) -> Result<Self, KeyError> {
        let mut fields = fields.splitn(4, ' ');
        let role = fields.next().unwrap_or_default().parse()?;
        let id: KeyId = fields.next().ok_or(KeyError::Malformed)?.parse()?;
        let bytes = fields.next().and_then(hex::decode).ok_or(KeyError::Malformed)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotAKey)?;
        if key.is_weak() {
            return Err(KeyError::NotAKey);
        }
        let this = Self { role, label: label(fields.next().unwrap_or_default())?, key };
        if this.id() == id { Ok(this) } else { Err(KeyError::Id) }
    }

    /// Whether `signature` is this key's signature of `message`; strict: no signature has a second form.
    pub(crate) fn verifies(&self, bundle_digest: [u8; 32], signature: &[u8; 64]) -> bool {
        let message = message(self.role, self.id(), bundle_digest);
        self.key.verify_strict(&message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// The line of a trust file.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} {} {}", self.role.name(), self.id(), Hex(self.key.as_bytes()))?;
        if self.label.is_empty() { Ok(()) } else { write!(f, " {}", self.label) }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").field("role", &self.role).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl SecretKey {
    /// The key of 32 random bytes, which the caller takes from the system's generator.
    ///
    /// # Errors
    ///
    /// [`KeyError::Label`] when the label is longer than [`MAX_KEY_LABEL_LEN`] or has control characters.
    pub fn from_seed(seed: &[u8; 32], role: KeyRole, name: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        Ok(Self { public: PublicKey { role, label: label(name)?, key: key.verifying_key() }, key })
    }

    /// Reads a secret key file.
    ///
    /// # Errors
    ///
    /// [`KeyError`], which holds nothing of the file.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
        if lines.next() != Some(SECRET_HEADER) {
            return Err(KeyError::NotASecretKey);
        }
        let mut fields = lines.next().unwrap_or_default().splitn(3, ' ');
        let role = fields.next().unwrap_or_default().parse()?;
        let seed = fields.next().and_then(hex::decode).ok_or(KeyError::Malformed)?;
        let key = Self::from_seed(&seed, role, fields.next().unwrap_or_default())?;
        if lines.next().is_some() { Err(KeyError::Malformed) } else { Ok(key) }
    }

    /// The secret key file.
    #[cfg(feature = "alloc")]
    pub fn to_text(&self) -> alloc::string::String {
        let (role, seed) = (self.public.role.name(), Hex(self.key.as_bytes()));
        alloc::format!("{SECRET_HEADER}\n{role} {seed} {}\n", self.public.label)
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a bundle.
    pub fn sign(&self, bundle: &Bundle<'_>) -> SignatureRecord {
        let PublicKey { role, .. } = self.public;
        let key = self.public.id();
        let signature = self.key.sign(&message(role, key, bundle.digest())).to_bytes();
        SignatureRecord { role, key, signature }
    }
}

/// Shows the public half.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A key cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The text does not begin as a secret key file.
    NotASecretKey,
    /// A field is missing or is not hexadecimal digits of the right number.
    Malformed,
    /// The role is neither `release` nor `test`.
    Role,
    /// The label is too long or has control characters.
    Label,
    /// The public half is no point of the curve that signatures can be verified with.
    NotAKey,
    /// The id is not that of role and public half: one of them was changed.
    Id,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotASecretKey => "this is not a secret key file of version 1; make one with `kdh-export keygen`",
            Self::Malformed => "the key cannot be read; copy its file again",
            Self::Role => "the key's role must be `release` or `test`",
            Self::Label => "the key's label must have at most 96 bytes and no control characters",
            Self::NotAKey => "the public key cannot verify anything; copy its file again",
            Self::Id => "the key's id does not fit its role and public half; copy its file again",
        })
    }
}

impl core::error::Error for KeyError {}

fn label(text: &str) -> Result<String<MAX_KEY_LABEL_LEN>, KeyError> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(KeyError::Label);
    }
    String::try_from(text).map_err(|_| KeyError::Label)
}

const SECRET_HEADER: &str = "kdh-secret-key 1";
