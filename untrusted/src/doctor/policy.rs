//! A key's release policy beside an attestation token's claims, condition by condition.
//!
//! Grammar: `{"version":"1.0.0","anyOf":[{"authority":url,"allOf"|"anyOf":[condition…]}…]}`, a
//! condition being `{"claim":"a.b.c","equals":value}` (or another operator), or again a group. A claim
//! that is missing, a list or an object meets nothing. The Managed HSM decides; this explains.

use serde_json::{Map, Value};
use std::cmp::Ordering;

/// A policy, judged.
#[derive(Debug)]
pub(super) struct Judged {
    /// Where it comes from.
    pub(super) source: String,
    /// Each is enough alone.
    pub(super) alternatives: Vec<Alternative>,
    /// Whether there was a token to judge.
    pub(super) with_token: bool,
}

/// What one authority's tokens have to say.
#[derive(Debug)]
pub(super) struct Alternative {
    pub(super) authority: String,
    pub(super) conditions: Vec<Condition>,
    pub(super) met: bool,
}

/// One condition.
#[derive(Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) claim: String,
    pub(super) operator: String,
    pub(super) expected: Value,
    pub(super) actual: Option<Value>,
    pub(super) pass: bool,
}

impl Judged {
    pub(super) fn met(&self) -> bool {
        self.alternatives.iter().any(|alternative| alternative.met)
    }
}

/// Judges these claims; without any, every condition is unmet.
pub(super) fn judge(
    source: String, policy: &[u8], claims: Option<&Value>,
) -> Result<Judged, String> {
    let policy: Value = serde_json::from_slice(policy)
        .map_err(|error| format!("the release policy of {source} is not JSON: {error}"))?;
    let shape = || format!("the release policy of {source} lists no authorities");
    let entries = policy["anyOf"].as_array().ok_or_else(shape)?;
    let alternative = |entry: &Value| {
        let entry = entry.as_object().ok_or_else(shape)?;
        let authority = entry.get("authority").and_then(Value::as_str).ok_or_else(shape)?;
        let mut conditions = vec![issuer(authority, claims)];
        let met = group(entry, claims, &mut conditions) && conditions[0].pass;
        Ok(Alternative { authority: authority.to_owned(), conditions, met })
    };
    let alternatives = entries.iter().map(alternative).collect::<Result<_, String>>()?;
    Ok(Judged { source, alternatives, with_token: claims.is_some() })
}

/// The token has to be the authority's; a trailing slash does not tell them apart.
fn issuer(authority: &str, claims: Option<&Value>) -> Condition {
    let actual = claims.and_then(|claims| claims["iss"].as_str());
    let same = |issuer: &str| issuer.trim_end_matches('/') == authority.trim_end_matches('/');
    Condition {
        claim: "iss".into(),
        operator: "authority".into(),
        expected: authority.into(),
        pass: actual.is_some_and(same),
        actual: actual.map(Value::from),
    }
}

/// All or any of a list; what is neither is unmet.
fn group(object: &Map<String, Value>, claims: Option<&Value>, rows: &mut Vec<Condition>) -> bool {
    let mut each = |name: &str| -> Option<Vec<bool>> {
        let rules = object.get(name)?.as_array()?;
        Some(rules.iter().map(|rule| condition(rule, claims, rows)).collect())
    };
    match (each("allOf"), each("anyOf")) {
        (Some(all), None) => all.into_iter().all(|met| met),
        (None, Some(any)) => any.into_iter().any(|met| met),
        _ => false,
    }
}

fn condition(rule: &Value, claims: Option<&Value>, rows: &mut Vec<Condition>) -> bool {
    let Some(object) = rule.as_object() else { return false };
    let Some(claim) = object.get("claim").and_then(Value::as_str) else {
        return group(object, claims, rows);
    };
    let operator = object.iter().find(|(name, _)| *name != "claim");
    let (operator, expected) =
        operator.map_or(("none", &Value::Null), |(name, value)| (name, value));
    // Dots lead into objects; nothing leads into lists.
    let step = |value: &Value, name: &str| value.as_object()?.get(name).cloned();
    let actual = claims.cloned();
    let actual =
        actual.and_then(|claims| claim.split('.').try_fold(claims, |at, name| step(&at, name)));
    let pass = claims.is_some() && holds(operator, actual.as_ref(), expected);
    let (claim, operator) = (claim.to_owned(), operator.to_owned());
    rows.push(Condition { claim, operator, expected: expected.clone(), actual, pass });
    pass
}

