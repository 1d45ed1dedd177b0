//! Who vouches for a bundle. `golden/v1-signed.kdh` was signed from the specification by OpenSSL
//! (`scripts/fixtures/signed_bundle.py`), with the published demonstration key.

use kdh_format::{
    Bundle, KeyError, KeyRole, SecretKey, Signatures, SignaturesError, Signer, Trust, TrustError, Untrusted,
    sign_bundle,
};

const PLAIN: &[u8] = include_bytes!("../golden/v1.kdh");
const SIGNED: &[u8] = include_bytes!("../golden/v1-signed.kdh");
const SECRET: &str = include_str!("../../../examples/keys/demonstration.secret");
const TRUST: &str = include_str!("../../../examples/keys/demonstration.trust");

fn demonstration() -> Trust {
    Trust::parse(TRUST).unwrap()
}

fn key(seed: u8, role: KeyRole) -> SecretKey {
    SecretKey::from_seed(&[seed; 32], role, "a key").unwrap()
}

fn trusting(key: &SecretKey) -> Trust {
    Trust::new().key(key.public().clone()).unwrap()
}

fn verify(trust: &Trust, bytes: &[u8]) -> Result<Signer, Untrusted> {
    trust.verify(&Bundle::parse(bytes).unwrap())
}

fn signed(bytes: &[u8], key: &SecretKey) -> Vec<u8> {
    sign_bundle(&Bundle::parse(bytes).unwrap(), key).unwrap()
}

#[test]
fn signs_as_openssl_does() {
    let key = SecretKey::parse(SECRET).unwrap();
    assert_eq!(signed(PLAIN, &key), SIGNED);
    assert_eq!(signed(SIGNED, &key), SIGNED, "signing again replaces the signature");
    assert_eq!(&demonstration().keys()[0], key.public());
    let signer = verify(&demonstration().allow_test_keys(), SIGNED).unwrap();
    assert_eq!(signer.to_string(), format!("test key {} (demonstration key, published with kdh)", key.public().id()));
    assert_eq!(Bundle::parse(SIGNED).unwrap().content(), PLAIN);
}

/// Verifies: R-040
#[test]
fn refuses_what_nobody_trusted_has_signed() {
    let release = key(1, KeyRole::Release);
    let bundle = signed(PLAIN, &release);
    assert!(verify(&trusting(&release), &bundle).is_ok());
    assert_eq!(verify(&trusting(&release), PLAIN), Err(Untrusted::Unsigned));
    assert_eq!(verify(&Trust::new(), PLAIN), Err(Untrusted::Unsigned));
    let unknown = Untrusted::UnknownKey { key: release.public().id() };
    assert_eq!(verify(&Trust::new(), &bundle), Err(unknown));
    assert_eq!(verify(&trusting(&key(2, KeyRole::Release)), &bundle), Err(unknown));
    // The same secret in another role is another key.
    assert_eq!(verify(&trusting(&key(1, KeyRole::Test)).allow_test_keys(), &bundle), Err(unknown));
    for bytes in [PLAIN, &bundle] {
        assert_eq!(verify(&Trust::new().allow_unsigned(), bytes), Ok(Signer::Nobody));
    }
}

/// Verifies: R-040
#[test]
fn refuses_test_keys_unless_code_allows_them() {
    let id = SecretKey::parse(SECRET).unwrap().public().id();
    assert_eq!(verify(&demonstration(), SIGNED), Err(Untrusted::TestKey { key: id }));
    // Calling the record a release key's does not help: the role is part of what is signed and of the id.
    let mut renamed = SIGNED.to_vec();
    renamed[PLAIN.len() + 20] = 1;
    assert_eq!(verify(&demonstration().allow_test_keys(), &renamed), Err(Untrusted::UnknownKey { key: id }));
    assert_eq!(
        Trust::parse(&TRUST.replace("key test", "key release")),
        Err(TrustError::Key { line: 3, error: KeyError::Id })
    );
    let seed = SECRET.lines().last().unwrap().replace("test ", "release ");
    let promoted = SecretKey::parse(&format!("kdh-secret-key 1\n{seed}\n")).unwrap();
    assert_eq!(
        verify(&demonstration().allow_test_keys(), &signed(PLAIN, &promoted)),
        Err(Untrusted::UnknownKey { key: promoted.public().id() })
    );
}

/// Verifies: R-040
#[test]
fn revocation_beats_trust_and_another_key_beats_revocation() {
    let [old, new] = [key(1, KeyRole::Release), key(2, KeyRole::Release)];
    let bundle = signed(PLAIN, &old);
    let trust = trusting(&old).revoke(old.public().id()).unwrap();
    let revoked = Err(Untrusted::Revoked { key: old.public().id() });
    assert_eq!(verify(&trust, &bundle), revoked);
    assert_eq!(verify(&trust.clone().allow_unsigned(), &bundle), revoked);
    let both = signed(&bundle, &new);
    assert_eq!(Bundle::parse(&both).unwrap().signatures().unwrap().len(), 2);
    assert!(verify(&trust.key(new.public().clone()).unwrap(), &both).is_ok());
}

