//! Every size limit of the protocol. A value past its limit is refused while decoding.

/// Version of this protocol; bound into every session's key schedule.
pub const PROTOCOL_VERSION: u16 = 1;

/// Largest frame between host and enclave, in bytes, without its length prefix.
pub const FRAME: usize = 256 * 1024;
/// Registered devices per account.
pub const DEVICES: usize = 16;
/// PINs tried in a row, none of them right, that lock recovery. The core's constant: nothing sets it.
pub const TRIES: u8 = 10;
/// Sessions an enclave link remembers.
pub const SESSIONS: usize = 4096;
/// Items in one page of a sync or an audit reply.
pub const PAGE: usize = 64;
/// Device names and user names, in bytes of UTF-8.
pub const NAME: usize = 64;
/// Relying party ids, in bytes: the longest domain name.
pub const RP_ID: usize = 253;
/// WebAuthn user handles, in bytes.
pub const USER_HANDLE: usize = 64;
/// Algorithms a relying party may list; further ones are the client's to drop.
pub const ALGORITHMS: usize = 16;
/// Deployment names and ledger issuers, in bytes.
pub const LABEL: usize = 128;
/// A client's largest sealed request frame, in bytes.
pub const REQUEST: usize = 4096;
/// A ledger receipt, in bytes.
pub const RECEIPT: usize = 8192;

/// X-Wing public key, in bytes.
pub const CHANNEL_KEY: usize = 1216;
/// X-Wing encapsulated key (`enc`), in bytes.
pub const ENCAPSULATED_KEY: usize = 1120;
/// AMD SEV-SNP attestation report, in bytes.
pub const REPORT: usize = 1184;

/// Salt, in bytes, in front of every sealed blob and every reply.
pub const SALT: usize = 32;
/// AES-256-GCM tag, in bytes, behind every ciphertext.
pub const TAG: usize = 16;
/// What sealing adds to a padded plaintext, in bytes.
pub const SEAL_OVERHEAD: usize = SALT + TAG;

/// Padded plaintext of a sealed guard: one size whatever it holds.
pub const GUARD_PADDED: usize = 4096;
/// Padded plaintext of a sealed vault.
pub const VAULT_PADDED: usize = 128;
/// Padded plaintext of a sealed record.
pub const RECORD_PADDED: usize = 1024;
/// Padded plaintext of a sealed audit event.
pub const AUDIT_PADDED: usize = 128;
/// Request plaintexts are padded to a multiple of this.
pub const REQUEST_STEP: usize = 512;