fn holds(operator: &str, actual: Option<&Value>, expected: &Value) -> bool {
    let simple = actual.filter(|actual| !actual.is_array() && !actual.is_object());
    let Some(value) = simple else {
        return operator == "exists" && *expected == Value::Bool(actual.is_some());
    };
    match operator {
        "equals" => equal(value, expected),
        "notEquals" => !equal(value, expected),
        "exists" => *expected == Value::Bool(true),
        ordered => {
            let numbers = value.as_f64().zip(expected.as_f64());
            let found = numbers.and_then(|(left, right)| left.partial_cmp(&right));
            let known = ORDERS.iter().find(|(name, _)| *name == ordered);
            known.is_some_and(|(_, met)| found.is_some_and(|order| met.contains(&order)))
        }
    }
}

/// Conditions on numbers, by what a claim is next to the policy's value.
const ORDERS: [(&str, &[Ordering]); 4] = [
    ("less", &[Ordering::Less]),
    ("lessOrEquals", &[Ordering::Less, Ordering::Equal]),
    ("greater", &[Ordering::Greater]),
    ("greaterOrEquals", &[Ordering::Greater, Ordering::Equal]),
];

/// The service takes the text "true" for the boolean.
fn equal(actual: &Value, expected: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::Bool(flag) => Some(flag.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    match (actual, expected) {
        (Value::Bool(_), Value::String(_)) | (Value::String(_), Value::Bool(_)) => {
            text(actual) == text(expected)
        }
        _ => actual == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(rules: &Value, claims: &Value) -> Alternative {
        let policy =
            json!({"version": "1.0.0", "anyOf": [{"authority": "https://a/", "allOf": rules}]});
        let judged = judge("a file".into(), policy.to_string().as_bytes(), Some(claims)).unwrap();
        judged.alternatives.into_iter().next().expect("one")
    }

    #[test]
    fn each_condition_is_shown_with_what_came() {
        let claims = json!({
            "iss": "https://a", "s": "x", "n": 3, "f": false, "o": {"in": {"ner": 7}}, "list": [1],
        });
        for (condition, expected) in [
            (json!({"claim": "s", "equals": "x"}), true),
            (json!({"claim": "s", "equals": "X"}), false),
            (json!({"claim": "f", "equals": "false"}), true),
            (json!({"claim": "f", "equals": true}), false),
            (json!({"claim": "n", "equals": "3"}), false),
            (json!({"claim": "o.in.ner", "equals": 7}), true),
            (json!({"claim": "o.in", "equals": 7}), false),
            (json!({"claim": "list.0", "equals": 1}), false),
            (json!({"claim": "missing", "notEquals": 1}), false),
            (json!({"claim": "n", "notEquals": 4}), true),
            (json!({"claim": "n", "greaterOrEquals": 3}), true),
            (json!({"claim": "n", "greater": 3}), false),
            (json!({"claim": "n", "lessOrEquals": 3}), true),
            (json!({"claim": "n", "less": 3}), false),
            (json!({"claim": "missing", "exists": false}), true),
            (json!({"claim": "n", "exists": true}), true),
            (json!({"claim": "n", "like": 3}), false),
            (json!({"claim": "n"}), false),
        ] {
            let found = judged(&json!([condition]), &claims);
            assert_eq!((found.met, found.conditions[1].pass), (expected, expected), "{condition}");
        }
        let found = judged(&json!([{"claim": "n", "equals": 4}]), &claims);
        let row = &found.conditions[1];
        assert_eq!((&row.expected, row.actual.as_ref()), (&json!(4), Some(&json!(3))));
    }

    #[test]
    fn groups_nest_and_the_token_has_to_be_the_authoritys() {
        let claims = json!({"iss": "https://a", "n": 3});
        let (three, four) =
            (json!({"claim": "n", "equals": 3}), json!({"claim": "n", "equals": 4}));
        for (rules, met) in [
            (json!([{"anyOf": [four, three]}]), true),
            (json!([{"anyOf": [four, four]}]), false),
            (json!([{"allOf": [three, four]}]), false),
            (json!([three, {"neither": []}]), false),
            (json!([three, "nonsense"]), false),
        ] {
            assert_eq!(judged(&rules, &claims).met, met, "{rules}");
        }
        let elsewhere = json!({"iss": "https://b", "n": 3});
        let found = judged(&json!([three]), &elsewhere);
        assert!(!found.met && !found.conditions[0].pass && found.conditions[1].pass);
        for policy in ["nonsense", "{}", r#"{"anyOf":[{}]}"#, r#"{"anyOf":[1]}"#] {
            assert!(judge("a file".into(), policy.as_bytes(), None).is_err(), "{policy}");
        }
        let policy = json!({"anyOf": [{"authority": "https://a", "allOf": []}]}).to_string();
        let judged = judge("a file".into(), policy.as_bytes(), None).unwrap();
        assert!(!judged.met() && !judged.with_token);
    }
}
