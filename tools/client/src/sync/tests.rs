//! What a host may try with a sync, each refused.

use keyfold_protocol::client::{Algorithm, PasskeyView, UserNames};
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::{
    Account, AccountId, CredentialId, DeviceId, Digest, SlotId, UserHandle,
};
use keyfold_protocol::wire::{self, Items};

use super::*;

const ACCOUNT: Account = Account { id: AccountId([9; 32]), generation: 1 };

fn state() -> AccountState {
    AccountState::new(ACCOUNT, DeviceId([1; 16]), "laptop".try_into().unwrap())
}

fn view(credential: u8) -> PasskeyView {
    PasskeyView {
        credential: CredentialId([credential; 32]),
        rp_id: "example.org".try_into().unwrap(),
        user_handle: UserHandle::from_slice(&[credential]).unwrap(),
        names: UserNames {
            name: "ana".try_into().unwrap(),
            display_name: "Ana".try_into().unwrap(),
        },
        algorithm: Algorithm::EdDsa,
    }
}

/// A vault's events: (action, slot), where odd digests make each event different.
struct History(Vec<SyncedEvent>);

impl History {
    fn new(events: &[(Action, u8)]) -> Self {
        let items = events.iter().zip(1..).map(|((action, slot), version)| SyncedEvent {
            event: Event {
                version,
                slot: SlotId([*slot; 32]),
                action: *action,
                digest: match action {
                    Action::Put => Digest([version as u8; 32]),
                    _ => Digest([0; 32]),
                },
            },
            passkey: None,
        });
        let mut items: Vec<_> = items.collect();
        for index in 0..items.len() {
            let event = items[index].event;
            let changes = |item: &SyncedEvent| {
                item.event.slot == event.slot && item.event.action != Action::Touch
            };
            let last = items.iter().rposition(changes);
            if event.action == Action::Put && last == Some(index) {
                items[index].passkey = Some(view(event.version as u8));
            }
        }
        Self(items)
    }

    fn point(&self, version: u64) -> ChainPoint {
        let start = Chain::Vault.genesis(sha256, &ACCOUNT);
        self.0[..version as usize].iter().fold(start, |point, item| {
            let head = sha256(&[
                b"keyfold/vault-chain/1",
                &point.head.0,
                &(point.version + 1).to_be_bytes(),
                &item.event.slot.0,
                &[match item.event.action {
                    Action::Put => 1,
                    Action::Delete => 2,
                    Action::Touch => 3,
                    Action::Audit => 4,
                }],
                &item.event.digest.0,
            ]);
            ChainPoint { version: point.version + 1, head: Digest(head) }
        })
    }

    fn head(&self) -> ChainPoint {
        self.point(self.0.len() as u64)
    }
}

/// A page of `items` leading to `cursor` under the sealed point `vault`.
fn page(
    fold: &mut Fold, items: &[SyncedEvent], cursor: ChainPoint, vault: ChainPoint,
) -> Result<bool, Error> {
    let mut bytes = Vec::new();
    for item in items {
        let mut buffer = [0; 1024];
        let used = wire::encode(item, &mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..used]);
    }
    fold.page(&Synced { guard: 1, vault, cursor, items: Items::new(&bytes) })
}

const EVENTS: [(Action, u8); 6] = [
    (Action::Put, 1),
    (Action::Put, 2),
    (Action::Put, 1),
    (Action::Touch, 0),
    (Action::Delete, 2),
    (Action::Put, 3),
];

#[test]
fn pages_fold_to_the_live_passkeys() {
    let history = History::new(&EVENTS);
    let mut fold = Fold::new(&state());
    assert!(!page(&mut fold, &history.0[..2], history.point(2), history.head()).unwrap());
    assert!(!page(&mut fold, &history.0[2..4], history.point(4), history.head()).unwrap());
    assert!(page(&mut fold, &history.0[4..], history.head(), history.head()).unwrap());
    let mut state = state();
    assert!(fold.finish().unwrap().apply(&mut state).unwrap());
    assert_eq!(state.vault, history.head());
    let versions: Vec<u64> = state.passkeys.iter().map(|passkey| passkey.version).collect();
    assert_eq!(versions, [3, 6]);
    assert_eq!(state.passkeys[0].record, Digest([3; 32]));

    // And again from there: nothing new.
    let mut fold = Fold::new(&state);
    assert!(page(&mut fold, &[], history.head(), history.head()).unwrap());
    assert!(!fold.finish().unwrap().apply(&mut state).unwrap());
}

