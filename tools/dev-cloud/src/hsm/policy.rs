//! Key release policies: the grammar, and whether a token's claims meet one.
//!
//! {"version":"1.0.0","anyOf":[{"authority":url,"allOf"|"anyOf":[condition…]}…]}, a condition being
//! {"claim":"a.b.c","equals":value} (or another operator), or again {"allOf"|"anyOf":[condition…]}.

use crate::strict_json;
use serde_json::{Map, Value};

/// A policy that was well-formed.
#[derive(Debug)]
pub(super) struct ReleasePolicy {
    authorities: Vec<Authority>,
}

#[derive(Debug)]
struct Authority {
    url: String,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    All(Vec<Rule>),
    Any(Vec<Rule>),
    Claim { name: String, operator: Operator, value: Value },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equals,
    NotEquals,
    Less,
    LessOrEquals,
    Greater,
    GreaterOrEquals,
    Exists,
}

const OPERATORS: [(&str, Operator); 7] = [
    ("equals", Operator::Equals),
    ("notEquals", Operator::NotEquals),
    ("less", Operator::Less),
    ("lessOrEquals", Operator::LessOrEquals),
    ("greater", Operator::Greater),
    ("greaterOrEquals", Operator::GreaterOrEquals),
    ("exists", Operator::Exists),
];

impl ReleasePolicy {
    /// Reads a policy; the error says what is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let policy = strict_json::parse(text).map_err(|error| format!("not JSON: {error}"))?;
        let policy = policy.as_object().ok_or("not an object")?;
        members(policy, &["version", "anyOf"])?;
        if policy.get("version") != Some(&Value::from("1.0.0")) {
            return Err("version must be \"1.0.0\"".into());
        }
        let authorities = list(policy.get("anyOf"), "anyOf", |entry| {
            let entry = entry.as_object().ok_or("an authority is an object")?;
            members(entry, &["authority", "allOf", "anyOf"])?;
            let url =
                entry.get("authority").and_then(Value::as_str).ok_or("authority is missing")?;
            let rule = group(entry)?;
            Ok(Authority { url: url.trim_end_matches('/').to_owned(), rule })
        })?;
        Ok(Self { authorities })
    }

    /// Whether tokens of this issuer count at all.
    pub(super) fn names(&self, issuer: &str) -> bool {
        self.authorities.iter().any(|authority| authority.url == issuer.trim_end_matches('/'))
    }

    /// Whether the issuer's claims meet the policy; the error lists the conditions that are not met.
    pub(super) fn check(&self, issuer: &str, claims: &Value) -> Result<(), Vec<String>> {
        let mut unmet = Vec::new();
        for authority in &self.authorities {
            if authority.url != issuer.trim_end_matches('/') {
                continue;
            }
            match authority.rule.check(claims) {
                Ok(()) => return Ok(()),
                Err(more) => unmet.extend(more),
            }
        }
        Err(unmet)
    }
}

fn members(object: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("{name:?} is not known here")),
        None => Ok(()),
    }
}

fn list<T>(
    value: Option<&Value>, name: &str, entry: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value.and_then(Value::as_array) {
        Some(entries) if !entries.is_empty() => entries.iter().map(entry).collect(),
        _ => Err(format!("{name} is a list of at least one entry")),
    }
}

/// The one group of an authority or a nested condition.
fn group(object: &Map<String, Value>) -> Result<Rule, String> {
    match (object.get("allOf"), object.get("anyOf")) {
        (all @ Some(_), None) => Ok(Rule::All(list(all, "allOf", condition)?)),
        (None, any @ Some(_)) => Ok(Rule::Any(list(any, "anyOf", condition)?)),
        _ => Err("exactly one of allOf and anyOf is needed".into()),
    }
}

