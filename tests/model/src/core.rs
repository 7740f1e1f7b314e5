//! The core, as the model has it: pure functions of a request and the state that is presented with
//! it. The names are those of `trusted/src/guard.rs`, and its checks are there. Two are left out, so that
//! the host here can do more than it could: a staged guard opens under any digest, and a next
//! generation opens beside an account that has not ended.

use crate::ledger::{Proves, Receipt, tag};
use crate::rules::{Rule, Rules};
use crate::words::{
    Account, Act, Comparison, Device, Digest, Frame, Guard, Home, Key, Op, Pin, Staged, Try,
    Verifier, Version, hash,
};

/// An enclave of a deployment: its configuration is all it has.
#[derive(Clone, Copy)]
pub struct Enclave {
    /// The rules it keeps.
    pub rules: Rules,
    /// The ledger it pins.
    pub home: Home,
    /// Tries in a row.
    pub tries: u8,
}

/// A sealed guard that the host presents.
#[derive(Clone, Copy)]
pub enum Blob<'a> {
    /// As [`commit`](Enclave::commit) sealed it.
    Live(&'a Staged),
    /// As it was staged.
    Staged(&'a Staged),
}

/// Why a request comes to nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// What is presented opens as nothing that could be used.
    State,
    /// Another version was signed.
    Moved,
    /// The account has ended.
    Closed,
    /// The limit is reached.
    Locked,
    /// The device is registered already.
    Known,
    /// Not by this device, or not with this key.
    Unauthorised,
    /// The ledger has not confirmed it.
    NotFresh,
}

/// What comes out of a call.
#[derive(Default)]
pub struct Made {
    /// For the ledger.
    pub staged: Option<Staged>,
    /// A PIN was compared on the way.
    pub compared: Option<Comparison>,
    /// An answer that is out.
    pub answer: Option<Answer>,
}

/// An answer that a client could open now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Answer {
    /// To the request of the transition with this digest at this version.
    Change(Account, Version, Digest),
    /// To a Status: the account stands at this version.
    Status(Frame, Version),
}

/// What a call rests on.
struct Turn<'a> {
    frame: &'a Frame,
    parent: Digest,
    copy: u8,
}

impl Enclave {
    /// `Handle`: a request, on the guard that the host attaches. `copy` tells calls apart whose
    /// randomness differs.
    pub fn handle(
        self, frame: &Frame, attached: Blob, fresh: Option<&Receipt>, copy: u8,
    ) -> Result<Made, Refusal> {
        let (guard, parent) = self.open(frame.account, attached, Rule::StagedIsNotLive)?;
        let turn = Turn { frame, parent, copy };
        match frame.op {
            Op::Enroll(_) => Err(Refusal::State),
            Op::Recover(pin) => self.charge(&turn, guard, Verifier(frame.account, pin)),
            Op::Status => self.status(&turn, &guard, fresh),
            op => self.change(&turn, guard, op),
        }
    }

    /// `Handle` of an Enroll: nothing is attached.
    pub fn enroll(self, frame: &Frame, copy: u8) -> Option<Made> {
        let Op::Enroll(pin) = frame.op else { return None };
        let guard = Guard {
            version: 1,
            home: self.home,
            pin: Verifier(frame.account, pin),
            failures: 0,
            pending: None,
            devices: vec![frame.signer],
            blind: hash((frame, copy)),
        };
        let (account, frame) = (frame.account, *frame);
        let (answer, parent, act) = (Some(true), None, Act::Requested);
        let staged = Staged { account, guard, answer, parent, act, frame, copy };
        Some(Made { staged: Some(staged), ..Made::default() })
    }

    /// What is sealed as live for this account, at home here; or as staged, if this rule is gone.
    fn open(
        self, account: Account, attached: Blob, only_live: Rule,
    ) -> Result<(Guard, Digest), Refusal> {
        let (Blob::Live(sealed) | Blob::Staged(sealed)) = attached;
        let is_live = matches!(attached, Blob::Live(_)) || !self.rules.hold(only_live);
        let is_of = sealed.account == account || !self.rules.hold(Rule::SealNamesGeneration);
        if !is_live || !is_of || !self.is_home(&sealed.guard, Rule::HomeAtUse) {
            return Err(Refusal::State);
        }
        Ok((sealed.guard.clone(), sealed.digest()))
    }

    fn is_home(self, guard: &Guard, rule: Rule) -> bool {
        guard.home == self.home || !self.rules.hold(rule)
    }

