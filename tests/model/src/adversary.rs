//! Which enclave calls a host can make of what it has, and what it gets.

use std::sync::Arc;

use crate::core::{Blob, Enclave, Made};
use crate::hostile::{Calls, Hostile, State};
use crate::knowledge::{Fact, Known};
use crate::ledger::{Proves, Receipt, tag};
use crate::rules::Rule;
use crate::words::{
    Account, DECOY, Device, Digest, Frame, Home, Key, Op, Pin, REAL, Staged, Version,
};

/// The device by which the adversary opens accounts of its own.
pub const OWNER: Device = Device::Stranger(u8::MAX);

/// A call of an enclave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// An Enroll, with nothing attached.
    Enroll(Home, Frame, u8),
    /// Any other request on a guard, and perhaps with a receipt.
    Handle(Home, Frame, Presented, Option<Receipt>, u8),
    /// A settling, in the name of an account, perhaps with a candidate of the host's.
    Settle(Home, Account, Presented, Option<Frame>, u8),
    /// A commit, by a receipt.
    Commit(Home, Digest, Option<Receipt>),
    /// A user's request, to an enclave with a root key of the host's.
    HostsRoot(Frame),
}

/// A blob the host has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presented {
    /// A live guard.
    Live(Digest),
    /// A staged one.
    Staged(Digest),
}

impl Hostile {
    /// Makes every call that follows from this news, and from what those bring.
    pub(crate) fn saturate(&self, state: &mut State, mut news: Vec<Fact>) {
        while let Some(fact) = news.pop() {
            for call in self.calls(state, &fact) {
                for fact in self.perform(&state.known, &call) {
                    if state.known.learn(&fact) {
                        news.push(fact);
                    }
                }
            }
        }
    }

    /// The calls that the host can make of everything it has and that bring it anything.
    pub(crate) fn new_calls(&self, state: &State) -> Vec<Call> {
        let asked = state.asked.iter().copied().map(Fact::Asked);
        let stolen = state.stolen.then_some(Fact::Stolen);
        let facts = state.known.presentable().into_iter();
        let facts = facts.chain(asked).chain(stolen).chain([Fact::Start]);
        let calls = facts.flat_map(|fact| self.calls(state, &fact));
        let is_new = |call: &Call| {
            let mut made = self.perform(&state.known, call).into_iter();
            made.any(|fact| !state.known.has(&fact))
        };
        let mut new = Vec::new();
        for call in calls.filter(is_new) {
            if !new.contains(&call) {
                new.push(call);
            }
        }
        new
    }

    /// The calls that this fact makes possible, with all else that is known.
    fn calls(&self, state: &State, fact: &Fact) -> Vec<Call> {
        let mut calls = Vec::new();
        match fact {
            Fact::Start if self.scope.elsewhere => self.enrolments(&mut calls),
            Fact::Stolen => self.on_all(state, &mut calls, &|account, version| {
                vec![thiefs(account, Device::Laptop, Key::UserVerification, version, SET_PIN)]
            }),
            Fact::Asked(frame) if !self.rules.hold(Rule::RootIsTheStatements) => {
                calls.push(Call::HostsRoot(*frame));
            }
            Fact::Asked(frame @ Frame { op: Op::Enroll(_), .. }) => {
                let copies = 0..self.scope.copies;
                calls.extend(copies.map(|copy| Call::Enroll(Home::Genuine, *frame, copy)));
            }
            Fact::Asked(frame) => self.on_all(state, &mut calls, &|account, _| {
                if frame.account == account { vec![*frame] } else { Vec::new() }
            }),
            Fact::Staged(digest, staged) => {
                self.commits(state, &mut calls, *digest);
                self.uses(state, &mut calls, Presented::Staged(*digest), staged);
            }
            Fact::Live(digest) => {
                if let Some(guard) = state.known.guard(*digest) {
                    self.uses(state, &mut calls, Presented::Live(*digest), guard);
                }
            }
            Fact::Receipt(receipt) => self.shown(state, &mut calls, receipt),
            Fact::Start | Fact::Answer(_) | Fact::Compared(_) | Fact::Pin => {}
        }
        calls
    }

    /// Accounts the adversary opens: a decoy, the real one again, the real one elsewhere.
    fn enrolments(&self, calls: &mut Vec<Call>) {
        let places = [(Home::Genuine, DECOY), (Home::Genuine, REAL), (Home::HostsLedger, REAL)];
        calls.extend(places.map(|(home, account)| {
            let frame = thiefs(account, OWNER, Key::Presence, 0, Op::Enroll(Pin::Thiefs));
            Call::Enroll(home, frame, 0)
        }));
    }