/// Verifies: R-041
#[test]
fn enforces_the_counter() {
    let key = key(1, KeyRole::Release);
    let bundle = signed(PLAIN, &key);
    // The golden bundle's counter is 7.
    assert!(verify(&trusting(&key).minimum_rollback_counter(7), &bundle).is_ok());
    let trust = trusting(&key).minimum_rollback_counter(8).minimum_rollback_counter(3);
    let rollback = Err(Untrusted::Rollback { counter: 7, minimum: 8 });
    assert_eq!(verify(&trust, &bundle), rollback);
    assert_eq!(verify(&trust.allow_unsigned(), PLAIN), rollback);
}

/// Verifies: R-040
#[test]
fn every_flipped_bit_and_every_cut_of_the_trailer_is_refused() {
    let trust = demonstration().allow_test_keys();
    for at in PLAIN.len()..SIGNED.len() {
        for bit in 0..8 {
            let mut bytes = SIGNED.to_vec();
            bytes[at] ^= 1 << bit;
            assert!(verify(&trust, &bytes).is_err(), "byte {at}, bit {bit}");
        }
        assert!(verify(&trust, &SIGNED[..at]).is_err(), "{at} bytes");
    }
    assert_eq!(verify(&trust, &[SIGNED, &[0]].concat()), Err(Untrusted::Trailer(SignaturesError::Malformed)));
    // A wrong signature of a trusted key is more than a missing one.
    let mut bytes = SIGNED.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(verify(&trust.allow_unsigned(), &bytes), Err(Untrusted::Signature { .. })));
}

#[test]
fn a_signature_is_of_one_bundle() {
    let key = key(1, KeyRole::Release);
    let mut other = crate::files::small();
    other.rollback_counter = 8;
    let other = [other.bytes(), signed(PLAIN, &key)[PLAIN.len()..].to_vec()].concat();
    assert_eq!(verify(&trusting(&key), &other), Err(Untrusted::Signature { key: key.public().id() }));
}

#[test]
fn a_bundle_has_room_for_31_signatures() {
    let mut bundle = PLAIN.to_vec();
    for seed in 0..31 {
        bundle = signed(&bundle, &key(seed, KeyRole::Release));
    }
    assert!(bundle.len() - PLAIN.len() <= kdh_format::MAX_TRAILER_LEN);
    assert!(verify(&trusting(&key(30, KeyRole::Release)), &bundle).is_ok());
    let full = sign_bundle(&Bundle::parse(&bundle).unwrap(), &key(31, KeyRole::Release));
    assert_eq!(full, Err(SignaturesError::TooMany));
}

#[test]
fn key_files_say_what_is_wrong() {
    let key = key(3, KeyRole::Release);
    assert_eq!(SecretKey::parse(&key.to_text()).unwrap().public(), key.public());
    let trust = |line: &str| Trust::parse(&format!("kdh-trust 1\n\n# comment\n{line}"));
    let line = key.public().to_string();
    assert_eq!(trust(&line).unwrap(), trusting(&key));
    let id = key.public().id();
    assert_eq!(trust(&format!("revoked {id}")), Trust::new().revoke(id));
    assert_eq!(trust("minimum-rollback-counter 9"), Ok(Trust::new().minimum_rollback_counter(9)));

    assert_eq!(Trust::parse(""), Err(TrustError::NotATrustFile));
    assert_eq!(Trust::parse(&key.to_text()), Err(TrustError::NotATrustFile));
    assert!(matches!(SecretKey::parse(TRUST), Err(KeyError::NotASecretKey)));
    for unknown in
        ["allow_test_keys", "allow-unsigned", "minimum-rollback-counter -1", "minimum-rollback-counter", "key-1"]
    {
        assert_eq!(trust(unknown), Err(TrustError::Line { line: 4 }), "{unknown}");
    }
    let refused = |line: String, error| assert_eq!(trust(&line), Err(TrustError::Key { line: 4, error }), "{line}");
    refused("revoked 12".into(), KeyError::Malformed);
    refused(line.replacen("release", "master", 1), KeyError::Role);
    refused(line[..60].into(), KeyError::Malformed);
    refused(format!("{line}{}", "x".repeat(100)), KeyError::Label);
    refused(format!("{line}\u{1b}[2J"), KeyError::Label);
    // The neutral element: every signature of it verifies in lax implementations.
    refused(format!("key release {id} 01{}", "00".repeat(31)), KeyError::NotAKey);
    let many: String = (0..17).map(|seed| format!("{}\n", self::key(seed, KeyRole::Release).public())).collect();
    assert_eq!(trust(&many), Err(TrustError::Full));
}

#[test]
fn any_trailer_is_read_without_a_panic() {
    proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), keep in 0_usize..20)| {
        // Random bytes behind a good beginning reach further.
        let trailer = [&SIGNED[PLAIN.len()..PLAIN.len() + keep], &bytes].concat();
        if let Ok(records) = Signatures::parse(&trailer) {
            assert_eq!(records.iter().count(), records.len());
        }
    });
}

#[test]
fn nothing_shows_the_secret() {
    let key = SecretKey::parse(SECRET).unwrap();
    let seed = SECRET.lines().last().unwrap().split(' ').nth(1).unwrap();
    assert!(!format!("{key:?} {:?}", key.public()).contains(&seed[..8]));
}
