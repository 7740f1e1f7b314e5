//! Sequences of requests, with a host that keeps everything and attaches whatever it likes: old
//! guards with new vaults, staged guards, other branches, other accounts, replayed frames, settled
//! and committed in any order. Beside the core runs a model of what each sealed object stands for; it
//! says of every request what must come of it, and the core has to agree.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::mem::discriminant;
use std::rc::Rc;

use keyfold_fuzz::below;
use keyfold_fuzz::histories::histories;
use keyfold_fuzz::model::{Account, Asked, Guard, Pending, Record, State, Vault, Verdict};
use keyfold_fuzz::what::What;
use keyfold_protocol::client::{Action, GuardBase, KeyKind, Outcome, Refusal, Success};
use keyfold_protocol::host::{
    Attached, Claimed, Committed, HostReply, HostRequest, Next, Reply, Settle, Staged,
};
use keyfold_protocol::ids::{AccountId, SlotId};
use keyfold_protocol::limits::{DEVICES, TRIES};
use keyfold_protocol::transcript::Chain;
use keyfold_protocol::wire;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::decode;
use keyfold_tests::generate::{Source, Variants};
use keyfold_tests::world::{Attach, StagedRow, World};
use libfuzzer_sys::fuzz_target;

/// Steps of a sequence, at most.
const STEPS: usize = 48;
/// A PIN that is nobody's.
const WRONG: u8 = 255;

struct Run {
    world: World,
    devices: Vec<TestDevice>,
    /// The person's, one after the other: generations from 1.
    accounts: Vec<Account>,
    pending: Vec<Pending>,
    /// Every request ever sealed.
    asked: Vec<Rc<Asked>>,
    /// What of [`HAPPENS`] happened.
    happened: BTreeSet<&'static str>,
}

/// What the seeds bring about: each is a way through the model that would otherwise go untested
/// unnoticed.
const HAPPENS: [&str; 16] = [
    "put",
    "read",
    "confirmed by the ledger",
    "refused by the host's reply",
    "refused to the client",
    "device added",
    "device revoked",
    "PIN set",
    "charged",
    "settled again",
    "wrong PIN told",
    "recovered",
    "recovered over the oldest device",
    "locked after ten comparisons",
    "ended",
    "next generation opened",
];

struct Deployment {
    world: World,
    devices: Vec<TestDevice>,
    runs: u64,
}

thread_local! {
    /// Booted once; every input gets a person of its own.
    static DEPLOYMENT: RefCell<Option<Deployment>> = RefCell::new(Some(Deployment {
        world: World::new(),
        devices: (0..DEVICES + 4).map(|_| TestDevice::new("device")).collect(),
        runs: 0,
    }));
}

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    run(bytes);
});

fn run(bytes: &[u8]) -> BTreeSet<&'static str> {
    let Deployment { mut world, devices, runs } =
        DEPLOYMENT.take().expect("a failed run ends the process");
    world.account.id = AccountId(sha256(&[&runs.to_be_bytes()]));
    world.ledger.receipts.clear();
    let (accounts, pending, asked, happened) = (vec![], vec![], vec![], BTreeSet::new());
    let mut run = Run { world, devices, accounts, pending, asked, happened };
    run.open();
    let mut source = Source::new(bytes);
    for _ in 0..STEPS {
        if source.is_empty() {
            break;
        }
        run.step(&mut source);
    }
    let Run { world, devices, happened, .. } = run;
    DEPLOYMENT.set(Some(Deployment { world, devices, runs: runs + 1 }));
    happened
}

/// What a step works on: chosen by the fuzzer from all there is.
#[derive(Clone)]
struct Choice {
    device: usize,
    key: KeyKind,
    generation: u32,
    guard: Guard,
    vault: Vault,
    record: Option<Record>,
    /// The ledger's word is asked for this very frame.
    is_fresh: bool,
}

fn pick<'m, T>(source: &mut Source, all: &'m [T]) -> &'m T {
    // The newest is the likeliest.
    let back = below(source, 8).saturating_sub(3);
    &all[all.len().saturating_sub(1 + back)]
}

