//! The recovery PIN: normalised, checked against what attackers try first, stretched.
//!
//! The enclave grants ten guesses, so a PIN need not resist a search, only the first ten guesses
//! of somebody who knows what people choose. It never leaves this module unstretched: Argon2id
//! (64 MiB, 3 passes, one lane) with a salt that comes from the account, never from the host.

use argon2::{Algorithm, Argon2, Params, Version};
use keyfold_protocol::client::StretchedPin;
use keyfold_protocol::ids::AccountId;
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::sha256;

/// Fewest characters of a PIN, counted after normalisation.
pub const PIN_MIN: usize = 6;
/// Most characters of a PIN, counted after normalisation.
pub const PIN_MAX: usize = 64;

/// What people choose most, beside the patterns [`Pin::new`] knows. Lower case, one per line.
const COMMON: &str = include_str!("pin/common.txt");

/// Why a PIN was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Fewer than [`PIN_MIN`] characters.
    #[error("the PIN is too short: choose {PIN_MIN} to {PIN_MAX} characters")]
    TooShort,
    /// More than [`PIN_MAX`] characters.
    #[error("the PIN is too long: choose {PIN_MIN} to {PIN_MAX} characters")]
    TooLong,
    /// Among the first that somebody would guess.
    #[error("this PIN is among the first anybody would guess; choose another")]
    Common,
    /// Stretching was cut off, as when the program is ending.
    #[error("the PIN could not be stretched (it takes 64 MiB of memory); try again")]
    NotStretched,
}

/// An acceptable PIN in normalisation form C. Not printable, not comparable, wiped on drop.
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes what a person typed as a new PIN. Letters, digits and any other characters count.
    ///
    /// # Errors
    /// [`PinError`] says what to choose instead.
    pub fn new(typed: &str) -> Result<Self, PinError> {
        let pin = Self::existing(typed)?;
        if is_common(&pin.0) { Err(PinError::Common) } else { Ok(pin) }
    }

    /// Takes what a person typed as the PIN they have. It may have been set when fewer were known to
    /// be common.
    ///
    /// # Errors
    /// [`PinError::TooShort`] and [`PinError::TooLong`]: no PIN ever had that length, and a try of it
    /// would be lost.
    pub fn existing(typed: &str) -> Result<Self, PinError> {
        let pin: Zeroizing<String> = Zeroizing::new(nfc(typed));
        match pin.chars().count() {
            ..PIN_MIN => Err(PinError::TooShort),
            PIN_MIN..=PIN_MAX => Ok(Self(pin)),
            _ => Err(PinError::TooLong),
        }
    }

    /// Stretches the PIN for one account. Takes 64 MiB and about a tenth of a second: call it
    /// where blocking is allowed.
    pub fn stretch(&self, account: &AccountId) -> StretchedPin {
        let salt = sha256(&[b"keyfold/pin/1", &account.0]);
        let mut key = argon2id(self.0.as_bytes(), &salt);
        let stretched = StretchedPin(*key);
        key.zeroize();
        stretched
    }
}

impl Pin {
    /// Stretches the PIN without holding up anybody else.
    pub(crate) async fn stretched(self, account: AccountId) -> Result<StretchedPin, PinError> {
        let stretch = tokio::task::spawn_blocking(move || self.stretch(&account));
        stretch.await.map_err(|_| PinError::NotStretched)
    }
}

/// Normalisation form C in a buffer of the right size, so that no half-grown copy is left behind.
pub(crate) fn nfc(typed: &str) -> String {
    // The longest a UTF-8 string can grow in form C is threefold (Unicode Annex 15).
    let mut normal = String::with_capacity(typed.len() * 3);
    normal.extend(typed.nfc());
    normal
}

/// Argon2id, version 19: 64 MiB, 3 passes, one lane, 32 bytes.
pub(crate) fn argon2id(secret: &[u8], salt: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let params = Params::new(64 * 1024, 3, 1, Some(32)).expect("fixed parameters in range");
    let mut out = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(secret, salt, out.as_mut())
        .expect("lengths in range");
    out
}

fn is_common(pin: &str) -> bool {
    let lower = Zeroizing::new(pin.to_lowercase());
    is_repetition(&lower) || is_sequence(&lower) || COMMON.lines().any(|line| line == *lower)
}