    /// Requests on every guard that can be presented for their account.
    fn on_all(
        &self, state: &State, calls: &mut Vec<Call>,
        frames: &dyn Fn(Account, Version) -> Vec<Frame>,
    ) {
        let live = state.known.live().map(|(digest, guard)| (Presented::Live(digest), guard));
        let staged = state.known.staged();
        let staged = staged.map(|(digest, guard)| (Presented::Staged(digest), guard));
        for (presented, guard) in live.chain(staged) {
            for account in self.accounts(guard) {
                if self.is_usable(state, presented, guard, Rule::StagedIsNotLive) {
                    for frame in frames(account, guard.guard.version) {
                        self.handles(state, calls, &frame, presented, guard);
                    }
                }
            }
        }
    }

    /// Everything that can be done with a guard.
    fn uses(&self, state: &State, calls: &mut Vec<Call>, presented: Presented, guard: &Staged) {
        for account in self.accounts(guard) {
            if self.is_usable(state, presented, guard, Rule::StagedIsNotLive) {
                let asked = state.asked.iter().filter(|frame| frame.account == account).copied();
                for frame in asked.chain(self.thiefs(state, account, guard)) {
                    self.handles(state, calls, &frame, presented, guard);
                }
            }
            let is_charged =
                guard.guard.pending.is_some() && guard.guard.version < self.scope.versions;
            if is_charged && self.is_usable(state, presented, guard, Rule::SettleOnlyLive) {
                self.settlings(calls, account, presented, guard);
            }
        }
    }

    /// The accounts as whose guard it can be presented.
    fn accounts(&self, guard: &Staged) -> Vec<Account> {
        if self.rules.hold(Rule::SealNamesGeneration) {
            vec![guard.account]
        } else {
            vec![REAL, DECOY]
        }
    }

    /// Whether presenting it can lead anywhere new. Guards ahead of the ledger exist only where a
    /// property is violated already.
    fn is_usable(
        &self, state: &State, presented: Presented, guard: &Staged, only_live: Rule,
    ) -> bool {
        let version = guard.guard.version;
        let stands = state.ledger.version(tag(self.rules, guard.account));
        match presented {
            Presented::Live(_) => version <= stands,
            Presented::Staged(_) => {
                !self.rules.hold(only_live)
                    && version <= stands.saturating_add(1)
                    && guard.parent.is_none_or(|parent| state.known.is_live(parent))
            }
        }
    }

    fn handles(
        &self, state: &State, calls: &mut Vec<Call>, frame: &Frame, presented: Presented,
        guard: &Staged,
    ) {
        let home = guard.guard.home;
        match frame.op {
            Op::Enroll(_) => {}
            Op::Status => {
                let (Presented::Live(digest) | Presented::Staged(digest)) = presented;
                let receipts = state.known.receipts().filter(|receipt| receipt.digest == digest);
                calls.extend(
                    receipts
                        .map(|receipt| Call::Handle(home, *frame, presented, Some(*receipt), 0)),
                );
            }
            _ if guard.guard.version >= self.scope.versions => {}
            _ => {
                let copies = 0..if frame.by_user { self.scope.copies } else { 1 };
                calls.extend(copies.map(|copy| Call::Handle(home, *frame, presented, None, copy)));
            }
        }
    }

    fn settlings(
        &self, calls: &mut Vec<Call>, account: Account, presented: Presented, guard: &Staged,
    ) {
        let homes = [Home::Genuine, Home::HostsLedger];
        for home in homes.into_iter().take(if self.scope.elsewhere { 2 } else { 1 }) {
            for copy in 0..self.scope.copies {
                calls.push(Call::Settle(home, account, presented, None, copy));
            }
            let others = (0..self.scope.candidates)
                .map(|number| try_of(account, number, guard.guard.version))
                .map(|frame| Call::Settle(home, account, presented, Some(frame), 0));
            if !self.rules.hold(Rule::CandidateFromCharge) {
                calls.extend(others);
            }
        }
    }

    fn commits(&self, state: &State, calls: &mut Vec<Call>, digest: Digest) {
        let any_digest = !self.rules.hold(Rule::ReceiptOfThisDigest);
        let receipts = state.known.receipts();
        let of_this = receipts.filter(|receipt| any_digest || receipt.digest == digest);
        calls.extend(of_this.map(|receipt| Call::Commit(Home::Genuine, digest, Some(*receipt))));
        if !self.rules.hold(Rule::ReceiptChecked) {
            calls.push(Call::Commit(Home::Genuine, digest, None));
        }
        // Its own ledger signs whatever the host likes.
        if let Some(staged) = state.known.guard(digest).filter(|_| self.scope.elsewhere) {
            let (version, tag) = (staged.guard.version, tag(self.rules, staged.account));
            let (ledger, proves) = (Home::HostsLedger, Proves::Append);
            let receipt = Receipt { ledger, proves, tag, version, digest };
            calls.push(Call::Commit(Home::HostsLedger, digest, Some(receipt)));
        }
    }

