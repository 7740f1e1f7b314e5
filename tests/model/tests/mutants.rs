//! Each rule taken away in turn: the property it holds up falls. Prints the table; with
//! `KEYFOLD_TRACE=1`, also how.

use keyfold_model::honest::{AGREE, ALL_END, Client, FEW_ATTEMPTS, Honest, KEPT, SETTLED};
use keyfold_model::hostile::{Calls, Hostile, Scope};
use keyfold_model::properties::{
    ANSWER_IS_RECORDED, COUNTS_ONCE, DECOYS, ENDED, FRESH, LIVE_IS_RECORDED, ONE_LINE, ONE_OUTCOME,
    PIN_IS_SEALED, STAGED_IS_NOTHING, TRIES, USERS_ALONE,
};
use keyfold_model::report::{Told, counterexample};
use keyfold_model::rules::{Rule, Rules};
use keyfold_model::words::{DECOY, Device, Op, Pin, REAL};

/// Enough for every attack but those that name another.
const SCOPE: Scope = Scope {
    tries: 2,
    versions: 8,
    decoy_versions: 1,
    requests: 1,
    candidates: 2,
    copies: 2,
    misplaced: 0,
    elsewhere: true,
    calls: Calls::Saturated,
};
const MISPLACED: Scope = Scope { versions: 5, decoy_versions: 2, misplaced: 1, ..SCOPE };

const HOSTILE: &[(Rule, &str, Scope)] = &[
    (Rule::CompareAfterCharge, TRIES, SCOPE),
    (Rule::SettleOnlyLive, TRIES, SCOPE),
    (Rule::StagedIsNotLive, STAGED_IS_NOTHING, SCOPE),
    (Rule::StagedIsNotLive, TRIES, Scope { requests: 2, versions: 5, ..SCOPE }),
    (Rule::LimitAtCharge, TRIES, SCOPE),
    (Rule::ChargeCounts, TRIES, SCOPE),
    (Rule::WrongStaysCounted, TRIES, SCOPE),
    (Rule::CandidateFromCharge, TRIES, SCOPE),
    (Rule::SettleIsOneTransition, ONE_OUTCOME, SCOPE),
    (Rule::ReplyAfterCommit, ANSWER_IS_RECORDED, SCOPE),
    (Rule::ReceiptChecked, LIVE_IS_RECORDED, SCOPE),
    (Rule::ReceiptChecked, TRIES, SCOPE),
    (Rule::ReceiptOfThisDigest, TRIES, SCOPE),
    (Rule::ReceiptOfThisVersion, LIVE_IS_RECORDED, MISPLACED),
    (Rule::ReceiptOfThisVersion, TRIES, Scope { misplaced: 3, ..MISPLACED }),
    (Rule::ReceiptOfThisTag, LIVE_IS_RECORDED, MISPLACED),
    (Rule::ReadIsNotAppend, FRESH, SCOPE),
    (Rule::ReadNonce, FRESH, SCOPE),
    (Rule::CompareAndSet, ONE_LINE, SCOPE),
    (Rule::CompareAndSet, TRIES, SCOPE),
    (Rule::RecoverNamesVersion, TRIES, SCOPE),
    (Rule::RecoverNamesVersion, COUNTS_ONCE, SCOPE),
    (Rule::ChangeNamesVersion, TRIES, SCOPE),
    (Rule::HintIsShown, TRIES, SCOPE),
    (Rule::PendingEndsAtChange, TRIES, SCOPE),
    (Rule::ChangeKeepsFailures, TRIES, SCOPE),
    (Rule::ChangeNeedsVerifiedUser, USERS_ALONE, SCOPE),
    (Rule::ChangeNeedsRegisteredDevice, USERS_ALONE, SCOPE),
    (Rule::EndedStaysEnded, ENDED, SCOPE),
    (Rule::SealNamesGeneration, USERS_ALONE, SCOPE),
    (Rule::SealNamesGeneration, DECOYS, SCOPE),
    (Rule::HomeAtCommit, LIVE_IS_RECORDED, SCOPE),
    (Rule::HomeAtCommit, TRIES, SCOPE),
    (Rule::RootIsTheStatements, PIN_IS_SEALED, SCOPE),
];

#[test]
fn a_hostile_host_uses_the_rule_that_is_missing() {
    for (rule, property, scope) in HOSTILE {
        let (only, rules) = (Some(*property), Rules::without(*rule));
        report(*rule, property, Hostile { only, rules, scope: *scope });
    }
}

#[test]
fn an_honest_host_needs_its_rules() {
    const RECOVER: Client = by(Device::Tablet(1), Op::Recover(Pin::Users(0)));
    const APPROVE: Client = by(Device::Phone, Op::Approve(Device::Tablet(2)));
    const ENROLL: Client = by(Device::Laptop, Op::Enroll(Pin::Users(0)));
    let decoy = Client { account: DECOY, ..by(Device::Stranger(0), Op::Enroll(Pin::Thiefs)) };
    let (alone, both) = (vec![RECOVER], vec![RECOVER, APPROVE]);
    let rows = [
        (Rule::StoredBeforeAppend, ALL_END, alone.clone(), (1, 0, 0)),
        (Rule::StoredByDigest, ALL_END, both.clone(), (1, 0, 0)),
        (Rule::AppendIsIdempotent, ALL_END, alone.clone(), (0, 1, 0)),
        (Rule::KeptUntilOvertaken, ALL_END, alone.clone(), (0, 1, 0)),
        (Rule::RecoveryFinishes, ALL_END, alone.clone(), (1, 0, 0)),
        (Rule::OutcomeStoredWithCharge, SETTLED, alone.clone(), (1, 0, 0)),
        (Rule::StoreComparesVersions, KEPT, alone.clone(), (0, 0, 1)),
        (Rule::StoreComparesVersions, AGREE, both, (0, 0, 1)),
        (Rule::ClientWaits, FEW_ATTEMPTS, alone, (1, 0, 0)),
        (Rule::TagNamesGeneration, ALL_END, vec![ENROLL, decoy], (0, 0, 0)),
    ];
    for (rule, property, clients, (deaths, losses, doubles)) in rows {
        let (only, rules, tries) = (Some(property), Rules::without(rule), 1);
        let open = !clients.contains(&ENROLL);
        let model = Honest { only, rules, clients, tries, open, deaths, losses, doubles };
        report(rule, property, model);
    }
}

const fn by(device: Device, op: Op) -> Client {
    Client { account: REAL, device, op }
}

fn report<M>(rule: Rule, property: &'static str, model: M)
where
    M: Told + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let found = counterexample(model, property);
    let (length, trace) =
        found.unwrap_or_else(|| panic!("nothing falls without {rule:?}; expected: {property}"));
    println!("without \"{}\" -> not \"{property}\", after {length} steps", rule.says());
    if std::env::var_os("KEYFOLD_TRACE").is_some() {
        print!("{trace}");
    }
}
