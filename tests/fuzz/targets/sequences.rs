//! Sequences of requests, with a host that keeps everything and attaches whatever it likes: old
//! guards with new vaults, staged guards, other branches, other accounts, replayed frames. Beside
//! the core runs a model of what each sealed object stands for; it says of every request whether it
//! must succeed, and the core has to agree.
#![no_main]

use std::cell::RefCell;

use keyfold_protocol::client::{
    Action, Algorithm, ApproveDevice, Assert, Class, CreatePasskey, DeletePasskey, Enroll,
    GuardBase, KeyKind, Outcome, Request, RevokeDevice, StretchedPin, Success, UserNames,
};
use keyfold_protocol::host::{HostReply, Staged};
use keyfold_protocol::ids::{Account, ChainPoint, CredentialId, Digest, Name, RpId, SlotId};
use keyfold_protocol::transcript::Chain;
use keyfold_protocol::wire;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::decode;
use keyfold_tests::generate::Source;
use keyfold_tests::world::{Attach, StagedRow, Stored, World, heapless_algorithms};
use libfuzzer_sys::fuzz_target;

/// A guard the host holds, and what it means.
#[derive(Clone)]
struct Guard {
    sealed: Vec<u8>,
    version: u64,
    /// Which of the model's devices are registered.
    devices: Vec<usize>,
    floor: ChainPoint,
    digest: Digest,
}

/// A vault the host holds, and what it means.
#[derive(Clone)]
struct Vault {
    /// None: never put.
    sealed: Option<Vec<u8>>,
    point: ChainPoint,
    guard_floor: u64,
}

/// A record the host holds, and what it means.
#[derive(Clone)]
struct Record {
    sealed: Vec<u8>,
    slot: SlotId,
    version: u64,
    guard_floor: u64,
    credential: CredentialId,
}

/// A staged guard, what it would be, and the ledger's receipt if it got one.
struct Pending {
    row: StagedRow,
    guard: Guard,
    receipt: Option<Vec<u8>>,
}

/// Everything a host was given for one account, with its meaning.
struct Model {
    guards: Vec<Guard>,
    vaults: Vec<Vault>,
    records: Vec<Record>,
    pending: Vec<Pending>,
}

struct Run {
    world: World,
    devices: Vec<TestDevice>,
    model: Model,
}

struct Deployment {
    world: World,
    devices: Vec<TestDevice>,
    runs: u64,
}

thread_local! {
    /// Booted once; every input gets an account of its own.
    static DEPLOYMENT: RefCell<Option<Deployment>> = RefCell::new(Some(Deployment {
        world: World::new(),
        devices: ["laptop", "phone", "tablet"].map(TestDevice::new).into(),
        runs: 0,
    }));
}

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    let Deployment { mut world, mut devices, runs } =
        DEPLOYMENT.take().expect("a failed run ends the process");
    world.account = Account {
        id: keyfold_protocol::ids::AccountId(sha256(&[&runs.to_be_bytes()])),
        generation: 1,
    };
    world.stored = Stored::default();
    devices.iter_mut().for_each(|device| device.guard_seen = 0);
    let genesis = Chain::Vault.genesis(sha256, &world.account);
    let never = Vault { sealed: None, point: genesis, guard_floor: 0 };
    let model =
        Model { guards: vec![], vaults: vec![never], records: vec![], pending: vec![] };
    let mut run = Run { world, devices, model };
    run.enroll();
    let mut source = Source::new(bytes);
    for _ in 0..32 {
        if source.is_empty() {
            break;
        }
        run.step(&mut source);
    }
    let Run { world, devices, .. } = run;
    DEPLOYMENT.set(Some(Deployment { world, devices, runs: runs + 1 }));
});

/// What a step works on: chosen by the fuzzer from all there is.
struct Choice {
    device: usize,
    key: KeyKind,
    guard: Guard,
    vault: Vault,
}

fn pick<'m, T>(source: &mut Source, all: &'m [T]) -> &'m T {
    // The newest is the likeliest; what is older takes a byte of its own.
    let back = source.int_in_range(0..=7usize).unwrap_or(0).saturating_sub(3);
    &all[all.len().saturating_sub(1 + back)]
}

