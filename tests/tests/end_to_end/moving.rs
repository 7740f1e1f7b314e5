//! Moving to another image under the same root key, as the operator guide has it: both side by side,
//! a release policy that is extended first, a statement with a higher serial, and people who notice
//! nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use keyfold_local::{Deployment, Options};
use serde_json::Value;

use crate::operations::served;
use crate::recovery::Scene;
use crate::{common, doctor, from_base64url};

/// The enclave as its next release would be: a program that is measured as another.
fn next_release(deployment: &Deployment) -> PathBuf {
    let path = deployment.folder.join("keyfold-enclave-next");
    std::fs::copy(&deployment.binaries.enclave, &path).expect("a copy");
    let mut file = File::options().append(true).open(&path).expect("the copy");
    file.write_all(b"the next release").expect("written");
    path
}

/// Measurements of the enclaves that the host serves.
async fn measured(deployment: &Deployment) -> BTreeSet<Vec<u8>> {
    let answer =
        reqwest::get(format!("{}/v1/deployment", deployment.url)).await.expect("it serves");
    let document: Value = answer.json().await.expect("JSON");
    let enclaves = document["enclaves"].as_array().expect("enclaves").iter();
    let report = |enclave: &Value| from_base64url(enclave["report"].as_str().expect("a report"));
    enclaves.map(|enclave| report(enclave)[0x90..0xc0].to_vec()).collect()
}

/// What an enclave of this program is told when it asks for the key.
fn asks(deployment: &Deployment, program: &Path) -> (i32, bool) {
    let chip = deployment.endpoints.chip.dir.display();
    let program = program.display();
    let enclave = format!(
        r#"[{{transport = "pipe", command = "{program}", args = ["pipe"], env = {{KEYFOLD_SIMULATED_CHIP = "{chip}"}}}}]"#
    );
    let found = doctor::run(deployment, &[("KEYFOLD_HOST__ENCLAVE", &enclave)], &[]);
    (found.exit, found.is_keyed())
}

const GETS_THE_KEY: (i32, bool) = (0, true);
const GETS_NO_KEY: (i32, bool) = (23, false);

#[tokio::test]
async fn a_deployment_moves_to_another_image_and_nobody_has_to_do_anything() {
    let options = Options { policy_is_immutable: false, enclaves: 2, ..Options::default() };
    let deployment = common::deployment_with("e2e-moving", options).await;
    let (old, new) = (deployment.binaries.enclave.clone(), next_release(&deployment));
    let mut scene = Scene::of(deployment);
    let laptop = scene.laptop.clone();
    scene.signs_in(&laptop);
    let before = measured(&scene.deployment).await;
    assert_eq!(
        (asks(&scene.deployment, &old), asks(&scene.deployment, &new)),
        (GETS_THE_KEY, GETS_NO_KEY)
    );

    // 1. Both may have the key; clients accept both.
    let both = [old.clone(), new.clone()];
    scene.deployment.release_to(&both).await.expect("the policy is extended");
    scene.deployment.accept(&both).expect("a statement of both");
    served(&scene.deployment).await;
    assert_eq!(
        (asks(&scene.deployment, &old), asks(&scene.deployment, &new)),
        (GETS_THE_KEY, GETS_THE_KEY)
    );
    scene.signs_in(&laptop);
    // 2. Side by side.
    scene.deployment.replace_enclaves(&both).await.expect("both serve");
    let together = measured(&scene.deployment).await;
    assert!(together.len() == 2 && together.is_superset(&before));
    (0..4).for_each(|_| scene.signs_in(&laptop));
    // 3. The new one alone.
    scene
        .deployment
        .replace_enclaves(&[new.clone(), new.clone()])
        .await
        .expect("the new ones serve");
    let after = measured(&scene.deployment).await;
    assert!(after.len() == 1 && after.is_disjoint(&before));
    scene.signs_in(&laptop);
    // 4. The old one loses both.
    let both_accepted = std::fs::read(scene.deployment.folder.join("statement.json")).expect("it");
    scene.deployment.release_to(std::slice::from_ref(&new)).await.expect("the policy is narrowed");
    scene.deployment.accept(std::slice::from_ref(&new)).expect("a statement of the new one");
    served(&scene.deployment).await;
    scene.signs_in(&laptop);
    laptop.ok(&["status"]);
    assert_eq!(
        (asks(&scene.deployment, &old), asks(&scene.deployment, &new)),
        (GETS_NO_KEY, GETS_THE_KEY)
    );

    // Whoever has seen the new statement takes neither the old one nor the old image back.
    std::fs::write(scene.deployment.folder.join("statement.json"), both_accepted)
        .expect("put back");
    served(&scene.deployment).await;
    laptop.fails(&["sync"], 7, "statement-refused");
    scene.deployment.accept(std::slice::from_ref(&old)).expect("a statement of the old one alone");
    served(&scene.deployment).await;
    laptop.fails(&["sync"], 7, "evidence-refused");
    scene.deployment.accept(std::slice::from_ref(&new)).expect("a statement of the new one");
    served(&scene.deployment).await;
    scene.signs_in(&laptop);
    assert_eq!(laptop.ok(&["doctor"])["healthy"], true);
}

#[tokio::test]
async fn a_policy_that_is_immutable_is_not_extended() {
    let deployment = common::deployment("e2e-immutable").await;
    let refused = deployment.release_to(&[next_release(&deployment)]).await.unwrap_err();
    assert!(format!("{refused:#}").contains("AKV.SKR.1020"), "{refused:#}");
    assert_eq!(asks(&deployment, &next_release(&deployment)), GETS_NO_KEY);
}
