//! Options in, responses out: golden JSON, and each thing that is refused.

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::{
    Algorithm, Asserted, Created, KeyKind, PrfResults, PutDone, Success,
};
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::{ChainPoint, CredentialId, Digest, SlotId, UserHandle};
use serde_json::{Value, json};

use super::*;
use crate::client::Client;
use crate::pin::Pin;
use crate::testing::World;

fn creation() -> Value {
    json!({
        "rp": {"id": "example.org", "name": "Example"},
        "user": {"id": "AQID", "name": "ana", "displayName": "Ana"},
        "challenge": "AAECAwQFBgcICQoLDA0ODw",
        "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
    })
}

fn request() -> Value {
    json!({"challenge": "AAECAwQFBgcICQoLDA0ODw", "rpId": "example.org"})
}

/// `base` with the member at `path` set; removed where the value is null.
fn with(mut base: Value, path: &str, value: Value) -> Value {
    let (parent, member) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parent.split('.').filter(|name| !name.is_empty());
    let target = parent.fold(&mut base, |value, name| &mut value[name]);
    match value {
        Value::Null => drop(target.as_object_mut().unwrap().remove(member)),
        value => target[member] = value,
    }
    base
}

fn creation_options(json: &Value) -> Result<CreationOptions, WebAuthnError> {
    CreationOptions::from_json(json.to_string().as_bytes())
}

fn request_options(json: &Value) -> Result<RequestOptions, WebAuthnError> {
    RequestOptions::from_json(json.to_string().as_bytes())
}

fn origin() -> Origin {
    Origin::parse("https://login.example.org:8443").unwrap()
}

fn registration(json: &Value) -> Registration {
    Registration::new(&origin(), creation_options(json).unwrap()).unwrap()
}

fn authentication(json: &Value) -> Authentication {
    Authentication::new(&origin(), request_options(json).unwrap()).unwrap()
}

#[test]
fn creation_options_are_read_as_webauthn_defines() {
    let options = creation_options(&creation()).unwrap();
    assert_eq!(options.rp_id.as_deref(), Some("example.org"));
    assert_eq!(options.rp_name(), "Example");
    assert_eq!(options.user_handle.as_slice(), [1, 2, 3]);
    assert_eq!((&*options.names().name, &*options.names().display_name), ("ana", "Ana"));
    assert_eq!(options.challenge, (0..16).collect::<Vec<u8>>());
    assert_eq!(options.algorithms, [-7]);
    assert_eq!(options.verification, Verification::Preferred);
    assert!(options.exclude.is_empty() && options.prf.is_none() && !options.credential_properties);

    let wrapped = json!({"publicKey": creation(), "mediation": "conditional"});
    assert_eq!(creation_options(&wrapped).unwrap().algorithms, [-7]);
}

#[test]
fn creation_options_tolerate_what_they_do_not_know() {
    for (path, value) in [
        ("unknown", json!({"nested": []})),
        ("rp.icon", json!("https://example.org/icon")),
        ("attestation", json!("enterprise")),
        ("attestationFormats", json!(["packed"])),
        ("timeout", json!(60_000)),
        ("hints", json!(["security-key"])),
        ("extensions", json!({"credProtect": 3, "appidExclude": "https://example.org"})),
        ("authenticatorSelection", json!({"residentKey": "sometimes", "userVerification": "x"})),
        ("authenticatorSelection", json!({"authenticatorAttachment": "platform"})),
        ("authenticatorSelection", json!({"requireResidentKey": true})),
        ("excludeCredentials", json!([{"type": "foreign", "id": "not base64url!"}])),
        ("rp.id", Value::Null),
    ] {
        let json = with(creation(), path, value.clone());
        let found = creation_options(&json);
        assert!(found.is_ok(), "{path} = {value}: {:?}", found.err());
    }
}

#[test]
fn options_of_the_other_ceremony_are_told() {
    let request = json!({"challenge": "AAECAwQFBgcICQoLDA0ODw", "rpId": "example.org"});
    let why = creation_options(&request).unwrap_err().to_string();
    assert!(why.contains("expected those of a registration, found those of a sign-in"), "{why}");
    for options in [creation(), json!({"publicKey": creation()})] {
        let refused = RequestOptions::from_json(options.to_string().as_bytes());
        let why = refused.unwrap_err().to_string();
        assert!(
            why.contains("expected those of a sign-in, found those of a registration"),
            "{why}"
        );
    }
    // What a sign-in does not know is ignored.
    let more = with(request, "user", json!({"id": "AQID"}));
    assert!(RequestOptions::from_json(more.to_string().as_bytes()).is_ok());
}