#[test]
fn an_incremental_sync_supersedes_and_deletes() {
    let history = History::new(&EVENTS);
    let mut state = state();
    let before = History::new(&EVENTS[..4]);
    let mut fold = Fold::new(&state);
    page(&mut fold, &before.0, before.head(), before.head()).unwrap();
    fold.finish().unwrap().apply(&mut state).unwrap();
    assert_eq!(state.passkeys.len(), 2);
    let mut fold = Fold::new(&state);
    page(&mut fold, &history.0[4..], history.head(), history.head()).unwrap();
    fold.finish().unwrap().apply(&mut state).unwrap();
    let slots: Vec<u8> = state.passkeys.iter().map(|passkey| passkey.slot.0[0]).collect();
    assert_eq!(slots, [1, 3]);
}

#[test]
fn hostile_pages_are_refused() {
    type Attack = fn(&mut Vec<SyncedEvent>);
    let attacks: [(&str, Attack); 9] = [
        ("hides an event", |items| drop(items.remove(3))),
        ("hides the last event", |items| drop(items.pop())),
        ("swaps two events", |items| items.swap(0, 1)),
        ("repeats an event", |items| items.insert(1, items[0].clone())),
        ("changes a slot", |items| items[1].event.slot = SlotId([7; 32])),
        ("changes a digest", |items| items[0].event.digest = Digest([7; 32])),
        ("turns a deletion into a touch", |items| items[4].event.action = Action::Touch),
        ("resurrects a deleted passkey", |items| items[4].passkey = Some(view(2))),
        ("mixes in the other chain", |items| items[3].event.action = Action::Audit),
    ];
    for (what, attack) in attacks {
        let history = History::new(&EVENTS);
        let mut items = history.0.clone();
        attack(&mut items);
        let mut fold = Fold::new(&state());
        let result = page(&mut fold, &items, history.head(), history.head());
        assert!(matches!(result, Err(Error::Sync(SyncError::Broken { .. }))), "{what}: {result:?}");
    }
}

#[test]
fn a_withheld_passkey_is_refused_unless_a_later_event_supersedes_it() {
    let history = History::new(&EVENTS);
    let mut items = history.0.clone();
    items[5].passkey = None;
    let mut fold = Fold::new(&state());
    assert!(page(&mut fold, &items, history.head(), history.head()).unwrap());
    let error = fold.finish().err();
    assert!(matches!(error, Some(Error::Sync(SyncError::RecordMissing { at: 6 }))), "{error:?}");
    // Event 1 came without its passkey in every test here: event 3 supersedes it.
    assert!(history.0[0].passkey.is_none());
}

#[test]
fn a_sync_that_stops_early_is_refused() {
    let history = History::new(&EVENTS);
    let mut fold = Fold::new(&state());
    assert!(!page(&mut fold, &history.0[..3], history.point(3), history.head()).unwrap());
    let stuck = page(&mut fold, &[], history.point(3), history.head());
    let expected = SyncError::Incomplete { reached: 3, head: 6 };
    assert!(matches!(stuck, Err(Error::Sync(error)) if error == expected));
    assert!(matches!(fold.finish(), Err(Error::Sync(error)) if error == expected));
}

#[test]
fn an_older_or_another_vault_raises_the_alarm() {
    let history = History::new(&EVENTS);
    let mut state = state();
    let mut fold = Fold::new(&state);
    page(&mut fold, &history.0, history.head(), history.head()).unwrap();
    fold.finish().unwrap().apply(&mut state).unwrap();

    let older = page(&mut Fold::new(&state), &[], history.head(), history.point(5));
    assert!(matches!(alarm(older), Fork::VaultRolledBack { .. }));
    let other = ChainPoint { version: 6, head: Digest([7; 32]) };
    let forked = page(&mut Fold::new(&state), &[], history.head(), other);
    assert!(matches!(alarm(forked), Fork::VaultForked { .. }));
    // The head may rise between pages, never fall.
    let mut fold = Fold::new(&self::state());
    page(&mut fold, &history.0[..2], history.point(2), history.point(5)).unwrap();
    let fell = page(&mut fold, &history.0[2..4], history.point(4), history.point(4));
    assert!(matches!(alarm(fell), Fork::VaultRolledBack { .. }));
}

