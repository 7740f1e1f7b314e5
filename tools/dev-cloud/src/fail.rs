//! Failure switches: what the dev cloud is told to do wrong, and how often.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A service with switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The OpenID issuer.
    Oidc,
    /// The instance metadata service, THIM included.
    Imds,
    /// AMD's key distribution service.
    Kds,
    /// The directory that workload identities get their access tokens from.
    Aad,
    /// The attestation service.
    Maa,
    /// The Managed HSM.
    Hsm,
    /// The ledger.
    Ledger,
}

use Service::{Aad, Hsm, Imds, Kds, Ledger, Maa, Oidc};

const EVERY_SERVICE: &[Service] = &[Oidc, Imds, Kds, Aad, Maa, Hsm, Ledger];

/// What goes wrong. In JSON a name, "503" (any status of 400 to 599) or one of these in snake_case; what a mode
/// carries here is a member beside it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Answers with this status and the service's error body, nothing done. 429 and 503 say Retry-After;
    /// the HSM's 401 says its challenge.
    Status(u16),
    /// Waits `delay_ms`, then does what was asked.
    Slow,
    /// Never answers.
    Hang,
    /// Closes the connection without an answer, nothing done.
    Down,
    /// Does what was asked, then closes the connection without an answer.
    DropReply,
    /// Refuses connections for `delay_ms`, beginning now: a service that is not up yet.
    SlowStart,
    /// Ledger: GET /app/receipt keeps answering 202.
    WithholdReceipt,
    /// Ledger: at once, the service goes on under another key.
    Identity,
    /// MAA: iat, nbf and exp are so many seconds ahead ("offset_s"; negative: behind).
    ClockOffset(i64),
    /// MAA: /certs lists another certificate, and not the one that signs.
    KidMissing,
    /// MAA: /certs lists two certificates, the second of which signs. Correct clients do not notice.
    TwoCertificates,
    /// MAA: the token is not signed, `alg` none.
    UnsecuredToken,
    /// HSM: the last byte of the ciphertext is lost.
    TruncatedCiphertext,
    /// HSM: the key is wrapped to another RSA key of the same size.
    RewrappedCiphertext,
    /// HSM: OAEP with another hash than `enc` says.
    WrongOaepHash,
    /// HSM: the key's release policy is still the one for an earlier workload.
    StalePolicy,
    /// HSM: what is released is signed under a certificate that is wrong in this ("certificate").
    ForeignCertificate(Foreign),
    /// IMDS: THIM serves the chip's certificate for another firmware than the reports' ("firmware").
    StaleTcb(Firmware),
}

/// What is wrong with the HSM's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Foreign {
    /// It chains to a root nobody trusts, under the right names.
    #[default]
    Root,
    /// It chains to the right root, and is another HSM's.
    Name,
}

/// Which firmware THIM's certificate is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// The one before: reports are ahead of the certificate.
    #[default]
    Older,
    /// The one to come: reports are behind the certificate.
    Newer,
}

/// One switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Failure {
    /// Whose requests.
    pub service: Service,
    /// What happens to them.
    pub mode: Mode,
    /// To how many requests; absent: until cleared. `SlowStart` and `Identity` do not count requests.
    pub times: Option<u32>,
    /// Only to paths that begin so; absent: to every path. Modes of one service have their own path.
    pub path: Option<String>,
    /// How long `Slow` waits, and `SlowStart` refuses.
    pub delay_ms: u64,
}

/// A switch in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    service: Service,
    mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default = "default_delay")]
    delay_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset_s: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<Foreign>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    firmware: Option<Firmware>,
}

fn default_delay() -> u64 {
    2000
}

const LONGEST_DELAY_MS: u64 = 24 * 3600 * 1000;
const LARGEST_OFFSET_S: u64 = 365 * 24 * 3600;

impl Failure {
    /// `mode` for the next `times` requests of `service`.
    pub fn new(service: Service, mode: Mode, times: u32) -> Self {
        Self { service, mode, times: Some(times), path: None, delay_ms: default_delay() }
    }