    /// What a new receipt is good for.
    fn shown(&self, state: &State, calls: &mut Vec<Call>, receipt: &Receipt) {
        let any_digest = !self.rules.hold(Rule::ReceiptOfThisDigest);
        let staged = state.known.staged().map(|(digest, _)| digest);
        let of_this = staged.filter(|digest| any_digest || receipt.digest == *digest);
        calls.extend(of_this.map(|digest| Call::Commit(Home::Genuine, digest, Some(*receipt))));
        let Some(guard) = state.known.guard(receipt.digest) else { return };
        let presented = Presented::Live(receipt.digest);
        let is_live = state.known.is_live(receipt.digest);
        for frame in state.asked.iter().filter(|frame| is_live && frame.op == Op::Status) {
            self.handles(state, calls, frame, presented, guard);
        }
    }

    /// What the adversary asks for itself.
    fn thiefs(&self, state: &State, account: Account, guard: &Staged) -> Vec<Frame> {
        let version = guard.guard.version;
        let by = |device, key, op| thiefs(account, device, key, version, op);
        let own = by(OWNER, Key::Presence, Op::Anchor);
        if guard.guard.home == Home::HostsLedger {
            return vec![own];
        }
        if account == DECOY {
            return vec![own, try_of(account, 0, version)];
        }
        let mut frames = vec![
            own,
            by(Device::Laptop, Key::Presence, Op::Anchor),
            by(Device::Laptop, Key::Presence, SET_PIN),
            by(Device::Stranger(0), Key::UserVerification, SET_PIN),
        ];
        frames.extend((0..self.scope.candidates).map(|number| try_of(account, number, version)));
        if state.stolen {
            frames.push(by(Device::Laptop, Key::UserVerification, SET_PIN));
        }
        frames
    }

    /// What the host has of a call.
    pub(crate) fn perform(&self, known: &Known, call: &Call) -> Vec<Fact> {
        let at = |home| Enclave { rules: self.rules, home, tries: self.scope.tries };
        let blob = |presented| match presented {
            Presented::Live(digest) if known.is_live(digest) => {
                known.guard(digest).map(|guard| Blob::Live(guard))
            }
            Presented::Live(_) => None,
            Presented::Staged(digest) => known.guard(digest).map(|guard| Blob::Staged(guard)),
        };
        match *call {
            Call::Enroll(home, frame, copy) => facts(at(home).enroll(&frame, copy)),
            Call::Handle(home, ref frame, presented, ref fresh, copy) => facts(
                blob(presented)
                    .and_then(|blob| at(home).handle(frame, blob, fresh.as_ref(), copy).ok()),
            ),
            Call::Settle(home, account, presented, ref other, copy) => facts(
                blob(presented)
                    .and_then(|blob| at(home).settle(account, blob, other.as_ref(), copy).ok()),
            ),
            Call::Commit(home, digest, ref receipt) => {
                let Some(staged) = known.guard(digest) else { return Vec::new() };
                if !at(home).commit(staged, receipt.as_ref()) {
                    return Vec::new();
                }
                let answer = staged.answer().map(Fact::Answer);
                [Fact::Live(digest)].into_iter().chain(answer).collect()
            }
            Call::HostsRoot(Frame { op: Op::Recover(_) | Op::Enroll(_), .. }) => vec![Fact::Pin],
            Call::HostsRoot(_) => Vec::new(),
        }
    }

    /// Whether enclave calls are steps of their own.
    pub(crate) fn is_stepwise(&self) -> bool {
        self.scope.calls == Calls::Stepwise
    }
}

const SET_PIN: Op = Op::ChangePin(Pin::Thiefs);

fn facts(made: Option<Made>) -> Vec<Fact> {
    let Some(Made { staged, compared, answer }) = made else { return Vec::new() };
    let staged = staged.map(|staged| Fact::Staged(staged.digest(), Arc::new(staged)));
    let (compared, answer) = (compared.map(Fact::Compared), answer.map(Fact::Answer));
    staged.into_iter().chain(compared).chain(answer).collect()
}

fn try_of(account: Account, number: u8, version: Version) -> Frame {
    let device = Device::Stranger(number);
    thiefs(account, device, Key::Presence, version, Op::Recover(Pin::Wrong))
}

const fn thiefs(account: Account, signer: Device, key: Key, base: Version, op: Op) -> Frame {
    Frame { account, signer, key, base, op, by_user: false, asked_at: base }
}
