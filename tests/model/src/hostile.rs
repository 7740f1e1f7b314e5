//! The hostile host: it keeps all it ever saw and presents any of it to any enclave at any time.
//!
//! An enclave call has no effect but its result, and what a host has never takes a possibility from
//! it. So nothing is lost by letting it make *all* calls it can after each step that does cost
//! something: an entry on the ledger, or a request of the user's. [`Calls::Saturated`] does so, and a
//! state is then what the ledger holds, what was asked, and all that follows. [`Calls::Stepwise`]
//! makes each call a step of its own, as a smaller scope can afford: the two must agree.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::adversary::Call;
use crate::core::genesis;
use crate::knowledge::{Fact, Known};
use crate::ledger::{Ledger, Tag, tag};
use crate::properties;
use crate::rules::{Rule, Rules};
use crate::words::{
    Account, Act, DECOY, Device, Digest, Frame, Home, Key, Op, Pin, REAL, Staged, Version,
};

/// How far a check goes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Tries in a row, in place of ten.
    pub tries: u8,
    /// Versions of the account on the ledger.
    pub versions: Version,
    /// Versions of the decoy.
    pub decoy_versions: Version,
    /// Requests the user makes beside the enrolment.
    pub requests: usize,
    /// Wrong PINs the adversary has ready at each version, on as many devices.
    pub candidates: u8,
    /// Times each change of the user's is staged, and each try settled.
    pub copies: u8,
    /// Entries the host may append where they do not belong.
    pub misplaced: u8,
    /// Whether it also opens accounts of its own, there and at an enclave with its own ledger.
    pub elsewhere: bool,
    /// When the host calls enclaves.
    pub calls: Calls,
}

/// When the host calls an enclave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// Whenever a call gives it anything.
    Saturated,
    /// When it likes: each call is a step.
    Stepwise,
}

/// The protocol against the host.
#[derive(Clone, Copy, Debug)]
pub struct Hostile {
    /// The one property to look for, if not all.
    pub only: Option<&'static str>,
    /// What holds.
    pub rules: Rules,
    /// How far it goes.
    pub scope: Scope,
}

/// Everything there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// All registers.
    pub ledger: Ledger,
    /// The user's requests.
    pub asked: BTreeSet<Frame>,
    /// What the host has.
    pub known: Known,
    /// The thief has the revoked laptop, its user's finger included.
    pub stolen: bool,
    /// Entries the host may still misplace.
    pub misplaced: u8,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// The user asks; the host takes note.
    Ask(Frame),
    /// The host has a digest recorded.
    Append(Tag, Version, Digest),
    /// The revoked laptop falls to the thief.
    Steal,
    /// The host reads the ledger, with a request's hash or anything else as the nonce.
    Read(Account, Option<Frame>),
    /// The host calls an enclave.
    Call(Call),
}

impl Model for Hostile {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.enrolled().into_iter().collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.asks(state).into_iter().map(Action::Ask));
        actions.extend(self.appends(state));
        if !state.stolen && self.is_laptop_revoked(state) {
            actions.push(Action::Steal);
        }
        if self.is_stepwise() {
            let reads = reads(state).into_iter();
            actions.extend(reads.map(|(account, nonce)| Action::Read(account, nonce)));
            actions.extend(self.new_calls(state).into_iter().map(Action::Call));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let news = self.step(&mut next, &action);
        if !self.is_stepwise() {
            self.saturate_all(&mut next, news);
        }
        (!self.is_stepwise() || next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let is_asked = |name| self.only.is_none_or(|only| only == name);
        properties::all().into_iter().filter(|property| is_asked(property.name)).collect()
    }
}

impl Hostile {
    /// An account of two devices, recorded and live: where everything starts.
    fn enrolled(&self) -> Option<State> {
        let op = Op::Enroll(Pin::Users(0));
        let frame = users(Device::Laptop, Key::Presence, 0, op);
        let first = genesis(&frame)?;
        let mut state = State {
            ledger: Ledger::default(),
            asked: [frame].into(),
            known: Known::default(),
            stolen: false,
            misplaced: self.scope.misplaced,
        };
        let digest = first.digest();
        let receipt = state.ledger.append(self.rules, tag(self.rules, REAL), 1, digest)?;
        let held = [Fact::Staged(digest, first.into()), Fact::Receipt(receipt), Fact::Live(digest)];
        let held: Vec<_> = held.into_iter().filter(|fact| state.known.learn(fact)).collect();
        if !self.is_stepwise() {
            let news = [Fact::Start, Fact::Asked(frame)].into_iter().chain(held).collect();
            self.saturate_all(&mut state, news);
        }
        Some(state)
    }

    fn step(&self, state: &mut State, action: &Action) -> Vec<Fact> {
        let facts = match action {
            Action::Ask(frame) => {
                state.asked.insert(*frame);
                return vec![Fact::Asked(*frame)];
            }
            Action::Steal => {
                state.stolen = true;
                return vec![Fact::Stolen];
            }
            Action::Append(tag, version, digest) => {
                if !self.belongs(state, *tag, *version, *digest) {
                    state.misplaced = state.misplaced.saturating_sub(1);
                }
                let receipt = state.ledger.append(self.rules, *tag, *version, *digest);
                receipt.map(Fact::Receipt).into_iter().collect()
            }
            Action::Read(account, nonce) => {
                let receipt = state.ledger.read(tag(self.rules, *account), *nonce);
                receipt.map(Fact::Receipt).into_iter().collect()
            }
            Action::Call(call) => self.perform(&state.known, call),
        };
        facts.into_iter().filter(|fact| state.known.learn(fact)).collect()
    }