fn condition(value: &Value) -> Result<Rule, String> {
    let object = value.as_object().ok_or("a condition is an object")?;
    let Some(name) = object.get("claim") else {
        members(object, &["allOf", "anyOf"])?;
        return group(object);
    };
    let name = name.as_str().filter(|name| !name.is_empty()).ok_or("claim is a name")?;
    let mut operators = object.iter().filter(|(member, _)| *member != "claim");
    let (Some((operator, value)), None) = (operators.next(), operators.next()) else {
        return Err(format!("{name}: exactly one operator is needed"));
    };
    let operator = OPERATORS
        .iter()
        .find(|(known, _)| known == operator)
        .map(|(_, operator)| *operator)
        .ok_or_else(|| format!("{name}: {operator:?} is not an operator"))?;
    let fits = match operator {
        Operator::Equals | Operator::NotEquals => {
            !(value.is_array() || value.is_object() || value.is_null())
        }
        Operator::Exists => value.is_boolean(),
        _ => value.is_number(),
    };
    if !fits {
        return Err(format!("{name}: the value does not fit its operator"));
    }
    Ok(Rule::Claim { name: name.to_owned(), operator, value: value.clone() })
}

impl Rule {
    fn check(&self, claims: &Value) -> Result<(), Vec<String>> {
        match self {
            Self::All(rules) => {
                let unmet: Vec<_> =
                    rules.iter().filter_map(|rule| rule.check(claims).err()).flatten().collect();
                if unmet.is_empty() { Ok(()) } else { Err(unmet) }
            }
            Self::Any(rules) => {
                let mut unmet = Vec::new();
                for rule in rules {
                    match rule.check(claims) {
                        Ok(()) => return Ok(()),
                        Err(more) => unmet.extend(more),
                    }
                }
                Err(unmet)
            }
            Self::Claim { name, operator, value } => {
                let actual = find(claims, name);
                if operator.holds(actual, value) {
                    return Ok(());
                }
                let actual = actual.map_or("absent".to_owned(), Value::to_string);
                Err(vec![format!("{name} is {actual}, wanted {operator:?} {value}")])
            }
        }
    }
}

/// Dots lead into objects; nothing leads into arrays.
fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(claims, |value, member| value.as_object()?.get(member))
}

impl Operator {
    /// A claim that is absent, an array or an object meets nothing but `exists: false`.
    fn holds(self, actual: Option<&Value>, wanted: &Value) -> bool {
        let Some(actual) = actual.filter(|actual| !actual.is_array() && !actual.is_object()) else {
            return self == Self::Exists && *wanted == Value::Bool(actual.is_some());
        };
        let order = || actual.as_f64()?.partial_cmp(&wanted.as_f64()?);
        match self {
            Self::Equals => equal(actual, wanted),
            Self::NotEquals => !equal(actual, wanted),
            Self::Less => order().is_some_and(|order| order.is_lt()),
            Self::LessOrEquals => order().is_some_and(|order| order.is_le()),
            Self::Greater => order().is_some_and(|order| order.is_gt()),
            Self::GreaterOrEquals => order().is_some_and(|order| order.is_ge()),
            Self::Exists => *wanted == Value::Bool(true),
        }
    }
}