/// One block of up to three characters, over and over: 111111, 121212, abcabc.
fn is_repetition(pin: &str) -> bool {
    let chars = Zeroizing::new(pin.chars().map(u32::from).collect::<Vec<_>>());
    (1..=3).any(|block| chars.windows(block + 1).all(|window| window[0] == window[block]))
}

/// Each character one above, or one below, the one before: 123456, fedcba, 890123.
fn is_sequence(pin: &str) -> bool {
    let chars = Zeroizing::new(pin.chars().map(u32::from).collect::<Vec<_>>());
    let digits = chars.iter().all(|c| (0x30..=0x39).contains(c));
    let follows = |from: u32, to: u32| to == from + 1 || (digits && from == 0x39 && to == 0x30);
    chars.windows(2).all(|pair| follows(pair[0], pair[1]))
        || chars.windows(2).all(|pair| follows(pair[1], pair[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_characters_of_form_c() {
        let cases = [
            ("", Some(PinError::TooShort)),
            ("59302", Some(PinError::TooShort)),
            ("593021", None),
            // Five characters once e and its accent are one.
            ("5930e\u{301}", Some(PinError::TooShort)),
            ("59302e\u{301}", None),
        ];
        for (typed, expected) in cases {
            assert_eq!(Pin::new(typed).err(), expected, "{typed:?}");
            assert_eq!(Pin::existing(typed).err(), expected, "{typed:?}");
        }
        let long: String = "q7".repeat(31) + "xz";
        assert_eq!(Pin::new(&long).err(), None);
        assert_eq!(Pin::existing(&long).err(), None);
        let long = long + "1";
        assert_eq!(Pin::new(&long).err(), Some(PinError::TooLong));
        assert_eq!(Pin::existing(&long).err(), Some(PinError::TooLong));
    }

    #[test]
    fn what_is_guessed_first_is_refused() {
        let common = [
            "123456",
            "654321",
            "012345",
            "890123",
            "210987",
            "000000",
            "111111111111",
            "121212",
            "123123",
            "112233",
            "abcdef",
            "ABCDEF",
            "fedcba",
            "xyzxyz",
            "password",
            "Password1",
            "qwerty",
            "QWERTZ",
            "iloveyou",
            "159753",
            "147258",
            "102030",
            "696969",
            "letmein",
        ];
        for pin in common {
            assert_eq!(Pin::new(pin).err(), Some(PinError::Common), "{pin}");
        }
        for pin in common {
            assert_eq!(Pin::existing(pin).err(), None, "{pin} may be somebody's all the same");
        }
        for pin in ["593021", "1234568", "123457", "correct horse", "11111112", "ñandú9"] {
            assert_eq!(Pin::new(pin).err(), None, "{pin}");
        }
    }

    #[test]
    fn the_list_holds_only_lines_that_can_match() {
        let mut seen = std::collections::BTreeSet::new();
        for line in COMMON.lines() {
            let length = line.chars().count();
            assert!((PIN_MIN..=PIN_MAX).contains(&length), "{line}");
            assert_eq!(line, nfc(&line.to_lowercase()), "{line}");
            assert!(!is_repetition(line) && !is_sequence(line), "{line} is a pattern already");
            assert!(seen.insert(line), "{line} twice");
        }
        assert!(seen.len() > 150);
    }

    #[test]
    fn stretching_is_argon2id_salted_by_the_account() {
        let pin = Pin::new("593021").unwrap();
        let one = pin.stretch(&AccountId([1; 32]));
        assert_eq!(hex::encode(one.0), GOLDEN);
        assert!(one == Pin::new("593021").unwrap().stretch(&AccountId([1; 32])));
        assert!(one != pin.stretch(&AccountId([2; 32])));
        assert!(one != Pin::new("593022").unwrap().stretch(&AccountId([1; 32])));
    }

    #[test]
    fn composed_and_decomposed_characters_are_one_pin() {
        let account = AccountId([1; 32]);
        let composed = Pin::new("caf\u{e9}88").unwrap().stretch(&account);
        assert!(composed == Pin::new("cafe\u{301}88").unwrap().stretch(&account));
    }

    /// Made by the reference implementation (Python argon2-cffi, libargon2).
    const GOLDEN: &str = "d249257d49332bd3a8a5903e680738ef40375c5f9e60bd42d14b1038b216e9f5";
}
