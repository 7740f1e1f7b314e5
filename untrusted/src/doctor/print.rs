//! A diagnosis as one screen, and as JSON.

use super::Diagnosis;
use crate::azure::LEEWAY;
use crate::journal::Entry;
use serde_json::{Value, json};
use std::fmt::Write;

/// A step's line is found wanting only where the boot ended there: another source may have served.
fn outcome(diagnosis: &Diagnosis, index: usize, entry: &Entry) -> &'static str {
    let is_last = index + 1 == diagnosis.entries.len();
    match (&entry.outcome, diagnosis.failed()) {
        (Ok(_), _) => "ok",
        (Err(_), Some(step)) if step == entry.step || is_last => "FAIL",
        (Err(_), _) => "passed over",
    }
}

pub(super) fn text(diagnosis: &Diagnosis) -> String {
    let mut out = format!("keyfold-host doctor: {}\n\n", diagnosis.deployment);
    for (index, entry) in diagnosis.entries.iter().enumerate() {
        step(&mut out, outcome(diagnosis, index, entry), entry);
    }
    if diagnosis.failed.is_some() {
        for step in diagnosis.not_tried() {
            let _ = writeln!(out, "{:<12} {step}", "not tried");
        }
    }
    facts(&mut out, diagnosis);
    policy(&mut out, diagnosis);
    let _ = match (&diagnosis.failed, diagnosis.partial) {
        (Some((step, what)), _) => writeln!(
            out,
            "\n{step} failed (exit code {}): {what}\n{}",
            step.exit_code(),
            step.advice()
        ),
        (None, true) => writeln!(out, "\nWhat needs no enclave works."),
        (None, false) => writeln!(out, "\nAn enclave started here gets its key."),
    };
    out
}

fn step(out: &mut String, outcome: &str, entry: &Entry) {
    let Entry { step, endpoint, status, code, request_id, attempts, took, outcome: found } = entry;
    let mut notes = Vec::new();
    notes.extend(status.map(|status| format!("status {status}")));
    notes.extend(code.iter().cloned());
    notes.extend(request_id.iter().map(|id| format!("x-ms-request-id {id}")));
    notes.extend((*attempts > 1).then(|| format!("{attempts} attempts")));
    notes.extend((!took.is_zero()).then(|| format!("{} ms", took.as_millis())));
    let notes = notes.join(", ");
    let _ = writeln!(out, "{outcome:<12} {:<14} {endpoint}  {notes}", step.name());
    let (Ok(found) | Err(found)) = found;
    if !found.is_empty() {
        let _ = writeln!(out, "{:<27} {found}", "");
    }
}

fn facts(out: &mut String, diagnosis: &Diagnosis) {
    let facts = &diagnosis.facts;
    out.push('\n');
    if let Some(machine) = &facts.machine {
        let chip = if machine.same_chip { "one chip" } else { "ANOTHER CHIP" };
        let _ = writeln!(out, "machine      {}, {chip}", machine.product);
        let _ = writeln!(out, "  report     {}", machine.report_tcb);
        let _ = writeln!(out, "  VCEK       {} ({})", machine.vcek_tcb, machine.source);
    }
    if let Some(token) = &facts.token {
        let _ = writeln!(
            out,
            "clock        now {}, token iat {} nbf {} exp {}, {LEEWAY} s leeway",
            diagnosis.now, token["iat"], token["nbf"], token["exp"]
        );
    }
    if let Some([audience, object, tenant]) = &facts.identity {
        let _ = writeln!(out, "identity     aud {audience}, oid {object}, tid {tenant}");
    }
    if let (Some(key), Some(wrap), Some(to)) = (&facts.released, facts.wrap, &facts.wrapped_to) {
        let _ = writeln!(out, "key          {key}\n  wrapped    {wrap} to {to}");
    }
}