impl Run {
    fn enroll(&mut self) {
        let device = self.devices[0].public();
        let request = Request::Enroll(Enroll { pin: StretchedPin([9; 32]), device });
        let sent = self.world.session.seal(
            &self.devices[0],
            KeyKind::Presence,
            &self.world.account,
            &request,
        );
        let reply = self.world.handle(&sent, Class::Enroll, &Attach::default());
        let HostReply::Staged(staged) = decode(&reply) else { panic!("not staged: {reply:?}") };
        assert_eq!(staged.version, 1);
        let floor = self.world.genesis();
        self.stage(&staged, vec![0], floor);
        self.append(0);
        self.commit(0, 0);
    }

    fn stage(&mut self, staged: &Staged, devices: Vec<usize>, floor: ChainPoint) {
        let (version, digest) = (staged.version, staged.digest);
        let row = StagedRow {
            tag: staged.tag,
            version,
            digest,
            guard: staged.guard.to_vec(),
            audit: staged.audit.to_vec(),
        };
        let guard = Guard { sealed: Vec::new(), version, devices, floor, digest };
        self.model.pending.push(Pending { row, guard, receipt: None });
    }

    /// The ledger's word on a staged guard: the first at its version, once.
    fn append(&mut self, which: usize) {
        let pending = &mut self.model.pending[which];
        let StagedRow { tag, version, digest, .. } = pending.row;
        if let Some(receipt) = self.world.ledger.append(tag, version, digest) {
            pending.receipt = Some(receipt);
        }
    }

    /// Commits one staged guard with the receipt of another, or its own.
    fn commit(&mut self, which: usize, receipt_of: usize) {
        let Some(receipt) = self.model.pending[receipt_of].receipt.clone() else { return };
        let row = self.model.pending[which].row.clone();
        let reply = self.world.commit(&row, &receipt);
        let is_its_own = row.digest == self.model.pending[receipt_of].row.digest;
        match decode(&reply) {
            HostReply::Committed(committed) => {
                assert!(is_its_own, "committed on the strength of another guard's receipt");
                let mut guard = self.model.pending[which].guard.clone();
                assert_eq!(committed.version, guard.version);
                guard.sealed = committed.guard.to_vec();
                let twin = self.model.guards.iter().find(|known| known.version == guard.version);
                assert!(twin.is_none_or(|twin| twin.digest == guard.digest), "two live guards");
                self.model.guards.push(guard);
            }
            HostReply::Refused(_) => assert!(!is_its_own, "its own receipt was refused"),
            other => panic!("not a commit: {other:?}"),
        }
    }

    fn step(&mut self, source: &mut Source) {
        let any = |source: &mut Source, most| source.int_in_range(0..=most).unwrap_or(0usize);
        let choice = Choice {
            device: any(source, self.devices.len() - 1),
            key: *source
                .choose(&[KeyKind::UserVerification, KeyKind::Presence])
                .unwrap_or(&KeyKind::Presence),
            guard: pick(source, &self.model.guards).clone(),
            vault: pick(source, &self.model.vaults).clone(),
        };
        // A device that knows of a newer guard, as after its last answer.
        if any(source, 15) == 1 {
            let newest = self.model.guards.iter().map(|guard| guard.version).max();
            self.devices[choice.device].guard_seen = newest.unwrap_or(0);
        }
        // What the request says it starts from: mostly what is attached.
        let mut point = choice.vault.point;
        let mut base = choice.guard.version;
        match any(source, 15) {
            1 => point.head.0[0] ^= 1,
            2 => base += 1,
            3 => point = pick(source, &self.model.vaults).point,
            _ => {}
        }
        let base = GuardBase { guard: base, vault: point };
        match any(source, 10) {
            0 | 1 => self.create(&choice, point, source),
            2 => self.touch(&choice, point),
            3 => self.delete(&choice, point, source),
            4 => self.assert(&choice, source),
            5 | 6 => self.change_guard(&choice, base, source),
            7 => {
                let which = any(source, self.model.pending.len() - 1);
                self.append(which);
            }
            8 => {
                let which = any(source, self.model.pending.len() - 1);
                let receipt_of = if any(source, 3) == 1 {
                    any(source, self.model.pending.len() - 1)
                } else {
                    which
                };
                self.append(which);
                self.commit(which, receipt_of);
            }
            9 => self.staged_as_live(&choice, source),
            _ => self.in_another_account(&choice),
        }
    }

