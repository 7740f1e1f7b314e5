//! Recovery by PIN, from a new device's command line to the ledger: right and wrong, ten wrong in a
//! row, a ledger that is down, a host that restores an old database, and the end of an account.

use std::path::Path;
use std::time::{Duration, Instant};

use keyfold_local::Deployment;
use serde_json::{Value, json};

use crate::account::names;
use crate::common;
use crate::device::{Device, PIN, failure, json, words};
use crate::operations::copy_database;
use crate::relying_party::{ES256, ORIGIN, RelyingParty};

/// How long the service may take to finish what an outage left.
const PATIENCE: Duration = Duration::from_secs(40);

/// A person's laptop with an account, and a passkey at the site.
pub(crate) struct Scene {
    pub(crate) deployment: Deployment,
    pub(crate) laptop: Device,
    pub(crate) site: RelyingParty,
    pub(crate) credential: String,
}

impl Scene {
    async fn new(name: &str) -> Self {
        Self::of(common::deployment(name).await)
    }

    /// The same at a deployment that runs already.
    pub(crate) fn of(deployment: Deployment) -> Self {
        let laptop = Device::new("alice", "laptop", &deployment, &deployment.trust_root);
        laptop.enroll();
        let mut site = RelyingParty::webauthn_rs();
        let asked = site.register("alice", &[ES256], "required", json!({}));
        let credential =
            site.finish(&asked, &laptop.create(&asked.options)).expect("accepted").credential;
        Self { deployment, laptop, site, credential }
    }

    /// Another device of the same person.
    fn device(&self, name: &'static str) -> Device {
        Device::new("alice", name, &self.deployment, &self.deployment.trust_root)
    }

    pub(crate) fn signs_in(&mut self, device: &Device) {
        let asked = self.site.authenticate(&self.credential, "required", json!({}));
        self.site.finish(&asked, &device.sign_in(&asked.options)).expect("accepted");
    }

    /// How recovery stands: failures, and failures since the last look.
    fn failures(&self) -> (Value, Value) {
        let status = self.laptop.ok(&["status"]);
        let recovery = &status["recovery"];
        (recovery["failures"].clone(), recovery["failed_since"].clone())
    }

    fn kinds(&self) -> Vec<String> {
        let audit = self.laptop.ok(&["audit", "--verify"]);
        let events = audit["events"].as_array().into_iter().flatten();
        events.map(|event| event["kind"].as_str().expect("a kind").to_owned()).collect()
    }
}

#[tokio::test]
async fn the_pin_brings_everything_back_and_ten_wrong_ones_lock() {
    let mut scene = Scene::new("e2e-recovery").await;
    let nobody = Device::new("zoe", "phone", &scene.deployment, &scene.deployment.trust_root);
    nobody.fails_to_recover(PIN, 4, "no-account");

    let phone = scene.device("phone");
    let recovered = phone.recover(PIN);
    assert_eq!(names(&recovered), ["laptop", "phone"]);
    assert_eq!((&recovered["passkeys"], &recovered["guard"]), (&json!(1), &json!(3)));
    scene.signs_in(&phone);
    phone.fails_to_recover(PIN, 4, "already-registered");
    assert_eq!(phone.ok(&["doctor"])["healthy"], true);

    // Ten in a row. What is no PIN costs nothing.
    let stranger = scene.device("stranger");
    stranger.fails_to_recover("short", 2, "pin-refused");
    assert_eq!(scene.failures(), (json!(0), json!(0)));
    for left in (1..10).rev() {
        // Common ones are tried as any other: the account's may be older than the list.
        let output = stranger.run(&words(&stranger.recovering("123456")), "");
        let said = failure(&output, "a wrong PIN", 10, "wrong-pin");
        let error = json(output.stderr.split(|byte| *byte == b'\n').nth_back(1).expect("a line"));
        assert_eq!(error["error"]["tries_left"], left, "{said}");
        if left == 9 {
            assert_eq!(scene.failures(), (json!(1), json!(1)));
            assert_eq!(scene.failures(), (json!(1), json!(0)), "told once");
        }
    }
    let said = stranger.fails_to_recover("123456", 11, "recovery-locked");
    assert!(said.contains("sets a new PIN"), "{said}");
    stranger.fails_to_recover(PIN, 11, "recovery-locked");
    let status = scene.laptop.ok(&["status"]);
    let expected = json!({"failures": 10, "tries_left": 0, "locked": true, "failed_since": 9});
    assert_eq!(status["recovery"], expected);
    let laptop = scene.laptop.clone();
    scene.signs_in(&laptop);

    // A trusted device lifts it.
    let change = |device: &Device, pin: &str, exit: i32, code: &str| {
        device.fails(&["pin", "change", "--pin-file", &device.pin_file(pin)], exit, code)
    };
    change(&laptop, "123456", 2, "pin-refused");
    change(&laptop.unattended(), "new horse 20", 4, "no-passphrase");
    change(&stranger, "new horse 20", 4, "not-registered");
    stranger.fails_to_recover(PIN, 11, "recovery-locked");
    laptop.ok(&["pin", "change", "--pin-file", &laptop.pin_file("new horse 20")]);
    assert_eq!(scene.failures(), (json!(0), json!(0)));
    stranger.fails_to_recover(PIN, 10, "wrong-pin");
    assert_eq!(names(&stranger.recover("new horse 20")), ["laptop", "phone", "stranger"]);
    scene.signs_in(&stranger);

    let audit = laptop.ok(&["audit", "--verify"]);
    let verified = &audit["verified"];
    let found = [&verified["recoveries"], &verified["failed_tries"], &verified["failures"]];
    assert_eq!(found, [&json!(2), &json!(11), &json!(0)]);
    for pin in [PIN, "new horse 20"] {
        nowhere(&scene.deployment.folder, pin);
    }
}

