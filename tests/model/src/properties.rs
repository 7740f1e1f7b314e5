//! What holds in every state that a hostile host can bring about, and what must be possible for that
//! to mean anything.

use std::collections::{BTreeMap, BTreeSet};

use stateright::Property;

use crate::core::Answer;
use crate::hostile::{Hostile, State};
use crate::ledger::tag;
use crate::rules::Rules;
use crate::words::{
    Account, Act, Comparison, Digest, Home, Op, Pin, REAL, Staged, Verifier, Version,
};

/// At most so many comparisons of a PIN between two resets by its user.
pub const TRIES: &str = "no more comparisons than tries between two rightful resets";
/// Live is what the ledger holds.
pub const LIVE_IS_RECORDED: &str = "what is live is recorded";
/// Staged is not live.
pub const STAGED_IS_NOTHING: &str = "a staged guard authorises nothing";
/// Versions are monotone by one.
pub const ONE_LINE: &str = "each version follows the one before it, and there is one of each";
/// Commit before release.
pub const ANSWER_IS_RECORDED: &str = "no answer is out before its transition is recorded";
/// Settling is one transition.
pub const ONE_OUTCOME: &str = "a charge has one outcome";
/// No replay.
pub const COUNTS_ONCE: &str = "a request of the user's counts once, where it was made";
/// No stranger joins or sets a PIN.
pub const USERS_ALONE: &str = "nobody but the user joins the account or sets its PIN";
/// Decoys.
pub const DECOYS: &str = "a decoy gives no try at the account's PIN";
/// A status is of now.
pub const FRESH: &str = "a status is not older than its request";
/// Roots.
pub const PIN_IS_SEALED: &str = "no PIN of the user's is in the open";
/// The end.
pub const ENDED: &str = "an account that has ended stays as it ended";

/// All properties.
pub fn all() -> Vec<Property<Hostile>> {
    vec![
        Property::always(TRIES, |model: &Hostile, state: &State| {
            most_comparisons(model, state) <= model.scope.tries
        }),
        Property::always(LIVE_IS_RECORDED, live_is_recorded),
        Property::always(STAGED_IS_NOTHING, staged_is_nothing),
        Property::always(ONE_LINE, one_line),
        Property::always(ANSWER_IS_RECORDED, answers_are_recorded),
        Property::always(ONE_OUTCOME, one_outcome),
        Property::always(COUNTS_ONCE, counts_once),
        Property::always(USERS_ALONE, users_alone),
        Property::always(DECOYS, decoys_give_nothing),
        Property::always(FRESH, statuses_are_fresh),
        Property::always(PIN_IS_SEALED, |_, state: &State| !state.known.has_pin()),
        Property::always(ENDED, ended_stays_ended),
        Property::sometimes("possible: every try is used up", |model: &Hostile, state: &State| {
            most_comparisons(model, state) == model.scope.tries
        }),
        Property::sometimes("possible: a device recovers", |_, state: &State| {
            any_on_line(state, |it| it.act == Act::FoundRight)
        }),
        Property::sometimes("possible: a try is found wrong", |_, state: &State| {
            any_on_line(state, |it| it.act == Act::FoundWrong)
        }),
        Property::sometimes("possible: a lockout is lifted", |model: &Hostile, state: &State| {
            any_on_line(state, |it| {
                let before = it.parent.and_then(|parent| state.known.guard(parent));
                let was_locked = before.is_some_and(|it| it.guard.failures == model.scope.tries);
                was_locked && matches!(it.frame.op, Op::ChangePin(Pin::Users(_)))
            })
        }),
        Property::sometimes("possible: a pending try is overtaken", |_, state: &State| {
            any_on_line(state, |it| {
                let before = it.parent.and_then(|parent| state.known.guard(parent));
                it.act == Act::Requested && before.is_some_and(|it| it.guard.pending.is_some())
            })
        }),
        Property::sometimes("possible: a decoy lives", |_, state: &State| {
            state.known.live().any(|(_, it)| it.account != REAL)
        }),
        Property::sometimes("possible: the revoked device is the thief's", |_, state: &State| {
            state.stolen
        }),
        Property::sometimes("possible: an account ends", |_, state: &State| {
            any_on_line(state, |it| it.frame.op == Op::Delete)
        }),
        Property::sometimes("possible: a status is answered", |_, state: &State| {
            state.known.answers().any(|answer| matches!(answer, Answer::Status(..)))
        }),
    ]
}

/// The guards of the account that the ledger holds, by version. What was misplaced is left out.
fn line(rules: Rules, state: &State) -> impl Iterator<Item = (Version, Digest, &Staged)> {
    let tag = tag(rules, REAL);
    (1..=state.ledger.version(tag))
        .flat_map(move |version| state.ledger.at(tag, version).iter().map(move |it| (version, *it)))
        .filter_map(|(version, digest)| {
            let staged = state.known.guard(digest)?;
            (staged.guard.version == version).then_some((version, digest, &**staged))
        })
}

