//! The store: what lands on disk, what is refused, what survives two writers.

use keyfold_attestation_policy::statement::SeenStatement;
use keyfold_attestation_policy::values::Sha256;
use keyfold_protocol::client::{Algorithm, KeyKind, UserNames};
use keyfold_protocol::ids::{
    Account, AccountId, ChainPoint, CredentialId, DeviceId, Digest, SlotId, UserHandle,
};

use super::*;
use crate::device::{DeviceKeys, SoftwareKeys};

fn example() -> State {
    let account = Account { id: AccountId([0xaa; 32]), generation: 1 };
    let mut state = AccountState::new(account, DeviceId([0xbb; 16]), "laptop".try_into().unwrap());
    state.registered = true;
    state.guard_seen = 7;
    state.audit = ChainPoint { version: 6, head: Digest([0xcc; 32]) };
    state.audit_told = ChainPoint { version: 5, head: Digest([0xcb; 32]) };
    state.vault = ChainPoint { version: 9, head: Digest([0xdd; 32]) };
    state.vault_floor = Some(ChainPoint { version: 8, head: Digest([0xee; 32]) });
    state.passkeys.push(Passkey {
        slot: SlotId([1; 32]),
        version: 9,
        record: Digest([2; 32]),
        credential: CredentialId([3; 32]),
        rp_id: "example.org".try_into().unwrap(),
        user_handle: UserHandle::from_slice(&[4, 5]).unwrap(),
        names: UserNames {
            name: "ana".try_into().unwrap(),
            display_name: "Ana".try_into().unwrap(),
        },
        algorithm: Algorithm::Es256,
    });
    State {
        deployment: Some(SeenStatement { serial: 3, payload: Sha256::new([0x11; 32]) }),
        account: Some(state),
        ..State::default()
    }
}

fn put(store: &Store, state: &State) {
    let changed = |to: &mut State| {
        *to = state.clone();
        Ok::<_, StoreError>(())
    };
    store.update(changed).unwrap();
}

fn temporary() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("account")).unwrap();
    (directory, store)
}

#[test]
fn the_file_is_the_golden_one() {
    let (_directory, store) = temporary();
    assert_eq!(store.load().unwrap(), State::default());
    put(&store, &example());
    let golden = include_str!("golden/state-1.json");
    assert_eq!(fs::read_to_string(store.path(STATE)).unwrap(), golden.trim_end());
    assert_eq!(store.load().unwrap(), example());
}

#[test]
fn what_is_not_a_state_file_is_refused() {
    let (_directory, store) = temporary();
    put(&store, &example());
    let good = fs::read_to_string(store.path(STATE)).unwrap();
    let cases: [(&str, String); 6] = [
        ("cut", good[..good.len() - 4].into()),
        ("newer", good.replace("\"format\": 1", "\"format\": 2")),
        ("older", good.replace("\"format\": 1", "\"format\": 0")),
        ("unknown field", good.replace("\"serial\"", "\"cereal\": 1, \"serial\"")),
        ("short id", good.replace("aaaaaaaa\"", "\"")),
        ("name too long", good.replace("laptop", &"l".repeat(65))),
    ];
    for (what, text) in cases {
        fs::write(store.path(STATE), text).unwrap();
        let error = store.load().unwrap_err();
        match what {
            "newer" => assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. })),
            _ => assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error}"),
        }
        // Nor is it overwritten.
        assert!(store.update(|_| Ok::<_, StoreError>(())).is_err(), "{what}");
    }
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, store) = temporary();
    put(&store, &example());
    let passphrase = Passphrase::new("open sesame").unwrap();
    store.save_keys(&SoftwareKeys::generate(), &passphrase).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.directory()), 0o700);
    for entry in fs::read_dir(store.directory()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
    for name in [STATE, "presence.key", "uv.key"] {
        fs::set_permissions(store.path(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    assert!(matches!(store.load(), Err(StoreError::Permissions { mode: "600", .. })));
    assert!(matches!(store.load_keys(), Err(StoreError::Permissions { .. })));
    fs::set_permissions(store.directory(), fs::Permissions::from_mode(0o750)).unwrap();
    let reopened = Store::open(store.directory());
    assert!(matches!(reopened, Err(StoreError::Permissions { mode: "700", .. })));
}

#[test]
fn a_failed_change_writes_nothing_and_leaves_no_file_behind() {
    let (_directory, store) = temporary();
    put(&store, &example());
    let failed: Result<(), StoreError> = store.update(|state| {
        state.account = None;
        Err(StoreError::WrongPassphrase)
    });
    assert!(failed.is_err());
    assert_eq!(store.load().unwrap(), example());
    let names: Vec<_> = fs::read_dir(store.directory()).unwrap().collect();
    assert_eq!(names.len(), 2, "state and lock: {names:?}");
}

#[test]
fn two_writers_lose_no_update() {
    let (_directory, store) = temporary();
    put(&store, &example());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let raise = |state: &mut State| {
                        state.account.as_mut().unwrap().guard_seen += 1;
                        Ok::<_, StoreError>(())
                    };
                    store.update(raise).unwrap();
                }
            });
        }
    });
    assert_eq!(store.load().unwrap().account.unwrap().guard_seen, 7 + 100);
}

