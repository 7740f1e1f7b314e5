//! Sequences written by hand: where the fuzzer starts from.
//!
//! A step is ten choices and its own: device, key, account, guard, vault, record, what the host
//! attaches wrongly, whether the device learns of the newest guard, what the request says it starts
//! from, what is done. Zero is the first device, its UV key, the newest of all, and the truth.

// What is done.
const CREATE: u8 = 0;
const TOUCH: u8 = 1;
const DELETE: u8 = 2;
const ASSERT: u8 = 3;
const STATUS: u8 = 4;
const CHANGE: u8 = 5;
const RECOVER: u8 = 7;
const COMMIT: u8 = 9;
const SETTLE: u8 = 11;
const TRY: u8 = 12;
const REPLAY: u8 = 13;
const ENROLL: u8 = 14;
const CROWD: u8 = 15;
/// What there is to do.
const EVERY: std::ops::Range<u8> = 0..16;

// The guard changes.
const APPROVE: u8 = 0;
const REVOKE: u8 = 4;
const ANCHOR: u8 = 8;
const SET_PIN: u8 = 11;
const CLOSE: u8 = 15;

// Where in a step a choice lies.
const DEVICE: usize = 0;
const KEY: usize = 1;
const ACCOUNT: usize = 2;
const GUARD: usize = 3;
const VAULT: usize = 4;
const ATTACHES: usize = 6;
const LEARNS: usize = 7;

fn step(what: u8, its_own: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, 0, 0, 0, 0, 0, what], its_own].concat()
}

/// A step with some of its choices made otherwise.
fn but(mut step: Vec<u8>, choices: &[(usize, u8)]) -> Vec<u8> {
    choices.iter().for_each(|(at, value)| step[*at] = *value);
    step
}

/// A guard change, staged and committed.
fn change(which: u8, other: u8) -> [Vec<u8>; 2] {
    [step(CHANGE, &[which, other]), step(COMMIT, &[0, 0, 0])]
}

/// Sequences that reach every check, each step once by itself, and noise.
pub fn histories() -> Vec<Vec<u8>> {
    let newcomer = [(DEVICE, 1), (KEY, 1)];
    let charge = but(step(RECOVER, &[1, 0]), &newcomer);
    let touch = step(TOUCH, &[]);
    // An anchor; with it the account has two live guards.
    let grown = [
        &[step(CREATE, &[0])][..],
        &change(ANCHOR, 0),
        &[step(CREATE, &[1]), touch.clone(), step(DELETE, &[])],
    ]
    .concat();
    let on_grown = |probe: Vec<u8>| [&grown[..], &[probe]].concat();
    let histories: Vec<Vec<Vec<u8>>> = vec![
        on_grown(step(ASSERT, &[0])),
        // The older guard with the newer record, the older vault, the newer vault.
        on_grown(but(step(ASSERT, &[0]), &[(GUARD, 4)])),
        on_grown(but(touch.clone(), &[(GUARD, 4), (VAULT, 7)])),
        on_grown(but(touch.clone(), &[(GUARD, 4)])),
        // The older guard, after the device has seen the newer one.
        on_grown(but(touch.clone(), &[(GUARD, 4), (VAULT, 7), (LEARNS, 1)])),
        // Ledger reads: right, of the older guard, of another frame.
        on_grown(step(STATUS, &[])),
        on_grown(but(step(STATUS, &[]), &[(GUARD, 4), (VAULT, 7)])),
        on_grown(but(step(STATUS, &[]), &[(ATTACHES, 4)])),
        // A phone comes, acts, and goes; and would act on the guard from before.
        [
            &change(APPROVE, 1)[..],
            &[but(touch.clone(), &[(DEVICE, 1)])],
            &change(REVOKE, 1),
            &[but(touch.clone(), &[(DEVICE, 1)]), but(touch.clone(), &[(DEVICE, 1), (GUARD, 4)])],
        ]
        .concat(),
        // A staged guard as a live one.
        vec![step(CHANGE, &[APPROVE, 1]), but(touch.clone(), &[(ATTACHES, 3)])],
        // A right PIN step by step, everything twice; then its frame on all that came of it.
        vec![
            charge.clone(),
            step(SETTLE, &[1, 0, 0]),
            step(COMMIT, &[0, 0, 0]),
            step(SETTLE, &[0, 0, 0]),
            step(SETTLE, &[0, 0, 0]),
            step(COMMIT, &[0, 0, 0]),
            step(COMMIT, &[4, 0, 0]),
            step(REPLAY, &[0]),
            but(step(REPLAY, &[0]), &[(GUARD, 4)]),
            but(step(REPLAY, &[0]), &[(GUARD, 5)]),
        ],
        // A charge that is never settled: another transition takes its place.
        [&[charge.clone(), step(COMMIT, &[0, 0, 0])][..], &change(ANCHOR, 0), &[step(SETTLE, &[])]]
            .concat(),
        // Ten wrong PINs lock; a new PIN lifts that.
        [
            &[step(TRY, &[0, 9]), charge.clone()][..],
            &change(SET_PIN, 3),
            &[step(TRY, &[1, 0]), step(TRY, &[0, 10])],
        ]
        .concat(),
        // No room: whoever recovers takes the oldest's place.
        vec![step(CROWD, &[]), step(TRY, &[1, 1])],
        // The account ends, the next one opens; the first one's state opens nothing there.
        [
            &[step(TRY, &[0, 2])][..],
            &change(CLOSE, 0),
            &[
                charge.clone(),
                but(step(ENROLL, &[0]), &[(KEY, 1), (GUARD, 4)]),
                but(step(ENROLL, &[0]), &[(KEY, 1)]),
                step(COMMIT, &[0, 0, 0]),
                step(CREATE, &[0]),
                but(touch.clone(), &[(ACCOUNT, 7)]),
                but(touch.clone(), &[(ACCOUNT, 7), (ATTACHES, 1)]),
                step(TRY, &[1, 0]),
            ],
        ]
        .concat(),
    ];
    let histories = histories.into_iter().map(|steps| steps.concat());
    let every_step = EVERY.map(|what| step(what, &[0, 0]).repeat(6));
    // As long as a sequence can be: what grows from it is not cut short.
    let noise =
        (3..11u32).map(|start| (0..600u32).map(|at| (at * start * start / 5) as u8).collect());
    histories.chain(every_step).chain(noise).collect()
}
