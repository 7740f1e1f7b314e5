//! Passkeys: made here, used here, never seen anywhere else.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::authenticator::{assertion_data, registration_data};
use crate::crypto::{Failed, ed25519_public, ed25519_sign, hmac_sha256, p256_generate, p256_sign};
use crate::keys::{Secret, in_sealed};
use crate::platform::{Platform, random};
use crate::protocol::*;
use crate::request::{Caller, PutWrite, Stop, Turn, UserVerified};
use crate::seal::{self, Context};
use crate::vault::{self, Change};

/// One passkey in its slot.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    credential: CredentialId,
    rp_id: RpId,
    user_handle: UserHandle,
    names: UserNames,
    algorithm: Algorithm,
    /// P-256 scalar or Ed25519 seed.
    #[serde(with = "in_sealed")]
    private_key: Secret,
    public_key: Vec<u8, 65>,
    #[serde(with = "in_sealed")]
    prf_seed: Secret,
    /// The guard version of its put: an older guard may not use this record.
    guard_floor: u64,
    /// Random at every put, so that the digest in the event chain says nothing.
    blind: [u8; 32],
}

/// The record is the credential the caller named, at the relying party the caller named.
struct RpMatched(());

impl Record {
    /// Its name in the event chain.
    pub(crate) fn digest(&self) -> Result<Digest, Failed> {
        seal::digest(b"keyfold/record/1", self)
    }

    /// What a client may know of it: everything but its secrets.
    pub(crate) fn view(&self) -> PasskeyView {
        PasskeyView {
            credential: self.credential,
            rp_id: self.rp_id.clone(),
            user_handle: self.user_handle.clone(),
            names: self.names.clone(),
            algorithm: self.algorithm,
        }
    }

    fn match_rp(&self, rp_id: &RpId, credential: &CredentialId) -> Result<RpMatched, Refusal> {
        let is_match = self.rp_id == *rp_id && self.credential == *credential;
        if is_match { Ok(RpMatched(())) } else { Err(Refusal::NoSuchPasskey) }
    }

    fn sign(&self, message: &[u8], _: &RpMatched) -> Result<Vec<u8, 72>, Failed> {
        match self.algorithm {
            Algorithm::Es256 => p256_sign(&self.private_key, &self.public_key, message),
            Algorithm::EdDsa => ed25519_sign(&self.private_key, &self.public_key, message),
        }
    }

    /// PRF results; the proof of user verification is what WebAuthn level 3 asks for.
    fn evaluate_prf(&self, inputs: &PrfInputs, _: &UserVerified) -> PrfResults {
        let evaluate = |input: &[u8; 32]| hmac_sha256(self.prf_seed.expose(), &[input]);
        PrfResults { first: evaluate(&inputs.first), second: inputs.second.as_ref().map(evaluate) }
    }
}

/// Opens a record at its place; a guard older than its floor may not use it.
pub(crate) fn open<P>(
    turn: &Turn<P>, caller: &Caller, slot: SlotId, version: Claimed<u64>, sealed: &[u8],
) -> Result<Record, Stop> {
    let guard = caller.guard();
    let context = Context::record(&turn.handle.account, slot, version.0);
    let key = guard.secret.record();
    let record: Record = seal::open::<_, { seal::RECORD }>(&key, &context, sealed)
        .map_err(|_| HostRefusal::State)?;
    if guard.version() < record.guard_floor { Err(Refusal::StaleGuard.into()) } else { Ok(record) }
}

fn open_attached<P>(turn: &Turn<P>, caller: &Caller, slot: SlotId) -> Result<Record, Stop> {
    let attached = turn.handle.record.as_ref().ok_or(Refusal::NoSuchPasskey)?;
    open(turn, caller, slot, attached.version, attached.sealed)
}

/// Makes a passkey: a new key, a new credential id, a new PRF seed, in the user's slot.
pub(crate) fn create<P: Platform>(
    turn: &mut Turn<P>, caller: &Caller, request: &CreatePasskey,
) -> Result<(Created, PutWrite), Stop> {
    let verified = caller.user_verified().ok();
    let algorithm = Algorithm::choose(&request.algorithms).ok_or(Refusal::UnsupportedAlgorithm)?;
    let (private_key, public_key) = match algorithm {
        Algorithm::Es256 => p256_generate()?,
        Algorithm::EdDsa => {
            let seed = Secret::new(random(turn.platform)?);
            let public_key = ed25519_public(&seed)?;
            (seed, public_key)
        }
    };
    let record = Record {
        credential: CredentialId(random(turn.platform)?),
        rp_id: request.rp_id.clone(),
        user_handle: request.user_handle.clone(),
        names: request.names.clone(),
        algorithm,
        private_key,
        public_key,
        prf_seed: Secret::new(random(turn.platform)?),
        guard_floor: caller.guard().version(),
        blind: random(turn.platform)?,
    };
    let slot = caller.guard().secret.slot(&record.rp_id, &record.user_handle);
    let change = Change::Create(slot, &record, verified.as_ref());
    let (put, write) = vault::put(turn, caller, &request.vault, &change)?;
    let (rp_id, credential, key) = (&record.rp_id, &record.credential, &record.public_key);
    let authenticator_data =
        registration_data(rp_id, verified.is_some(), credential, algorithm, key)?;
    let prf = request.prf.as_ref().zip(verified);
    let created = Created {
        put,
        credential: record.credential,
        algorithm,
        authenticator_data,
        public_key: record.public_key.clone(),
        prf: prf.map(|(inputs, verified)| record.evaluate_prf(inputs, &verified)),
    };
    Ok((created, write))
}

/// Signs in: authenticator data and client data hash under the passkey.
pub(crate) fn assert<P: Platform>(
    turn: &Turn<P>, caller: &Caller, request: &Assert,
) -> Result<Asserted, Stop> {
    let keyfold_protocol::client::Class::Assert(slot) = turn.handle.class else {
        return Err(Refusal::Malformed.into());
    };
    let verified = caller.user_verified().ok();
    let record = open_attached(turn, caller, slot)?;
    let matched = record.match_rp(&request.rp_id, &request.credential)?;
    let authenticator_data = assertion_data(&record.rp_id, verified.is_some());
    let message: [u8; 69] = join([&authenticator_data.0, &request.client_data_hash]);
    let signature = record.sign(&message, &matched)?;
    let prf = request.prf.as_ref().zip(verified);
    Ok(Asserted {
        guard: caller.guard().version(),
        authenticator_data,
        signature,
        user_handle: record.user_handle.clone(),
        prf: prf.map(|(inputs, verified)| record.evaluate_prf(inputs, &verified)),
    })
}

/// The attached record under other names, if it is exactly the one the caller meant: everything
/// else is copied.
pub(crate) fn rename<P: Platform>(
    turn: &mut Turn<P>, caller: &Caller, request: UpdatePasskey,
) -> Result<Record, Stop> {
    let record = open_attached(turn, caller, request.slot)?;
    if record.digest()? != request.record {
        return Err(Refusal::RecordChanged.into());
    }
    let blind = random(turn.platform)?;
    Ok(Record { names: request.names, guard_floor: caller.guard().version(), blind, ..record })
}
