//! One run: who does what, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use keyfold_host::problem::Kind as Problem;
use keyfold_protocol::client::{Class, KeyKind, Recover, Refusal, Request, StretchedPin};
use keyfold_protocol::ids::{Account, AccountId, DeviceId};
use keyfold_protocol::limits::TRIES;

use crate::disk::Disk;
use crate::faults::Chance;
use crate::history::{self, recorded};
use crate::host::{Host, Surroundings, Weather};
use crate::hostile;
use crate::people::{Heard, Somebody};

/// Things done in a run.
const STEPS: usize = 14;

/// Whether the host means well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Honest,
    Hostile,
}

/// What happened, line by line.
pub(crate) type Tale = Vec<String>;

/// How often the things happened that a simulation is for.
#[derive(Debug, Default)]
pub(crate) struct Told {
    runs: usize,
    recovered: usize,
    wrong: usize,
    locked: usize,
    deaths: usize,
    unheard: usize,
    revoked: usize,
    ended: usize,
    opened: usize,
    restored: usize,
    contradicted: usize,
    staged_again: usize,
    posted_again: usize,
    decoys: usize,
}

impl Told {
    pub(crate) fn add(&mut self, tale: &Tale) {
        let count = |what: &str| tale.iter().filter(|line| line.contains(what)).count();
        self.runs += 1;
        self.recovered += count("recovers: Changed");
        self.wrong += count("WrongPin");
        self.locked += count("Locked");
        self.deaths += count("dies");
        self.unheard += count("Unreachable") + count("Nothing");
        self.revoked += count("revokes: Changed");
        self.ended += count("ends the account: Changed");
        self.opened += count("opens the next account: Changed");
        self.restored += count("old disk");
        self.contradicted += count("LedgerRefused");
        self.staged_again += count("a kept frame is staged");
        self.posted_again += count("posted again");
        self.decoys += count("decoy");
    }

    /// Nothing is shown by runs in which nothing happens.
    pub(crate) fn check(&self, kind: Kind) {
        let some = [
            self.recovered,
            self.wrong,
            self.locked,
            self.deaths,
            self.unheard,
            self.revoked,
            self.ended,
            self.opened,
        ];
        let hostile =
            [self.restored, self.contradicted, self.staged_again, self.posted_again, self.decoys];
        if self.runs >= 200 {
            assert!(some.iter().all(|count| *count > 0), "{self:?}");
            assert!(kind == Kind::Honest || hostile.iter().all(|count| *count > 0), "{self:?}");
        }
    }
}

pub(crate) struct Story {
    pub(crate) kind: Kind,
    pub(crate) around: Surroundings,
    pub(crate) chance: Chance,
    pub(crate) weather: Weather,
    /// What the ledger's history is about.
    pub(crate) disk: Disk,
    pub(crate) hosts: Vec<Host>,
    /// Copies from before.
    pub(crate) backups: Vec<Disk>,
    /// The person's accounts, oldest first; the last is the one in use.
    pub(crate) accounts: Vec<Account>,
    pub(crate) laptop: Somebody,
    /// Devices that the laptop approved, or asked to.
    pub(crate) friends: Vec<Somebody>,
    /// Whose devices may be registered.
    pub(crate) rightful: BTreeMap<Account, BTreeSet<DeviceId>>,
    /// The PIN, and every PIN it ever was or may yet become.
    pub(crate) pin: [u8; 32],
    pub(crate) pins: Vec<[u8; 32]>,
    /// Somebody guesses as fast as they can.
    besieged: bool,
    tale: Tale,
    aloud: bool,
}

/// Plays a seed to its end, and checks it.
pub(crate) fn play(kind: Kind, seed: u64, aloud: bool) -> Tale {
    // What the host draws for its waits.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut story = Story::begin(kind, seed, aloud).await;
        for _ in 0..STEPS {
            story.step().await;
        }
        story.end().await
    })
}

impl Story {
    async fn begin(kind: Kind, seed: u64, aloud: bool) -> Self {
        let chance = Chance::new(seed);
        let around = Surroundings::new(chance.clone());
        let account = Account { id: AccountId([0xac; 32]), generation: 1 };
        let (disk, pin) = (Disk::default(), [9; 32]);
        let hosts = vec![around.host(&disk, Weather::default()).await];
        let often = |most: usize| (!chance.once_in(3)).then(|| 4 + chance.below(most));
        let weather = Weather { disk: often(60), ledger: often(30), enclave: often(60) };
        let besieged = chance.once_in(4);
        let mut story = Self {
            kind,
            around,
            chance,
            weather,
            disk,
            hosts,
            // A host that never heard of anybody.
            backups: vec![Disk::default()],
            accounts: vec![account],
            laptop: Somebody::new("laptop", account),
            friends: Vec::new(),
            rightful: BTreeMap::new(),
            pin,
            pins: vec![pin],
            besieged,
            tale: Vec::new(),
            aloud,
        };
        let id = story.laptop.device.id();
        story.expect(id);
        let heard = story.laptop_enrolls().await;
        assert!(matches!(heard, Heard::Changed(_)), "{heard:?}");
        if kind == Kind::Hostile {
            story.somebody_else_enrolls().await;
        }
        story.backups.push(story.disk.copy());
        story.restart().await;
        story
    }