impl Run {
    /// The first account.
    fn open(&mut self) {
        self.world.account.generation = 1;
        let genesis = self.world.genesis();
        let vault = Vault { sealed: None, generation: 1, point: genesis, guard_floor: 0 };
        let choice = Choice {
            device: 0,
            key: KeyKind::Presence,
            generation: 1,
            guard: Guard::none(genesis),
            vault,
            record: None,
            is_fresh: true,
        };
        self.ask_and_commit(&choice, What::Enroll);
        assert_eq!(self.accounts.len(), 1);
    }

    fn choose(&mut self, source: &mut Source) -> Choice {
        let all = self.devices.len();
        let device = below(source, 3 * all);
        // The first three are the likeliest.
        let device = if device < all { device } else { device % 3 };
        let key = [KeyKind::UserVerification, KeyKind::Presence][below(source, 2)];
        let at = self.accounts.len()
            - 1
            - below(source, 8).saturating_sub(6).min(self.accounts.len() - 1);
        let account = &self.accounts[at];
        let generation = u32::try_from(at + 1).expect("few accounts");
        let guard = pick(source, &account.guards).clone();
        let vault = pick(source, &account.vaults).clone();
        let record = match below(source, 8) {
            _ if account.records.is_empty() => None,
            7 => None,
            back => {
                let records = &account.records;
                Some(records[records.len().saturating_sub(1 + back.saturating_sub(3))].clone())
            }
        };
        let mut choice = Choice { device, key, generation, guard, vault, record, is_fresh: true };
        match below(source, 16) {
            1 => choice.generation += 1,
            2 => {
                let account = pick(source, &self.accounts);
                let other = pick(source, &account.vaults).clone();
                if other.sealed.is_some() {
                    choice.vault = other;
                }
            }
            3 => {
                // A staged guard says nothing, whatever version the host claims for it.
                let Pending { row, guard, .. } = pick(source, &self.pending);
                let version = row.version + [0, 1][below(source, 2)];
                let sealed = row.guard.clone();
                choice.guard = Guard { sealed, version, generation: 0, ..guard.clone() };
            }
            4 => choice.is_fresh = false,
            _ => {}
        }
        choice
    }

    fn step(&mut self, source: &mut Source) {
        let choice = self.choose(source);
        // A device that knows of a newer guard, as after its last answer.
        if below(source, 16) == 1 {
            let at = self.account_of(choice.generation);
            if let Some(account) = at.and_then(|at| self.accounts.get_mut(at)) {
                let newest = account.guards.iter().map(|guard| guard.version).max();
                account.seen[choice.device] = newest.unwrap_or(0);
            }
        }
        // What the request says it starts from: mostly what is attached.
        let mut point = choice.vault.point;
        let mut version = choice.guard.version;
        let mut anchor = choice.guard.floor;
        match below(source, 16) {
            1 => point.head.0[0] ^= 1,
            2 => version += 1,
            3 => point = pick(source, &self.accounts[0].vaults).point,
            4 => anchor = pick(source, &self.accounts[0].vaults).point,
            _ => {}
        }
        let base = GuardBase { guard: version, vault: point, anchor };
        match below(source, 16) {
            0 => {
                let user = below(source, 3) as u8;
                self.ask(&choice, What::Create(point, user));
            }
            1 => drop(self.ask(&choice, What::Touch(point))),
            2 => {
                let slot = choice.record.as_ref().map_or(SlotId([7; 32]), |record| record.slot);
                self.ask(&choice, What::Delete(point, slot));
            }
            3 => self.assert(&choice, source),
            4 => drop(self.ask(&choice, What::Status)),
            5 | 6 => self.change_guard(&choice, base, source),
            7 => {
                let pin = [WRONG, choice.guard.pin.unwrap_or(0)][below(source, 2)];
                let device = if below(source, 8) == 1 { 0 } else { choice.device };
                self.ask(&choice, What::Recover(version, pin, device));
            }
            8 => {
                let which = self.any_pending(source);
                self.append(which);
            }
            9 | 10 => self.commit_any(source),
            11 => self.settle_any(&choice, source),
            12 => self.tries(&choice, source),
            13 => {
                let asked = pick(source, &self.asked).clone();
                self.send(&asked, &choice);
            }
            14 => self.enroll(&choice, source),
            _ => self.crowd(&choice),
        }
    }