/// That a secret is in no file but those that it was typed into.
fn nowhere(folder: &Path, pin: &str) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            nowhere(&path, pin);
        } else if !["pin", "typed-pin"].contains(&name) {
            let content = std::fs::read(&path).unwrap_or_default();
            let found = content.windows(pin.len()).any(|part| part == pin.as_bytes());
            assert!(!found, "the PIN is in {}", path.display());
        }
    }
}

#[tokio::test]
async fn recoveries_at_the_same_time_all_end() {
    let scene = Scene::new("e2e-recoveries").await;
    let tries =
        [("phone", PIN), ("tablet", PIN), ("stranger", "another horse")].map(|(name, pin)| {
            let device = scene.device(name);
            let child = device.start_recovering(pin);
            (name, child)
        });
    for (name, child) in tries {
        let output = child.wait_with_output().expect("keyfold ends");
        match name {
            "stranger" => drop(failure(&output, name, 10, "wrong-pin")),
            _ => assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
    let mut registered = scene.laptop.ok(&["devices", "list"]);
    let devices = registered["devices"].as_array_mut().expect("devices");
    devices.sort_by_key(|device| device["name"].to_string());
    assert_eq!(names(&registered), ["laptop", "phone", "tablet"]);
    let kinds = scene.kinds();
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!((count("recovered"), count("pin-wrong")), (2, 1), "{kinds:?}");
}

#[tokio::test]
async fn without_the_ledger_nobody_recovers_and_signing_in_goes_on() {
    let mut scene = Scene::new("e2e-recovery-outage").await;
    let phone = scene.device("phone");
    // Signed in, and known to nobody: what fails below fails for want of the ledger.
    phone.fails_to_recover("another horse", 10, "wrong-pin");
    let ledger = Outage::start(&scene.deployment).await;
    let laptop = scene.laptop.clone();
    let output = phone.run(&words(&phone.recovering(PIN)), "");
    let said = failure(&output, "recovering", 5, "ledger-unreachable");
    assert!(said.contains("may have counted") && said.contains("Recover again later"), "{said}");
    // It does not pile up tries: the one that was sent is looked for first.
    phone.fails_to_recover(PIN, 5, "ledger-unreachable");
    scene.signs_in(&laptop);
    let change = ["pin", "change", "--pin-file", &laptop.pin_file("new horse 20")];
    laptop.fails(&["status"], 5, "ledger-unreachable");
    laptop.fails(&change, 5, "ledger-unreachable");

    ledger.end().await;
    let deadline = Instant::now() + PATIENCE;
    let recovered = loop {
        let output = phone.run(&words(&phone.recovering(PIN)), "");
        if output.status.success() {
            break json(&output.stdout);
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(names(&recovered), ["laptop", "phone"]);
    scene.signs_in(&phone);
    assert_eq!(scene.failures().0, 0);
    let kinds = scene.kinds();
    let tries = kinds.iter().filter(|kind| *kind == "pin-tried").count();
    assert_eq!(tries, 2, "one wrong, one right: {kinds:?}");
}

/// The ledger does not answer until it is over.
struct Outage(String);

impl Outage {
    async fn start(deployment: &Deployment) -> Self {
        let url = format!("{}/dev/fail", deployment.endpoints.control.url);
        let failure = json!({"service": "ledger", "mode": "down"});
        let told = reqwest::Client::new().post(&url).body(failure.to_string()).send().await;
        told.and_then(reqwest::Response::error_for_status).expect("the switch");
        Self(url)
    }

    async fn end(self) {
        let told = reqwest::Client::new().delete(&self.0).send().await;
        told.and_then(reqwest::Response::error_for_status).expect("the switch");
    }
}

#[tokio::test]
async fn a_database_from_before_the_tries_gives_none_back() {
    let mut scene = Scene::new("e2e-recovery-rollback").await;
    let stranger = scene.device("stranger");
    let database = scene.deployment.folder.join("host.db");
    let [old, new] = ["old.db", "new.db"].map(|name| scene.deployment.folder.join(name));
    let exchange = async |deployment: &mut Deployment, from: &Path, to: &Path| {
        deployment.host.stop().expect("the host stops");
        copy_database(from, to);
        if *to == new {
            copy_database(&old, &database);
        }
        deployment.restart_host().await.expect("the host starts");
    };
    exchange(&mut scene.deployment, &database, &old).await;
    for _ in 0..3 {
        stranger.fails_to_recover("another horse", 10, "wrong-pin");
    }
    assert_eq!(scene.failures(), (json!(3), json!(3)));

    exchange(&mut scene.deployment, &database, &new).await;
    // Neither a wrong PIN nor the right one is so much as compared, and the owner sees why.
    for pin in ["another horse", PIN] {
        stranger.fails_to_recover(pin, 5, "ledger-refused");
    }
    for command in [&["sync"][..], &["status"]] {
        scene.laptop.fails(command, 8, "fork-alarm");
    }
    exchange(&mut scene.deployment, &new, &database).await;
    assert_eq!(scene.failures(), (json!(3), json!(0)), "the ledger forgets nothing");
    assert_eq!(names(&stranger.recover(PIN)), ["laptop", "stranger"]);
    assert_eq!(scene.failures(), (json!(0), json!(0)));
    let tries = scene.kinds().iter().filter(|kind| *kind == "pin-tried").count();
    assert_eq!(tries, 4);
}

#[tokio::test]
async fn a_deleted_account_is_gone_for_everybody_and_the_next_one_opens() {
    let mut scene = Scene::new("e2e-deletion").await;
    let (laptop, phone) = (scene.laptop.clone(), scene.device("phone"));
    phone.recover(PIN);
    scene.signs_in(&phone);
    laptop.fails(&["account", "delete"], 3, "not-confirmed");
    laptop.unattended().fails(&["account", "delete", "--yes"], 4, "no-passphrase");
    let deleted = laptop.ok(&["account", "delete", "--yes"]);
    assert_eq!((&deleted["deleted"]["generation"], &deleted["passkeys"]), (&json!(1), &json!(1)));

    laptop.fails(&["status"], 4, "not-registered");
    let asked = scene.site.authenticate(&scene.credential, "required", json!({}));
    let output = phone.ceremony("sign-in", ORIGIN, &asked.options);
    failure(&output, "a passkey of a deleted account", 9, "refused-unauthorised");
    phone.fails(&["status"], 9, "refused-closed");
    phone.fails(&["status"], 4, "not-registered");
    let tablet = scene.device("tablet");
    tablet.fails_to_recover(PIN, 9, "refused-closed");

    let opened = phone.enroll();
    assert_eq!((&opened["account"]["generation"], &opened["guard"]), (&json!(2), &json!(1)));
    assert_eq!(phone.ok(&["passkeys", "list"])["passkeys"], json!([]));
    laptop.fails(&laptop.enrolling().each_ref().map(String::as_str), 4, "account-exists");
    assert_eq!(names(&laptop.recover(PIN)), ["phone", "laptop"]);
    let again = phone.ok(&["account", "delete", "--yes"]);
    assert_eq!(again["deleted"]["generation"], 2);
}
