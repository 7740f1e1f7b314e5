//! What the person does with a device that is trusted from the start, and how they learn what came
//! of it.

use keyfold_protocol::client::{
    AccountStatus, ApproveDevice, ChangePin, Class, Enroll, GuardBase, KeyKind, Request,
    RevokeDevice, StretchedPin,
};
use keyfold_tests::enclave::ROOT;
use keyfold_tests::oracle::pin_verifier;

use crate::history::{self, recorded};
use crate::host::Weather;
use crate::hostile::next;
use crate::people::{Heard, Somebody};
use crate::story::{Kind, Story, brief, look};

impl Story {
    /// Opens the account in use.
    pub(crate) async fn laptop_enrolls(&mut self) -> Heard {
        let pin = StretchedPin(self.pins[0]);
        let request = Request::Enroll(Enroll { pin, device: self.laptop.device.public() });
        let host = &self.hosts[self.chance.below(self.hosts.len())];
        self.laptop.ask(host, &request, KeyKind::Presence, Class::Enroll).await
    }

    pub(crate) async fn laptop_does(&mut self) {
        let host = self.chance.below(self.hosts.len());
        let status = look(&self.around, &mut self.laptop, &self.hosts[host]).await;
        let Heard::Status(status) = status else {
            return self.say(format!("the laptop looks: {}", brief(&status)));
        };
        let AccountStatus { guard, vault, anchor, .. } = *status;
        let base = GuardBase { guard, vault, anchor };
        let (name, request, class) = match self.chance.below(7) {
            0 => ("anchors", Request::Anchor(base), Class::Guard),
            what @ 1..4 if what == 1 || self.friends.is_empty() => {
                let friend = Somebody::new("friend", self.account());
                self.expect(friend.device.id());
                let approve = ApproveDevice { base, device: friend.device.public() };
                self.friends.push(friend);
                ("approves", Request::ApproveDevice(approve), Class::Guard)
            }
            2 | 3 => {
                let friend = &self.friends[self.chance.below(self.friends.len())];
                let revoke = RevokeDevice { base, device: friend.device.id() };
                ("revokes", Request::RevokeDevice(revoke), Class::GuardFresh)
            }
            4 => ("touches", Request::Touch(status.vault), Class::Put(None)),
            5 if self.chance.once_in(2) => {
                ("ends the account", Request::DeleteAccount(base), Class::GuardFresh)
            }
            _ => {
                let pin = [self.pins[self.pins.len() - 1][0].wrapping_add(16); 32];
                self.pins.push(pin);
                let change = ChangePin { base, pin: StretchedPin(pin) };
                ("sets a PIN", Request::ChangePin(change), Class::GuardFresh)
            }
        };
        let uv = KeyKind::UserVerification;
        let heard = self.laptop.ask(&self.hosts[host], &request, uv, class).await;
        self.say(format!("the laptop {name}: {}", brief(&heard)));
        if let Heard::Changed(changed) = &heard {
            history::check_success(&self.around, &self.account(), changed);
        }
        match request {
            Request::RevokeDevice(revoke) => {
                let of = self.friends.iter_mut().find(|of| of.device.id() == revoke.device);
                let friend = of.expect("one of the friends");
                let seen = look(&self.around, friend, &self.hosts[host]).await;
                let is_in = matches!(seen, Heard::Status(_));
                assert!(!is_in || !matches!(heard, Heard::Changed(_)), "revoked, and reads");
            }
            Request::ChangePin(_) | Request::DeleteAccount(_) => {
                if !matches!(heard, Heard::Changed(_) | Heard::Refused(_)) {
                    // It may yet happen, as long as it waits anywhere.
                    self.restart_in(Weather::default()).await;
                    self.hosts[0].service.recover(0).await;
                }
                self.learn_from_the_ledger();
                self.opens_the_next_account().await;
            }
            _ => {}
        }
    }

    /// What the person would find in the end, had they asked long enough: which of their accounts is
    /// the last, and which PIN counts there.
    pub(crate) fn learn_from_the_ledger(&mut self) {
        let following = next(self.account());
        if !recorded(&self.around, &following).is_empty() {
            self.accounts.push(following);
            self.friends.clear();
        }
        self.laptop.account = self.account();
        if let Some(pin) = self.pin_by_the_ledger() {
            self.pin = pin;
        }
    }

    /// None where the account has ended.
    fn pin_by_the_ledger(&self) -> Option<[u8; 32]> {
        let versions = recorded(&self.around, &self.account());
        let newest = versions.last().expect("an account");
        let is = |pin: &&[u8; 32]| pin_verifier(&ROOT, &self.account(), pin) == newest.guard.pin;
        self.pins.iter().find(is).copied()
    }

    /// Whether another PIN counts than the person last learnt.
    pub(crate) fn pin_has_moved(&self) -> bool {
        self.pin_by_the_ledger() != Some(self.pin)
    }

    /// When the account has ended, the person opens the next one, at a host that is well.
    async fn opens_the_next_account(&mut self) {
        if !history::has_ended(&self.around, &self.account()) {
            return;
        }
        self.restart_in(Weather::default()).await;
        self.hosts[0].service.recover(0).await;
        let following = next(self.account());
        self.rightful.entry(following).or_default().insert(self.laptop.device.id());
        self.laptop.account = following;
        self.laptop.device.guard_seen = 0;
        let heard = self.laptop_enrolls().await;
        self.say(format!("the laptop opens the next account: {}", brief(&heard)));
        let has_opened = matches!(heard, Heard::Changed(_));
        // A hostile host may have led its disk away from the ledger.
        assert!(has_opened || self.kind == Kind::Hostile, "{heard:?}");
        self.learn_from_the_ledger();
        self.restart_in(self.weather).await;
    }
}
