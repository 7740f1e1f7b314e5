//! Runtime claims of role `channel`: the text that a report's REPORT_DATA is the hash of.
//!
//! There is one spelling, without spaces and in this order:
//!
//! ```json
//! {"keyfold":{"version":1,"role":"channel","config":"<hex64>","root":"<hex64>","channel_key":"<hex64>"}}
//! ```
//!
//! Anything else is refused: unknown or repeated members, another order, one more space.

use serde::Deserialize;

use crate::field::{EvidenceError, Field};
use crate::values::{ConfigHash, RootCommitment, Sha256, shorten};

/// The version of the claims that this crate understands.
pub const CLAIMS_VERSION: u64 = 1;

/// The role under which a channel key is claimed; `release` claims carry another key.
pub const CHANNEL_ROLE: &str = "channel";

/// What the enclave claims about the channel it terminates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelClaims {
    /// Hash of the configuration it was started with.
    pub config: ConfigHash,
    /// Commitment to the root key it was given.
    pub root: RootCommitment,
    /// SHA-256 of the channel's public key.
    pub channel_key: Sha256,
}

impl ChannelClaims {
    /// Reads the claims' exact text.
    ///
    /// # Errors
    /// [`Field::ClaimsRole`] and [`Field::ClaimsVersion`] where only these differ, else
    /// [`Field::Claims`].
    pub fn parse(text: &[u8]) -> Result<Self, EvidenceError> {
        let header: Header = serde_json::from_slice(text).map_err(malformed)?;
        if header.keyfold.version != CLAIMS_VERSION {
            return Err(EvidenceError::new(
                Field::ClaimsVersion,
                CLAIMS_VERSION,
                header.keyfold.version,
            ));
        }
        if header.keyfold.role != CHANNEL_ROLE {
            let found = shorten(&header.keyfold.role);
            return Err(EvidenceError::new(Field::ClaimsRole, CHANNEL_ROLE, found));
        }
        let Document { keyfold: members } = serde_json::from_slice(text).map_err(malformed)?;
        let claims =
            Self { config: members.config, root: members.root, channel_key: members.channel_key };
        if claims.to_text().as_bytes() != text {
            return Err(EvidenceError::new(
                Field::Claims,
                "the one spelling without spaces, in the documented order",
                shorten(&String::from_utf8_lossy(text)),
            ));
        }
        Ok(claims)
    }

    /// The claims' one spelling.
    pub fn to_text(&self) -> String {
        let Self { config, root, channel_key } = self;
        format!(
            r#"{{"keyfold":{{"version":{CLAIMS_VERSION},"role":"{CHANNEL_ROLE}","config":"{config}","root":"{root}","channel_key":"{channel_key}"}}}}"#
        )
    }
}

/// What claims of every role and version have in common: read first, so that claims of another
/// role are refused by name and not as malformed.
#[derive(Deserialize)]
struct Header {
    keyfold: HeaderMembers,
}

#[derive(Deserialize)]
struct HeaderMembers {
    version: u64,
    role: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    keyfold: Members,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(rename = "version")]
    _version: u64,
    #[serde(rename = "role")]
    _role: String,
    config: ConfigHash,
    root: RootCommitment,
    channel_key: Sha256,
}

fn malformed(error: serde_json::Error) -> EvidenceError {
    EvidenceError::new(Field::Claims, "runtime claims as documented", shorten(&error.to_string()))
}
