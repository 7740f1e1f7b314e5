//! The floor: what a request costs in cryptography alone, on the same libraries.

use std::hint::black_box;

use keyfold_protocol::limits::{
    GUARD_PADDED, RECORD_PADDED, REQUEST_STEP, SALT, TAG, VAULT_PADDED,
};
use keyfold_tests::crypto::sha256;
use libcrux_ml_kem::mlkem768;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING,
    EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use ring::{aead, hkdf, hmac};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) mod guard;

const ASSERT_REPLY: usize = 384;
const PUT_REPLY: usize = 768;

/// What every request needs: its frame opened, its signature checked, the guard opened, the reply
/// sealed.
struct Common {
    rng: SystemRandom,
    device: Vec<u8>,
    message: [u8; 134],
    signature: Vec<u8>,
    buffer: Vec<u8>,
}

impl Common {
    fn new() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng);
        let pkcs8 = pkcs8.expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng);
        let key = key.expect("a key");
        let message = [5; 134];
        let signature = key.sign(&rng, &message).expect("a signature").as_ref().to_vec();
        let device = key.public_key().as_ref().to_vec();
        Self { rng, device, message, signature, buffer: vec![0; 8192] }
    }

    fn open(&mut self) {
        self.aead(REQUEST_STEP);
        self.blob_key();
        self.aead(GUARD_PADDED);
        black_box(sha256(&[&[0; 160]]));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.device)
            .verify(&self.message, &self.signature)
            .expect("verified");
    }

    fn reply(&mut self, size: usize) {
        black_box(sha256(&[&[0; REQUEST_STEP + TAG]]));
        expand(&[1; 32]);
        self.random();
        self.blob_key();
        self.aead(size);
    }

    fn random(&mut self) {
        let mut salt = [0; SALT];
        self.rng.fill(&mut salt).expect("randomness");
        black_box(salt);
    }

    /// The key of one sealed blob: extract, expand.
    fn blob_key(&self) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]);
        black_box(hmac::sign(&key, &[3; 32]));
        expand(&[4; 32]);
    }

    fn aead(&mut self, size: usize) {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &[6; 32]).expect("a key");
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        let key = aead::LessSafeKey::new(key);
        let sealed = self.buffer.get_mut(..size).expect("a large buffer");
        let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from([7; 96]), sealed);
        let _ = black_box(tag.expect("sealed"));
    }
}

fn expand(key: &[u8; 32]) {
    let mut out = [0; 32];
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key);
    prk.expand(&[&[8; 96]], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out)).expect("filled");
    black_box(out);
}

/// The floor of Assert.
pub(crate) struct Assert {
    common: Common,
    scalar: Vec<u8>,
    point: Vec<u8>,
}

impl Assert {
    /// With keys of its own.
    pub(crate) fn new() -> Self {
        let common = Common::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &common.rng);
        let pkcs8 = pkcs8.expect("a key");
        let bytes = pkcs8.as_ref();
        let (scalar, point) = (bytes[36..68].to_vec(), bytes[bytes.len() - 65..].to_vec());
        Self { common, scalar, point }
    }

    /// One assertion's primitives.
    pub(crate) fn run(&mut self) {
        self.common.open();
        expand(&[9; 32]);
        self.common.blob_key();
        self.common.aead(RECORD_PADDED);
        let key = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &self.scalar,
            &self.point,
            &self.common.rng,
        )
        .expect("a key");
        black_box(key.sign(&self.common.rng, &[1; 69]).expect("a signature"));
        self.common.reply(ASSERT_REPLY);
    }
}

/// The floor of CreatePasskey.
pub(crate) struct Create(Common);

impl Create {
    /// With keys of its own.
    pub(crate) fn new() -> Self {
        Self(Common::new())
    }

    /// One creation's primitives.
    pub(crate) fn run(&mut self) {
        let common = &mut self.0;
        common.open();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &common.rng);
        black_box(pkcs8.expect("a key"));
        // Vault opened; slot id; record and vault sealed; credential id, PRF seed, blind drawn.
        let sealed = [VAULT_PADDED, RECORD_PADDED, VAULT_PADDED];
        for size in sealed {
            expand(&[10; 32]);
            common.blob_key();
            common.aead(size);
        }
        expand(&[11; 32]);
        common.blob_key();
        (0..5).for_each(|_| common.random());
        black_box(sha256(&[&[0; RECORD_PADDED / 2]]));
        black_box(sha256(&[&[0; 128]]));
        common.reply(PUT_REPLY);
    }
}

/// The floor of a session: X-Wing decapsulation.
pub(crate) struct Kem {
    ml_kem: mlkem768::MlKem768KeyPair,
    ciphertext: mlkem768::MlKem768Ciphertext,
    x25519: StaticSecret,
    share: PublicKey,
}

impl Kem {
    /// With keys of its own.
    pub(crate) fn new() -> Self {
        let ml_kem = mlkem768::generate_key_pair([1; 64]);
        let (ciphertext, _) = mlkem768::encapsulate(ml_kem.public_key(), [2; 32]);
        let share = PublicKey::from(&StaticSecret::from([4; 32]));
        Self { ml_kem, ciphertext, x25519: StaticSecret::from([3; 32]), share }
    }

    /// One decapsulation.
    pub(crate) fn run(&self) {
        black_box(mlkem768::decapsulate(self.ml_kem.private_key(), &self.ciphertext));
        black_box(self.x25519.diffie_hellman(&self.share));
        black_box(libcrux_sha3::sha256(&[0; 134]));
    }
}
