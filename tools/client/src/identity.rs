//! Who the person is, from the identity issuer itself.
//!
//! The client obtains its ID token directly from the issuer that the *verified* deployment
//! statement names, checks it like a relying party (signature, issuer, audience, nonce, time) and
//! computes the account id from it. A host can therefore not steer anyone into another account.
//!
//! How a person signs in is pluggable: [`TokenSource`]. [`Browser`] is the authorization code flow
//! with PKCE and a redirect to the loopback interface; builds with the feature `development` have
//! `DevSignIn`, which needs nobody at all. Whatever the source, the token is validated here.

mod browser;
#[cfg(any(test, feature = "development"))]
mod dev;
mod provider;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use keyfold_attestation_policy::statement::Identity as Issuer;
use keyfold_protocol::ids::AccountId;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto;
use crate::deployment::now;
use crate::device::Pending;
use crate::error::Error;
use crate::store::Store;

pub use browser::Browser;
#[cfg(any(test, feature = "development"))]
pub use dev::DevSignIn;
pub use provider::Provider;

/// How recent a sign-in must be for enrolling and revoking, in seconds: the host's own limit.
pub const FRESH_WITHIN: u64 = 300;
/// Taken off [`FRESH_WITHIN`] for the way to the host, and off a token's life.
const MARGIN: u64 = 60;

/// Why signing in did not work.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The issuer does not answer as one.
    #[error("the identity issuer {issuer} cannot be used ({reason}); try again later")]
    Issuer {
        /// The issuer of the deployment statement.
        issuer: String,
        /// What does not fit.
        reason: String,
    },
    /// The issuer said no.
    #[error("the identity issuer refused the sign-in ({0}); try again")]
    Refused(String),
    /// Nobody signed in, or the window was closed.
    #[error("nobody signed in within ten minutes; start again")]
    TimedOut,
    /// The ID token is not acceptable.
    #[error("the ID token is not acceptable: {0}; sign in again")]
    Token(String),
    /// The token source failed.
    #[error("signing in failed: {0}")]
    Source(String),
}

/// What a token source is asked for.
pub struct SignInRequest {
    /// The issuer's verified endpoints.
    pub provider: Provider,
    /// `client_id` to sign in as.
    pub client_id: String,
    /// `nonce` that the ID token must carry.
    pub nonce: String,
    /// `max_age`: the person must have proved who they are within this many seconds.
    pub max_age: Option<u64>,
}

/// An ID token as the issuer sent it, not validated. Wiped on drop.
pub struct IdToken(Zeroizing<String>);

impl IdToken {
    /// The token's compact form.
    pub fn new(compact: String) -> Self {
        Self(Zeroizing::new(compact))
    }
}

/// Lets a person sign in. Implement this to use a platform's own account broker or a device flow.
/// What comes back is validated by the library: a source cannot skip a check.
pub trait TokenSource: Send + Sync {
    /// Obtains an ID token for `request` from its provider.
    fn sign_in<'a>(
        &'a self, request: &'a SignInRequest,
    ) -> Pending<'a, Result<IdToken, IdentityError>>;
}

/// A validated sign-in. Also the content of `sign-in.json`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    format: u32,
    issuer: String,
    client_id: String,
    subject: String,
    /// When it ends, in seconds since 1970.
    expires: u64,
    /// When the person proved who they are, in seconds since 1970.
    authenticated: Option<u64>,
    token: String,
}

/// The newest format of `sign-in.json`.
const FORMAT: u32 = 1;

impl SignIn {
    pub(crate) fn account_id(&self) -> AccountId {
        keyfold_protocol::transcript::account_id(crypto::sha256, &self.issuer, &self.subject)
    }

    /// The bearer token for the host.
    pub(crate) fn bearer(&self) -> &str {
        &self.token
    }

    fn serves(&self, issuer: &Issuer, fresh: bool, now: u64) -> bool {
        let is_recent = |at: u64| now.saturating_sub(at) + MARGIN <= FRESH_WITHIN;
        self.format == FORMAT
            && self.issuer == issuer.issuer()
            && self.client_id == issuer.client_id()
            && now + MARGIN <= self.expires
            && (!fresh || self.authenticated.is_some_and(is_recent))
    }
}

/// Signs in when needed, and remembers it.
pub(crate) struct SignIns {
    http: reqwest::Client,
    store: Store,
    source: Arc<dyn TokenSource>,
    current: Mutex<Option<Arc<SignIn>>>,
}

impl SignIns {
    pub(crate) fn new(http: reqwest::Client, store: Store, source: Arc<dyn TokenSource>) -> Self {
        let current = Mutex::new(store.load_sign_in().map(Arc::new));
        Self { http, store, source, current }
    }

    /// A valid sign-in at `issuer`; one not older than [`FRESH_WITHIN`] if `fresh`. Asks the
    /// person only when there is none; one question at a time.
    pub(crate) async fn get(&self, issuer: &Issuer, fresh: bool) -> Result<Arc<SignIn>, Error> {
        let mut current = self.current.lock().await;
        let now = now()?.unix_seconds();
        if let Some(known) = current.as_ref().filter(|known| known.serves(issuer, fresh, now)) {
            return Ok(known.clone());
        }
        let sign_in = Arc::new(self.ask(issuer, fresh).await?);
        self.store.save_sign_in(&*sign_in)?;
        *current = Some(sign_in.clone());
        Ok(sign_in)
    }

    /// Forgets a sign-in that the host does not take.
    pub(crate) async fn forget(&self) {
        *self.current.lock().await = None;
    }

    async fn ask(&self, issuer: &Issuer, fresh: bool) -> Result<SignIn, IdentityError> {
        let request = SignInRequest {
            provider: Provider::discover(&self.http, issuer.issuer()).await?,
            client_id: issuer.client_id().into(),
            nonce: hex::encode(crypto::random::<16>()),
            max_age: fresh.then_some(FRESH_WITHIN - MARGIN),
        };
        let token = self.source.sign_in(&request).await?;
        let keys = request.provider.keys(&self.http).await?;
        let claims = token::validate(&token.0, &request, issuer.audience(), &keys)?;
        Ok(SignIn {
            format: FORMAT,
            issuer: issuer.issuer().into(),
            client_id: request.client_id,
            subject: claims.sub,
            expires: claims.exp,
            authenticated: claims.auth_time,
            token: token.0.to_string(),
        })
    }
}
