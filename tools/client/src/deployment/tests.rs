//! Which deployments are refused, and that nothing else is sent to them.

use serde_json::{Value, json};

use super::*;
use crate::testing::World;

async fn refusal(world: &World) -> Error {
    world.log();
    let error = world.client("a", "ana").deployment().await.expect_err("accepted");
    assert_eq!(world.log(), ["deployment"], "nothing but the one question was sent");
    error
}

#[tokio::test]
async fn a_deployment_that_keeps_its_word_is_accepted() {
    let world = World::start().await;
    let client = world.client("a", "ana");
    let deployment = client.deployment().await.unwrap();
    assert_eq!(deployment.statement().serial(), 7);
    assert!(deployment.is_simulated());
    assert_eq!(client.store().load().unwrap().deployment, Some(deployment.seen()));
    client.deployment().await.unwrap();
    assert_eq!(world.log(), ["deployment"], "verified once");
}

#[tokio::test]
async fn an_enclave_that_starts_is_waited_for_but_not_for_ever() {
    let world = World::start().await;
    let mut starting = 2;
    world.hook(move |_, _| {
        starting -= 1;
        (starting >= 0).then_some((503, "enclave-starting"))
    });
    world.client("a", "ana").deployment().await.unwrap();
    assert_eq!(world.log(), ["deployment"; 3]);
    world.hook(|_, _| Some((503, "enclave-starting")));
    let error = world.client("b", "ana").sign_in(false).await.unwrap_err();
    assert!(matches!(error, Error::Host(problem) if problem.name == "enclave-starting"));
    assert_eq!(world.log(), ["deployment"; 4]);
}

/// What the person was told of counts on the first visit already.
#[tokio::test]
async fn a_statement_below_the_lowest_serial_is_refused_at_first_sight() {
    let world = World::start().await;
    world.serve_statement(|statement| statement["serial"] = 6.into());
    let mut settings = world.settings();
    settings.minimum_serial = 7;
    let store = world.store("a");
    let host = Host::new(crate::http::client().unwrap(), &settings.url).unwrap();
    let error = verify(&host, &settings, &store).await.unwrap_err();
    let is_too_low = |error: &StatementError| {
        matches!(error, StatementError::SerialTooLow { minimum: 7, found: 6 })
    };
    assert!(matches!(&error, Error::Deployment(DeploymentError::Statement(it)) if is_too_low(it)));
}

#[tokio::test]
async fn a_serial_never_goes_back_and_never_changes_its_meaning() {
    let world = World::start().await;
    world.client("a", "ana").deployment().await.unwrap();
    world.serve_statement(|statement| statement["serial"] = 6.into());
    assert!(matches!(
        refusal(&world).await,
        Error::Deployment(DeploymentError::Statement(StatementError::SerialTooLow { .. }))
    ));
    world.serve_statement(|statement| statement["name"] = "another".into());
    assert!(matches!(
        refusal(&world).await,
        Error::Deployment(DeploymentError::Statement(StatementError::SerialReused { .. }))
    ));
    world.serve_statement(|statement| statement["serial"] = 9.into());
    world.client("a", "ana").deployment().await.unwrap();
    world.serve_statement(|_| {});
    assert!(matches!(refusal(&world).await, Error::Deployment(DeploymentError::Statement(_))));
}

/// The same keys may sign for several deployments: another's statement says nothing about this one's serials.
#[tokio::test]
async fn another_deployments_statement_leaves_nothing_behind() {
    let world = World::start().await;
    let own = world.state().document.clone();
    let stored = |world: &World| world.client("a", "ana").store().load().unwrap().deployment;
    for seen_before in [false, true] {
        let before = stored(&world);
        assert_eq!(before.is_some(), seen_before);
        world.serve_statement(|statement| {
            statement["url"] = "https://other.test".into();
            statement["serial"] = 900.into();
        });
        let error = refusal(&world).await;
        assert!(
            matches!(&error, Error::Deployment(DeploymentError::OtherUrl { says, .. })
                if says == "https://other.test"),
            "{error}"
        );
        assert_eq!(stored(&world), before);

        world.state().document = own.clone();
        let right = world.client("a", "ana").deployment().await.unwrap();
        assert_eq!(right.statement().serial(), 7);
        assert_eq!(stored(&world), Some(right.seen()));
        world.log();
    }
}

/// What cannot even be read; what can be and is wrong stands in `refusals`.
#[tokio::test]
async fn what_is_no_evidence_is_refused() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &str); 5] = [
        ("no enclave", |document| document["enclaves"] = json!([]), "lists none"),
        ("no base64url", |document| document["enclaves"][0]["report"] = "**".into(), "base64url"),
        ("no chain", |document| document["enclaves"][0]["vcek_chain"] = "".into(), "three"),
        (
            "half a chain",
            |document| {
                let chain = document["enclaves"][0]["vcek_chain"].as_str().unwrap();
                let half = chain[..chain.len() / 2].to_owned();
                document["enclaves"][0]["vcek_chain"] = half.into();
            },
            "certificate",
        ),
        ("no statement", |document| document["statement"] = "hello".into(), "cannot be read"),
    ];
    for (what, edit, expected) in cases {
        let world = World::start().await;
        edit(&mut world.state().document);
        let error = refusal(&world).await;
        let named = error.to_string().to_lowercase().contains(expected);
        assert!(matches!(error, Error::Deployment(_)) && named, "{what}: {error}");
    }
}

#[tokio::test]
async fn one_good_enclave_among_bad_ones_is_found() {
    let world = World::start().await;
    let good = world.state().document["enclaves"][0].clone();
    let mut bad = good.clone();
    bad["claims"] = "e30".into();
    world.state().document["enclaves"] = json!([bad, bad, good, bad]);
    for name in ["a", "b", "c", "d"] {
        world.client(name, "ana").deployment().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_deployment_is_named_as_such() {
    let world = World::start().await;
    world.state().document = json!({"hello": "world"});
    let error = refusal(&world).await;
    assert!(matches!(error, Error::Deployment(DeploymentError::Document { .. })), "{error}");
    let mut settings = world.settings();
    settings.url = "http://keyfold.example".into();
    let keys = Arc::new(crate::device::SoftwareKeys::generate());
    let source = Arc::new(crate::identity::DevSignIn::new("ana").unwrap());
    let client = crate::Client::new(settings, world.store("b"), keys, source);
    assert!(matches!(client.err(), Some(Error::Deployment(DeploymentError::Url(_)))));
}