#[test]
fn the_point_another_device_told_must_be_passed() {
    let history = History::new(&EVENTS);
    let other = History::new(&[(Action::Put, 1), (Action::Put, 5), (Action::Put, 6)]);
    for (floor, items, fits) in [
        (history.point(4), &history, true),
        (history.head(), &history, true),
        (history.point(2), &other, false),
        (history.head(), &other, false),
    ] {
        let mut state = state();
        state.vault_floor = Some(floor);
        let mut fold = Fold::new(&state);
        page(&mut fold, &items.0, items.head(), items.head()).unwrap();
        let result = fold.finish().and_then(|folded| folded.apply(&mut state));
        assert_eq!(result.is_ok(), fits, "{floor:?}");
        assert_eq!(state.vault_floor.is_none(), fits);
    }
}

#[test]
fn another_process_that_moved_on_is_neither_undone_nor_contradicted() {
    let history = History::new(&EVENTS);
    let sync = |to: u64| {
        let mut fold = Fold::new(&state());
        let items = History::new(&EVENTS[..to as usize]);
        page(&mut fold, &items.0, history.point(to), history.point(to)).unwrap();
        fold.finish().unwrap()
    };
    let mut shared = state();
    assert!(sync(6).apply(&mut shared).unwrap());
    assert!(!sync(4).apply(&mut shared).unwrap());
    assert_eq!(shared.vault, history.head());

    let mut shared = state();
    shared.vault = ChainPoint { version: 3, head: Digest([7; 32]) };
    assert!(matches!(alarm(sync(6).apply(&mut shared)), Fork::VaultForked { .. }));
}

fn alarm<T: std::fmt::Debug>(result: Result<T, Error>) -> Fork {
    match result {
        Err(Error::ForkAlarm(alarm)) => alarm.kind,
        other => panic!("no alarm: {other:?}"),
    }
}

proptest::proptest! {
    /// Whatever the history and wherever the pages end, what is folded is what each slot's last
    /// event says, and one event left out anywhere is noticed.
    #[test]
    fn any_history_folds_to_its_last_events_and_misses_none(
        events in proptest::collection::vec((0..3_u8, 1..5_u8), 1..40),
        page_size in 1..10_usize,
        hidden in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let actions = [Action::Put, Action::Delete, Action::Touch];
        let events: Vec<_> =
            events.iter().map(|(kind, slot)| (actions[usize::from(*kind)], *slot)).collect();
        let history = History::new(&events);
        let mut fold = Fold::new(&state());
        let mut cursor = 0;
        for items in history.0.chunks(page_size) {
            cursor += items.len() as u64;
            page(&mut fold, items, history.point(cursor), history.head()).unwrap();
        }
        let mut folded = state();
        fold.finish().unwrap().apply(&mut folded).unwrap();
        let expected: std::collections::BTreeMap<_, _> = history.0.iter()
            .filter(|item| item.event.action != Action::Touch)
            .map(|item| (item.event.slot, item.passkey.as_ref().map(|view| view.credential)))
            .collect();
        let expected: Vec<_> =
            expected.into_iter().filter_map(|(slot, last)| Some((slot, last?))).collect();
        let found: Vec<_> =
            folded.passkeys.iter().map(|passkey| (passkey.slot, passkey.credential)).collect();
        proptest::prop_assert_eq!(found, expected);

        let mut items = history.0.clone();
        items.remove(hidden.index(items.len()));
        let mut fold = Fold::new(&state());
        let result = page(&mut fold, &items, history.head(), history.head());
        proptest::prop_assert!(result.is_err());
    }
}