#[test]
fn creation_options_that_are_none_are_refused() {
    for (path, value) in [
        ("rp", Value::Null),
        ("rp.name", Value::Null),
        ("rp.id", json!(7)),
        ("user", Value::Null),
        ("user.id", Value::Null),
        ("user.id", json!("")),
        ("user.id", json!("A".repeat(87))),
        ("user.id", json!("AQI=")),
        ("user.id", json!("A+/B")),
        ("user.name", Value::Null),
        ("user.displayName", Value::Null),
        ("challenge", Value::Null),
        ("challenge", json!("A")),
        ("challenge", json!([1, 2, 3])),
        ("pubKeyCredParams", Value::Null),
        ("pubKeyCredParams", json!([{"alg": -7}])),
        ("excludeCredentials", json!([{"type": "public-key"}])),
        ("excludeCredentials", json!([{"type": "public-key", "id": "AA=="}])),
        ("extensions", json!({"prf": {"eval": {}}})),
        ("extensions", json!({"prf": {"eval": {"first": "?"}}})),
    ] {
        let json = with(creation(), path, value.clone());
        let found = creation_options(&json);
        assert!(matches!(found, Err(WebAuthnError::Options(_))), "{path} = {value}: {found:?}");
    }
    for json in ["", "null", "[]", "{", "{}", r#"{"publicKey":null}"#] {
        let found = CreationOptions::from_json(json.as_bytes());
        assert!(matches!(found, Err(WebAuthnError::Options(_))), "{json}: {found:?}");
    }
    for json in ["null", "[]", "7", r#"{"publicKey":[]}"#] {
        let why = CreationOptions::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(why.contains("expected a JSON object"), "{json}: {why}");
    }
    let long = with(creation(), "padding", json!("x".repeat(256 * 1024)));
    assert!(matches!(creation_options(&long), Err(WebAuthnError::Options(_))));
}

#[test]
fn user_ids_have_up_to_64_bytes_and_names_are_cut_at_a_character() {
    let json = with(creation(), "user.id", json!("A".repeat(86)));
    assert_eq!(creation_options(&json).unwrap().user_handle.len(), 64);
    // 63 bytes, then a character of two.
    let name = "x".repeat(63) + "é";
    let options = creation_options(&with(creation(), "user.name", json!(name))).unwrap();
    assert_eq!(&*options.names().name, "x".repeat(63));
    let options = creation_options(&with(creation(), "user.displayName", json!(""))).unwrap();
    assert_eq!(&*options.names().display_name, "");
}

#[test]
fn algorithms_keep_their_order_and_foreign_ones_are_dropped() {
    let parameter = |kind: &str, alg: i64| json!({"type": kind, "alg": alg});
    let key = |alg| parameter("public-key", alg);
    for (list, expected) in [
        (vec![], vec![-7, -257]),
        (vec![key(-8), key(-7)], vec![-8, -7]),
        (vec![key(-257), key(-7)], vec![-257, -7]),
        (vec![parameter("foreign", -8), key(-7)], vec![-7]),
        (vec![key(i64::MAX), key(-8)], vec![-8]),
    ] {
        let json = with(creation(), "pubKeyCredParams", json!(list));
        assert_eq!(creation_options(&json).unwrap().algorithms, expected, "{list:?}");
    }
    let json = with(creation(), "pubKeyCredParams", json!([parameter("foreign", -7)]));
    assert!(matches!(creation_options(&json), Err(WebAuthnError::NotSupported(_))));
}

