//! The protocol against the hostile host, exhaustively in four scopes; and that letting the host make
//! every call at once leaves nothing out.

use std::collections::{HashMap, HashSet, VecDeque};

use keyfold_model::hostile::{Calls, Hostile, Scope, State};
use keyfold_model::report::exhaust;
use keyfold_model::rules::{Rule, Rules};
use keyfold_model::words::hash;
use stateright::Model;

const WIDE: Scope = Scope {
    tries: 2,
    versions: 6,
    decoy_versions: 1,
    requests: 2,
    candidates: 2,
    copies: 2,
    misplaced: 0,
    elsewhere: true,
    calls: Calls::Saturated,
};

const fn all(scope: Scope) -> Hostile {
    Hostile { only: None, rules: Rules::ALL, scope }
}

#[test]
fn two_requests_of_the_user() {
    let never = exhaust("two requests", all(WIDE));
    assert_eq!(never, Vec::<&str>::new(), "a check of what cannot happen shows nothing");
}

#[test]
fn three_requests_of_the_user() {
    exhaust("three requests", all(Scope { versions: 4, requests: 3, ..WIDE }));
}

#[test]
fn three_tries_and_nine_versions() {
    let scope = Scope { tries: 3, versions: 9, requests: 1, candidates: 3, ..WIDE };
    exhaust("three tries", all(scope));
}

#[test]
fn entries_where_they_do_not_belong() {
    let scope = Scope { versions: 4, decoy_versions: 2, requests: 1, misplaced: 1, ..WIDE };
    exhaust("misplaced entries", all(scope));
}

/// Second lines: each of these checks is in the code, and by this model the others already hold what
/// it guards. Taking one away alone is no attack, which is worth knowing before somebody relies on it.
#[test]
fn second_lines_of_defence() {
    for rule in [Rule::HomeAtUse, Rule::AppendIsNotRead] {
        let scope = Scope { versions: 5, decoy_versions: 2, requests: 1, ..WIDE };
        exhaust(rule.says(), Hostile { rules: Rules::without(rule), ..all(scope) });
    }
}

/// Call by call, in a scope that affords it: the same entries and requests come about, and nothing is
/// ever known that was not known with every call made at once.
#[test]
fn all_calls_at_once_leave_nothing_out() {
    let small =
        Scope { tries: 1, versions: 3, decoy_versions: 0, candidates: 1, copies: 1, ..WIDE };
    let with_user = Scope { requests: 1, elsewhere: false, ..small };
    let with_decoy = Scope { versions: 2, decoy_versions: 1, requests: 0, ..small };
    let longer = Scope { versions: 4, requests: 0, candidates: 2, elsewhere: false, ..small };
    for scope in [with_user, with_decoy, longer] {
        exhaust("call by call", all(Scope { calls: Calls::Stepwise, ..scope }));
        let saturated: HashMap<_, _> =
            reachable(scope).into_iter().map(|state| (steps(&state), state)).collect();
        let mut met = HashSet::new();
        for state in reachable(Scope { calls: Calls::Stepwise, ..scope }) {
            let at_once = saturated.get(&steps(&state)).expect("the same steps, with all calls");
            assert!(at_once.known.includes(&state.known), "{state:?}");
            met.insert(steps(&state));
        }
        assert_eq!(met.len(), saturated.len(), "call by call reaches as much");
    }
}

/// What cannot be taken back of a state.
fn steps(state: &State) -> u64 {
    let State { ledger, asked, known: _, stolen, misplaced } = state;
    hash((ledger, asked, stolen, misplaced))
}

fn reachable(scope: Scope) -> HashSet<State> {
    let model = all(scope);
    let mut queue: VecDeque<State> = model.init_states().into();
    let mut seen: HashSet<State> = queue.iter().cloned().collect();
    while let Some(state) = queue.pop_front() {
        for next in model.next_states(&state) {
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    seen
}
