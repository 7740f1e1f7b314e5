//! What a host does that does not mean well: everything that can be done with what it was ever given.

use std::sync::Arc;

use bytes::Bytes;
use keyfold_host::clock::unix_now;
use keyfold_host::ledger::Appended;
use keyfold_host::storage::{StagedGuard, StagedKey};
use keyfold_protocol::client::{Class, Enroll, KeyKind, Request, StretchedPin};
use keyfold_protocol::host::{Attached, Claimed, Commit, HostReply, HostRequest, Settle, Staged};
use keyfold_protocol::ids::{Account, AccountId, Digest};
use keyfold_protocol::wire;
use keyfold_tests::enclave::{Enclave, ROOT, decode, encode};
use keyfold_tests::world::{Attach, World};

use crate::disk::Disk;
use crate::enclaves::{Kept, note};
use crate::history;
use crate::people::{self, Heard, Somebody};
use crate::story::Story;

/// Somebody else's account, whose PIN the host knows.
const SOMEBODY_ELSE: Account = Account { id: AccountId([0xde; 32]), generation: 1 };
const KNOWN_PIN: [u8; 32] = [1; 32];

/// A person's next account.
pub(crate) fn next(account: Account) -> Account {
    Account { generation: account.generation + 1, ..account }
}

impl Story {
    /// An account from which nothing may find its way into another.
    pub(crate) async fn somebody_else_enrolls(&mut self) {
        let mut somebody = Somebody::new("somebody else", SOMEBODY_ELSE);
        self.rightful.entry(SOMEBODY_ELSE).or_default().insert(somebody.device.id());
        let (pin, device) = (StretchedPin(KNOWN_PIN), somebody.device.public());
        let request = Request::Enroll(Enroll { pin, device });
        let heard = somebody.ask(&self.hosts[0], &request, KeyKind::Presence, Class::Enroll).await;
        assert!(matches!(heard, Heard::Changed(_)), "{heard:?}");
    }

    /// A host is given back what it had, beside or instead of the others.
    pub(crate) async fn back_in_time(&mut self) {
        let old = self.backups[self.chance.below(self.backups.len())].copy();
        let alone = self.chance.once_in(2);
        self.say(format!("a host starts on an old disk, alone: {alone}"));
        if alone {
            self.hosts.iter().for_each(|host| host.power.cut());
            self.hosts.clear();
        }
        let host = self.around.host(&old, self.weather).await;
        self.hosts.push(host);
    }