    /// The account in use.
    pub(crate) fn account(&self) -> Account {
        *self.accounts.last().expect("one from the start")
    }

    /// From now on this device may be registered in the account in use.
    pub(crate) fn expect(&mut self, device: DeviceId) {
        self.rightful.entry(self.account()).or_default().insert(device);
    }

    pub(crate) fn say(&mut self, line: String) {
        if self.aloud {
            println!("{line}");
        }
        self.tale.push(line);
    }

    async fn step(&mut self) {
        self.learn_from_the_ledger();
        let what = if self.besieged && self.chance.once_in(2) { 8 } else { self.chance.below(18) };
        match what {
            0..5 => self.tries(&[false]).await,
            5..7 => self.tries(&[true]).await,
            7 => self.tries(&[false, true]).await,
            8 => self.tries(&[false, false]).await,
            9 | 10 => self.laptop_does().await,
            11 => self.finish_what_waits().await,
            12 => self.somebody_dies().await,
            13 => self.second_host().await,
            14 if self.kind == Kind::Hostile => self.back_in_time().await,
            15 if self.kind == Kind::Hostile => self.feed_cores(),
            16 if self.kind == Kind::Hostile => self.post_again().await,
            17 if self.kind == Kind::Hostile => self.decoy(),
            16 | 17 => self.laptop_does().await,
            _ => self.restart().await,
        }
        if self.chance.once_in(3) {
            self.backups.push(self.disk.copy());
        }
        self.check();
    }

    /// What every run must keep, of every account.
    fn check(&self) {
        for (account, rightful) in &self.rightful {
            history::check(&self.around, account, rightful);
        }
        let next = [hostile::next(self.account())];
        history::check_one_open(&self.around, &[&self.accounts[..], &next].concat());
    }

    pub(crate) fn any_host(&self) -> &Host {
        &self.hosts[self.chance.below(self.hosts.len())]
    }

    /// Every host dies at once; one starts again on the newest disk.
    async fn restart(&mut self) {
        self.say("all hosts die; one starts on the newest disk".into());
        self.restart_in(self.weather).await;
    }

    pub(crate) async fn restart_in(&mut self, weather: Weather) {
        self.hosts.iter().for_each(|host| host.power.cut());
        self.hosts = vec![self.around.host(&self.disk, weather).await];
    }

    async fn second_host(&mut self) {
        self.say("another host starts on the same disk".into());
        let host = self.around.host(&self.disk, self.weather).await;
        self.hosts.push(host);
    }

    /// Whatever happens next, some host does not survive it.
    async fn somebody_dies(&mut self) {
        let steps = self.chance.below(14);
        self.say(format!("a host dies in {steps} steps"));
        self.any_host().power.cut_after(steps);
        match self.chance.below(3) {
            0 => self.tries(&[true]).await,
            1 => self.tries(&[false]).await,
            _ => self.laptop_does().await,
        }
        if self.hosts.iter().all(|host| host.power.is_off()) {
            self.restart().await;
        } else {
            self.hosts.retain(|host| !host.power.is_off());
        }
    }

    async fn finish_what_waits(&mut self) {
        let host = self.any_host();
        let finished =
            tokio::time::timeout(std::time::Duration::from_secs(600), host.service.recover(0))
                .await;
        let line = format!("a host finishes what waits: {finished:?}");
        self.say(line);
    }

    /// New devices try a PIN at the same time, each at some host.
    async fn tries(&mut self, right: &[bool]) {
        let mut people = Vec::new();
        for is_right in right {
            let somebody = Somebody::new("new", self.account());
            if *is_right {
                self.expect(somebody.device.id());
            }
            let host = self.chance.below(self.hosts.len());
            people.push((somebody, *is_right, host));
        }
        let (hosts, pin) = (&self.hosts, self.pin);
        let tries = people.into_iter().map(|(mut somebody, is_right, host)| async move {
            let pin = if is_right { pin } else { [1; 32] };
            let heard = recover(&mut somebody, &hosts[host], pin).await;
            (somebody, is_right, heard)
        });
        for (mut somebody, is_right, heard) in futures_util::future::join_all(tries).await {
            self.say(format!(
                "somebody {} recovers: {}",
                if is_right { "rightful" } else { "else" },
                brief(&heard)
            ));
            match &heard {
                Heard::Changed(changed) => {
                    assert!(is_right, "a wrong PIN recovers");
                    history::check_success(&self.around, &somebody.account, changed);
                    self.check_registered(&mut somebody).await;
                }
                Heard::Refused(Refusal::WrongPin(_)) => {
                    // Only a PIN that was still on its way can have taken the place of this one.
                    let was_set = is_right && self.kind == Kind::Hostile && self.pin_has_moved();
                    assert!(!is_right || was_set, "the right PIN is wrong");
                }
                _ => {}
            }
        }
    }

