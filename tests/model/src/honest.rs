//! The honest host, as `untrusted/src/service/guard.rs` is one: it stores what is staged, appends,
//! commits, and finishes what a death left. Processes die, receipts get lost, several hosts work on one
//! storage, clients and a thief with the account's sign-in ask at once. Every request must end.
//!
//! Whatever is repeated waits for something to have changed, so no run goes on for ever; what must not
//! happen is that it stops too early. Hence the properties are about states in which nothing can move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stateright::{Model, Property};

use crate::core::{Blob, Enclave, Refusal, genesis};
use crate::ledger::{Ledger, Proves, Receipt, tag};
use crate::rules::{Rule, Rules};
use crate::words::{
    Account, Act, Device, Digest, Frame, Home, Key, Op, Pin, REAL, Staged, Version,
};

/// Liveness.
pub const ALL_END: &str = "every request ends";
/// And well.
pub const END_WELL: &str = "a request ends with its answer";
/// Both are right.
pub const AGREE: &str = "ledger and storage do not contradict each other";
/// No charge for nothing.
pub const SETTLED: &str = "what was charged is settled in the end";
/// Durability.
pub const KEPT: &str = "an acknowledged device stays";
/// No livelock.
pub const FEW_ATTEMPTS: &str = "nobody has to ask again and again";

/// Somebody who asks, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// Whose account.
    pub account: Account,
    /// By which device.
    pub device: Device,
    /// What for.
    pub op: Op,
}

/// An honest deployment and its troubles.
#[derive(Clone, Debug)]
pub struct Honest {
    /// The one property to look for, if not all.
    pub only: Option<&'static str>,
    /// What holds.
    pub rules: Rules,
    /// Who asks, all at once.
    pub clients: Vec<Client>,
    /// Tries in a row.
    pub tries: u8,
    /// Whether the account is open already.
    pub open: bool,
    /// Deaths of a host or an enclave in the middle of something.
    pub deaths: u8,
    /// Receipts that get lost after their append.
    pub losses: u8,
    /// Times that two hosts work on the same staged guard.
    pub doubles: u8,
}

/// Everything there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    ledger: Ledger,
    /// Storage: live guards.
    live: BTreeMap<Account, Digest>,
    /// Storage: staged guards.
    rows: BTreeSet<Digest>,
    /// Requests being worked on, in memory.
    tasks: BTreeSet<Task>,
    /// Every guard there ever was, by its digest: what blobs say, wherever they are.
    guards: BTreeMap<Digest, Arc<Staged>>,
    phases: Vec<Phase>,
    attempts: Vec<u8>,
    deaths: u8,
    losses: u8,
    doubles: u8,
    is_diverged: bool,
}

/// A staged guard on its way through one host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Task {
    /// What is on its way.
    pub guard: Digest,
    client: Option<usize>,
    is_stored: bool,
    is_appended: bool,
    /// Which of two hosts.
    number: u8,
}

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Ready,
    /// Waits for the answer to a request signed for this version.
    Waiting(Version),
    /// Was told to look again, or told nothing.
    Unsure(Version),
    Ended(End),
}

/// How a request ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    Done,
    WrongPin,
    Refused(Refusal),
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A client asks, or asks again; an enclave stages.
    Ask(usize),
    /// The host stores what was staged.
    Store(Task),
    /// The ledger records it, and the receipt arrives.
    Append(Task),
    /// The same, but the receipt does not arrive.
    AppendInVain(Task),
    /// An enclave commits, and settles what is to be settled; the host stores that and answers.
    Commit(Task),
    /// Host or enclave dies.
    Die(Task),
    /// A host takes up a staged guard that it finds.
    TakeUp(Digest),
}