    fn attach(&self, choice: &Choice) -> Attach {
        let vault = &choice.vault;
        Attach {
            guard: Some((choice.guard.version, choice.guard.sealed.clone())),
            vault: vault.sealed.clone().map(|sealed| (vault.point.version, sealed)),
            ..Attach::default()
        }
    }

    /// Whether the guard lets this device in at all.
    fn is_caller(&self, choice: &Choice) -> bool {
        let Choice { device, guard, .. } = choice;
        guard.devices.contains(device) && self.devices[*device].guard_seen <= guard.version
    }

    /// Whether guard and vault may be used together.
    fn is_pair(choice: &Choice) -> bool {
        let Choice { guard, vault, .. } = choice;
        let (point, floor) = (vault.point, guard.floor);
        vault.guard_floor <= guard.version && (point.version > floor.version || point == floor)
    }

    /// Sends a request; its answer, if it succeeded. A refusal must be the client's to read.
    fn send(
        &mut self, choice: &Choice, request: &Request, class: Class, attach: &Attach,
    ) -> Answer {
        let device = &self.devices[choice.device];
        let sent = self.world.session.seal(device, choice.key, &self.world.account, request);
        let reply = self.world.handle(&sent, class, attach);
        // The same frame again is the same frame: nothing in the core remembers the first.
        let again = self.world.handle(&sent, class, attach);
        assert_eq!(
            std::mem::discriminant(&decode(&reply)),
            std::mem::discriminant(&decode(&again))
        );
        match decode(&reply) {
            HostReply::Reply(reply) => {
                let opened = sent.open(reply.sealed).expect("for this client");
                let outcome: Outcome = wire::decode_padded(&opened).expect("an outcome");
                let put = reply.put;
                assert_eq!(put.is_some(), outcome.is_ok() && !matches!(class, Class::Assert(_)));
                if let (Some(put), Some(done)) = (put, done_of(&outcome)) {
                    let point = Chain::Vault.next(sha256, &choice.vault.point, &put.event);
                    assert_eq!(Some(done), point, "the chain grows by one event");
                    self.model.vaults.push(Vault {
                        sealed: Some(put.vault.to_vec()),
                        point: done,
                        guard_floor: choice.guard.version,
                    });
                }
                let record = put.and_then(|put| put.record.map(<[u8]>::to_vec));
                Answer { is_ok: outcome.is_ok(), success: opened, record, staged: None }
            }
            HostReply::Staged(staged) => {
                let row = StagedRow {
                    tag: staged.tag,
                    version: staged.version,
                    digest: staged.digest,
                    guard: staged.guard.to_vec(),
                    audit: staged.audit.to_vec(),
                };
                Answer { is_ok: true, success: vec![], record: None, staged: Some(row) }
            }
            HostReply::Refused(_) => {
                Answer { is_ok: false, success: vec![], record: None, staged: None }
            }
            other => panic!("not an answer: {other:?}"),
        }
    }