#[test]
fn verification_is_as_asked_and_prf_inputs_make_it_required() {
    use Verification::{Discouraged, Preferred, Required};
    let eval = json!({"prf": {"eval": {"first": "AA"}}});
    for (asked, extensions, expected) in [
        (json!("required"), json!({}), Required),
        (json!("preferred"), json!({}), Preferred),
        (json!("discouraged"), json!({}), Discouraged),
        (Value::Null, json!({}), Preferred),
        (json!("whatever"), json!({}), Preferred),
        (json!("discouraged"), json!({"prf": {}}), Discouraged),
        (json!("discouraged"), eval, Required),
    ] {
        let json = with(creation(), "authenticatorSelection", json!({}));
        let json = with(json, "authenticatorSelection.userVerification", asked.clone());
        let json = with(json, "extensions", extensions.clone());
        assert_eq!(registration(&json).verification(), expected, "{asked} {extensions}");
        let json =
            with(with(request(), "userVerification", asked.clone()), "extensions", extensions);
        assert_eq!(authentication(&json).verification(&passkey(1)), expected, "{asked}");
    }
}

#[test]
fn prf_inputs_are_hashed_and_chosen_per_credential() {
    let hash = |salt: &[u8]| crate::sha256(&[b"WebAuthn PRF\0", salt]);
    let golden = "ca5a1f596c39d810944a3804b2d04157281d9ffa405651250b12782157b75823";
    assert_eq!(hex::encode(hash(b"salt")), golden);
    let (one, two) = (base64url(&[1; 32]), base64url(&[2; 32]));
    let json = json!({
        "challenge": "AA",
        "rpId": "example.org",
        "allowCredentials": [{"type": "public-key", "id": one}, {"type": "public-key", "id": two}],
        "extensions": {"prf": {
            "eval": {"first": base64url(b"salt")},
            "evalByCredential": {one.clone(): {"first": "", "second": base64url(b"other")}},
        }},
    });
    let prf = request_options(&json).unwrap().prf.unwrap();
    let named = prf.inputs_for(&[1; 32]).unwrap();
    assert_eq!((named.first, named.second), (hash(b""), Some(hash(b"other"))));
    let general = prf.inputs_for(&[2; 32]).unwrap();
    assert_eq!((general.first, general.second), (hash(b"salt"), None));
}

#[test]
fn prf_by_credential_needs_the_allow_list() {
    let by = |key: &str| json!({"prf": {"evalByCredential": {key: {"first": "AA"}}}});
    let listed = json!([{"type": "public-key", "id": "AQID"}, {"type": "foreign", "id": "BAUG"}]);
    let json = with(with(request(), "allowCredentials", listed), "extensions", by("AQID"));
    assert!(request_options(&json).is_ok());
    for key in ["", "BAUG", "AQI=", "AQIDBA", "not base64url"] {
        let found = request_options(&with(json.clone(), "extensions", by(key)));
        assert!(matches!(found, Err(WebAuthnError::PrfCredential(_))), "{key:?}: {found:?}");
    }
    let json = with(json, "allowCredentials", Value::Null);
    assert!(matches!(request_options(&json), Err(WebAuthnError::NotSupported(_))));
    let found = creation_options(&with(creation(), "extensions", by("AQID")));
    assert!(matches!(found, Err(WebAuthnError::NotSupported(_))));
}

#[test]
fn the_origin_decides_over_the_rp_id_in_both_ceremonies() {
    for rp_id in ["org", "example.com", "evil.login.example.org"] {
        let creation = creation_options(&with(creation(), "rp.id", json!(rp_id))).unwrap();
        let refused = Registration::new(&origin(), creation).unwrap_err();
        assert_eq!(refused.exception(), "SecurityError", "{rp_id}");
        let request = request_options(&with(request(), "rpId", json!(rp_id))).unwrap();
        let refused = Authentication::new(&origin(), request).unwrap_err();
        assert_eq!(refused.exception(), "SecurityError", "{rp_id}");
    }
    let json = with(creation(), "rp.id", Value::Null);
    assert_eq!(&**registration(&json).rp_id(), "login.example.org");
    let json = with(request(), "rpId", Value::Null);
    assert_eq!(&**authentication(&json).rp_id(), "login.example.org");
}

#[test]
fn a_site_that_wants_a_security_key_does_not_get_a_passkey() {
    let selection = json!({"authenticatorAttachment": "cross-platform"});
    let json = with(creation(), "authenticatorSelection", selection);
    let refused = Registration::new(&origin(), creation_options(&json).unwrap());
    assert!(matches!(refused, Err(WebAuthnError::SecurityKeyWanted)));
}