impl Model for Honest {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.first().into_iter().collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let clients = 0..self.clients.len();
        actions.extend(clients.filter(|client| self.may_ask(state, *client)).map(Action::Ask));
        for task in &state.tasks {
            self.of_task(state, *task, actions);
        }
        if self.rules.hold(Rule::RecoveryFinishes) {
            let is_free = |row: &Digest| match state.tasks_of(*row) {
                0 => true,
                1 => state.doubles > 0,
                _ => false,
            };
            actions.extend(state.rows.iter().copied().filter(is_free).map(Action::TakeUp));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Ask(client) => self.ask(&mut next, client)?,
            Action::Store(task) => self.store(&mut next, task)?,
            Action::Append(task) => self.append(&mut next, task, false)?,
            Action::AppendInVain(task) => self.append(&mut next, task, true)?,
            Action::Commit(task) => self.commit(&mut next, task)?,
            Action::Die(task) => {
                next.deaths = next.deaths.checked_sub(1)?;
                next.gives_up(task);
            }
            Action::TakeUp(guard) => {
                let number = u8::try_from(next.tasks_of(guard)).ok()?;
                next.doubles = next.doubles.saturating_sub(number);
                let (client, is_stored, is_appended) = (None, true, false);
                next.tasks.insert(Task { guard, client, is_stored, is_appended, number });
            }
        }
        Some(next)
    }

    /// Nothing asks for ever, or the first to ask sixteen times is the last state that is looked at.
    fn within_boundary(&self, state: &State) -> bool {
        state.attempts.iter().all(|attempts| *attempts <= MANY)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let is_asked = |name| self.only.is_none_or(|only| only == name);
        properties().into_iter().filter(|property| is_asked(property.name)).collect()
    }
}

/// So often nobody has to ask.
const MANY: u8 = 16;

fn properties() -> Vec<Property<Honest>> {
    vec![
        Property::always(ALL_END, |model: &Honest, state: &State| {
            !model.is_over(state)
                || state.phases.iter().all(|phase| matches!(phase, Phase::Ended(_)))
        }),
        Property::always(END_WELL, ends_well),
        Property::always(AGREE, |_, state: &State| !state.is_diverged),
        Property::always(SETTLED, |model: &Honest, state: &State| {
            let live = state.live.values().filter_map(|digest| state.guards.get(digest));
            !model.is_over(state) || live.into_iter().all(|it| it.guard.pending.is_none())
        }),
        Property::always(KEPT, acknowledged_devices_stay),
        Property::always(FEW_ATTEMPTS, |_, state: &State| {
            state.attempts.iter().all(|attempts| *attempts < MANY)
        }),
        Property::sometimes("possible: all is done", |model: &Honest, state: &State| {
            model.is_over(state)
        }),
    ]
}

impl State {
    /// What a digest is of.
    pub fn guard(&self, digest: Digest) -> Option<&Staged> {
        self.guards.get(&digest).map(|it| &**it)
    }

    fn tasks_of(&self, guard: Digest) -> usize {
        self.tasks.iter().filter(|task| task.guard == guard).count()
    }

    fn live(&self, account: Account) -> Option<&Arc<Staged>> {
        self.guards.get(self.live.get(&account)?)
    }

    fn live_version(&self, account: Account) -> Version {
        self.live(account).map_or(0, |it| it.guard.version)
    }

    fn replace(&mut self, old: Task, new: Task) {
        self.tasks.remove(&old);
        self.tasks.insert(new);
    }

    /// The client hears nothing, or that it should look again.
    fn gives_up(&mut self, task: Task) {
        self.tasks.remove(&task);
        if let Some(phase) = task.client.and_then(|client| self.phases.get_mut(client))
            && let Phase::Waiting(version) = *phase
        {
            *phase = Phase::Unsure(version);
        }
    }
}

impl Honest {
    fn first(&self) -> Option<State> {
        let mut state = State {
            ledger: Ledger::default(),
            live: BTreeMap::new(),
            rows: BTreeSet::new(),
            tasks: BTreeSet::new(),
            guards: BTreeMap::new(),
            phases: vec![Phase::Ready; self.clients.len()],
            attempts: vec![0; self.clients.len()],
            deaths: self.deaths,
            losses: self.losses,
            doubles: self.doubles,
            is_diverged: false,
        };
        if self.open {
            let op = Op::Enroll(Pin::Users(0));
            let first = genesis(&frame(REAL, Device::Laptop, op, 0))?;
            let digest = first.digest();
            state.ledger.append(self.rules, tag(self.rules, REAL), 1, digest)?;
            state.live.insert(REAL, digest);
            state.guards.insert(digest, Arc::new(first));
        }
        Some(state)
    }

    const fn enclave(&self) -> Enclave {
        Enclave { rules: self.rules, home: Home::Genuine, tries: self.tries }
    }

    fn is_over(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.is_empty()
    }

