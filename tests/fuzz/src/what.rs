//! What a sequence asks a core for, and the request that says so.

use keyfold_protocol::client::{
    Algorithm, ApproveDevice, Assert, ChangePin, Class, CreatePasskey, DeletePasskey, Enroll,
    GuardBase, Recover, Request, RevokeDevice, StretchedPin, UserNames,
};
use keyfold_protocol::ids::{ChainPoint, CredentialId, Name, RpId, SlotId};
use keyfold_tests::device::TestDevice;
use keyfold_tests::world::heapless_algorithms;

/// What is asked for.
#[derive(Clone, Debug)]
pub enum What {
    /// Opens an account, with PIN 0.
    Enroll,
    /// Registers this device.
    Approve(GuardBase, usize),
    /// Strikes this device off.
    Revoke(GuardBase, usize),
    /// Anchors the vault.
    Anchor(GuardBase),
    /// Sets this PIN.
    ChangePin(GuardBase, u8),
    /// Ends the account.
    Close(GuardBase),
    /// Tries this PIN at this version, for this device.
    Recover(u64, u8, usize),
    /// Makes a passkey for this user.
    Create(ChainPoint, u8),
    /// Raises the vault's floor.
    Touch(ChainPoint),
    /// Deletes the passkey of this slot.
    Delete(ChainPoint, SlotId),
    /// Signs in with this passkey of this slot.
    Assert(CredentialId, SlotId),
    /// Reads what the ledger confirms.
    Status,
}

impl What {
    /// The request and its class, as the device of this number signs it.
    pub fn request(&self, signer: usize, devices: &[TestDevice]) -> (Request, Class) {
        let public = |device: usize| devices[device].public();
        let pin = |pin: u8| StretchedPin([pin; 32]);
        match *self {
            Self::Enroll => {
                let enroll = Enroll { pin: pin(0), device: public(signer) };
                (Request::Enroll(enroll), Class::Enroll)
            }
            Self::Approve(base, device) => {
                let approve = ApproveDevice { base, device: public(device) };
                (Request::ApproveDevice(approve), Class::Guard)
            }
            Self::Revoke(base, device) => {
                let revoke = RevokeDevice { base, device: devices[device].id() };
                (Request::RevokeDevice(revoke), Class::GuardFresh)
            }
            Self::Anchor(base) => (Request::Anchor(base), Class::Guard),
            Self::ChangePin(base, new) => {
                (Request::ChangePin(ChangePin { base, pin: pin(new) }), Class::GuardFresh)
            }
            Self::Close(base) => (Request::DeleteAccount(base), Class::GuardFresh),
            Self::Recover(guard, tried, device) => {
                let recover = Recover { guard, pin: pin(tried), device: public(device) };
                (Request::Recover(recover), Class::Recover)
            }
            Self::Create(vault, user) => {
                let name = Name::try_from("alice").expect("short");
                let create = CreatePasskey {
                    vault,
                    rp_id: RpId::try_from("example.com").expect("short"),
                    user_handle: heapless::Vec::from_slice(&[user]).expect("short"),
                    names: UserNames { name: name.clone(), display_name: name },
                    algorithms: heapless_algorithms(&[Algorithm::EdDsa.cose()]),
                    prf: None,
                };
                (Request::CreatePasskey(create), Class::Put(None))
            }
            Self::Touch(point) => (Request::Touch(point), Class::Put(None)),
            Self::Delete(vault, slot) => {
                (Request::DeletePasskey(DeletePasskey { vault, slot }), Class::Put(None))
            }
            Self::Assert(credential, slot) => {
                let assert = Assert {
                    rp_id: RpId::try_from("example.com").expect("short"),
                    credential,
                    client_data_hash: [3; 32],
                    prf: None,
                };
                (Request::Assert(assert), Class::Assert(slot))
            }
            Self::Status => (Request::Status, Class::Status),
        }
    }
}
