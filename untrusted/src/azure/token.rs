//! A look at MAA's token before it goes to the Managed HSM, which verifies it: a mistake found here
//! has a name, there it is only a 403.

use super::{base64url, same_service};
use crate::clock::unix_now;
use crate::config::BaseUrl;
use serde_json::Value;

/// Clocks may differ by this many seconds.
const LEEWAY: u64 = 300;

/// Whether the token is by `issuer`, in time, of an SNP guest that cannot be debugged, and about
/// exactly these runtime claims.
pub(super) fn check(token: &str, issuer: &BaseUrl, claims: &[u8]) -> Result<(), String> {
    let parts: Vec<_> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return Err("the token is no signed JWT".into());
    };
    let header = json(header)?;
    if header["alg"] != "RS256" || signature.is_empty() {
        return Err(format!("the token is signed with {}, not RS256", header["alg"]));
    }
    let token = json(payload)?;
    let issued_by = token["iss"].as_str().unwrap_or_default();
    if !same_service(issued_by, issuer) {
        return Err(format!("the token is issued by {issued_by:?}, not by azure.maa_url"));
    }
    let now = unix_now();
    let time = |name: &str| token[name].as_u64().ok_or_else(|| format!("the token has no {name}"));
    if time("exp")?.saturating_add(LEEWAY) < now || time("nbf")? > now.saturating_add(LEEWAY) {
        return Err(format!(
            "the token is of {} to {}, this machine's clock says {now}",
            token["nbf"], token["exp"]
        ));
    }
    expect(&token, "x-ms-attestation-type", &"sevsnpvm".into())?;
    expect(&token, "x-ms-sevsnpvm-is-debuggable", &false.into())?;
    let claims: Value = serde_json::from_slice(claims).map_err(|error| error.to_string())?;
    expect(&token, "x-ms-runtime", &claims)
}

fn expect(token: &Value, claim: &str, value: &Value) -> Result<(), String> {
    let found = &token[claim];
    if found == value {
        return Ok(());
    }
    Err(format!("the token's {claim} is {found}, expected {value}"))
}

fn json(part: &str) -> Result<Value, String> {
    serde_json::from_slice(&base64url(part)?).map_err(|error| format!("the token: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    fn verdict(alter: impl Fn(&mut Value, &mut Value)) -> Result<(), String> {
        let mut header = json!({"alg": "RS256"});
        let mut payload = json!({
            "iss": "https://maa.example", "exp": unix_now() + 100, "nbf": unix_now() - 100,
            "x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-is-debuggable": false,
            "x-ms-runtime": {"keyfold": {"role": "release"}},
        });
        alter(&mut header, &mut payload);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!("{}.{}.c2ln", part(&header), part(&payload));
        let issuer = BaseUrl::parse("https://maa.example/").unwrap();
        check(&token, &issuer, br#"{"keyfold":{"role":"release"}}"#)
    }

    #[test]
    fn every_check_has_its_complaint() {
        assert_eq!(verdict(|_, _| {}), Ok(()));
        type Alter = fn(&mut Value, &mut Value);
        let table: [(Alter, &str); 8] = [
            (|header, _| header["alg"] = "none".into(), "not RS256"),
            (|_, token| token["iss"] = "https://other.example".into(), "not by azure.maa_url"),
            (|_, token| token["exp"] = 1_000_000.into(), "clock says"),
            (|_, token| token["nbf"] = 99_999_999_999_u64.into(), "clock says"),
            (|_, token| token["exp"] = Value::Null, "no exp"),
            (|_, token| token["x-ms-attestation-type"] = "azurevm".into(), "expected \"sevsnpvm\""),
            (|_, token| token["x-ms-sevsnpvm-is-debuggable"] = true.into(), "expected false"),
            (|_, token| token["x-ms-runtime"] = json!({}), "x-ms-runtime"),
        ];
        for (alter, complaint) in table {
            let error = verdict(alter).expect_err(complaint);
            assert!(error.contains(complaint), "{error}");
        }
        let issuer = BaseUrl::parse("https://maa.example").unwrap();
        assert!(check("a.b", &issuer, b"{}").unwrap_err().contains("no signed JWT"));
    }
}