    fn create(&mut self, choice: &Choice, point: ChainPoint, source: &mut Source) {
        let user = [source.int_in_range(0..=2u8).unwrap_or(0)];
        let name = Name::try_from("alice").expect("short");
        let create = CreatePasskey {
            vault: point,
            rp_id: RpId::try_from("example.com").expect("short"),
            user_handle: heapless::Vec::from_slice(&user).expect("short"),
            names: UserNames { name: name.clone(), display_name: name },
            algorithms: heapless_algorithms(&[Algorithm::EdDsa.cose()]),
            prf: None,
        };
        let attach = self.attach(choice);
        let answer = self.send(choice, &Request::CreatePasskey(create), Class::Put(None), &attach);
        self.expect(&answer, choice, point == choice.vault.point, "create");
        if let Some(sealed) = &answer.record {
            let outcome: Outcome = wire::decode_padded(&answer.success).expect("an outcome");
            let Ok(Success::Created(created)) = outcome else { panic!("not a creation") };
            assert_eq!(created.put.event.action, Action::Put);
            self.model.records.push(Record {
                sealed: sealed.clone(),
                slot: created.put.event.slot,
                version: created.put.event.version,
                guard_floor: choice.guard.version,
                credential: created.credential,
            });
        }
    }

    fn expect(&self, answer: &Answer, choice: &Choice, is_exact: bool, what: &str) {
        let expected = self.is_caller(choice) && Self::is_pair(choice) && is_exact;
        assert_eq!(
            answer.is_ok, expected,
            "{what} on guard {} by device {} with vault {}",
            choice.guard.version, choice.device, choice.vault.point.version
        );
    }

    fn touch(&mut self, choice: &Choice, point: ChainPoint) {
        let attach = self.attach(choice);
        let answer = self.send(choice, &Request::Touch(point), Class::Put(None), &attach);
        self.expect(&answer, choice, point == choice.vault.point, "touch");
    }

    fn delete(&mut self, choice: &Choice, point: ChainPoint, source: &mut Source) {
        let slot = match self.model.records.as_slice() {
            [] => SlotId([7; 32]),
            records => pick(source, records).slot,
        };
        let request = Request::DeletePasskey(DeletePasskey { vault: point, slot });
        let attach = self.attach(choice);
        let answer = self.send(choice, &request, Class::Put(None), &attach);
        let is_exact = point == choice.vault.point && choice.key == KeyKind::UserVerification;
        self.expect(&answer, choice, is_exact, "delete");
    }

    fn assert(&mut self, choice: &Choice, source: &mut Source) {
        if self.model.records.is_empty() {
            return;
        }
        let record = pick(source, &self.model.records).clone();
        let named = pick(source, &self.model.records).credential;
        let request = Request::Assert(Assert {
            rp_id: RpId::try_from("example.com").expect("short"),
            credential: named,
            client_data_hash: [3; 32],
            prf: None,
        });
        let mut attach = self.attach(choice);
        attach.vault = None;
        attach.record = Some((record.version, record.sealed.clone()));
        let answer = self.send(choice, &request, Class::Assert(record.slot), &attach);
        let expected = self.is_caller(choice)
            && record.guard_floor <= choice.guard.version
            && named == record.credential;
        assert_eq!(answer.is_ok, expected, "assert on guard {}", choice.guard.version);
    }

    fn change_guard(&mut self, choice: &Choice, base: GuardBase, source: &mut Source) {
        let other = source.int_in_range(0..=self.devices.len() - 1).unwrap_or(0);
        let mut devices = choice.guard.devices.clone();
        let (request, class, is_allowed) = match source.int_in_range(0..=2).unwrap_or(0) {
            0 => {
                let device = self.devices[other].public();
                let is_new = !devices.contains(&other);
                devices.push(other);
                let request = Request::ApproveDevice(ApproveDevice { base, device });
                (request, Class::Guard, is_new && choice.key == KeyKind::UserVerification)
            }
            1 => {
                let is_known = devices.contains(&other) && devices.len() > 1;
                devices.retain(|known| *known != other);
                let device = self.devices[other].id();
                let request = Request::RevokeDevice(RevokeDevice { base, device });
                (request, Class::GuardFresh, is_known && choice.key == KeyKind::UserVerification)
            }
            _ => (Request::Anchor(base), Class::Guard, true),
        };
        let attach = self.attach(choice);
        let answer = self.send(choice, &request, class, &attach);
        let is_base = base == GuardBase { guard: choice.guard.version, vault: choice.vault.point };
        self.expect(&answer, choice, is_base && is_allowed, "guard change");
        if let Some(row) = answer.staged {
            assert_eq!(row.version, choice.guard.version + 1);
            let guard = Guard {
                sealed: Vec::new(),
                version: row.version,
                devices,
                floor: choice.vault.point,
                digest: row.digest,
            };
            self.model.pending.push(Pending { row, guard, receipt: None });
        }
    }

