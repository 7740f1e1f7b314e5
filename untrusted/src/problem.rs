//! What the host answers when it cannot do what was asked: RFC 9457 problem documents.
//!
//! One table of kinds: name, status, title and what the reader can do about it. Nothing in a
//! problem comes from a token, a frame or sealed state.

use serde_json::json;

/// A refusal on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which one.
    pub kind: Kind,
    /// What exactly, where the kind alone does not say it.
    pub detail: Option<String>,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $status:literal $name:literal $title:literal $advice:literal;)*) => {
        /// Every kind of problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $kind),* }

        impl Kind {
            /// All kinds, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Status, name, title and advice.
            const fn row(self) -> (u16, &'static str, &'static str, &'static str) {
                match self { $(Self::$kind => ($status, $name, $title, $advice)),* }
            }
        }
    };
}

kinds! {
    /// The body is not what the route takes.
    Malformed 400 "malformed" "The request is malformed"
        "Send what /openapi.json describes.";
    /// The frame does not open in its session.
    FrameRefused 400 "frame-refused" "The enclave cannot open the frame"
        "Open a new session and seal the request again; if it is refused again, update the client.";
    /// No token, or not one that counts.
    SignInRequired 401 "sign-in-required" "Sign in"
        "Get an ID token from this deployment's identity issuer and send it as bearer token.";
    /// The token is fine but the sign-in behind it is old (RFC 9470).
    FreshSignInRequired 401 "fresh-sign-in-required" "Sign in again"
        "This operation needs a sign-in of the last five minutes: authenticate again (max_age=300) and resend.";
    /// The envelope names somebody else.
    AccountMismatch 403 "account-mismatch" "Not your account"
        "The account in the request is not the one of the token: sign in as the account's owner.";
    /// The person has no such account.
    AccountUnknown 404 "account-unknown" "No such account"
        "Enroll first, or check the account's generation.";
    /// Nothing was put there yet.
    PairingEmpty 404 "pairing-empty" "Nothing there yet"
        "Ask again; ?wait=25 waits up to 25 seconds.";
    /// No such route.
    NotFound 404 "not-found" "No such resource" "See /openapi.json for what there is.";
    /// The route takes other methods.
    MethodNotAllowed 405 "method-not-allowed" "Method not allowed"
        "See /openapi.json for what this resource takes.";
    /// The body did not arrive in time.
    RequestTimeout 408 "request-timeout" "The request took too long to arrive" "Send it again.";
    /// The session is gone, or never was.
    SessionUnknown 409 "session-unknown" "The session is gone"
        "Open a new session and send the request again.";
    /// The channel key is of another boot.
    ChannelKeyUnknown 409 "channel-key-unknown" "The enclave has another channel key"
        "Fetch /v1/deployment again, verify the evidence, then open a new session.";
    /// The vault has moved on.
    SyncFirst 409 "sync-first" "The vault has moved on" "Sync, then sign the request again.";
    /// The guard has moved on.
    GuardMoved 409 "guard-moved" "The account's guard has moved on"
        "Fetch Status, then sign the request again for the version it shows.";
    /// A charged try was overtaken before it was compared.
    TryOvertaken 409 "try-overtaken" "Another change of the account ended the try"
        "The try counts. Another host may have finished it: look whether the device got in, then try again.";
    /// The user has a passkey at this relying party, and the request was not a verified user's.
    PasskeyExists 409 "passkey-exists" "The user has a passkey there already"
        "Replacing it ends the old one on every device: sign the request with the user-verification key.";
    /// Somebody wrote there before.
    PairingTaken 409 "pairing-taken" "Already written"
        "A pairing's side is written once: start a new pairing.";
    /// Too large.
    TooLarge 413 "too-large" "The body is too large" "See /openapi.json for the limits.";
    /// Slow down.
    RateLimited 429 "rate-limited" "Too many requests" "Wait as long as Retry-After says.";
    /// A defect of the host.
    Internal 500 "internal" "The host failed"
        "Try again; if it stays, give the operator this problem's instance.";
    /// Sealed state does not open.
    StoredStateRefused 500 "stored-state-refused" "The enclave refuses the stored state"
        "The stored state is damaged or not of this deployment's key. The operator must restore it; nothing was changed.";
    /// The store does not answer.
    StorageUnavailable 503 "storage-unavailable" "The storage is unavailable"
        "Try again later. If it was a change, fetch Status or sync first to see whether it happened.";
    /// The ledger does not answer.
    LedgerUnreachable 503 "ledger-unreachable" "The ledger is unreachable"
        "Try again later; signing in works meanwhile. If it was a change, fetch Status first: it may still happen.";
    /// The ledger is not the one this deployment trusts, or contradicts the store.
    LedgerRefused 503 "ledger-refused" "The ledger is not the one this deployment trusts"
        "Account changes and their checks are stopped until the operator resolves this; signing in works meanwhile.";
    /// No enclave is ready.
    EnclaveStarting 503 "enclave-starting" "The enclave is starting"
        "Try again shortly; sessions have to be opened again.";
    /// More waits than can be served.
    Overloaded 503 "overloaded" "Too much at once" "Try again shortly.";
    /// The issuer's keys cannot be fetched.
    IssuerUnreachable 503 "issuer-unreachable" "The identity issuer is unreachable"
        "The token cannot be checked now: try again shortly.";
    /// There is no statement to serve.
    StatementMissing 503 "statement-missing" "No deployment statement"
        "The operator has to provide the signed deployment statement.";
}

impl Kind {
    /// HTTP status.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// Last segment of `type`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// A problem of this kind that says what exactly.
    pub fn because(self, detail: impl Into<String>) -> Problem {
        Problem { detail: Some(detail.into()), ..self.into() }
    }

    /// The kind for a status that something below the routes produced.
    pub fn of_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::RequestTimeout,
            413 => Self::TooLarge,
            400..500 => Self::Malformed,
            _ => Self::Internal,
        }
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        let retry_after = match kind {
            Kind::StorageUnavailable | Kind::LedgerUnreachable | Kind::IssuerUnreachable => Some(5),
            Kind::EnclaveStarting | Kind::Overloaded => Some(1),
            _ => None,
        };
        Self { kind, detail: None, retry_after }
    }
}

impl Problem {
    /// The document, for the request with this id.
    pub fn document(&self, request_id: &str) -> String {
        let (status, name, title, advice) = self.kind.row();
        let detail = match &self.detail {
            Some(detail) => format!("{detail}. {advice}"),
            None => advice.to_owned(),
        };
        let document = json!({
            "type": format!("/problems/{name}"),
            "title": title,
            "status": status,
            "detail": detail,
            "instance": request_id,
        });
        document.to_string()
    }

    /// `WWW-Authenticate`, where the status asks for one.
    pub fn challenge(&self) -> Option<&'static str> {
        match self.kind {
            Kind::SignInRequired => Some("Bearer"),
            Kind::FreshSignInRequired => {
                Some(r#"Bearer error="insufficient_user_authentication", max_age=300"#)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_its_own_name_and_tells_what_to_do() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let document = Problem::from(*kind).document("id-1");
            let document: serde_json::Value = serde_json::from_str(&document).unwrap();
            assert_eq!(document["type"], format!("/problems/{}", kind.name()));
            assert_eq!(document["status"], kind.status());
            assert_eq!(document["instance"], "id-1");
            assert!(document["detail"].as_str().unwrap().ends_with('.'), "{kind:?}");
        }
    }

    #[test]
    fn details_come_before_the_advice() {
        let document = Kind::Malformed.because("The body is empty").document("id");
        assert!(document.contains("The body is empty. Send what"), "{document}");
    }
}
