//! Reads a release policy, strictly: what is unknown, or stands twice, is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use crate::deployment::release_policy::Condition;
use crate::values::shorten;

/// More ways to get a key than anybody can read.
const MAX_BRANCHES: usize = 4096;

/// More conditions in one way to get a key than anybody can read; the longest made here has 13.
const MAX_CONDITIONS: usize = 256;

/// No policy comes near it.
const MAX_LENGTH: usize = 256 * 1024;

/// A policy, and what is known about how it is kept.
pub(super) struct Document {
    pub(super) policy: Policy,
    pub(super) immutable: Option<bool>,
}

/// `{"version":"1.0.0","anyOf":[...]}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Policy {
    version: String,
    any_of: Vec<Authority>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Authority {
    authority: String,
    all_of: Option<Vec<Rule>>,
    any_of: Option<Vec<Rule>>,
}

/// A condition on a claim, or a group of them; what is neither is refused when it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    claim: Option<String>,
    equals: Option<Value>,
    not_equals: Option<Value>,
    less: Option<Value>,
    less_or_equals: Option<Value>,
    greater: Option<Value>,
    greater_or_equals: Option<Value>,
    exists: Option<Value>,
    all_of: Option<Vec<Rule>>,
    any_of: Option<Vec<Rule>>,
}

/// Azure's object around a policy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kept {
    content_type: Option<String>,
    data: String,
    #[serde(default)]
    immutable: bool,
}

/// A key as Managed HSM answers it; the rest of it is not read.
#[derive(Deserialize)]
struct Key {
    release_policy: Kept,
}

/// One way to get the key: conditions of which each must hold.
#[derive(Clone)]
pub(super) struct Branch<'a> {
    /// The entry of the outer `anyOf`, from 1.
    pub(super) entry: usize,
    pub(super) authority: &'a str,
    /// Claims with the only value they may have. Conditions of other kinds narrow the branch as well,
    /// but nothing here relies on them.
    equals: Vec<(&'a str, &'a Value)>,
}

impl Document {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err("longer than 256 KiB".into());
        }
        let shape: Value = serde_json::from_slice(text).map_err(reason)?;
        let has = |member| shape.get(member).is_some();
        if has("release_policy") {
            // Another reader of the same file could take it for the policy itself, or for what
            // stands around one, and see something else.
            let other = ["version", "anyOf", "contentType", "data", "immutable"];
            if let Some(member) = other.into_iter().find(|member| has(member)) {
                return Err(format!("{member} beside release_policy: two documents in one"));
            }
            let key: Key = serde_json::from_slice(text).map_err(reason)?;
            return key.release_policy.open();
        }
        if has("data") {
            return serde_json::from_slice::<Kept>(text).map_err(reason)?.open();
        }
        Ok(Self { policy: Policy::parse(text)?, immutable: None })
    }
}

impl Kept {
    fn open(self) -> Result<Document, String> {
        let content_type = self.content_type.as_deref().unwrap_or("application/json");
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(format!("contentType {:?}", shorten(content_type)));
        }
        let data = self.data.trim_end_matches('=');
        let text = URL_SAFE_NO_PAD.decode(data).map_err(|error| format!("data: {error}"))?;
        Ok(Document { policy: Policy::parse(&text)?, immutable: Some(self.immutable) })
    }
}

impl Policy {
    fn parse(text: &[u8]) -> Result<Self, String> {
        let policy: Self = serde_json::from_slice(text).map_err(reason)?;
        if policy.version != "1.0.0" {
            return Err(format!("version: expected 1.0.0, found {}", shorten(&policy.version)));
        }
        if policy.any_of.is_empty() {
            return Err("anyOf: expected at least one entry, found none".into());
        }
        Ok(policy)
    }

    /// Every way to get the key.
    pub(super) fn branches(&self) -> Result<Vec<Branch<'_>>, String> {
        let mut all = Vec::new();
        for (index, entry) in self.any_of.iter().enumerate() {
            let start =
                Branch { entry: index + 1, authority: &entry.authority, equals: Vec::new() };
            extend(&mut all, group(vec![start], &entry.all_of, &entry.any_of)?)?;
        }
        Ok(all)
    }
}

/// Refuses before it grows: a short text can have more ways than fit into memory.
fn extend<'a>(all: &mut Vec<Branch<'a>>, more: Vec<Branch<'a>>) -> Result<(), String> {
    if all.len() + more.len() > MAX_BRANCHES {
        return Err(format!("more than {MAX_BRANCHES} ways to get the key"));
    }
    all.extend(more);
    Ok(())
}

/// What becomes of `branches`, which are not too many, when they must meet a group as well.
fn group<'a>(
    branches: Vec<Branch<'a>>, all_of: &'a Option<Vec<Rule>>, any_of: &'a Option<Vec<Rule>>,
) -> Result<Vec<Branch<'a>>, String> {
    match (all_of.as_deref(), any_of.as_deref()) {
        (Some(all @ [_, ..]), None) => {
            all.iter().try_fold(branches, |branches, rule| rule.narrow(branches))
        }
        // The last way takes the branches themselves, so that whatever is copied counts.
        (None, Some([ways @ .., last])) => {
            let mut met = Vec::new();
            for way in ways {
                extend(&mut met, way.narrow(branches.clone())?)?;
            }
            extend(&mut met, last.narrow(branches)?)?;
            Ok(met)
        }
        _ => Err("expected one list, allOf or anyOf, with at least one entry".into()),
    }
}

impl Rule {
    fn narrow<'a>(&'a self, mut branches: Vec<Branch<'a>>) -> Result<Vec<Branch<'a>>, String> {
        let operators = [
            &self.equals,
            &self.not_equals,
            &self.less,
            &self.less_or_equals,
            &self.greater,
            &self.greater_or_equals,
            &self.exists,
        ];
        let values: Vec<&Value> = operators.into_iter().flatten().collect();
        let Some(claim) = &self.claim else {
            if !values.is_empty() {
                return Err("a condition without a claim".into());
            }
            return group(branches, &self.all_of, &self.any_of);
        };
        if self.all_of.is_some() || self.any_of.is_some() {
            return Err(format!("{}: a condition and a group in one", shorten(claim)));
        }
        match values[..] {
            [value] if !value.is_array() && !value.is_object() => {}
            _ => return Err(format!("{}: expected one operator and one value", shorten(claim))),
        }
        if let Some(value) = &self.equals {
            for branch in &mut branches {
                if branch.equals.len() == MAX_CONDITIONS {
                    return Err(format!("more than {MAX_CONDITIONS} conditions in one way"));
                }
                branch.equals.push((claim, value));
            }
        }
        Ok(branches)
    }
}

impl Branch<'_> {
    pub(super) fn demands(&self, condition: &Condition) -> bool {
        self.equal_to(condition.claim).any(|value| *value == condition.equals)
    }

    /// The values that the branch demands of a claim.
    pub(super) fn equal_to(&self, claim: &str) -> impl Iterator<Item = &Value> {
        self.equals.iter().filter(move |(name, _)| *name == claim).map(|(_, value)| *value)
    }
}

fn reason(error: serde_json::Error) -> String {
    shorten(&error.to_string())
}
