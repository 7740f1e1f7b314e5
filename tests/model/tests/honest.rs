//! The honest host: with every death, loss and overlap in scope, every request ends, and well.

use keyfold_model::honest::{Client, END_WELL, Honest};
use keyfold_model::report::{counterexample, exhaust};
use keyfold_model::rules::Rules;
use keyfold_model::words::{Account, DECOY, Device, Op, Pin, REAL};

const RIGHT: Client = by(REAL, Device::Tablet(1), Op::Recover(Pin::Users(0)));
const WRONG: Client = by(REAL, Device::Tablet(2), Op::Recover(Pin::Wrong));
const APPROVE: Client = by(REAL, Device::Phone, Op::Approve(Device::Tablet(3)));
const SET_PIN: Client = by(REAL, Device::Phone, Op::ChangePin(Pin::Users(1)));
const DELETE: Client = by(REAL, Device::Phone, Op::Delete);
const ENROLL: Client = by(REAL, Device::Laptop, Op::Enroll(Pin::Users(0)));
const DECOYS: Client = by(DECOY, Device::Stranger(0), Op::Enroll(Pin::Thiefs));

const fn by(account: Account, device: Device, op: Op) -> Client {
    Client { account, device, op }
}

fn quiet(clients: &[Client]) -> Honest {
    let (rules, clients, open) = (Rules::ALL, clients.to_vec(), true);
    Honest { only: None, rules, clients, tries: 3, open, deaths: 0, losses: 0, doubles: 0 }
}

fn all_done(name: &str, model: Honest) {
    assert_eq!(exhaust(name, model), Vec::<&str>::new());
}

#[test]
fn one_recovery_through_every_trouble() {
    for tries in 1..=4 {
        all_done("alone", Honest { tries, deaths: 1, losses: 1, doubles: 1, ..quiet(&[RIGHT]) });
    }
}

#[test]
fn two_at_once_through_any_one_trouble() {
    for other in [WRONG, APPROVE, SET_PIN, DELETE] {
        for (deaths, losses, doubles) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            all_done("two", Honest { deaths, losses, doubles, ..quiet(&[RIGHT, other]) });
        }
    }
}

#[test]
fn three_at_once() {
    all_done("three", quiet(&[RIGHT, WRONG, SET_PIN]));
}

#[test]
fn an_enrolment_beside_a_decoy() {
    let clients = [ENROLL, DECOYS];
    let model = Honest { open: false, deaths: 1, losses: 1, doubles: 1, ..quiet(&clients) };
    all_done("enrolments", model);
}

/// The property that a request ends well can fail: two devices cannot open one account.
#[test]
fn a_second_enrolment_is_refused() {
    let clients = [ENROLL, Client { device: Device::Phone, ..ENROLL }];
    let model = Honest { only: Some(END_WELL), open: false, ..quiet(&clients) };
    assert!(counterexample(model, END_WELL).is_some());
}