/// Text "true" equals the boolean, as recorded from the real service.
fn equal(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Bool(flag), Value::String(text)) | (Value::String(text), Value::Bool(flag)) => {
            text == if *flag { "true" } else { "false" }
        }
        (Value::Number(actual), Value::Number(wanted)) => {
            actual == wanted
                || (actual.as_f64() == wanted.as_f64() && (actual.is_f64() || wanted.is_f64()))
        }
        _ => actual == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(conditions: Value) -> Result<ReleasePolicy, String> {
        let policy = json!({"version": "1.0.0", "anyOf": [{"authority": "https://a/", "allOf": conditions}]});
        ReleasePolicy::parse(policy.to_string().as_bytes())
    }

    fn met(condition: Value) -> bool {
        let claims = json!({
            "s": "x", "n": 3, "f": false, "t": "true", "o": {"in": {"ner": 7}}, "list": [1],
        });
        policy(json!([condition])).unwrap().check("https://a", &claims).is_ok()
    }

    #[test]
    fn conditions() {
        for (condition, expected) in [
            (json!({"claim": "s", "equals": "x"}), true),
            (json!({"claim": "s", "equals": "X"}), false),
            (json!({"claim": "n", "equals": 3}), true),
            (json!({"claim": "n", "equals": 3.0}), true),
            (json!({"claim": "n", "equals": "3"}), false),
            (json!({"claim": "f", "equals": false}), true),
            (json!({"claim": "f", "equals": "false"}), true),
            (json!({"claim": "f", "equals": true}), false),
            (json!({"claim": "t", "equals": true}), true),
            (json!({"claim": "o.in.ner", "equals": 7}), true),
            (json!({"claim": "o.in.missing", "equals": 7}), false),
            (json!({"claim": "o.in", "equals": 7}), false),
            (json!({"claim": "list.0", "equals": 1}), false),
            (json!({"claim": "missing", "notEquals": 1}), false),
            (json!({"claim": "n", "notEquals": 4}), true),
            (json!({"claim": "n", "greaterOrEquals": 3}), true),
            (json!({"claim": "n", "greater": 3}), false),
            (json!({"claim": "n", "lessOrEquals": 3}), true),
            (json!({"claim": "n", "less": 3}), false),
            (json!({"claim": "s", "less": 3}), false),
            (json!({"claim": "o", "exists": true}), true),
            (json!({"claim": "missing", "exists": false}), true),
            (json!({"claim": "missing", "exists": true}), false),
            (json!({"anyOf": [{"claim": "n", "equals": 4}, {"claim": "n", "equals": 3}]}), true),
            (json!({"anyOf": [{"claim": "n", "equals": 4}, {"claim": "n", "equals": 5}]}), false),
            (json!({"allOf": [{"claim": "n", "equals": 3}, {"claim": "s", "equals": "y"}]}), false),
        ] {
            assert_eq!(met(condition.clone()), expected, "{condition}");
        }
    }

    #[test]
    fn every_condition_counts_and_only_the_named_issuer() {
        let claims = json!({"a": 1, "b": 2});
        let both =
            policy(json!([{"claim": "a", "equals": 1}, {"claim": "b", "equals": 3}])).unwrap();
        let unmet = both.check("https://a", &claims).unwrap_err();
        assert_eq!(unmet, ["b is 2, wanted Equals 3"]);
        let one = policy(json!([{"claim": "a", "equals": 1}])).unwrap();
        assert!(one.names("https://a/") && !one.names("https://b"));
        assert!(one.check("https://a/", &claims).is_ok());
        assert!(one.check("https://b", &claims).is_err());
    }

    #[test]
    fn malformed_policies_are_refused() {
        let authority = json!({"authority": "https://a", "allOf": [{"claim": "a", "equals": 1}]});
        for bad in [
            json!({"anyOf": [authority]}),
            json!({"version": "0.2", "anyOf": [authority]}),
            json!({"version": "1.0.0"}),
            json!({"version": "1.0.0", "anyOf": []}),
            json!({"version": "1.0.0", "allOf": [authority]}),
            json!({"version": "1.0.0", "anyOf": [authority], "more": 1}),
            json!({"version": "1.0.0", "anyOf": [{"allOf": [{"claim": "a", "equals": 1}]}]}),
            json!({"version": "1.0.0", "anyOf": [{"authority": "https://a"}]}),
            json!({"version": "1.0.0", "anyOf": [{"authority": "https://a", "allOf": [], "anyOf": []}]}),
        ] {
            assert!(ReleasePolicy::parse(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        for bad in [
            json!([]),
            json!([{"claim": "a"}]),
            json!([{"claim": "", "equals": 1}]),
            json!([{"claim": "a", "equals": 1, "less": 2}]),
            json!([{"claim": "a", "like": 1}]),
            json!([{"claim": "a", "equals": [1]}]),
            json!([{"claim": "a", "less": "1"}]),
            json!([{"equals": 1}]),
        ] {
            assert!(policy(bad.clone()).is_err(), "{bad}");
        }
        assert!(ReleasePolicy::parse(b"{\"version\":\"1.0.0\",\"version\":\"1.0.0\"}").is_err());
    }
}