    fn account_of(&self, generation: u32) -> Option<usize> {
        usize::try_from(generation).expect("a small number").checked_sub(1)
    }

    fn any_pending(&self, source: &mut Source) -> usize {
        let back = below(source, 8).saturating_sub(3);
        self.pending.len().saturating_sub(1 + back)
    }

    /// Signs and seals a request and sends it with the chosen state. Which guard it staged, if so.
    fn ask(&mut self, choice: &Choice, what: What) -> Option<usize> {
        let at = self.account_of(choice.generation).and_then(|at| self.accounts.get(at));
        let seen = at.map_or(0, |account| account.seen[choice.device]);
        let (request, class) = what.request(choice.device, &self.devices);
        self.world.account.generation = choice.generation;
        let device = &mut self.devices[choice.device];
        device.guard_seen = seen;
        let (session, account) = (&mut self.world.session, &self.world.account);
        let sent = session.seal(device, choice.key, account, &request);
        let Choice { generation, device, key, .. } = *choice;
        let asked = Rc::new(Asked { sent, generation, device, key, seen, what, class });
        self.asked.push(asked.clone());
        self.send(&asked, choice)
    }

    /// Sends a request, again or for the first time; the core must do what the model says.
    fn send(&mut self, asked: &Rc<Asked>, choice: &Choice) -> Option<usize> {
        self.world.account.generation = asked.generation;
        let Choice { guard, vault, record, .. } = choice;
        let mut attach = Attach {
            guard: (!guard.sealed.is_empty()).then(|| (guard.version, guard.sealed.clone())),
            vault: vault.sealed.clone().map(|sealed| (vault.point.version, sealed)),
            record: record.as_ref().map(|record| (record.version, record.sealed.clone())),
            ..Attach::default()
        };
        let at = self.account_of(asked.generation).and_then(|at| self.accounts.get(at));
        let mut recorded = None;
        if let (What::Status, Some(account)) = (&asked.what, at) {
            let mut nonce = sha256(&[&asked.sent.frame]);
            nonce[0] ^= u8::from(!choice.is_fresh);
            attach.fresh = Some(self.world.ledger.read(account.tag, nonce));
            let current = self.world.ledger.current(&account.tag);
            recorded = current.filter(|_| choice.is_fresh).map(|(_, digest)| digest);
        }
        let state = State { guard, vault, record: record.as_ref(), recorded };
        let verdict = asked.verdict(&state);

        let reply = self.world.handle(&asked.sent, asked.class, &attach);
        // The same frame again is the same frame: nothing in the core remembers the first.
        let again = self.world.handle(&asked.sent, asked.class, &attach);
        assert_eq!(discriminant(&decode(&reply)), discriminant(&decode(&again)));
        match (decode(&reply), verdict) {
            (HostReply::Refused(_), Verdict::Refused) => {
                self.happened.insert("refused by the host's reply");
            }
            (HostReply::Reply(reply), verdict) => self.answered(asked, choice, &reply, &verdict),
            (HostReply::Locked(sealed), Verdict::Locked) => {
                let opened = asked.sent.open(sealed).expect("for this client");
                assert_eq!(wire::decode_padded::<Outcome>(&opened), Ok(Err(Refusal::Locked)));
                let account = &self.accounts[self.account_of(asked.generation).expect("opened")];
                if account.check_comparisons() == usize::from(TRIES) {
                    self.happened.insert("locked after ten comparisons");
                }
            }
            (HostReply::Staged(staged), Verdict::Staged(guard)) => {
                return Some(self.stage(asked, &staged, *guard));
            }
            (reply, _) => {
                let (what, reply) = (&asked.what, reply.variant());
                panic!("{what:?} on guard {} is answered {reply}", choice.guard.version)
            }
        }
        None
    }