fn any_on_line(state: &State, is: impl Fn(&Staged) -> bool) -> bool {
    state
        .known
        .live()
        .any(|(_, guard)| guard.account == REAL && guard.guard.home == Home::Genuine && is(guard))
}

/// The most comparisons with the user's PIN between two resets. A charge is before the reset that its
/// settling may be, and the change of a PIN before every charge after it.
pub fn most_comparisons(model: &Hostile, state: &State) -> u8 {
    let line = line(model.rules, state);
    let resets: Vec<Version> =
        line.filter(|(_, _, it)| is_rightful_reset(it)).map(|(version, ..)| version).collect();
    let mut counts = BTreeMap::<usize, u8>::new();
    for comparison in state.known.compared().filter(|it| is_of_users_pin(it)) {
        let period = resets.iter().filter(|reset| **reset <= comparison.version).count();
        let count = counts.entry(period).or_default();
        *count = count.saturating_add(1);
    }
    counts.into_values().max().unwrap_or(0)
}

fn is_of_users_pin(comparison: &Comparison) -> bool {
    matches!(comparison.against, Verifier(REAL, Pin::Users(_)))
}

/// The user set the PIN, or tried the right one, and did so just then.
fn is_rightful_reset(guard: &Staged) -> bool {
    let after = guard.guard.version.checked_sub(guard.frame.asked_at);
    guard.frame.by_user
        && match (guard.act, guard.frame.op) {
            (Act::FoundRight, _) => after == Some(2),
            (Act::Requested, Op::ChangePin(_)) => after == Some(1),
            _ => false,
        }
}

fn live_is_recorded(model: &Hostile, state: &State) -> bool {
    state.known.live().all(|(digest, it)| {
        it.guard.home != Home::Genuine
            || state.ledger.holds(tag(model.rules, it.account), it.guard.version, digest)
    })
}

fn staged_is_nothing(_: &Hostile, state: &State) -> bool {
    let is_live = |digest: Digest| state.known.is_live(digest);
    state.known.staged().all(|(_, it)| it.parent.is_none_or(is_live))
        && state.known.compared().all(|it| is_live(it.within))
}

fn one_line(model: &Hostile, state: &State) -> bool {
    state.known.live().filter(|(_, it)| it.guard.home == Home::Genuine).all(|(digest, it)| {
        let (tag, version) = (tag(model.rules, it.account), it.guard.version);
        let before = version.saturating_sub(1);
        state.ledger.at(tag, version) == [digest]
            && it.parent.map_or(version == 1, |parent| {
                state.ledger.at(tag, before) == [parent]
                    && state.known.guard(parent).is_some_and(|it| it.guard.version == before)
            })
    })
}

fn answers_are_recorded(model: &Hostile, state: &State) -> bool {
    state.known.answers().all(|answer| match *answer {
        Answer::Status(..) => true,
        Answer::Change(account, version, digest) => {
            let home = state.known.guard(digest).map(|it| it.guard.home);
            home != Some(Home::Genuine)
                || state.ledger.holds(tag(model.rules, account), version, digest)
        }
    })
}

fn one_outcome(_: &Hostile, state: &State) -> bool {
    let mut settled = BTreeSet::new();
    let outcomes = state.known.staged().filter(|(_, it)| it.act != Act::Requested);
    outcomes.filter_map(|(_, it)| it.parent).all(|charge| settled.insert(charge))
}

fn counts_once(model: &Hostile, state: &State) -> bool {
    let by_request =
        line(model.rules, state).filter(|(_, _, it)| it.frame.by_user && it.act == Act::Requested);
    let mut counted = BTreeSet::new();
    by_request.into_iter().all(|(version, _, it)| {
        counted.insert(it.frame) && version == it.frame.asked_at.saturating_add(1)
    })
}

fn users_alone(_: &Hostile, state: &State) -> bool {
    let is_users = |it: &Staged| {
        it.guard.devices.iter().all(|device| device.is_users())
            && matches!(it.guard.pin.1, Pin::Users(_) | Pin::Nobodys)
    };
    let of_account = |it: &Staged| it.account == REAL && it.guard.home == Home::Genuine;
    state.known.live().all(|(_, it)| !of_account(it) || is_users(it))
}

fn decoys_give_nothing(_: &Hostile, state: &State) -> bool {
    let is_elsewhere = |account: Account| account != REAL;
    !state.known.compared().any(|it| is_of_users_pin(it) && is_elsewhere(it.account))
}

fn statuses_are_fresh(_: &Hostile, state: &State) -> bool {
    state.known.answers().all(|answer| match answer {
        Answer::Status(frame, version) => *version >= frame.asked_at,
        Answer::Change(..) => true,
    })
}

fn ended_stays_ended(_: &Hostile, state: &State) -> bool {
    let mut later = state.known.live().filter_map(|(_, it)| state.known.guard(it.parent?));
    !later.any(|before| before.guard.devices.is_empty())
}