fn put_done() -> PutDone {
    let (slot, digest) = (SlotId([0; 32]), Digest([0; 32]));
    let event = Event { version: 1, slot, action: keyfold_protocol::client::Action::Put, digest };
    PutDone { guard: 1, event, vault: ChainPoint { version: 1, head: digest } }
}

fn created(algorithm: Algorithm, prf: Option<PrfResults>) -> Created {
    let public_key: &[u8] = match algorithm {
        Algorithm::Es256 => &[&[4][..], &[5; 64]].concat(),
        Algorithm::EdDsa => &[6; 32],
    };
    Created {
        put: put_done(),
        credential: CredentialId([1; 32]),
        algorithm,
        authenticator_data: heapless::Vec::from_slice(&[7; 164]).unwrap(),
        public_key: heapless::Vec::from_slice(public_key).unwrap(),
        prf,
    }
}

/// What the JSON of a base64url member holds.
fn bytes(value: &Value) -> Vec<u8> {
    options::decode("golden", value.as_str().unwrap()).unwrap()
}

const CREATE_CLIENT_DATA: &str = concat!(
    r#"{"type":"webauthn.create","challenge":"AAECAwQFBgcICQoLDA0ODw","#,
    r#""origin":"https://login.example.org:8443","crossOrigin":false}"#
);

#[test]
fn a_registration_response_is_the_golden_one() {
    let extensions = json!({"credProps": true, "prf": {"eval": {"first": "AA", "second": "AA"}}});
    let registration = registration(&with(creation(), "extensions", extensions));
    let prf = PrfResults { first: [8; 32], second: Some([9; 32]) };
    let response = registration.response(&created(Algorithm::Es256, Some(prf))).unwrap();
    let mut json = serde_json::to_value(&response).unwrap();

    let inner = json["response"].take();
    assert_eq!(bytes(&inner["clientDataJSON"]), CREATE_CLIENT_DATA.as_bytes());
    assert_eq!(bytes(&inner["authenticatorData"]), [7; 164]);
    let object = "a363666d74646e6f6e656761747453746d74a068617574684461746158a4";
    let object = object.to_owned() + &"07".repeat(164);
    assert_eq!(hex::encode(bytes(&inner["attestationObject"])), object);
    let key = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
    assert_eq!(hex::encode(bytes(&inner["publicKey"])), key.to_owned() + &"05".repeat(64));
    assert_eq!(inner["publicKeyAlgorithm"], json!(-7));
    assert_eq!(inner["transports"], json!(["hybrid", "internal"]));
    assert_eq!(inner.as_object().unwrap().len(), 6);

    let id = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    assert_eq!(
        json,
        json!({
            "id": id, "rawId": id, "type": "public-key", "authenticatorAttachment": "platform",
            "response": null,
            "clientExtensionResults": {
                "credProps": {"rk": true},
                "prf": {"enabled": true, "results": {
                    "first": "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg",
                    "second": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk",
                }},
            },
        })
    );
    assert!(!format!("{response:?}").contains("CAgICAg"), "PRF results are printed");
}

#[test]
fn an_ed25519_registration_carries_its_own_kind_of_key_and_no_results_nobody_asked_for() {
    let response = registration(&creation()).response(&created(Algorithm::EdDsa, None)).unwrap();
    let json = serde_json::to_value(&response).unwrap();
    let key = "302a300506032b6570032100".to_owned() + &"06".repeat(32);
    assert_eq!(hex::encode(bytes(&json["response"]["publicKey"])), key);
    assert_eq!(json["response"]["publicKeyAlgorithm"], json!(-8));
    assert_eq!(json["clientExtensionResults"], json!({}));

    let mut wrong = created(Algorithm::Es256, None);
    wrong.public_key.pop();
    assert!(registration(&creation()).response(&wrong).is_err());
}

#[test]
fn long_authenticator_data_keeps_its_length_in_the_attestation_object() {
    let mut long = created(Algorithm::Es256, None);
    long.authenticator_data = heapless::Vec::from_slice(&[7; 256]).unwrap();
    let response = registration(&creation()).response(&long).unwrap();
    let object = bytes(&json!(response.response.attestation_object));
    assert_eq!(hex::encode(&object[28..31]), "590100");
    assert_eq!(object[31..], [7; 256]);
}