    fn answered(&mut self, asked: &Asked, choice: &Choice, reply: &Reply, verdict: &Verdict) {
        let opened = asked.sent.open(reply.sealed).expect("for this client");
        let outcome: Outcome = wire::decode_padded(&opened).expect("an outcome");
        let what = &asked.what;
        let at = (choice.guard.version, choice.vault.point.version, asked.device);
        match verdict {
            Verdict::Refused => {
                assert!(outcome.is_err() && reply.put.is_none(), "{what:?} at {at:?} succeeds");
                assert_ne!(outcome, Err(Refusal::Locked), "{what:?} at {at:?}");
                self.happened.insert("refused to the client");
            }
            Verdict::Read => {
                assert!(outcome.is_ok() && reply.put.is_none(), "{what:?} at {at:?}: {outcome:?}");
                self.happened.insert("read");
                if let Ok(Success::Status(status)) = outcome {
                    let guard = &choice.guard;
                    let said = (status.guard, status.failures, status.devices.len());
                    assert_eq!(said, (guard.version, guard.failures, guard.devices.len()));
                    self.happened.insert("confirmed by the ledger");
                }
            }
            Verdict::Put => {
                let put = reply.put.unwrap_or_else(|| panic!("{what:?} at {at:?}: {outcome:?}"));
                let (done, credential) = match outcome {
                    Ok(Success::Put(done)) => (done, None),
                    Ok(Success::Created(created)) => (created.put, Some(created.credential)),
                    other => panic!("{what:?} at {at:?}: {other:?}"),
                };
                let point = Chain::Vault.next(sha256, &choice.vault.point, &put.event);
                assert_eq!(Some(done.vault), point, "the chain grows by one event");
                let account = &mut self.accounts[asked.generation as usize - 1];
                let (generation, guard_floor) = (asked.generation, choice.guard.version);
                let sealed = Some(put.vault.to_vec());
                account.vaults.push(Vault { sealed, generation, point: done.vault, guard_floor });
                if let (Some(sealed), Some(credential)) = (put.record, credential) {
                    assert_eq!(done.event.action, Action::Put);
                    let (slot, version) = (done.event.slot, done.event.version);
                    let sealed = sealed.to_vec();
                    let record =
                        Record { sealed, generation, slot, version, guard_floor, credential };
                    account.records.push(record);
                }
                self.happened.insert("put");
            }
            Verdict::Locked | Verdict::Staged(_) => panic!("{what:?} at {at:?}: {outcome:?}"),
        }
    }

    fn assert(&mut self, choice: &Choice, source: &mut Source) {
        let is_other = below(source, 8) == 1;
        let Some(record) = &choice.record else { return };
        let records = &self.accounts[0].records;
        let named = if is_other && !records.is_empty() { pick(source, records) } else { record };
        let named = named.credential;
        self.ask(choice, What::Assert(named, record.slot));
    }

    fn change_guard(&mut self, choice: &Choice, base: GuardBase, source: &mut Source) {
        let which = below(source, 16);
        let other = below(source, self.devices.len());
        let what = match which {
            0..4 => What::Approve(base, other),
            4..8 => What::Revoke(base, other),
            8..11 => What::Anchor(base),
            11..15 => What::ChangePin(base, other as u8),
            _ => What::Close(base),
        };
        self.ask(choice, what);
    }

    /// Opens the next account, or an account anew, beside whatever guard was chosen.
    fn enroll(&mut self, choice: &Choice, source: &mut Source) {
        let generation = [choice.guard.generation + 1, choice.generation][below(source, 2)];
        self.ask(&Choice { generation, ..choice.clone() }, What::Enroll);
    }

    fn stage(&mut self, asked: &Rc<Asked>, staged: &Staged, mut guard: Guard) -> usize {
        if let What::Enroll = asked.what {
            guard.floor = self.world.genesis();
        }
        let answer = guard.pending.is_none().then(|| (asked.clone(), Ok(())));
        self.keep(staged, guard, answer)
    }

    fn keep(
        &mut self, staged: &Staged, mut guard: Guard,
        answer: Option<(Rc<Asked>, Result<(), Refusal>)>,
    ) -> usize {
        let row = StagedRow::from(staged);
        assert_eq!(row.version, guard.version);
        guard.digest = row.digest;
        self.pending.push(Pending { row, guard, answer, settles: None, receipt: None });
        self.pending.len() - 1
    }

