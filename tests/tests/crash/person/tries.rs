//! Recoveries, right and wrong, and new PINs, while everything dies.

use keyfold_client::Error;
use keyfold_client::device::SoftwareKeys;
use keyfold_client::pin::Pin;
use keyfold_protocol::client::Refusal;
use keyfold_protocol::limits;

use super::{Joined, PIN, Person, device, tolerate};

/// From so many wrong tries on, which there may be, a new PIN comes first: the stream never locks.
const ENOUGH: u8 = 6;

impl Person {
    /// A new device gets in with the right PIN.
    pub(super) async fn recover(&mut self) {
        if self.memory.tries.most() >= ENOUGH {
            return self.change_pin().await;
        }
        let (name, new) = self.new_device();
        let pin = Pin::existing(PIN).expect("a PIN");
        match new.client.recover(pin, &name).await {
            Ok(overview) => {
                assert_eq!(overview.failures, 0, "recovered, and tries still count");
                self.memory.tries.zero();
                self.memory.tries.answered += 1;
                self.memory.guard_is(overview.guard);
                self.memory.devices.insert(new.id);
                self.others.push(new);
            }
            Err(error) => {
                tolerate("recover", &error);
                self.memory.tries.try_unheard(true);
                self.memory.device_may_be(new.id);
            }
        }
    }

    /// Somebody who can sign in as this person guesses.
    pub(super) async fn try_wrong_pin(&mut self) {
        if self.memory.tries.most() >= ENOUGH {
            return self.change_pin().await;
        }
        let (name, new) = self.new_device();
        let pin = Pin::existing("another horse 1937").expect("a PIN");
        match new.client.recover(pin, &name).await {
            Ok(_) => panic!("{} got in with a wrong PIN", new.id),
            Err(Error::Refused(Refusal::WrongPin(left))) => {
                self.memory.tries.wrong(limits::TRIES - left);
            }
            Err(error) => {
                tolerate("a wrong PIN", &error);
                self.memory.tries.try_unheard(false);
            }
        }
    }

    async fn change_pin(&mut self) {
        let pin = Pin::new(PIN).expect("a PIN");
        match self.first.client.change_pin(pin).await {
            Ok(guard) => {
                self.memory.tries.zero();
                self.memory.guard_is(guard);
            }
            Err(error) => {
                tolerate("a new PIN", &error);
                self.memory.tries.zero_unheard();
            }
        }
    }

    fn new_device(&mut self) -> (String, Joined) {
        let name = format!("device-{}", self.number());
        let folder = self.folder.join(&name);
        let new = device(&self.settings, &folder, &self.name, SoftwareKeys::generate());
        (name, new)
    }
}