#[test]
fn an_authentication_response_is_the_golden_one() {
    let json = with(request(), "extensions", json!({"prf": {"eval": {"first": "AA"}}}));
    let asserted = Asserted {
        guard: 1,
        authenticator_data: Bytes([7; 37]),
        signature: heapless::Vec::from_slice(&[8; 70]).unwrap(),
        user_handle: UserHandle::from_slice(&[1, 2, 3]).unwrap(),
        prf: Some(PrfResults { first: [9; 32], second: None }),
    };
    let response = authentication(&json).response(&CredentialId([1; 32]), &asserted);
    let mut json = serde_json::to_value(&response).unwrap();
    let inner = json["response"].take();
    let client_data = CREATE_CLIENT_DATA.replace("create", "get");
    assert_eq!(bytes(&inner["clientDataJSON"]), client_data.as_bytes());
    assert_eq!(bytes(&inner["authenticatorData"]), [7; 37]);
    assert_eq!(bytes(&inner["signature"]), [8; 70]);
    assert_eq!(inner["userHandle"], json!("AQID"));
    assert_eq!(inner.as_object().unwrap().len(), 4);
    let id = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    assert_eq!(
        json,
        json!({
            "id": id, "rawId": id, "type": "public-key", "authenticatorAttachment": "platform",
            "response": null,
            "clientExtensionResults": {"prf": {
                "results": {"first": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk"}
            }},
        })
    );
}

fn passkey(credential: u8) -> crate::store::Passkey {
    crate::store::Passkey {
        slot: SlotId([credential; 32]),
        version: 1,
        record: Digest([0; 32]),
        credential: CredentialId([credential; 32]),
        rp_id: "example.org".try_into().unwrap(),
        user_handle: UserHandle::from_slice(&[credential]).unwrap(),
        names: crate::requests::user_names("ana", "Ana"),
        algorithm: Algorithm::Es256,
    }
}

#[test]
fn candidates_are_of_the_relying_party_and_its_allow_list() {
    let mut foreign = passkey(3);
    foreign.rp_id = "login.example.org".try_into().unwrap();
    let all = [passkey(1), passkey(2), foreign];
    let entry = |kind: &str, id: u8| json!({"type": kind, "id": base64url(&[id; 32])});
    for (allow, expected) in [
        (Value::Null, vec![1, 2]),
        (json!([]), vec![1, 2]),
        (json!([entry("public-key", 2)]), vec![2]),
        (json!([entry("public-key", 9), entry("public-key", 1)]), vec![1]),
        (json!([entry("public-key", 3)]), vec![]),
        (json!([entry("foreign", 1)]), vec![]),
        (json!([entry("foreign", 1), entry("public-key", 2)]), vec![2]),
    ] {
        let sign_in = authentication(&with(request(), "allowCredentials", allow.clone()));
        let found: Vec<u8> =
            sign_in.candidates(&all).iter().map(|one| one.credential.0[0]).collect();
        assert_eq!(found, expected, "{allow}");
    }
}

async fn enrolled(world: &World) -> Client {
    // The model answers without key and authenticator data; give it some.
    world.state().edit = Some(Box::new(|success| {
        if let Success::Created(found) = success {
            let like = created(found.algorithm, None);
            found.public_key = like.public_key;
            found.authenticator_data = like.authenticator_data;
        }
    }));
    let client = world.client("laptop", "ana");
    client.enroll(Pin::new("593021").unwrap(), "laptop").await.unwrap();
    client
}

#[tokio::test]
async fn an_excluded_passkey_is_not_replaced_even_when_another_device_made_it() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let made = registration(&creation()).run(&client, KeyKind::Presence).await.unwrap();
    let list = json!([{"type": "foreign", "id": "AA"}, {"type": "public-key", "id": made.id}]);
    let again = registration(&with(creation(), "excludeCredentials", list.clone()));
    let refused = again.run(&client, KeyKind::Presence).await.unwrap_err();
    assert!(matches!(refused, WebAuthnError::Excluded { .. }), "{refused:?}");
    assert_eq!(refused.exception(), "InvalidStateError");

    // Another relying party's list does not concern this passkey.
    let other = with(creation(), "rp.id", json!("login.example.org"));
    let other = registration(&with(other, "excludeCredentials", list));
    other.run(&client, KeyKind::Presence).await.unwrap();

    // What this device has not synced yet is excluded all the same.
    client
        .store()
        .update(|state| -> Result<(), crate::Error> {
            let account = state.account.as_mut().unwrap();
            let start = keyfold_protocol::transcript::Chain::Vault;
            account.vault = start.genesis(crate::sha256, &account.account());
            account.passkeys.clear();
            Ok(())
        })
        .unwrap();
    let refused = again.run(&client, KeyKind::Presence).await.unwrap_err();
    assert!(matches!(refused, WebAuthnError::Excluded { .. }), "{refused:?}");
}

