//! The secret of a pairing, as people carry it: typed, or scanned.
//!
//! Twenty characters of Crockford's base 32 (no I, L, O, U; upper and lower case are one), in
//! groups of five: eighteen are the secret (90 bits), two are its checksum.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::PairingError;
use crate::crypto::{random, sha256};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const SECRET: usize = 18;
const CHECKSUM: usize = 2;
const GROUP: usize = 5;
/// In front of a QR payload; with it, all characters are of QR's compact alphanumeric set.
const QR: &str = "KEYFOLD:PAIR:1:";

/// The secret that both devices hold and the host never sees. Serves one pairing. Not printable by
/// accident, wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PairingSecret {
    /// Five bits each.
    symbols: [u8; SECRET],
}

impl PairingSecret {
    pub(super) fn generate() -> Self {
        Self { symbols: random::<SECRET>().map(|byte| byte & 31) }
    }

    pub(super) fn symbols(&self) -> &[u8; SECRET] {
        &self.symbols
    }

    /// The code to show: `ABCDE-FGHJK-MNPQR-STVWX`.
    pub fn code(&self) -> String {
        let all = [&self.symbols[..], &self.checksum()].concat();
        let groups = all.chunks(GROUP).map(|group| {
            group.iter().map(|symbol| char::from(ALPHABET[usize::from(symbol & 31)])).collect()
        });
        groups.collect::<Vec<String>>().join("-")
    }

    /// The payload of a QR code.
    pub fn qr_payload(&self) -> String {
        format!("{QR}{}", self.code().replace('-', ""))
    }

    /// Reads what a person typed or a camera saw. Case, spaces and hyphens do not matter; I and L
    /// are read as 1, O as 0.
    ///
    /// # Errors
    /// [`PairingError::NotACode`], [`PairingError::Mistyped`].
    pub fn parse(text: &str) -> Result<Self, PairingError> {
        let upper = text.trim().to_ascii_uppercase();
        let code = upper.strip_prefix(QR).unwrap_or(&upper);
        let typed = code.chars().filter(|character| !" -".contains(*character));
        let symbols: Option<Vec<u8>> = typed.map(symbol).collect();
        let symbols = symbols.ok_or(PairingError::NotACode)?;
        let (secret, checksum) =
            symbols.split_first_chunk::<SECRET>().ok_or(PairingError::NotACode)?;
        let secret = Self { symbols: *secret };
        match checksum.len() {
            CHECKSUM if *checksum == secret.checksum() => Ok(secret),
            CHECKSUM => Err(PairingError::Mistyped),
            _ => Err(PairingError::NotACode),
        }
    }

    /// Finds typing errors; says nothing about the secret that its holder does not know.
    fn checksum(&self) -> [u8; CHECKSUM] {
        let digest = sha256(&[b"keyfold/pairing-code/1", &self.symbols]);
        [digest[0] & 31, digest[1] & 31]
    }
}

fn symbol(character: char) -> Option<u8> {
    let character = match character {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    let place = ALPHABET.iter().position(|letter| char::from(*letter) == character)?;
    u8::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_write_them() {
        let secret = PairingSecret { symbols: std::array::from_fn(|at| at as u8) };
        assert_eq!(secret.code(), "01234-56789-ABCDE-FGHTM");
        assert_eq!(secret.qr_payload(), "KEYFOLD:PAIR:1:0123456789ABCDEFGHTM");
        for text in [
            "01234-56789-ABCDE-FGHTM",
            " 0123456789abcdefghtm ",
            "ol234 56789 abcde fghtm",
            "oi234-56789-abcde-fghtm",
            "KEYFOLD:PAIR:1:0123456789ABCDEFGHTM",
        ] {
            assert_eq!(PairingSecret::parse(text).unwrap().symbols, secret.symbols, "{text}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "01234", "01234-56789-ABCDE-FGHT", "01234-56789-ABCDE-FGHTM0", "U1234"] {
            let error = PairingSecret::parse(text).err();
            assert_eq!(error, Some(PairingError::NotACode), "{text:?}");
        }
        let other = "KEYFOLD:PAIR:2:0123456789ABCDEFGHTM";
        assert_eq!(PairingSecret::parse(other).err(), Some(PairingError::NotACode));
    }

    #[test]
    fn nearly_every_typing_error_is_found() {
        let secret = PairingSecret::generate();
        let code = secret.code().replace('-', "");
        let (mut wrong, mut missed) = (0, 0);
        for at in 0..code.len() {
            for letter in ALPHABET {
                let mut typed = code.clone().into_bytes();
                if typed[at] == *letter {
                    continue;
                }
                typed[at] = *letter;
                wrong += 1;
                missed +=
                    u32::from(PairingSecret::parse(&String::from_utf8(typed).unwrap()).is_ok());
            }
        }
        assert_eq!(wrong, 20 * 31);
        assert!(missed < 10, "{missed} of {wrong} single errors went unnoticed");
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(PairingSecret::generate().symbols, PairingSecret::generate().symbols);
    }
}