    fn one_of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.chance.below(all.len())]
    }

    fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.backups.iter().chain([&self.disk])
    }

    /// Hands cores whatever it kept, in any combination: guards and receipts to one of its own, and
    /// to those that served clients their clients' frames.
    pub(crate) fn feed_cores(&mut self) {
        let guards: Vec<_> = self.disks().flat_map(Disk::guards).collect();
        self.feed_guards(&guards);
        let vaults: Vec<_> = self.disks().flat_map(Disk::vaults).collect();
        self.feed_frames(&guards, &vaults);
    }

    fn feed_guards(&mut self, guards: &[(u64, Vec<u8>)]) {
        let mut core = Enclave::boot(&self.around.config, &ROOT);
        let receipts = self.around.record.with_book(|book| book.receipts.clone());
        let log = self.around.record.log();
        let accounts = [&self.accounts[..], &[next(self.account()), SOMEBODY_ELSE]].concat();
        let mut taken = 0;
        for _ in 0..12 {
            let (version, sealed) = self.one_of(guards);
            let at = Attached { version: Claimed(*version), sealed };
            let own = self.chance.below(3) > 0;
            let account = if own { self.account() } else { *self.one_of(&accounts) };
            let settle = encode(&HostRequest::Settle(Settle { account, guard: at }));
            let reply = core.call_raw(&settle);
            note(&settle, &reply, &self.around.compared);
            let (_, _, digest) = *self.one_of(&log);
            let receipt = self.one_of(&receipts);
            let digest = Claimed(if self.chance.once_in(4) { Digest([1; 32]) } else { digest });
            let commit = HostRequest::Commit(Commit { account, staged: at, digest, receipt });
            let reply = core.call(&commit);
            if let HostReply::Committed(committed) = decode(&reply) {
                taken += 1;
                let is_recorded = log
                    .iter()
                    .any(|(_, version, at)| (*version, *at) == (committed.version, digest.0));
                assert!(is_recorded, "a guard went live that the ledger does not have");
            }
        }
        self.say(format!("a core is fed: {taken} guards that were live already"));
    }

    fn feed_frames(&mut self, guards: &[(u64, Vec<u8>)], vaults: &[(u64, Vec<u8>)]) {
        let cores = self.around.cores.lock().expect("no panic under the lock").clone();
        for _ in 0..12 {
            let kept = &cores[self.chance.below(cores.len())];
            let frames = kept.frames.lock().expect("no panic under the lock").clone();
            if frames.is_empty() {
                continue;
            }
            let frame: &Vec<u8> = self.one_of(&frames);
            let Ok(HostRequest::Handle(mut handle)) = wire::decode(frame) else {
                panic!("only these are kept")
            };
            if !self.chance.once_in(3) {
                let (version, sealed) = self.one_of(guards);
                handle.guard = Some(Attached { version: Claimed(*version), sealed });
            }
            if !vaults.is_empty() && self.chance.once_in(3) {
                let (version, sealed) = self.one_of(vaults);
                handle.vault = Some(Attached { version: Claimed(*version), sealed });
            }
            let account = handle.account;
            let mut core = kept.core.lock().expect("no panic under the lock");
            let reply = core.call(&HostRequest::Handle(handle));
            drop(core);
            if let HostReply::Staged(staged) = decode(&reply) {
                self.make_true(account, &staged, kept);
            }
        }
    }

    /// The ledger hears of what came of a kept frame, perhaps; if it agrees, so do the host's disk and
    /// the core.
    fn make_true(&mut self, account: Account, staged: &Staged, kept: &Arc<Kept>) {
        let Staged { tag, version, digest, guard } = *staged;
        let row = StagedGuard {
            key: StagedKey { tag, version, digest },
            account,
            sealed: Bytes::copy_from_slice(guard),
            staged_at: unix_now(),
        };
        let mut seen = self.around.seen.lock().expect("no panic under the lock");
        seen.insert(digest, row.clone());
        drop(seen);
        if self.chance.once_in(2) {
            return self.say(format!("a kept frame is staged at {version}, and forgotten"));
        }
        let appended = self.around.record.append(tag, version, digest);
        let Appended::Receipt(receipt) = appended else {
            return self.say(format!("a kept frame is staged at {version}, too late"));
        };
        self.disk.keep(row);
        let staged = Attached { version: Claimed(version), sealed: guard };
        let digest = Claimed(digest);
        let commit = Commit { account, staged, digest, receipt: &receipt };
        let mut core = kept.core.lock().expect("no panic under the lock");
        let reply = core.call(&HostRequest::Commit(commit));
        drop(core);
        assert!(matches!(decode(&reply), HostReply::Committed(_)), "its own receipt is refused");
        self.say(format!("a kept frame is staged at {version}, and live"));
    }

    /// Posts at a host what a client has posted before, there or elsewhere.
    pub(crate) async fn post_again(&mut self) {
        let envelopes = self.around.envelopes.lock().expect("no panic under the lock").clone();
        let host = self.chance.below(self.hosts.len());
        let answer = people::post_again(&self.hosts[host], self.one_of(&envelopes).clone()).await;
        self.say(format!("an envelope is posted again: {answer:?}"));
    }

    /// Opens the person's account a second time, or their next one beside it, with a PIN that the
    /// host knows, on whatever guard it has.
    pub(crate) fn decoy(&mut self) {
        let guards: Vec<_> = self.disks().flat_map(Disk::guards).collect();
        let again = self.chance.once_in(2);
        let account = if again { self.account() } else { next(self.account()) };
        let mut world = World::new();
        (world.config, world.account) = (self.around.config.clone(), account);
        world.reboot();
        let device = Somebody::new("decoy", account).device;
        let enroll = Enroll { pin: StretchedPin(KNOWN_PIN), device: device.public() };
        let mut staged = 0;
        for _ in 0..4 {
            let (session, request) = (&mut world.session, Request::Enroll(enroll.clone()));
            let sent = session.seal(&device, KeyKind::Presence, &account, &request);
            let guard = Some(self.one_of(&guards).clone());
            let reply = world.handle(&sent, Class::Enroll, &Attach { guard, ..Attach::default() });
            let HostReply::Staged(row) = decode(&reply) else { continue };
            staged += 1;
            if again {
                let appended = self.around.record.append(row.tag, row.version, row.digest);
                assert!(matches!(appended, Appended::Conflict(_)), "an account is opened twice");
            } else {
                let has_ended = history::has_ended(&self.around, &self.account());
                assert!(has_ended, "an account is staged beside one that is open");
            }
        }
        self.say(format!("{staged} decoys of {} are staged", account.generation));
    }
}