#[tokio::test]
async fn the_uv_key_opens_with_its_passphrase_only() {
    let (_directory, store) = temporary();
    let passphrase = Passphrase::new("caf\u{e9} au lait").unwrap();
    assert!(matches!(store.load_keys(), Err(StoreError::NoKeys { .. })));
    let made = SoftwareKeys::generate();
    store.save_keys(&made, &passphrase).unwrap();
    let others = store.save_keys(&SoftwareKeys::generate(), &passphrase);
    assert!(matches!(others, Err(StoreError::KeysExist { .. })));

    let loaded = store.load_keys().unwrap();
    assert_eq!(loaded.id(), made.id());
    assert!(!loaded.is_unlocked());
    let wrong = store.unlock(&loaded, &Passphrase::new("tea").unwrap());
    assert!(matches!(wrong, Err(StoreError::WrongPassphrase)));
    store.unlock(&loaded, &Passphrase::new("cafe\u{301} au lait").unwrap()).unwrap();
    assert!(loaded.sign(KeyKind::UserVerification, b"m").await.is_ok());

    let tea = Passphrase::new("tea").unwrap();
    assert!(store.change_passphrase(&tea, &passphrase).is_err());
    store.change_passphrase(&passphrase, &tea).unwrap();
    loaded.lock();
    assert!(matches!(store.unlock(&loaded, &passphrase), Err(StoreError::WrongPassphrase)));
    store.unlock(&loaded, &tea).unwrap();
}

#[test]
fn the_uv_key_is_not_in_the_file_and_its_public_key_cannot_be_swapped() {
    let (_directory, store) = temporary();
    let passphrase = Passphrase::new("tea").unwrap();
    store.save_keys(&SoftwareKeys::generate(), &passphrase).unwrap();
    let mine = fs::read_to_string(store.path("uv.key")).unwrap();
    assert!(!mine.contains("tea"));
    let (_other_directory, other) = temporary();
    other.save_keys(&SoftwareKeys::generate(), &passphrase).unwrap();
    let theirs = fs::read_to_string(other.path("uv.key")).unwrap();
    let field = |text: &str| {
        serde_json::from_str::<serde_json::Value>(text).unwrap()["public_key"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let swapped = mine.replace(&field(&mine), &field(&theirs));
    assert_ne!(swapped, mine);
    fs::write(store.path("uv.key"), swapped).unwrap();
    let keys = store.load_keys().unwrap();
    assert!(matches!(store.unlock(&keys, &passphrase), Err(StoreError::WrongPassphrase)));
}

#[test]
fn an_empty_passphrase_is_none() {
    assert!(Passphrase::new("").is_none());
}