    /// The ledger's word on a staged guard: the first at its version, once.
    fn append(&mut self, which: usize) {
        let pending = &mut self.pending[which];
        let StagedRow { tag, version, digest, .. } = pending.row;
        if let Some(receipt) = self.world.ledger.append(tag, version, digest) {
            pending.receipt = Some(receipt);
        }
    }

    /// Commits a staged guard with its own receipt or another, for its own account or another.
    fn commit_any(&mut self, source: &mut Source) {
        let which = self.any_pending(source);
        let receipt_of = if below(source, 4) == 1 { self.any_pending(source) } else { which };
        let generation = self.pending[which].guard.generation + u32::from(below(source, 16) == 1);
        self.append(which);
        self.commit(which, receipt_of, generation);
    }

    fn commit(&mut self, which: usize, receipt_of: usize, generation: u32) -> Option<usize> {
        let receipt = self.pending[receipt_of].receipt.clone()?;
        let Pending { row, guard, .. } = &self.pending[which];
        let is_its_own =
            row.digest == self.pending[receipt_of].row.digest && guard.generation == generation;
        let row = row.clone();
        self.world.account.generation = generation;
        let reply = self.world.commit(&row, &receipt);
        match decode(&reply) {
            HostReply::Committed(committed) => {
                assert!(is_its_own, "committed on the strength of another receipt");
                self.goes_live(which, &committed);
                self.account_of(generation)
            }
            HostReply::Refused(_) => {
                assert!(!is_its_own, "its own receipt was refused");
                None
            }
            other => panic!("not a commit: {}", other.variant()),
        }
    }

    fn goes_live(&mut self, which: usize, committed: &Committed) {
        let Pending { row, guard, answer, .. } = &self.pending[which];
        let mut guard = guard.clone();
        let at = self.account_of(guard.generation).expect("generations count from 1");
        assert_eq!(committed.version, guard.version);
        guard.sealed = committed.guard.to_vec();
        let what = match (committed.next, answer) {
            (Next::Settle, None) => "charged",
            (Next::Answer(sealed) | Next::Closed(sealed), Some((asked, result))) => {
                let has_ended = matches!(committed.next, Next::Closed(_));
                assert_eq!(has_ended, guard.devices.is_empty());
                let opened = asked.sent.open(sealed).expect("for the one who asked");
                match (wire::decode_padded::<Outcome>(&opened).expect("an outcome"), result) {
                    (Ok(Success::GuardChanged(changed)), Ok(())) => {
                        assert_eq!((changed.guard, changed.vault), (guard.version, guard.floor));
                    }
                    (Err(said), Err(refusal)) => assert_eq!(said, *refusal),
                    (said, result) => panic!("{said:?}, not {result:?}"),
                }
                match (&asked.what, result) {
                    (What::Recover(..), Err(_)) => "wrong PIN told",
                    (What::Recover(..), Ok(())) if self.accounts[at].was_full_at(guard.version) => {
                        "recovered over the oldest device"
                    }
                    (What::Recover(..), Ok(())) => "recovered",
                    (What::Approve(..), _) => "device added",
                    (What::Revoke(..), _) => "device revoked",
                    (What::ChangePin(..), _) => "PIN set",
                    (What::Close(_), _) => "ended",
                    (What::Enroll, _) if guard.generation > 1 => "next generation opened",
                    _ => "put",
                }
            }
            (next, _) => panic!("{next:?} after {:?}", guard.version),
        };
        self.happened.insert(what);
        if at == self.accounts.len() {
            let (genesis, devices) = (self.world.genesis(), self.devices.len());
            self.accounts.push(Account::new(row.tag, guard.generation, genesis, devices));
        }
        assert!(
            self.accounts[..at]
                .iter()
                .all(|before| { before.guards.iter().any(|guard| guard.devices.is_empty()) }),
            "two accounts of a person are open"
        );
        self.accounts[at].goes_live(guard);
    }

