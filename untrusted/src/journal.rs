//! What bringing an enclave up did, step by step: for the log of a host, and for `doctor`.
//!
//! A journal holds no token, no key and no signature: only where was asked, what was said about it,
//! and the claims that decide a release.

use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

macro_rules! steps {
    ($($(#[$doc:meta])* $variant:ident $exit:literal $name:literal $advice:literal;)*) => {
        /// A step on the way from a fresh enclave to one that serves, in their order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step {
            $($(#[$doc])* $variant,)*
        }

        impl Step {
            /// Every step once, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As logs and `doctor` write it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What `doctor` exits with when this step fails.
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }

            /// What to look at when it fails.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

steps! {
    /// The configuration file and what it refers to.
    Configuration 10 "configuration"
        "`keyfold-host config check` names the key that is wrong.";
    /// Starting or reaching the enclave.
    Connect 11 "enclave"
        "Is the program or the confidential VM there? Its own log lines say why it does not start.";
    /// First frame.
    Configure 12 "Configure"
        "Are host and enclave of one release, and does a pipe's enclave get the argument `pipe`?";
    /// The enclave's evidence for the key.
    ReleaseClaims 13 "ReleaseClaims"
        "The enclave's log names why it has no report: no SEV-SNP guest, no driver, no random source.";
    /// The files a confidential container is given.
    SecurityContext 14 "security context"
        "Is UVM_SECURITY_CONTEXT_DIR the folder that the platform mounted, with host-amd-cert-base64?";
    /// The machine's own cache of its chip's certificates.
    Thim 15 "THIM"
        "Is the metadata service reachable without a proxy? AMD KDS or the cache on disk serve meanwhile.";
    /// AMD's key distribution service.
    Kds 16 "AMD KDS"
        "Is azure.kds_url reachable? It answers one request per ten seconds and address.";
    /// The report's TCB and chip against the VCEK's.
    Tcb 17 "TCB"
        "The firmware was updated and no service has the certificate of its new TCB yet: wait, then start again.";
    /// Evidence for a token.
    Attest 18 "MAA"
        "Does the attestation policy accept this workload, and is the report genuine?";
    /// The attestation service's signing keys.
    AttestationKeys 19 "MAA keys"
        "Are azure.maa_url's /.well-known/openid-configuration and /certs reachable?";
    /// The token, before it is used.
    AttestationToken 20 "MAA token"
        "The token is not what was asked for: is azure.maa_url the service it should be?";
    /// This machine's clock against the token's times.
    Clock 21 "clock"
        "Set this machine's clock; a token lives eight hours from the moment it is issued.";
    /// A bearer token for the Managed HSM.
    AccessToken 22 "access token"
        "Has this machine or pod the identity of azure.client_id, and may it ask for tokens?";
    /// The key's release.
    Release 23 "Managed HSM"
        "401: the access token is of another audience or tenant, or has expired. 403: the policy, condition by condition, or the release role. 404: the key's name and version.";
    /// What was released, before it is used.
    ReleaseAnswer 24 "released key"
        "The answer is not the Managed HSM's: do not use it. Check azure.hsm_roots and who answers at azure.hsm_url.";
    /// The key goes in.
    Unlock 25 "Unlock"
        "The wrapped key does not open: it was made for another enclave, or changed on its way.";
    /// The enclave's evidence for clients.
    Evidence 26 "Evidence"
        "Are host and enclave of one release?";
    /// The root key against the one before.
    Root 27 "root key"
        "azure.key_name, azure.key_version or the Managed HSM changed; go back to the key of this deployment.";
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One request or one check, and what came of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which.
    pub step: Step,
    /// Whom it asked; the link for the enclave's own steps.
    pub endpoint: String,
    /// HTTP status of the last attempt.
    pub status: Option<u16>,
    /// The service's own error code.
    pub code: Option<String>,
    /// `x-ms-request-id`.
    pub request_id: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// All attempts, the waits between them included.
    pub took: Duration,
    /// What it brought, or why it did not.
    pub outcome: Result<String, String>,
}

impl Entry {
    /// A check that asked nobody over the network.
    pub fn local(step: Step, endpoint: impl Into<String>, outcome: Result<String, String>) -> Self {
        let (status, code, request_id) = (None, None, None);
        let (endpoint, took) = (endpoint.into(), Duration::ZERO);
        Self { step, endpoint, status, code, request_id, attempts: 1, took, outcome }
    }
}

/// What was learnt on the way that explains a decision.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the report and its VCEK say of the machine.
    pub machine: Option<Machine>,
    /// The attestation token's claims.
    pub token: Option<Value>,
    /// The key policy, as the Managed HSM keeps it.
    pub policy: Option<Vec<u8>>,
    /// Key id of the one-boot key that the root key is wrapped to.
    pub wrapped_to: Option<String>,
    /// How.
    pub wrap: Option<&'static str>,
    /// Key id of the released key.
    pub released: Option<String>,
    /// Audience, object id and tenant of the access token.
    pub identity: Option<[String; 3]>,
}

/// Report beside VCEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processor family.
    pub product: String,
    /// REPORTED_TCB, by its parts.
    pub report_tcb: String,
    /// The VCEK's TCB, by its parts.
    pub vcek_tcb: String,
    /// Whether both name one chip.
    pub same_chip: bool,
    /// Who gave the certificate.
    pub source: &'static str,
}

/// Entries and facts of one boot.
#[derive(Debug, Default)]
pub struct Journal(Mutex<(Vec<Entry>, Facts)>);

impl Journal {
    /// One more entry.
    pub fn note(&self, entry: Entry) {
        self.lock().0.push(entry);
    }

    /// A check, and its outcome again.
    pub fn check<T, E: std::fmt::Display>(
        &self, step: Step, endpoint: &str, outcome: Result<(T, String), E>,
    ) -> Result<T, E> {
        match outcome {
            Ok((value, found)) => {
                self.note(Entry::local(step, endpoint, Ok(found)));
                Ok(value)
            }
            Err(error) => {
                self.note(Entry::local(step, endpoint, Err(error.to_string())));
                Err(error)
            }
        }
    }

    /// Adds to the facts.
    pub fn learn(&self, add: impl FnOnce(&mut Facts)) {
        add(&mut self.lock().1);
    }

    /// So far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().0.clone()
    }

    /// So far.
    pub fn facts(&self) -> Facts {
        self.lock().1.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<Entry>, Facts)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_step_has_its_own_name_and_exit_code() {
        let names: HashSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        let codes: HashSet<_> = Step::ALL.iter().map(|step| step.exit_code()).collect();
        assert_eq!((names.len(), codes.len()), (Step::ALL.len(), Step::ALL.len()));
        // 1 and 2 are a failure without a step and a wrong command line.
        assert!(codes.iter().all(|code| *code > 2));
        assert!(Step::ALL.iter().all(|step| step.advice().ends_with(['.', '?'])));
    }

    #[test]
    fn the_operator_guide_says_the_same_of_a_refused_token() {
        let guide = include_str!("../README.md");
        let (refused, _) = Step::Release.advice().split_once(" 403").unwrap();
        assert!(guide.contains(&format!("| 23 | Managed HSM | {refused} ")));
    }
}