    /// A client that was answered with nothing asks again when that can have changed.
    fn may_ask(&self, state: &State, client: usize) -> bool {
        let Some(of) = self.clients.get(client) else { return false };
        match state.phases.get(client) {
            Some(Phase::Ready) => true,
            Some(Phase::Unsure(_)) if !self.rules.hold(Rule::ClientWaits) => true,
            Some(Phase::Unsure(version)) => {
                let tag = tag(self.rules, of.account);
                state.live_version(of.account) != *version || state.ledger.version(tag) == *version
            }
            Some(Phase::Waiting(_) | Phase::Ended(_)) | None => false,
        }
    }

    fn of_task(&self, state: &State, task: Task, actions: &mut Vec<Action>) {
        let early = !self.rules.hold(Rule::StoredBeforeAppend);
        if !task.is_stored && (task.is_appended || !early) {
            actions.push(Action::Store(task));
        }
        if !task.is_appended && (task.is_stored || early) {
            actions.push(Action::Append(task));
            if state.losses > 0 {
                actions.push(Action::AppendInVain(task));
            }
        }
        if task.is_stored && task.is_appended {
            actions.push(Action::Commit(task));
        }
        if state.deaths > 0 {
            actions.push(Action::Die(task));
        }
    }

    fn ask(&self, state: &mut State, client: usize) -> Option<()> {
        let Client { account, device, op } = *self.clients.get(client)?;
        let version = state.live_version(account);
        let attempts = state.attempts.get_mut(client)?;
        *attempts = attempts.saturating_add(1);
        let (frame, copy) = (frame(account, device, op, version), *attempts);
        let made = match (state.live(account), op) {
            (None, Op::Enroll(_)) => self.enclave().enroll(&frame, copy).ok_or(Refusal::State),
            // It looks whether it was its own earlier request that opened the account.
            (Some(live), Op::Enroll(_)) if live.guard.devices.contains(&device) => {
                Err(Refusal::Known)
            }
            (None, _) | (Some(_), Op::Enroll(_)) => Err(Refusal::State),
            (Some(live), _) => self.enclave().handle(&frame, Blob::Live(live), None, copy),
        };
        *state.phases.get_mut(client)? = match made {
            Ok(made) => {
                let staged = made.staged?;
                let (guard, client) = (staged.digest(), Some(client));
                state.guards.insert(guard, Arc::new(staged));
                let (is_stored, is_appended, number) = (false, false, 0);
                state.tasks.insert(Task { guard, client, is_stored, is_appended, number });
                Phase::Waiting(version)
            }
            // Its earlier request had come through.
            Err(Refusal::Known) => Phase::Ended(End::Done),
            Err(Refusal::Unauthorised) if op == Op::Delete => Phase::Ended(End::Done),
            Err(refusal) => Phase::Ended(End::Refused(refusal)),
        };
        Some(())
    }

    fn store(&self, state: &mut State, task: Task) -> Option<()> {
        self.store_row(state, task.guard)?;
        state.replace(task, Task { is_stored: true, ..task });
        Some(())
    }

    fn store_row(&self, state: &mut State, row: Digest) -> Option<()> {
        if !self.rules.hold(Rule::StoredByDigest) {
            let new = Arc::clone(state.guards.get(&row)?);
            state.rows.retain(|old| {
                let old = state.guards.get(old);
                !old.is_some_and(|old| is_beside(old, &new))
            });
        }
        state.rows.insert(row);
        Some(())
    }

    /// The append, and what the ledger says to it.
    fn append(&self, state: &mut State, task: Task, in_vain: bool) -> Option<()> {
        let staged = Arc::clone(state.guards.get(&task.guard)?);
        let (tag, version) = (tag(self.rules, staged.account), staged.guard.version);
        let is_repeated = self.rules.hold(Rule::AppendIsIdempotent)
            && state.ledger.version(tag) == version
            && state.ledger.holds(tag, version, task.guard);
        let is_recorded =
            is_repeated || state.ledger.append(self.rules, tag, version, task.guard).is_some();
        if is_recorded && !in_vain {
            state.replace(task, Task { is_appended: true, ..task });
        } else if is_recorded {
            state.losses = state.losses.checked_sub(1)?;
            state.gives_up(task);
            if !self.rules.hold(Rule::KeptUntilOvertaken) {
                state.rows.remove(&task.guard);
            }
        } else if in_vain {
            return None;
        } else {
            let stands = state.ledger.version(tag);
            let live = state.live_version(staged.account);
            if stands == version || (stands > version && live >= version) {
                state.rows.remove(&task.guard);
            } else {
                state.is_diverged = true;
            }
            state.gives_up(task);
        }
        Some(())
    }

