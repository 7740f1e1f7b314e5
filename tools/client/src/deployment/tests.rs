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

#[tokio::test]
async fn statements_that_were_not_signed_for_now_and_here_are_refused() {
    type Edit = fn(&World);
    let cases: [(&str, Edit); 5] = [
        ("another root", |world| {
            let signed = world.state().document["statement"].as_str().unwrap().to_owned();
            let at = signed.find("\"sig\":\"").unwrap() + 10;
            let other = if &signed[at..=at] == "A" { "B" } else { "A" };
            let forged = format!("{}{other}{}", &signed[..at], &signed[at + 1..]);
            world.state().document["statement"] = forged.into();
        }),
        ("expired", |world| {
            world.serve_statement(|statement| {
                statement["issued"] = "2020-01-01T00:00:00Z".into();
                statement["expires"] = "2020-02-01T00:00:00Z".into();
            });
        }),
        ("too old", |world| world.serve_statement(|statement| statement["serial"] = 6.into())),
        ("not JSON", |world| world.state().document["statement"] = "hello".into()),
        ("another place", |world| {
            world.serve_statement(|statement| statement["url"] = "https://other.example".into());
        }),
    ];
    for (what, edit) in cases {
        let world = World::start().await;
        edit(&world);
        let mut settings = world.settings();
        settings.minimum_serial = 7;
        let store = world.store("a");
        let host = Host::new(crate::http::client().unwrap(), &settings.url).unwrap();
        let error = verify(&host, &settings, &store).await.expect_err(what);
        match (what, &error) {
            ("another place", Error::Deployment(DeploymentError::OtherUrl { .. })) => {}
            (_, Error::Deployment(DeploymentError::Statement(_))) => {}
            _ => panic!("{what}: {error}"),
        }
    }
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

#[tokio::test]
async fn enclaves_that_prove_nothing_or_something_else_are_refused() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &str); 8] = [
        ("none", |document| document["enclaves"] = json!([]), "lists none"),
        ("no base64url", |document| document["enclaves"][0]["report"] = "**".into(), "base64url"),
        (
            "another channel key",
            |document| {
                let key = crate::testing::Enclave::boot().channel_key();
                document["enclaves"][0]["channel_key"] = encode(&key);
            },
            "channel_key",
        ),
        (
            "claims of another",
            |document| {
                let claims = crate::testing::Enclave::boot().claims();
                document["enclaves"][0]["claims"] = encode(&claims);
            },
            "REPORT_DATA",
        ),
        (
            "another configuration",
            |document| {
                let mut enclave = crate::testing::Enclave::boot();
                enclave.config.0 = [0x99; 32];
                serve(document, &enclave);
            },
            "config",
        ),
        (
            "a flipped report",
            |document| {
                let text = document["enclaves"][0]["report"].as_str().unwrap();
                let mut report = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
                report[0x90] ^= 1;
                document["enclaves"][0]["report"] = encode(&report);
            },
            "signature",
        ),
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
    ];
    for (what, edit, expected) in cases {
        let world = World::start().await;
        edit(&mut world.state().document);
        let error = refusal(&world).await;
        let named = error.to_string().to_lowercase().contains(&expected.to_lowercase());
        let right = matches!(error, Error::Deployment(DeploymentError::NoEnclave(_)));
        assert!(right && named, "{what}: {error}");
    }
}

fn encode(bytes: &[u8]) -> Value {
    BASE64_URL_SAFE_NO_PAD.encode(bytes).into()
}

fn serve(document: &mut Value, enclave: &crate::testing::Enclave) {
    let claims = enclave.claims();
    let entry = &mut document["enclaves"][0];
    entry["channel_key"] = encode(&enclave.channel_key());
    entry["report"] = encode(&crate::testing::Enclave::report(&claims));
    entry["claims"] = encode(&claims);
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