    /// All that follows of this news, reads of the ledger included, and of guards that the ledger
    /// has come up to.
    fn saturate_all(&self, state: &mut State, mut news: Vec<Fact>) {
        for (account, nonce) in reads(state) {
            news.extend(self.step(state, &Action::Read(account, nonce)));
        }
        if news.iter().any(|fact| matches!(fact, Fact::Receipt(_))) {
            let stands = |of: &Staged| state.ledger.version(tag(self.rules, of.account));
            let is_reached = |of: &Staged| of.guard.version == stands(of);
            let live = state.known.live().filter(|(_, guard)| is_reached(guard));
            news.extend(live.map(|(digest, _)| Fact::Live(digest)));
            if !self.rules.hold(Rule::StagedIsNotLive) || !self.rules.hold(Rule::SettleOnlyLive) {
                news.extend(state.known.presentable());
            }
        }
        self.saturate(state, news);
    }

    /// What the user may ask for now.
    fn asks(&self, state: &State) -> Vec<Frame> {
        let stands = state.ledger.version(tag(self.rules, REAL));
        if state.asked.len() > self.scope.requests || stands >= self.scope.versions {
            return Vec::new();
        }
        let chosen = state.asked.iter().filter(|frame| matches!(frame.op, Op::ChangePin(_)));
        let chosen = u8::try_from(chosen.count()).unwrap_or(u8::MAX);
        let verified = |op| users(Device::Phone, Key::UserVerification, stands, op);
        let mut frames = vec![
            verified(Op::ChangePin(Pin::Users(chosen.saturating_add(1)))),
            verified(Op::Approve(Device::Tablet(0))),
            verified(Op::Revoke(Device::Laptop)),
            verified(Op::Delete),
            users(Device::Phone, Key::Presence, stands, Op::Status),
        ];
        // The version of a try is what the host says.
        let ahead = if self.rules.hold(Rule::HintIsShown) { stands } else { self.scope.versions };
        for base in stands..=ahead {
            let device = Device::Tablet(base);
            let pins = (0..=chosen).map(Pin::Users).chain([Pin::Wrong]);
            let tries = pins.map(|pin| users(device, Key::Presence, base, Op::Recover(pin)));
            frames.extend(tries.map(|frame| Frame { asked_at: stands, ..frame }));
        }
        frames.retain(|frame| !state.asked.contains(frame));
        frames
    }

    /// What the host may have recorded now: anything, anywhere. Of equal choices, one.
    fn appends(&self, state: &State) -> Vec<Action> {
        let mut appends = Vec::new();
        for (account, most) in [(REAL, self.scope.versions), (DECOY, self.scope.decoy_versions)] {
            let tag = tag(self.rules, account);
            let next = state.ledger.version(tag).saturating_add(1);
            let first = if self.rules.hold(Rule::CompareAndSet) { next } else { 1 };
            for version in first..=next.min(most) {
                let recorded = state.ledger.at(tag, version);
                let junk = [JUNK].into_iter();
                let all = state.known.staged().filter(|(_, it)| is_first(it, recorded.len()));
                for digest in all.map(|(digest, _)| digest).chain(junk) {
                    let belongs = self.belongs(state, tag, version, digest);
                    if !recorded.contains(&digest) && (belongs || state.misplaced > 0) {
                        appends.push(Action::Append(tag, version, digest));
                    }
                }
            }
        }
        appends.dedup();
        appends
    }

    /// Whether this entry could be committed there.
    fn belongs(&self, state: &State, at: Tag, version: Version, digest: Digest) -> bool {
        state.known.guard(digest).is_some_and(|staged| {
            tag(self.rules, staged.account) == at
                && staged.guard.version == version
                && (staged.guard.home == Home::Genuine || !self.rules.hold(Rule::HomeAtCommit))
        })
    }

    fn is_laptop_revoked(&self, state: &State) -> bool {
        let tag = tag(self.rules, REAL);
        let revoked = Op::Revoke(Device::Laptop);
        state.known.live().any(|(digest, guard)| {
            guard.frame.op == revoked && state.ledger.holds(tag, guard.guard.version, digest)
        })
    }
}

/// What is no guard's.
const JUNK: Digest = Digest(0);

/// The adversary's tries on one guard differ in nothing, nor do copies of one change: as long as none
/// is recorded, they stand for each other.
fn is_first(staged: &Staged, recorded: usize) -> bool {
    let is_low = |number: u8| usize::from(number) <= recorded;
    let number = match staged.frame.signer {
        Device::Stranger(number) if staged.act == Act::Requested => number,
        _ => 0,
    };
    let is_try = matches!(staged.frame.op, Op::Recover(_));
    is_low(staged.copy) && (!is_try || is_low(number))
}

/// The reads that are worth it: of each account for its own requests, and with another nonce.
fn reads(state: &State) -> Vec<(Account, Option<Frame>)> {
    let status = state.asked.iter().filter(|frame| frame.op == Op::Status);
    status.map(|frame| (frame.account, Some(*frame))).chain([(REAL, None)]).collect()
}

const fn users(signer: Device, key: Key, base: Version, op: Op) -> Frame {
    Frame { account: REAL, signer, key, base, op, by_user: true, asked_at: base }
}