    /// In the core, then in the storage, in one transaction.
    fn commit(&self, state: &mut State, task: Task) -> Option<()> {
        let staged = Arc::clone(state.guards.get(&task.guard)?);
        let (account, version) = (staged.account, staged.guard.version);
        let (ledger, proves) = (Home::Genuine, Proves::Append);
        let tag = tag(self.rules, account);
        let receipt = Receipt { ledger, proves, tag, version, digest: task.guard };
        if !self.enclave().commit(&staged, Some(&receipt)) {
            return None;
        }
        state.tasks.remove(&task);
        let live = state.live_version(account);
        if live.saturating_add(1) == version || !self.rules.hold(Rule::StoreComparesVersions) {
            state.live.insert(account, task.guard);
            let guards = &state.guards;
            let is_later = |row: &Digest| {
                guards
                    .get(row)
                    .is_some_and(|it| it.account != account || it.guard.version > version)
            };
            state.rows.retain(is_later);
        } else if live < version {
            state.is_diverged = true;
            return Some(());
        }
        match staged.answer {
            Some(_) => self.answer(state, task, &staged),
            None => self.settle(state, task, &staged)?,
        }
        Some(())
    }

    fn settle(&self, state: &mut State, task: Task, charged: &Staged) -> Option<()> {
        let settled = self.enclave().settle(charged.account, Blob::Live(charged), None, 0).ok()?;
        let staged = settled.staged?;
        let guard = staged.digest();
        state.guards.insert(guard, Arc::new(staged));
        let together = self.rules.hold(Rule::OutcomeStoredWithCharge);
        if together {
            self.store_row(state, guard)?;
        }
        let next = Task { guard, is_stored: together, is_appended: false, ..task };
        state.tasks.insert(next);
        Some(())
    }

    fn answer(&self, state: &mut State, task: Task, staged: &Staged) {
        let end = if staged.act == Act::FoundWrong { End::WrongPin } else { End::Done };
        if let Some(phase) = task.client.and_then(|client| state.phases.get_mut(client)) {
            *phase = Phase::Ended(end);
        }
    }
}

/// Both are of one version of one account.
fn is_beside(one: &Staged, other: &Staged) -> bool {
    (one.account, one.guard.version) == (other.account, other.guard.version)
}

/// Done, unless somebody else's doing explains it. Each trouble costs at most one try.
fn ends_well(model: &Honest, state: &State) -> bool {
    let others = |is: &dyn Fn(&Client) -> bool| model.clients.iter().any(is);
    let is_ended = others(&|it| it.op == Op::Delete);
    let troubles = model.deaths.saturating_add(model.losses).saturating_add(model.doubles);
    let is_disturbed = model.clients.len() > 1 || model.tries <= troubles;
    let is_set = others(&|it| matches!(it.op, Op::ChangePin(_)));
    model.clients.iter().zip(&state.phases).all(|(client, phase)| match phase {
        Phase::Ready | Phase::Waiting(_) | Phase::Unsure(_) | Phase::Ended(End::Done) => true,
        Phase::Ended(End::WrongPin) => is_set || client.op == Op::Recover(Pin::Wrong),
        Phase::Ended(End::Refused(Refusal::Locked)) => is_disturbed,
        Phase::Ended(End::Refused(Refusal::Closed | Refusal::Unauthorised)) => is_ended,
        Phase::Ended(End::Refused(_)) => false,
    })
}

fn acknowledged_devices_stay(model: &Honest, state: &State) -> bool {
    model.clients.iter().zip(&state.phases).all(|(client, phase)| {
        let joins = match client.op {
            Op::Recover(_) | Op::Enroll(_) => client.device,
            Op::Approve(device) => device,
            _ => return true,
        };
        let devices = state.live(client.account).map(|it| &it.guard.devices);
        *phase != Phase::Ended(End::Done)
            || devices.is_some_and(|devices| devices.is_empty() || devices.contains(&joins))
    })
}

const fn frame(account: Account, signer: Device, op: Op, base: Version) -> Frame {
    let key = match op {
        Op::Enroll(_) | Op::Recover(_) | Op::Anchor | Op::Status => Key::Presence,
        _ => Key::UserVerification,
    };
    Frame { account, signer, key, base, op, by_user: true, asked_at: base }
}
