//! The issuer: what a relying party relies on, and what it must refuse.

mod common;

use common::evidence::{b64, claims, header};
use common::{client, get, json, start};
use jsonwebtoken::{Algorithm, Validation};
use keyfold_dev_cloud::{
    Config, DevCloud, Endpoints, ForgedSignature, SIGN_IN_GRANT, Service, SignIn,
};
use reqwest::{Response, Url};
use serde_json::{Value, json};

const VERIFIER: &str = "verifier-verifier-verifier-verifier-verifier";
const REDIRECT: &str = "http://127.0.0.1:4711/callback";

/// As a relying party verifies: discovery, JWKS by kid, RS256, iss, aud, exp.
async fn verify(endpoints: &Endpoints, token: &str) -> Result<Value, jsonwebtoken::errors::Error> {
    let issuer = &endpoints.oidc.issuer;
    let document = json(get(format!("{issuer}/.well-known/openid-configuration")).await, 200).await;
    assert_eq!(document["issuer"], *issuer);
    let jwks = json(get(document["jwks_uri"].as_str().unwrap().into()).await, 200).await;
    let kid = json!(jsonwebtoken::decode_header(token)?.kid);
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&["keyfold"]);
    validation.set_issuer(&[issuer]);
    let key = common::jwk_key(&jwks, &kid);
    Ok(jsonwebtoken::decode::<Value>(token, &key, &validation)?.claims)
}

async fn token(endpoints: &Endpoints, form: &[(&str, &str)]) -> Response {
    let url = format!("{}/token", endpoints.oidc.issuer);
    client().post(url).form(form).send().await.unwrap()
}