#[tokio::test]
async fn presence_alone_replaces_no_passkey() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    // The host's word: whether there is one it knows, and a device alone must not end it.
    world.hook(|_, class| (class == "put").then_some((409, "passkey-exists")));
    let refused = registration(&creation()).run(&client, KeyKind::Presence).await.unwrap_err();
    assert!(matches!(refused, WebAuthnError::Replaces { .. }), "{refused:?}");
    assert_eq!(refused.exception(), "NotAllowedError");
}

#[tokio::test]
async fn a_sign_in_picks_the_only_passkey_and_asks_where_several_fit() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let sign_in = authentication(&request());
    let none = sign_in.choose(&client, None).await;
    assert!(matches!(none, Err(WebAuthnError::NoPasskey { .. })), "{none:?}");

    registration(&creation()).run(&client, KeyKind::Presence).await.unwrap();
    let only = sign_in.choose(&client, None).await.unwrap();
    let response = sign_in.run(&client, &only, KeyKind::Presence).await.unwrap();
    assert_eq!(response.id, base64url(&only.credential.0));
    // The model signs with the client data's hash itself.
    let signed = bytes(&json!(response.response.signature));
    assert_eq!(signed, crate::sha256(&[&bytes(&json!(response.response.client_data_json))]));

    let other = with(creation(), "user.id", json!("BAUG"));
    registration(&other).run(&client, KeyKind::Presence).await.unwrap();
    let Err(WebAuthnError::Choose(several)) = sign_in.choose(&client, None).await else {
        panic!("two passkeys fit");
    };
    assert_eq!(several.len(), 2);
    let chosen = sign_in.choose(&client, Some(&several[1].credential)).await.unwrap();
    assert_eq!(chosen, several[1]);
    let absent = sign_in.choose(&client, Some(&CredentialId([9; 32]))).await;
    assert!(matches!(absent, Err(WebAuthnError::NoPasskey { .. })), "{absent:?}");

    let elsewhere = with(request(), "rpId", json!("login.example.org"));
    let refused = authentication(&elsewhere).run(&client, &only, KeyKind::Presence).await;
    assert!(matches!(refused, Err(WebAuthnError::NoPasskey { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_requires_verification_is_not_signed_with_presence() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let selection = json!({"userVerification": "required"});
    let strict = registration(&with(creation(), "authenticatorSelection", selection));
    let refused = strict.run(&client, KeyKind::Presence).await.unwrap_err();
    assert!(matches!(refused, WebAuthnError::VerificationRequired), "{refused:?}");
    strict.run(&client, KeyKind::UserVerification).await.unwrap();

    let strict = authentication(&with(request(), "userVerification", json!("required")));
    let passkey = strict.choose(&client, None).await.unwrap();
    let refused = strict.run(&client, &passkey, KeyKind::Presence).await.unwrap_err();
    assert!(matches!(refused, WebAuthnError::VerificationRequired), "{refused:?}");
    strict.run(&client, &passkey, KeyKind::UserVerification).await.unwrap();
}

#[tokio::test]
async fn a_site_without_a_known_algorithm_is_told_so() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let list = json!([{"type": "public-key", "alg": -257}]);
    let foreign = registration(&with(creation(), "pubKeyCredParams", list));
    let refused = foreign.run(&client, KeyKind::Presence).await.unwrap_err();
    assert_eq!(refused.exception(), "NotSupportedError", "{refused:?}");
}

fn base64url(bytes: &[u8]) -> String {
    response::base64url(bytes)
}