    /// A staged guard authorises nothing, whatever version the host claims for it.
    fn staged_as_live(&mut self, choice: &Choice, source: &mut Source) {
        let staged = pick(source, &self.model.pending).row.clone();
        let mut attach = self.attach(choice);
        let claimed = staged.version + source.int_in_range(0..=1).unwrap_or(0u64);
        attach.guard = Some((claimed, staged.guard));
        let request = Request::Touch(choice.vault.point);
        let answer = self.send(choice, &request, Class::Put(None), &attach);
        assert!(!answer.is_ok, "a staged guard acted as a live one");
    }

    /// The next generation of the same person has nothing to do with this one's state.
    fn in_another_account(&mut self, choice: &Choice) {
        let own = self.world.account;
        self.world.account.generation += 1;
        let attach = self.attach(choice);
        let request = Request::Touch(choice.vault.point);
        let answer = self.send(choice, &request, Class::Put(None), &attach);
        self.world.account = own;
        assert!(!answer.is_ok, "state of another account was accepted");
    }
}

/// What came of a request.
struct Answer {
    is_ok: bool,
    /// Padded plaintext of the reply.
    success: Vec<u8>,
    record: Option<Vec<u8>>,
    staged: Option<StagedRow>,
}

/// Where a put says the vault stands.
fn done_of(outcome: &Outcome) -> Option<ChainPoint> {
    match outcome {
        Ok(Success::Put(done)) => Some(done.vault),
        Ok(Success::Created(created)) => Some(created.put.vault),
        _ => None,
    }
}

/// Histories that reach every check, and noise. A step is seven choices and its own: device, key,
/// guard, vault, whether the device learns of the newest guard, what the base says, what is done.
fn seeds() -> Vec<Vec<u8>> {
    const CREATE: u8 = 0;
    const TOUCH: u8 = 2;
    const ASSERT: u8 = 4;
    const CHANGE: u8 = 5;
    const COMMIT: u8 = 8;
    const STAGED_AS_LIVE: u8 = 9;
    let step = |what: u8, its_own: &[u8]| [&[0, 0, 0, 0, 0, 0, what], its_own].concat();
    let history = [
        step(CREATE, &[0]),
        // An anchor; with it the account has two live guards.
        step(CHANGE, &[0, 2]),
        step(COMMIT, &[1, 0]),
        step(CREATE, &[1]),
        step(TOUCH, &[]),
    ]
    .concat();
    let probes: [Vec<u8>; 6] = [
        // The older guard with the newer record, the older vault, the newer vault.
        vec![0, 0, 4, 0, 0, 0, ASSERT, 0, 0],
        vec![0, 0, 4, 5, 0, 0, TOUCH],
        vec![0, 0, 4, 0, 0, 0, TOUCH],
        // The older guard, after the device has seen the newer one.
        vec![0, 0, 4, 5, 1, 0, TOUCH],
        step(STAGED_AS_LIVE, &[0, 0]),
        // A phone comes, acts, and goes.
        [
            step(CHANGE, &[1, 0]),
            step(COMMIT, &[2, 0]),
            vec![1, 0, 0, 0, 0, 0, TOUCH],
            step(CHANGE, &[1, 1]),
            step(COMMIT, &[3, 0]),
            vec![1, 0, 0, 0, 0, 0, TOUCH],
        ]
        .concat(),
    ];
    let probes = probes.into_iter().map(|probe| [&history[..], &probe].concat());
    let every_step = (0..=10).map(|what| step(what, &[0, 0]).repeat(6));
    let noise = (0..8u8).map(|start| (0..200u8).map(|at| at.wrapping_mul(start + 3)).collect());
    probes.chain(every_step).chain(noise).collect()
}
