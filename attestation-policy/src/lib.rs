//! attestation-policy