fn policy(out: &mut String, diagnosis: &Diagnosis) {
    if let Some(why) = &diagnosis.no_policy {
        let _ = writeln!(out, "policy       not compared: {why}");
    }
    let Some(judged) = &diagnosis.policy else { return };
    let verdict = match (judged.with_token, judged.met()) {
        (false, _) => "no token to compare with",
        (true, true) => "met",
        (true, false) => "NOT MET",
    };
    let _ = writeln!(out, "policy       of {}: {verdict}", judged.source);
    for (index, alternative) in judged.alternatives.iter().enumerate() {
        let met = if alternative.met { "met" } else { "not met" };
        let _ = writeln!(out, "  alternative {}: {met}", index + 1);
        for row in &alternative.conditions {
            let pass = if row.pass { "pass" } else { "FAIL" };
            let actual = row.actual.as_ref().map_or("absent".into(), Value::to_string);
            let _ = write!(out, "  {pass} {} {} {}", row.claim, row.operator, row.expected);
            let _ = if row.pass { writeln!(out) } else { writeln!(out, ", actual {actual}") };
        }
    }
}

pub(super) fn json(diagnosis: &Diagnosis) -> Value {
    let facts = &diagnosis.facts;
    let steps = diagnosis.entries.iter().enumerate().map(|(index, entry)| {
        let (Ok(detail) | Err(detail)) = &entry.outcome;
        json!({
            "step": entry.step.name(),
            "outcome": outcome(diagnosis, index, entry).to_lowercase(),
            "endpoint": entry.endpoint,
            "status": entry.status,
            "code": entry.code,
            "request_id": entry.request_id,
            "attempts": entry.attempts,
            "milliseconds": u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
            "detail": detail,
        })
    });
    let not_tried: Vec<_> = match diagnosis.failed {
        Some(_) => diagnosis.not_tried().iter().map(|step| step.name()).collect(),
        None => Vec::new(),
    };
    let failed = diagnosis
        .failed
        .as_ref()
        .map(|(step, what)| json!({"step": step.name(), "what": what, "advice": step.advice()}));
    let clock = facts.token.as_ref().map(|token| {
        json!({"now": diagnosis.now, "iat": token["iat"], "nbf": token["nbf"], "exp": token["exp"]})
    });
    let machine = facts.machine.as_ref().map(|machine| {
        json!({
            "product": machine.product,
            "report_tcb": machine.report_tcb,
            "vcek_tcb": machine.vcek_tcb,
            "same_chip": machine.same_chip,
            "source": machine.source,
        })
    });
    let identity = facts.identity.as_ref();
    let identity = identity.map(|[aud, oid, tid]| json!({"aud": aud, "oid": oid, "tid": tid}));
    json!({
        "deployment": diagnosis.deployment,
        "exit_code": diagnosis.exit_code(),
        "failed": failed,
        "steps": steps.collect::<Vec<_>>(),
        "not_tried": not_tried,
        "machine": machine,
        "clock": clock,
        "identity": identity,
        "key": {"id": facts.released, "algorithm": facts.wrap, "wrapped_to": facts.wrapped_to},
        "policy": policy_json(diagnosis),
    })
}

fn policy_json(diagnosis: &Diagnosis) -> Value {
    let Some(judged) = &diagnosis.policy else {
        return json!({"not_compared": diagnosis.no_policy});
    };
    let alternatives = judged.alternatives.iter().map(|alternative| {
        let conditions = alternative.conditions.iter().map(|row| {
            json!({
                "claim": row.claim,
                "operator": row.operator,
                "expected": row.expected,
                "actual": row.actual,
                "pass": row.pass,
            })
        });
        let conditions: Vec<_> = conditions.collect();
        json!({
            "authority": alternative.authority, "met": alternative.met, "conditions": conditions,
        })
    });
    let alternatives: Vec<_> = alternatives.collect();
    json!({"source": judged.source, "met": judged.met(), "alternatives": alternatives})
}
