//! Runs a check, prints how far it went, and tells a counterexample so that it can be followed.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Expectation, Model, Path};

use crate::honest::Honest;
use crate::hostile::{Action, Hostile, State};
use crate::properties::most_comparisons;
use crate::words::{Digest, Frame, Staged};

/// A model whose steps can be told.
pub trait Told: Model {
    /// What this step does, in this state.
    fn tell(&self, state: &Self::State, action: &Self::Action) -> String;
}

/// Checks everything in scope, on two threads. What can never happen must not, else its shortest known
/// way is told; returns what should be possible and was not met.
pub fn exhaust<M>(name: &str, model: M) -> Vec<&'static str>
where
    M: Told + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let scope = format!("{model:?}");
    let start = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    let (depth, time) = (checker.max_depth(), start.elapsed().as_secs_f32());
    println!("{name}: {states} states, {steps} transitions, depth {depth}, {time:.1} s\n  {scope}");
    let found = checker.discoveries();
    for property in checker.model().properties() {
        if let (Expectation::Always, Some(path)) = (&property.expectation, found.get(property.name))
        {
            let told = told(checker.model(), path.clone());
            panic!("{name}: not so: {}\n{told}", property.name);
        }
    }
    let properties = checker.model().properties().into_iter().map(|property| property.name);
    properties.filter(|name| name.starts_with("possible") && !found.contains_key(name)).collect()
}

/// The shortest way to break the only property of a model, if there is one, and its steps in words.
pub fn counterexample<M>(model: M, property: &'static str) -> Option<(usize, String)>
where
    M: Told + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let checker = model.checker().threads(1).spawn_bfs().join();
    let path = checker.discovery(property)?;
    let length = path.clone().into_actions().len();
    Some((length, told(checker.model(), path)))
}

fn told<M: Told>(model: &M, path: Path<M::State, M::Action>) -> String {
    let steps = path.into_vec().into_iter();
    let steps = steps.filter_map(|(state, action)| Some(model.tell(&state, &action?)));
    steps.enumerate().map(|(number, step)| format!("    {}. {step}\n", number + 1)).collect()
}

impl Told for Hostile {
    fn tell(&self, state: &State, action: &Action) -> String {
        let after = self.next_state(state, action.clone());
        let most = after.map_or(0, |after| most_comparisons(self, &after));
        let what = match action {
            Action::Ask(frame) => format!("the user asks: {}", of(frame)),
            Action::Append(_, version, digest) => {
                let guard = state.known.guard(*digest);
                format!("the ledger records version {version}: {}", entry(guard.map(|it| &**it)))
            }
            Action::Steal => "the revoked laptop is the thief's".to_owned(),
            Action::Read(account, _) => format!("the host reads {account:?} on the ledger"),
            Action::Call(call) => format!("{call:?}"),
        };
        format!("{what}; {most} comparisons since a rightful reset at most")
    }
}

impl Told for Honest {
    fn tell(&self, state: &Self::State, action: &Self::Action) -> String {
        use crate::honest::Action;
        let guard = |digest: Digest| entry(state.guard(digest));
        match action {
            Action::Ask(client) => format!("{:?} asks", self.clients.get(*client)),
            Action::Store(task) => format!("stored: {}", guard(task.guard)),
            Action::Append(task) => format!("appended: {}", guard(task.guard)),
            Action::AppendInVain(task) => format!("receipt lost: {}", guard(task.guard)),
            Action::Commit(task) => format!("committed: {}", guard(task.guard)),
            Action::Die(task) => format!("death during: {}", guard(task.guard)),
            Action::TakeUp(digest) => format!("taken up: {}", guard(*digest)),
        }
    }
}

fn entry(guard: Option<&Staged>) -> String {
    guard.map_or_else(
        || "nobody's".to_owned(),
        |it| {
            let (account, act, failures) = (it.account, it.act, it.guard.failures);
            let version = it.guard.version;
            format!("{account:?}@{version} {act:?} ({failures} failures), {}", of(&it.frame))
        },
    )
}

fn of(frame: &Frame) -> String {
    let Frame { account, signer, key, base, op, by_user, asked_at } = frame;
    let who = if *by_user { "user" } else { "adversary" };
    format!("{op:?} by {signer:?}/{key:?} for {account:?}@{base}, {who}'s, made at {asked_at}")
}