#[tokio::test]
async fn a_script_signs_in_and_the_token_verifies() {
    let cloud = start("oidc-script").await;
    let endpoints = cloud.endpoints();
    let form = [("grant_type", SIGN_IN_GRANT), ("username", "Alice"), ("nonce", "n-1")];
    let answer = json(token(&endpoints, &form).await, 200).await;
    assert_eq!(answer["expires_in"], 3600);
    let claims = verify(&endpoints, answer["id_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(claims["nonce"], "n-1");
    assert_eq!(claims["exp"].as_u64().unwrap(), claims["iat"].as_u64().unwrap() + 3600);
    assert_eq!(claims["auth_time"], claims["iat"]);

    let again = cloud.sign_in(&SignIn::new(" alice ")).unwrap();
    let again = verify(&endpoints, &again).await.unwrap();
    assert_eq!(again["sub"], claims["sub"], "one name, one subject");
    assert!(again.get("nonce").is_none());
    let other = verify(&endpoints, &cloud.sign_in(&SignIn::new("bob")).unwrap()).await.unwrap();
    assert_ne!(other["sub"], claims["sub"]);
    cloud.stop().await;
}

#[tokio::test]
async fn tokens_that_must_be_refused_can_be_had() {
    let cloud = start("oidc-bad").await;
    let endpoints = cloud.endpoints();
    let alice = SignIn::new("alice");
    for (what, sign_in) in [
        ("audience", SignIn { audience: Some("other".into()), ..alice.clone() }),
        ("issuer", SignIn { issuer: Some("http://other".into()), ..alice.clone() }),
        ("expired", SignIn { expires_in: Some(-120), ..alice.clone() }),
        ("foreign", SignIn { signature: Some(ForgedSignature::Foreign), ..alice.clone() }),
        ("none", SignIn { signature: Some(ForgedSignature::None), ..alice.clone() }),
    ] {
        let token = cloud.sign_in(&sign_in).unwrap();
        assert!(verify(&endpoints, &token).await.is_err(), "{what}");
    }
    let form = [("grant_type", SIGN_IN_GRANT), ("username", "alice"), ("auth_age", "900")];
    let old = json(token(&endpoints, &form).await, 200).await;
    let old = verify(&endpoints, old["id_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(old["auth_time"].as_u64().unwrap() + 900, old["iat"].as_u64().unwrap());
    cloud.stop().await;
}

#[tokio::test]
async fn wrong_token_requests_are_refused() {
    let cloud = start("oidc-requests").await;
    let endpoints = cloud.endpoints();
    let sign_in = ("grant_type", SIGN_IN_GRANT);
    for (form, error) in [
        (vec![("grant_type", "password"), ("username", "a")], "unsupported_grant_type"),
        (vec![("username", "a")], "unsupported_grant_type"),
        (vec![sign_in], "invalid_request"),
        (vec![sign_in, ("username", " ")], "invalid_request"),
        (vec![sign_in, ("username", "a"), ("auth_age", "x")], "invalid_request"),
        (vec![sign_in, ("username", "a"), ("auth_age", "-1")], "invalid_request"),
        (vec![sign_in, ("username", "a"), ("typo", "x")], "invalid_request"),
        (vec![sign_in, ("username", "a"), ("client_id", "unknown")], "invalid_client"),
        (
            vec![
                ("grant_type", "client_credentials"),
                ("client_id", "keyfold"),
                ("scope", "x/.default"),
            ],
            "invalid_client",
        ),
        (
            vec![
                ("grant_type", "client_credentials"),
                ("client_id", "keyfold-admin"),
                ("scope", "x"),
            ],
            "invalid_scope",
        ),
    ] {
        let answer = json(token(&endpoints, &form).await, 400).await;
        assert_eq!(answer["error"], error, "{form:?}");
    }
    cloud.stop().await;
}

fn authorize(endpoints: &Endpoints, changes: &[(&str, Option<&str>)]) -> Url {
    let challenge = b64(common::sha256(VERIFIER.as_bytes()));
    let mut fields = vec![
        ("client_id", "keyfold"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", "openid profile"),
        ("state", "s t&te"),
        ("nonce", "n-2"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in changes {
        fields.retain(|(field, _)| field != name);
        fields.extend(value.map(|value| (*name, value)));
    }
    Url::parse_with_params(&format!("{}/authorize", endpoints.oidc.issuer), fields).unwrap()
}

/// Enters the name on the page, by its own hidden fields; gives where the browser is sent.
async fn enter(endpoints: &Endpoints, page: &str, username: &str) -> Url {
    let mut form: Vec<(String, String)> = page
        .split("<input type=\"hidden\" name=\"")
        .skip(1)
        .map(|field| {
            let (name, rest) = field.split_once("\" value=\"").unwrap();
            let value = rest.split_once('"').unwrap().0;
            (name.to_owned(), value.replace("&amp;", "&"))
        })
        .collect();
    form.push(("username".into(), username.into()));
    let url = format!("{}/authorize", endpoints.oidc.issuer);
    let answer = client().post(url).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 302);
    Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap()
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
}

async fn code(endpoints: &Endpoints) -> String {
    let page = get(authorize(endpoints, &[]).into()).await.text().await.unwrap();
    parameter(&enter(endpoints, &page, "alice").await, "code").unwrap()
}

#[tokio::test]
async fn a_person_signs_in_on_the_page() {
    let cloud = start("oidc-page").await;
    let endpoints = cloud.endpoints();
    let hint = [("login_hint", Some("\"><script>alert(1)</script>"))];
    let page = get(authorize(&endpoints, &hint).into()).await;
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains("protects nothing"));
    assert!(!page.contains("<script>"), "the page escapes what it is given");

    let back = enter(&endpoints, &page, "alice").await;
    assert!(back.as_str().starts_with(REDIRECT));
    assert_eq!(parameter(&back, "state").as_deref(), Some("s t&te"));
    let code = parameter(&back, "code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("client_id", "keyfold"),
        ("code_verifier", VERIFIER),
    ];
    let answer = json(token(&endpoints, &form).await, 200).await;
    let claims = verify(&endpoints, answer["id_token"].as_str().unwrap()).await.unwrap();
    assert_eq!((&claims["nonce"], &claims["preferred_username"]), (&json!("n-2"), &json!("alice")));
    let by_script = cloud.sign_in(&SignIn::new("alice")).unwrap();
    assert_eq!(claims["sub"], common::evidence::claims(&by_script)["sub"]);

    let again = json(token(&endpoints, &form).await, 400).await;
    assert_eq!(again["error"], "invalid_grant", "a code serves once");
    cloud.stop().await;
}

#[tokio::test]
async fn codes_are_bound_to_client_redirect_and_verifier() {
    let cloud = DevCloud::start(Config {
        clients: vec!["keyfold".into(), "second".into()],
        ..common::config(common::fresh_dir("oidc-codes"))
    })
    .await
    .unwrap();
    let endpoints = cloud.endpoints();
    for (name, wrong) in [
        ("client_id", "second"),
        ("redirect_uri", "http://127.0.0.1:4711/other"),
        ("code_verifier", "another-verifier-another-verifier-another-ver"),
        ("code_verifier", "short"),
        ("code", "unknown"),
    ] {
        let code = code(&endpoints).await;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", REDIRECT),
            ("client_id", "keyfold"),
            ("code_verifier", VERIFIER),
        ];
        form.retain(|(field, _)| *field != name);
        form.push((name, wrong));
        let answer = json(token(&endpoints, &form).await, 400).await;
        assert_eq!(answer["error"], "invalid_grant", "{name}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn authorization_requests_are_checked() {
    let cloud = start("oidc-authorize").await;
    let endpoints = cloud.endpoints();
    for changes in [
        [("client_id", Some("unknown"))],
        [("redirect_uri", Some("https://127.0.0.1/"))],
        [("redirect_uri", Some("http://example.com/"))],
        [("redirect_uri", Some("http://127.0.0.1.example.com/"))],
        [("redirect_uri", Some("http://user@127.0.0.1/"))],
        [("redirect_uri", Some("http://127.0.0.1/#x"))],
    ] {
        let answer = get(authorize(&endpoints, &changes).into()).await;
        assert_eq!(answer.status(), 400, "{changes:?}: told to the person, sent nowhere");
    }
    for (changes, error) in [
        ([("response_type", Some("token"))], "unsupported_response_type"),
        ([("scope", Some("email"))], "invalid_scope"),
        ([("code_challenge", None)], "invalid_request"),
        ([("code_challenge", Some("short"))], "invalid_request"),
        ([("code_challenge_method", Some("plain"))], "invalid_request"),
        ([("prompt", Some("none"))], "login_required"),
    ] {
        let answer = get(authorize(&endpoints, &changes).into()).await;
        assert_eq!(answer.status(), 302, "{changes:?}");
        let back = Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap();
        assert_eq!(parameter(&back, "error").as_deref(), Some(error), "{changes:?}");
        assert_eq!(parameter(&back, "state").as_deref(), Some("s t&te"));
    }
    for redirect in ["http://localhost:1/x", "http://[::1]:1/x"] {
        let url = authorize(&endpoints, &[("redirect_uri", Some(redirect))]);
        assert_eq!(get(url.into()).await.status(), 200, "{redirect}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn keys_rotate_and_survive_a_restart() {
    let dir = common::fresh_dir("oidc-rotate");
    let cloud = DevCloud::start(common::config(dir.clone())).await.unwrap();
    let before = cloud.sign_in(&SignIn::new("alice")).unwrap();
    let kid = cloud.rotate(Service::Oidc).unwrap();
    let after = cloud.sign_in(&SignIn::new("alice")).unwrap();
    assert_eq!(header(&after)["kid"], *kid);
    assert_ne!(header(&before)["kid"], *kid);
    let endpoints = cloud.endpoints();
    cloud.stop().await;

    let cloud = DevCloud::start(common::config(dir.clone())).await.unwrap();
    assert_eq!(cloud.endpoints().oidc, endpoints.oidc, "the same URL after a restart");
    for token in [&before, &after] {
        verify(&endpoints, token).await.unwrap();
    }
    let restarted = cloud.sign_in(&SignIn::new("alice")).unwrap();
    assert_eq!(header(&restarted)["kid"], *kid);
    assert_eq!(claims(&restarted)["sub"], claims(&before)["sub"]);
    cloud.stop().await;
}