    /// Settles any guard, live or staged, mostly one where a try waits; as its account's or another's.
    fn settle_any(&mut self, choice: &Choice, source: &mut Source) {
        let of_all = self.accounts.iter().flat_map(|account| &account.guards);
        let mut waiting: Vec<_> = of_all.filter(|guard| guard.pending.is_some()).collect();
        // The chosen one may be a staged one.
        if below(source, 8) == 1 || waiting.is_empty() {
            waiting = vec![&choice.guard];
        }
        let guard = (*pick(source, &waiting)).clone();
        let generation = guard.generation + u32::from(below(source, 16) == 1);
        self.settle(&guard, generation);
    }

    /// Compares the PIN that waits in a live guard, and in no other.
    fn settle(&mut self, guard: &Guard, generation: u32) -> Option<usize> {
        self.world.account.generation = generation;
        let attached = Attached { version: Claimed(guard.version), sealed: &guard.sealed };
        let settle = Settle { account: self.world.account, guard: attached };
        let reply = self.world.enclave.call(&HostRequest::Settle(settle));
        let settled = guard.settled().filter(|_| generation == guard.generation);
        match (decode(&reply), settled) {
            (HostReply::Refused(_), None) => None,
            (HostReply::Staged(staged), Some((next, asked, result))) => {
                let at = self.account_of(generation).expect("generations count from 1");
                let account = &mut self.accounts[at];
                if !account.compares(guard.version) {
                    self.happened.insert("settled again");
                }
                let before = |pending: &&Pending| pending.settles == Some(guard.digest);
                let before = self.pending.iter().find(before);
                let is_same = before.is_none_or(|before| before.row.digest == staged.digest);
                assert!(is_same, "settled twice, with two outcomes");
                let outcome = self.keep(&staged, next, Some((asked, result)));
                self.pending[outcome].settles = Some(guard.digest);
                Some(outcome)
            }
            (reply, _) => panic!("guard {} is settled: {}", guard.version, reply.variant()),
        }
    }

    /// Tries in a row at the newest guard, by somebody new, each to its end.
    fn tries(&mut self, choice: &Choice, source: &mut Source) {
        let is_right = below(source, 2) == 1;
        for _ in 0..=below(source, usize::from(TRIES) + 1) {
            let mut choice = choice.clone();
            let Some(newest) = self.newest(&choice) else { return };
            let is_new = |device: &usize| !newest.devices.contains(device);
            choice.device = (0..self.devices.len()).find(is_new).expect("more than are registered");
            choice.key = KeyKind::Presence;
            let pin = if is_right { newest.pin.unwrap_or(0) } else { WRONG };
            let what = What::Recover(newest.version, pin, choice.device);
            choice.guard = newest;
            let Some(charge) = self.ask_and_commit(&choice, what) else { return };
            let Some(outcome) = self.settle(&charge, charge.generation) else { return };
            self.append(outcome);
            self.commit(outcome, outcome, charge.generation);
        }
    }

    /// Registers devices until there is no room, and one more.
    fn crowd(&mut self, choice: &Choice) {
        for device in 0..self.devices.len() {
            let mut choice = choice.clone();
            let Some(newest) = self.newest(&choice) else { return };
            choice.guard = newest;
            let (guard, anchor) = (choice.guard.version, choice.guard.floor);
            let base = GuardBase { guard, vault: choice.vault.point, anchor };
            self.ask_and_commit(&choice, What::Approve(base, device));
        }
    }

    fn newest(&self, choice: &Choice) -> Option<Guard> {
        let account = self.accounts.get(self.account_of(choice.generation)?)?;
        account.guards.iter().max_by_key(|guard| guard.version).cloned()
    }

    /// A request as an honest host serves it, as far as the state allows. The guard that is live then.
    fn ask_and_commit(&mut self, choice: &Choice, what: What) -> Option<Guard> {
        let staged = self.ask(choice, what)?;
        self.append(staged);
        let at = self.commit(staged, staged, choice.generation)?;
        self.accounts[at].guards.last().cloned()
    }
}

/// The histories, which must bring about all that is to be tested.
fn seeds() -> Vec<Vec<u8>> {
    let seeds = histories();
    let happened: BTreeSet<_> = seeds.iter().flat_map(|seed| run(seed)).collect();
    let missing: Vec<_> = HAPPENS.iter().filter(|what| !happened.contains(*what)).collect();
    assert!(missing.is_empty(), "no seed brings about: {missing:?}");
    seeds
}
