//! What somebody between client and site could change in a response.

use serde_json::{Value, json};

use crate::{base64url, from_base64url};

/// Flags of authenticator data: user present.
pub(crate) const UP: u8 = 0x01;
/// User verified.
pub(crate) const UV: u8 = 0x04;
/// Eligible for backup.
pub(crate) const BE: u8 = 0x08;
/// Backed up.
pub(crate) const BS: u8 = 0x10;
/// Attested credential data follows.
pub(crate) const AT: u8 = 0x40;
/// Where they are.
const FLAGS: usize = 32;
/// Where the last byte of the signature counter is.
const COUNTER: usize = 36;

/// An alteration: its name, and what it does.
pub(crate) type Alteration = (&'static str, fn(&Value) -> Value);

/// What every site must notice in any response.
pub(crate) const ANYWHERE: [Alteration; 7] = [
    ("rp id", |it| in_authenticator_data(it, |data| data[0] ^= 1)),
    ("flag UP", |it| in_authenticator_data(it, |data| data[FLAGS] &= !UP)),
    ("flag UV", |it| in_authenticator_data(it, |data| data[FLAGS] &= !UV)),
    ("flag BE", |it| in_authenticator_data(it, |data| data[FLAGS] &= !BE)),
    ("origin", |it| in_client_data(it, "origin", json!(crate::relying_party::OTHER_ORIGIN))),
    ("challenge", |it| in_client_data(it, "challenge", json!(base64url(&[7; 32])))),
    ("type", |it| in_client_data(it, "type", json!("payment.get"))),
];

/// What attestation `none` leaves open, and a site must notice all the same.
pub(crate) const AT_REGISTRATION: [Alteration; 1] =
    [("flag AT", |it| in_authenticator_data(it, |data| data[FLAGS] &= !AT))];

/// What only the signature protects.
pub(crate) const AT_SIGN_IN: [Alteration; 7] = [
    ("flag BS", |it| in_authenticator_data(it, |data| data[FLAGS] &= !BS)),
    ("a reserved flag", |it| in_authenticator_data(it, |data| data[FLAGS] ^= 0x02)),
    ("counter", |it| in_authenticator_data(it, |data| data[COUNTER] ^= 1)),
    ("another member of the client data", |it| in_client_data(it, "extra", json!(1))),
    // In r, or in R: behind the header of DER, which not every library reads strictly.
    ("an early bit of the signature", |it| in_signature(it, |signature| signature[6] ^= 0x01)),
    ("a bit of the signature", |it| {
        in_signature(it, |signature| {
            let middle = signature.len() / 2;
            signature[middle] ^= 0x10;
        })
    }),
    ("last bit of the signature", |it| {
        in_signature(it, |signature| *signature.last_mut().expect("bytes") ^= 1)
    }),
];

/// The flags of a response.
pub(crate) fn flags(response: &Value) -> u8 {
    authenticator_data(response)[FLAGS]
}

fn authenticator_data(response: &Value) -> Vec<u8> {
    let text = response["response"]["authenticatorData"].as_str();
    from_base64url(text.expect("authenticator data"))
}

/// Changes authenticator data in both places where a registration carries it.
fn in_authenticator_data(response: &Value, change: impl FnOnce(&mut Vec<u8>)) -> Value {
    let before = authenticator_data(response);
    let mut after = before.clone();
    change(&mut after);
    assert_ne!(before, after, "nothing was altered");
    let mut altered = response.clone();
    let inner = &mut altered["response"];
    inner["authenticatorData"] = json!(base64url(&after));
    if let Some(object) = inner["attestationObject"].as_str() {
        let mut object = from_base64url(object);
        let found = object.windows(before.len()).position(|window| window == before);
        let at = found.expect("the same data inside the attestation object");
        object[at..at + after.len()].copy_from_slice(&after);
        inner["attestationObject"] = json!(base64url(&object));
    }
    altered
}

fn in_client_data(response: &Value, name: &str, value: Value) -> Value {
    let mut altered = response.clone();
    let text = &mut altered["response"]["clientDataJSON"];
    let mut data: Value =
        serde_json::from_slice(&from_base64url(text.as_str().expect("client data")))
            .expect("client data is JSON");
    assert_ne!(data[name], value, "nothing was altered");
    data[name] = value;
    *text = json!(base64url(data.to_string().as_bytes()));
    altered
}

fn in_signature(response: &Value, change: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut altered = response.clone();
    let text = &mut altered["response"]["signature"];
    let mut signature = from_base64url(text.as_str().expect("a signature"));
    change(&mut signature);
    *text = json!(base64url(&signature));
    altered
}