    /// Whether the service can fail so; the error says why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (mode, services) = (&self.mode, self.mode.services());
        if !services.contains(&self.service) {
            let known: Vec<_> =
                services.iter().map(|service| format!("{service:?}").to_lowercase()).collect();
            return Err(format!("{mode} is a mode of {}", known.join(", ")));
        }
        if self.path.is_some() && !self.mode.is_general() {
            return Err(format!("{mode} has its own path: leave path out"));
        }
        match mode {
            Mode::Status(status) if !(400..=599).contains(status) => {
                Err(format!("{status} is not a status of 400 to 599"))
            }
            Mode::ClockOffset(0) => Err("clock_offset needs offset_s, not 0".to_owned()),
            Mode::ClockOffset(seconds) if seconds.unsigned_abs() > LARGEST_OFFSET_S => {
                Err("offset_s is a year at most".to_owned())
            }
            _ if self.delay_ms > LONGEST_DELAY_MS => Err("delay_ms is a day at most".to_owned()),
            _ => Ok(()),
        }
    }
}

impl Mode {
    const NAMED: [Self; 17] = [
        Self::Slow,
        Self::Hang,
        Self::Down,
        Self::DropReply,
        Self::SlowStart,
        Self::WithholdReceipt,
        Self::Identity,
        Self::ClockOffset(0),
        Self::KidMissing,
        Self::TwoCertificates,
        Self::UnsecuredToken,
        Self::TruncatedCiphertext,
        Self::RewrappedCiphertext,
        Self::WrongOaepHash,
        Self::StalePolicy,
        Self::ForeignCertificate(Foreign::Root),
        Self::StaleTcb(Firmware::Older),
    ];

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Status(status) => return Cow::Owned(status.to_string()),
            Self::Slow => "slow",
            Self::Hang => "hang",
            Self::Down => "down",
            Self::DropReply => "drop_reply",
            Self::SlowStart => "slow_start",
            Self::WithholdReceipt => "withhold_receipt",
            Self::Identity => "identity",
            Self::ClockOffset(_) => "clock_offset",
            Self::KidMissing => "kid_missing",
            Self::TwoCertificates => "two_certificates",
            Self::UnsecuredToken => "unsecured_token",
            Self::TruncatedCiphertext => "truncated_ciphertext",
            Self::RewrappedCiphertext => "rewrapped_ciphertext",
            Self::WrongOaepHash => "wrong_oaep_hash",
            Self::StalePolicy => "stale_policy",
            Self::ForeignCertificate(_) => "foreign_certificate",
            Self::StaleTcb(_) => "stale_tcb",
        })
    }

    /// Which services can fail so.
    fn services(&self) -> &'static [Service] {
        match self {
            Self::Status(_)
            | Self::Slow
            | Self::Hang
            | Self::Down
            | Self::DropReply
            | Self::SlowStart => EVERY_SERVICE,
            Self::WithholdReceipt | Self::Identity => &[Ledger],
            Self::ClockOffset(_)
            | Self::KidMissing
            | Self::TwoCertificates
            | Self::UnsecuredToken => &[Maa],
            Self::TruncatedCiphertext
            | Self::RewrappedCiphertext
            | Self::WrongOaepHash
            | Self::StalePolicy
            | Self::ForeignCertificate(_) => &[Hsm],
            Self::StaleTcb(_) => &[Imds],
        }
    }

    /// Acted out before or after a handler, on any path; the others are acted out by the handler.
    fn is_general(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Slow | Self::Hang | Self::Down | Self::DropReply)
    }

    fn parse(name: &str, form: &Form) -> Result<Self, String> {
        if let Ok(status) = name.parse() {
            return Ok(Self::Status(status));
        }
        let mode = Self::NAMED.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::NAMED.iter().map(Self::name).collect();
            format!("unknown mode {name:?}: use a status of 400 to 599, or {}", known.join(", "))
        })?;
        Ok(match mode {
            Self::ClockOffset(_) => Self::ClockOffset(form.offset_s.unwrap_or_default()),
            Self::ForeignCertificate(_) => {
                Self::ForeignCertificate(form.certificate.unwrap_or_default())
            }
            Self::StaleTcb(_) => Self::StaleTcb(form.firmware.unwrap_or_default()),
            mode => mode,
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name())
    }
}

impl TryFrom<Form> for Failure {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        let mode = Mode::parse(&form.mode, &form)?;
        for (member, given, fits) in [
            ("offset_s", form.offset_s.is_some(), matches!(mode, Mode::ClockOffset(_))),
            (
                "certificate",
                form.certificate.is_some(),
                matches!(mode, Mode::ForeignCertificate(_)),
            ),
            ("firmware", form.firmware.is_some(), matches!(mode, Mode::StaleTcb(_))),
        ] {
            if given && !fits {
                return Err(format!("{mode} takes no {member}"));
            }
        }
        let Form { service, times, path, delay_ms, .. } = form;
        let failure = Self { service, mode, times, path, delay_ms };
        failure.check().map(|()| failure)
    }
}