    /// What was acknowledged is there, and its device is served.
    async fn check_registered(&mut self, somebody: &mut Somebody) {
        let versions = recorded(&self.around, &somebody.account);
        let newest = versions.last().expect("an account");
        let id = somebody.device.id();
        assert!(
            newest.guard.devices.iter().any(|(known, _)| *known == id),
            "acknowledged, and gone"
        );
        let heard = look(&self.around, somebody, self.any_host()).await;
        assert!(!matches!(heard, Heard::Refused(Refusal::Unauthorised)), "not let in");
    }

    /// With everything well again, everything ends; then the account is as the ledger says.
    async fn end(mut self) -> Tale {
        self.restart_in(Weather::default()).await;
        let waiting = self.hosts[0].service.recover(0).await;
        self.learn_from_the_ledger();
        self.check();
        let status = look(&self.around, &mut self.laptop, &self.hosts[0]).await;
        self.say(format!("at the end {waiting} wait, and the laptop hears: {}", brief(&status)));
        if self.kind == Kind::Honest {
            assert_eq!(waiting, 0, "something waits forever");
            let versions = recorded(&self.around, &self.account());
            let newest = &versions.last().expect("an account").guard;
            let listed = newest.devices.iter().any(|(id, _)| *id == self.laptop.device.id());
            match &status {
                Heard::Status(status) => {
                    assert_eq!((status.guard, status.failures), (newest.version, newest.failures));
                }
                Heard::Refused(Refusal::Unauthorised) => assert!(!listed, "a device is gone"),
                other => panic!("an honest host does not answer: {other:?}"),
            }
            let mut new = Somebody::new("new", self.account());
            self.expect(new.device.id());
            let heard = recover(&mut new, &self.hosts[0], self.pin).await;
            match heard {
                Heard::Changed(_) => assert!(newest.failures < TRIES),
                Heard::Refused(Refusal::Locked) => assert_eq!(newest.failures, TRIES),
                other => panic!("the right PIN does not recover: {other:?}"),
            }
        }
        self.tale
    }
}

/// One try at the version the core names; again where that had moved, as a client does.
async fn recover(somebody: &mut Somebody, host: &Host, pin: [u8; 32]) -> Heard {
    let mut guard = 0;
    for _ in 0..8 {
        let patience = std::time::Duration::from_secs(60);
        let heads = tokio::time::timeout(patience, host.service.heads(somebody.account.id)).await;
        match heads {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Heard::Problem(Problem::AccountUnknown),
            Ok(Err(problem)) => return Heard::Problem(problem.kind),
            Err(_) => return Heard::Nothing,
        }
        let (pin, device) = (StretchedPin(pin), somebody.device.public());
        let request = Request::Recover(Recover { guard, pin, device });
        match somebody.ask(host, &request, KeyKind::Presence, Class::Recover).await {
            Heard::Refused(Refusal::GuardAt(version)) => guard = version,
            Heard::Problem(Problem::GuardMoved) => guard = 0,
            heard => return heard,
        }
    }
    Heard::Problem(Problem::GuardMoved)
}

/// Reads the account. What a Status says was so when the ledger confirmed it: not before it was
/// asked for, and with the device that asked among those registered.
pub(crate) async fn look(around: &Surroundings, somebody: &mut Somebody, host: &Host) -> Heard {
    let before = recorded(around, &somebody.account).len();
    let heard = somebody.status(host).await;
    if let Heard::Status(status) = &heard {
        assert!(
            usize::try_from(status.guard).is_ok_and(|is| is >= before),
            "an old guard confirmed"
        );
        let versions = recorded(around, &somebody.account);
        let at = versions.iter().find(|at| at.guard.version == status.guard).expect("recorded");
        assert_eq!(status.failures, at.guard.failures);
        let id = somebody.device.id();
        assert!(at.guard.devices.iter().any(|(known, _)| *known == id), "a revoked device reads");
    }
    heard
}

pub(crate) fn brief(heard: &Heard) -> String {
    match heard {
        Heard::Changed(changed) => format!("Changed to {}", changed.guard),
        Heard::Status(status) => format!("version {}, {} failures", status.guard, status.failures),
        other => format!("{other:?}"),
    }
}