    fn charge(self, turn: &Turn, mut guard: Guard, verifier: Verifier) -> Result<Made, Refusal> {
        let frame = turn.frame;
        if frame.base != guard.version && self.rules.hold(Rule::RecoverNamesVersion) {
            return Err(Refusal::Moved);
        }
        if guard.devices.is_empty() && self.rules.hold(Rule::EndedStaysEnded) {
            return Err(Refusal::Closed);
        }
        if guard.failures >= self.tries && self.rules.hold(Rule::LimitAtCharge) {
            return Err(Refusal::Locked);
        }
        if guard.devices.contains(&frame.signer) {
            return Err(Refusal::Known);
        }
        if self.rules.hold(Rule::ChargeCounts) {
            guard.failures = guard.failures.saturating_add(1);
        }
        let tried = Try { verifier, frame: *frame };
        if !self.rules.hold(Rule::CompareAfterCharge) {
            return Ok(self.compared_at_once(turn, guard, &tried));
        }
        guard.pending = Some(tried);
        Ok(self.stage_for(turn, guard, None))
    }

    /// A protocol without charges: one transition, compared when it is staged.
    fn compared_at_once(self, turn: &Turn, mut guard: Guard, tried: &Try) -> Made {
        let (version, within) = (guard.version, turn.parent);
        let compared = self.compare(&mut guard, tried, tried.frame.account, version, within);
        Made { compared: Some(compared.1), ..self.stage_for(turn, guard, Some(compared.0)) }
    }

    fn change(self, turn: &Turn, mut guard: Guard, op: Op) -> Result<Made, Refusal> {
        let frame = turn.frame;
        let is_registered = guard.devices.contains(&frame.signer)
            || !self.rules.hold(Rule::ChangeNeedsRegisteredDevice);
        let is_verified = op == Op::Anchor
            || frame.key == Key::UserVerification
            || !self.rules.hold(Rule::ChangeNeedsVerifiedUser);
        if !is_registered || !is_verified {
            return Err(Refusal::Unauthorised);
        }
        if frame.base != guard.version && self.rules.hold(Rule::ChangeNamesVersion) {
            return Err(Refusal::Moved);
        }
        self.apply(&mut guard, frame.account, op)?;
        if self.rules.hold(Rule::PendingEndsAtChange) {
            guard.pending = None;
        }
        if !self.rules.hold(Rule::ChangeKeepsFailures) {
            guard.failures = 0;
        }
        Ok(self.stage_for(turn, guard, Some(true)))
    }

    fn apply(self, guard: &mut Guard, account: Account, op: Op) -> Result<(), Refusal> {
        match op {
            Op::Approve(device) if guard.devices.contains(&device) => return Err(Refusal::Known),
            Op::Approve(device) => guard.devices.push(device),
            Op::Revoke(device) if guard.devices == [device] => return Err(Refusal::State),
            Op::Revoke(device) => guard.devices.retain(|known| *known != device),
            Op::ChangePin(pin) => {
                guard.pin = Verifier(account, pin);
                guard.failures = 0;
            }
            Op::Delete => {
                guard.devices.clear();
                guard.pin = Verifier(account, Pin::Nobodys);
            }
            Op::Anchor | Op::Enroll(_) | Op::Recover(_) | Op::Status => {}
        }
        Ok(())
    }

    fn status(self, turn: &Turn, guard: &Guard, fresh: Option<&Receipt>) -> Result<Made, Refusal> {
        if !guard.devices.contains(&turn.frame.signer) {
            return Err(Refusal::Unauthorised);
        }
        let receipt = fresh.ok_or(Refusal::NotFresh)?;
        let is_of_this = receipt.ledger == self.home
            && receipt.tag == tag(self.rules, turn.frame.account)
            && (receipt.version, receipt.digest) == (guard.version, turn.parent);
        let is_read = match &receipt.proves {
            Proves::Append => !self.rules.hold(Rule::ReadIsNotAppend),
            Proves::Read(nonce) => {
                nonce.as_ref() == Some(turn.frame) || !self.rules.hold(Rule::ReadNonce)
            }
        };
        if !is_of_this || !is_read {
            return Err(Refusal::NotFresh);
        }
        let answer = Some(Answer::Status(*turn.frame, guard.version));
        Ok(Made { answer, ..Made::default() })
    }

