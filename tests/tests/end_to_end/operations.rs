//! What an operator lives through, or tries: programs that die, an old database, and a statement
//! that does not name what runs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keyfold_local::{Deployment, Options, Place};
use serde_json::json;

use crate::common;
use crate::device::Device;
use crate::recovery::Scene;
use crate::relying_party::{ES256, RelyingParty};

#[tokio::test]
async fn programs_that_die_come_back_and_nobody_has_to_do_anything() {
    let mut deployment = common::deployment("e2e-restarts").await;
    let laptop = Device::new("alice", "laptop", &deployment, &deployment.trust_root);
    laptop.enroll();
    let mut site = RelyingParty::webauthn_rs();
    let asked = site.register("alice", &[ES256], "required", json!({}));
    let credential =
        site.finish(&asked, &laptop.create(&asked.options)).expect("accepted").credential;
    let mut signs_in = || {
        let asked = site.authenticate(&credential, "required", json!({}));
        site.finish(&asked, &laptop.sign_in(&asked.options)).expect("accepted");
    };

    for _ in 0..2 {
        let before = deployment.enclave_ids().expect("the system tells");
        before.iter().for_each(|id| kill(*id));
        signs_in();
        let after = deployment.enclave_ids().expect("the system tells");
        assert!(!after.is_empty() && after != before, "{before:?}, then {after:?}");
        deployment.wait_until_ready().await.expect("ready again");
    }

    deployment.host.stop().expect("the host stops in order");
    laptop.fails(&["sync"], 5, "unreachable");
    deployment.restart_host().await.expect("the host starts again");
    signs_in();
    deployment.host.kill().expect("killed");
    deployment.restart_host().await.expect("the host starts again");
    signs_in();

    // Without the ledger: signing in goes on, what needs its word fails closed.
    deployment.cloud.kill().expect("killed");
    signs_in();
    laptop.fails(&["status"], 5, "ledger-unreachable");
    laptop.fails(&["anchor"], 5, "ledger-unreachable");
    deployment.restart_cloud().await.expect("the dev cloud starts again");
    signs_in();
    let health = laptop.ok(&["doctor"]);
    assert_eq!(health["healthy"], true, "{health}");
    laptop.ok(&["audit", "--verify"]);
}