impl From<Failure> for Form {
    fn from(failure: Failure) -> Self {
        let Failure { service, mode, times, path, delay_ms } = failure;
        let mut form = Self {
            service,
            mode: mode.to_string(),
            times,
            path,
            delay_ms,
            offset_s: None,
            certificate: None,
            firmware: None,
        };
        match mode {
            Mode::ClockOffset(offset) => form.offset_s = Some(offset),
            Mode::ForeignCertificate(foreign) => form.certificate = Some(foreign),
            Mode::StaleTcb(firmware) => form.firmware = Some(firmware),
            _ => {}
        }
        form
    }
}

/// The switches that are on.
pub(crate) struct Failures {
    /// Oldest first, each with the moment it was turned on.
    on: Mutex<Vec<(Instant, Failure)>>,
    /// Told at every change.
    changed: watch::Sender<()>,
    /// Whose listener refuses connections, as told.
    refusing: watch::Sender<Vec<Service>>,
}

impl Default for Failures {
    fn default() -> Self {
        let (changed, refusing) = (watch::Sender::new(()), watch::Sender::new(Vec::new()));
        Self { on: Mutex::default(), changed, refusing }
    }
}

impl Failures {
    pub(crate) fn add(&self, failure: Failure) {
        if failure.times != Some(0) {
            self.lock().push((Instant::now(), failure));
            self.changed.send_replace(());
        }
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.changed.send_replace(());
    }

    pub(crate) fn list(&self) -> Vec<Failure> {
        self.lock().iter().map(|(_, failure)| failure.clone()).collect()
    }

    /// The failure a request on `path` meets before or after its handler.
    pub(crate) fn take_for(&self, service: Service, path: &str) -> Option<Failure> {
        self.take_where(|failure| {
            failure.service == service
                && failure.mode.is_general()
                && failure.path.as_ref().is_none_or(|prefix| path.starts_with(prefix))
        })
    }

    /// Whether a handler acts this mode out now.
    pub(crate) fn take(&self, service: Service, mode: &Mode) -> bool {
        self.take_some(service, |on| (on == mode).then_some(())).is_some()
    }

    /// What a handler acts out now: what `mode` makes of a mode that is on.
    pub(crate) fn take_some<T>(
        &self, service: Service, mode: impl Fn(&Mode) -> Option<T>,
    ) -> Option<T> {
        let taken =
            self.take_where(|failure| failure.service == service && mode(&failure.mode).is_some())?;
        mode(&taken.mode)
    }

    fn take_where(&self, wanted: impl Fn(&Failure) -> bool) -> Option<Failure> {
        let mut on = self.lock();
        let index = on.iter().position(|(_, failure)| wanted(failure))?;
        let failure = &mut on[index].1;
        if let Some(times) = &mut failure.times {
            *times -= 1;
            if *times == 0 {
                return Some(on.remove(index).1);
            }
        }
        Some(failure.clone())
    }

    /// Until when the service is not up yet, if it is not.
    pub(crate) fn starts_at(&self, service: Service) -> Option<Instant> {
        let now = Instant::now();
        let up = |(since, failure): &(Instant, Failure)| {
            *since + Duration::from_millis(failure.delay_ms)
        };
        let starting = |(_, failure): &(Instant, Failure)| {
            failure.service == service && failure.mode == Mode::SlowStart
        };
        let mut on = self.lock();
        on.retain(|switch| !starting(switch) || up(switch) > now);
        on.iter().filter(|switch| starting(switch)).map(up).max()
    }

    /// Sees every change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tells whether the service's listener refuses connections.
    pub(crate) fn set_refusing(&self, service: Service, refusing: bool) {
        self.refusing.send_modify(|services| {
            services.retain(|other| *other != service);
            services.extend(refusing.then_some(service));
        });
    }

    /// Waits until the service's listener refuses connections.
    pub(crate) async fn refuses(&self, service: Service) {
        let mut refusing = self.refusing.subscribe();
        let _ = refusing.wait_for(|services| services.contains(&service)).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Failure)>> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