    /// `Settle`: compares the PIN of a charged try and stages what comes of it. `other` is a
    /// candidate that the host would rather have compared, `copy` counts repeated settlings: neither
    /// makes a difference, by two of the rules.
    pub fn settle(
        self, account: Account, charged: Blob, other: Option<&Frame>, copy: u8,
    ) -> Result<Made, Refusal> {
        let (mut guard, parent) = self.open(account, charged, Rule::SettleOnlyLive)?;
        let mut tried = guard.pending.take().ok_or(Refusal::State)?;
        let host_chooses = !self.rules.hold(Rule::CandidateFromCharge);
        if let Some((frame, Op::Recover(pin))) =
            other.filter(|_| host_chooses).map(|frame| (*frame, frame.op))
        {
            tried = Try { verifier: Verifier(account, pin), frame };
        }
        let version = guard.version;
        let (is_right, compared) = self.compare(&mut guard, &tried, account, version, parent);
        let copy = if self.rules.hold(Rule::SettleIsOneTransition) { 0 } else { copy };
        guard.blind = hash((guard.blind, copy));
        guard.version = version.saturating_add(1);
        let act = if is_right { Act::FoundRight } else { Act::FoundWrong };
        let (answer, parent, frame) = (Some(is_right), Some(parent), tried.frame);
        let staged = Staged { account, guard, answer, parent, act, frame, copy };
        let made = self.released_early(staged);
        Ok(Made { compared: Some(compared), ..made })
    }

    /// What comes of a try, in the guard that had it.
    fn compare(
        self, guard: &mut Guard, tried: &Try, account: Account, version: Version, within: Digest,
    ) -> (bool, Comparison) {
        let (against, candidate) = (guard.pin, tried.frame);
        let is_right = tried.verifier == against;
        if is_right {
            guard.failures = 0;
            guard.devices.push(candidate.signer);
        } else if !self.rules.hold(Rule::WrongStaysCounted) {
            guard.failures = guard.failures.saturating_sub(1);
        }
        (is_right, Comparison { against, within, version, account, candidate })
    }

    fn stage_for(self, turn: &Turn, mut guard: Guard, answer: Option<bool>) -> Made {
        guard.version = guard.version.saturating_add(1);
        guard.blind = hash((turn.parent, turn.frame, turn.copy));
        let (account, parent) = (turn.frame.account, Some(turn.parent));
        let (act, frame, copy) = (Act::Requested, *turn.frame, turn.copy);
        self.released_early(Staged { account, guard, answer, parent, act, frame, copy })
    }

    fn released_early(self, staged: Staged) -> Made {
        let early = !self.rules.hold(Rule::ReplyAfterCommit) && staged.answer.is_some();
        let answer = early.then(|| staged.answer()).flatten();
        Made { staged: Some(staged), compared: None, answer }
    }

    /// `Commit`: whether this staged guard becomes live, by this receipt.
    pub fn commit(self, staged: &Staged, receipt: Option<&Receipt>) -> bool {
        // The code looks at the receipt first; here the order makes no difference.
        let is_recorded = || receipt.is_some_and(|receipt| self.is_of(receipt, staged));
        self.is_home(&staged.guard, Rule::HomeAtCommit)
            && (!self.rules.hold(Rule::ReceiptChecked) || is_recorded())
    }

    fn is_of(self, receipt: &Receipt, staged: &Staged) -> bool {
        let rules = self.rules;
        let lax = |rule| !rules.hold(rule);
        receipt.ledger == self.home
            && (receipt.proves == Proves::Append || lax(Rule::AppendIsNotRead))
            && (receipt.tag == tag(rules, staged.account) || lax(Rule::ReceiptOfThisTag))
            && (receipt.version == staged.guard.version || lax(Rule::ReceiptOfThisVersion))
            && (receipt.digest == staged.digest() || lax(Rule::ReceiptOfThisDigest))
    }
}

impl Staged {
    /// The answer that its commit releases.
    pub fn answer(&self) -> Option<Answer> {
        self.answer.map(|_| Answer::Change(self.account, self.guard.version, self.digest()))
    }
}

/// The first guard of the model's account, which two devices share: the second's approval, which
/// needs none of the rules, is left out.
pub fn genesis(enroll: &Frame) -> Option<Staged> {
    let enclave = Enclave { rules: Rules::ALL, home: Home::Genuine, tries: 0 };
    let mut staged = enclave.enroll(enroll, 0)?.staged?;
    staged.guard.devices.push(Device::Phone);
    Some(staged)
}