#[tokio::test]
async fn enclaves_beside_the_host_serve_on_sockets() {
    let options = Options { place: Place::Beside, enclaves: 2, ..Options::default() };
    let mut scene = Scene::of(common::deployment_with("e2e-sockets", options).await);
    let laptop = scene.laptop.clone();
    (0..4).for_each(|_| scene.signs_in(&laptop));
    // One link each: whoever comes second finds nobody, and a host that hangs up ends the process.
    let socket = scene.deployment.folder.join("enclave-0.socket");
    assert!(std::os::unix::net::UnixStream::connect(socket).is_err(), "it still listens");
    scene.deployment.host.stop().expect("the host stops");
    let deadline = Instant::now() + Duration::from_secs(10);
    while scene.deployment.beside.iter_mut().any(|enclave| enclave.check().is_ok()) {
        assert!(Instant::now() < deadline, "an enclave outlives its link");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn kill(id: i32) {
    let status = Command::new("kill").args(["-9", &id.to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill -9 {id}");
}

#[tokio::test]
async fn an_old_copy_of_the_database_raises_the_alarm() {
    let mut deployment = common::deployment("e2e-rollback").await;
    let laptop = |person| Device::new(person, "laptop", &deployment, &deployment.trust_root);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(laptop);
    let mut site = RelyingParty::webauthn_rs();
    let mut create = |device: &Device, user: &str| {
        let asked = site.register(user, &[ES256], "required", json!({}));
        site.finish(&asked, &device.create(&asked.options)).expect("accepted");
    };
    for device in [&alice, &bob, &carol] {
        device.enroll();
        create(device, "before");
    }
    deployment.host.stop().expect("the host stops");
    let database = deployment.folder.join("host.db");
    let copy = deployment.folder.join("old.db");
    copy_database(&database, &copy);
    deployment.restart_host().await.expect("the host starts");

    // Alice changes her vault, Bob his account, Carol nothing.
    create(&alice, "after");
    bob.ok(&["anchor"]);
    deployment.host.stop().expect("the host stops");
    copy_database(&copy, &database);
    deployment.restart_host().await.expect("the host starts");

    for (device, commands) in
        [(&alice, [&["sync"][..], &["status"]]), (&bob, [&["sync"], &["status"]])]
    {
        for command in commands {
            let said = device.fails(command, 8, "fork-alarm");
            assert!(said.contains("ALARM"), "{said}");
        }
    }
    carol.ok(&["audit", "--verify"]);
    create(&carol, "after");
}

/// The database and what SQLite keeps beside it, of a host that is stopped.
pub(crate) fn copy_database(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let beside = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            std::path::PathBuf::from(name)
        };
        let (from, to) = (beside(from), beside(to));
        if from.exists() {
            std::fs::copy(from, to).expect("a copy");
        } else if to.exists() {
            std::fs::remove_file(to).expect("removed");
        }
    }
}

#[tokio::test]
async fn what_the_statement_does_not_name_is_refused() {
    let deployment = common::deployment("e2e-foreign").await;
    let folder = deployment.folder.clone();
    let alice = Device::new("alice", "laptop", &deployment, &deployment.trust_root);
    alice.enroll();

    // Other offline keys than the ones that signed.
    let foreign = folder.join("foreign-root.json").display().to_string();
    let key_file = folder.join("foreign.pk8").display().to_string();
    let key = alice.ok(&["policy", "key", "--out", &key_file]);
    let key = key["key"].as_str().expect("a key");
    alice.ok(&["policy", "trust-root", "--key", key, "--threshold", "1", "--out", &foreign]);
    let misled = Device::new("misled", "laptop", &deployment, Path::new(&foreign));
    let refused = |device: &Device, code: &str| {
        device.fails(&device.enrolling().each_ref().map(String::as_str), 7, code)
    };
    refused(&misled, "statement-refused");

    // A statement, well signed, of something else than what runs.
    let description = std::fs::read_to_string(folder.join("deployment.toml")).expect("the text");
    let description: toml::Table = description.parse().expect("TOML");
    let serial = description["statement"]["serial"].as_integer().expect("a serial");
    let serve = async |serial: i64, alter: &dyn Fn(&mut toml::Value)| {
        let mut description = description.clone();
        description["statement"]["serial"] = serial.into();
        alter(&mut description["statement"]);
        sign(&alice, &folder, &description);
        served(&deployment).await;
    };
    let fresh = |person| Device::new(person, "laptop", &deployment, &deployment.trust_root);
    let other = |bytes: usize| toml::Value::from("5a".repeat(bytes));
    type Alter<'a> = &'a dyn Fn(&mut toml::Value);
    let alterations: [(&str, &str, Alter); 4] = [
        ("ann", "measurement", &|it| it["workloads"][0]["measurement"] = other(48)),
        ("ben", "chip", &|it| it["workloads"][0]["ark_sha256"] = other(32)),
        ("cem", "root", &|it| it["root"] = other(32)),
        ("dot", "config", &|it| it["config"] = other(32)),
    ];
    for ((person, name, alter), later) in alterations.into_iter().zip(1..) {
        serve(serial + later, alter).await;
        let said = refused(&fresh(person), "evidence-refused");
        assert!(said.contains("5a5a5a5a"), "{name}: what was expected is not said: {said}");
    }
    // Whoever has seen a newer one takes no older one back, even a right one.
    alice.fails(&["sync"], 7, "evidence-refused");
    serve(serial, &|_| {}).await;
    alice.fails(&["sync"], 7, "statement-refused");
    serve(serial + 5, &|_| {}).await;
    alice.ok(&["sync"]);
    fresh("eve").enroll();
}

/// As the owners of the deployment's offline keys do it.
fn sign(device: &Device, folder: &Path, description: &toml::Table) {
    let text = toml::to_string(description).expect("TOML");
    std::fs::write(folder.join("altered.toml"), text).expect("a file");
    let path = |name: &str| folder.join(name).display().to_string();
    let (toml, out, root) = (path("altered.toml"), path("statement.new"), path("trust-root.json"));
    let keys = [path("statement-key-1.pk8"), path("statement-key-2.pk8")];
    device.ok(&[
        "policy",
        "sign",
        "--deployment",
        &toml,
        "--key",
        &keys[0],
        "--key",
        &keys[1],
        "--trust-root",
        &root,
        "--out",
        &out,
    ]);
    std::fs::rename(out, folder.join("statement.json")).expect("renamed into place");
}

/// Waits until the host serves the statement in its file.
pub(crate) async fn served(deployment: &Deployment) {
    let url = format!("{}/v1/deployment", deployment.url);
    let signed = std::fs::read_to_string(deployment.folder.join("statement.json")).expect("it");
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let answer = reqwest::get(&url).await.expect("an answer");
        let document: serde_json::Value = answer.json().await.expect("JSON");
        if document["statement"] == signed {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the host does not serve the statement in its file");
}
