//! Boot against a hostile host: one configuration, one root key, and evidence that says exactly
//! which.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_protocol::client::Class;
use keyfold_protocol::host::{
    Attached, Claimed, Commit, Config, Evidence, FreshRead, Handle, HostRefusal, HostReply,
    HostRequest, KeyWrap, OpenSession, Settle, Unlock,
};
use keyfold_protocol::ids::{Account, AccountId, ChannelKeyId, Digest, SessionId};
use keyfold_protocol::limits::{ENCAPSULATED_KEY, FRAME, REPORT};
use keyfold_protocol::wire::Items;
use keyfold_tests::crypto::{hkdf_expand, random, sha256};
use keyfold_tests::enclave::{Enclave, ROOT, config, decode, label};
use keyfold_tests::hostile::encoded;
use keyfold_tests::ledger::Ledger;
use keyfold_trusted::{Core, Platform, PlatformError, RELEASE_MODULUS, RootKey};

/// What a scripted platform is to do, and what it was asked.
#[derive(Default)]
struct Script {
    no_random: Cell<bool>,
    no_report: Cell<bool>,
    no_release_key: Cell<bool>,
    no_unwrap: Cell<bool>,
    unwraps: Cell<u32>,
    report_data: RefCell<Vec<[u8; 64]>>,
}

/// A platform that would unwrap any number of root keys: that there is one is the core's doing.
struct Scripted(Rc<Script>);

fn unless<T>(fails: &Cell<bool>, value: T) -> Result<T, PlatformError> {
    if fails.get() { Err(PlatformError) } else { Ok(value) }
}

/// Every byte value, so that every base64 group is met.
fn modulus() -> [u8; RELEASE_MODULUS] {
    std::array::from_fn(|index| u8::try_from((index * 7 + 131) % 256).expect("a byte"))
}

impl Platform for Scripted {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), PlatformError> {
        bytes
            .chunks_mut(32)
            .for_each(|chunk| chunk.copy_from_slice(&random::<32>()[..chunk.len()]));
        unless(&self.0.no_random, ())
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], PlatformError> {
        self.0.report_data.borrow_mut().push(*report_data);
        unless(&self.0.no_report, [0x5e; REPORT])
    }

    fn release_key(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError> {
        unless(&self.0.no_release_key, modulus())
    }

    fn unwrap_root(&mut self, _: KeyWrap, wrapped: &[u8]) -> Result<RootKey, PlatformError> {
        self.0.unwraps.set(self.0.unwraps.get() + 1);
        unless(&self.0.no_unwrap, RootKey::new(wrapped.try_into().expect("32 bytes")))
    }
}

struct Machine {
    core: Box<Core<Scripted>>,
    script: Rc<Script>,
    out: Box<[u8; FRAME]>,
}

impl Machine {
    fn new() -> Self {
        let script = Rc::<Script>::default();
        let core = Box::new(Core::new(Scripted(script.clone())));
        Self { core, script, out: Box::new([0; FRAME]) }
    }

    fn call(&mut self, request: &HostRequest) -> HostReply<'_> {
        let written = self.core.handle(&encoded(request), &mut self.out);
        decode(&self.out[..written])
    }

    fn configured(config: &Config) -> Self {
        let mut machine = Self::new();
        let reply = machine.call(&HostRequest::Configure(config.clone()));
        assert!(matches!(reply, HostReply::Configured(_)));
        machine
    }

    fn keyed(config: &Config) -> Self {
        let mut machine = Self::configured(config);
        assert!(matches!(machine.call(&unlock(&ROOT)), HostReply::Unlocked(_)));
        machine
    }
}

fn unlock(wrapped: &[u8]) -> HostRequest<'_> {
    HostRequest::Unlock(Unlock { algorithm: KeyWrap::Sha256, wrapped })
}

fn a_config() -> Config {
    config(&Ledger::new(), FreshRead::Reports)
}

/// Each request there is, valid in form.
fn every_request(config: &Config) -> [(&'static str, HostRequest<'static>); 8] {
    let account = Account { id: AccountId([1; 32]), generation: 1 };
    let handle = Handle {
        session: SessionId([1; 16]),
        account,
        counter: 0,
        class: Class::Status,
        frame: &[0; 528],
        time: Claimed(0),
        guard: None,
        vault: None,
        record: None,
        fresh: None,
        events: Items::empty(),
        audit: Items::empty(),
    };
    let staged = Attached { version: Claimed(1), sealed: &[0; 64] };
    let digest = Claimed(Digest([1; 32]));
    let open = OpenSession {
        channel_key: ChannelKeyId([1; 32]),
        encapsulated_key: &[0; ENCAPSULATED_KEY],
    };
    [
        ("Configure", HostRequest::Configure(config.clone())),
        ("ReleaseClaims", HostRequest::ReleaseClaims),
        ("Unlock", unlock(&[9; 32])),
        ("Evidence", HostRequest::Evidence),
        ("OpenSession", HostRequest::OpenSession(open)),
        ("Handle", HostRequest::Handle(handle)),
        ("Commit", HostRequest::Commit(Commit { account, staged, digest, receipt: &[] })),
        ("Settle", HostRequest::Settle(Settle { account, guard: staged })),
    ]
}

#[test]
fn every_request_has_its_phase() {
    let config = a_config();
    let halted = |config: &Config| {
        let mut machine = Machine::configured(config);
        machine.script.no_unwrap.set(true);
        let reply = machine.call(&unlock(&ROOT));
        assert_eq!(reply, HostReply::Refused(HostRefusal::Unwrap));
        machine.script.no_unwrap.set(false);
        machine
    };
    type Phase = (&'static str, fn(&Config) -> Machine, &'static [&'static str]);
    let phases: [Phase; 4] = [
        ("Booted", |_| Machine::new(), &["Configure"]),
        ("Configured", Machine::configured, &["ReleaseClaims", "Unlock"]),
        ("Keyed", Machine::keyed, &["Evidence", "OpenSession", "Handle", "Commit", "Settle"]),
        ("Halted", halted, &[]),
    ];
    for (phase, machine, served) in phases {
        for (name, request) in every_request(&config) {
            let mut machine = machine(&config);
            let is_wrong = machine.call(&request) == HostReply::Refused(HostRefusal::WrongPhase);
            assert_eq!(is_wrong, !served.contains(&name), "{name} in {phase}");
        }
    }
}

#[test]
fn a_second_configuration_changes_nothing() {
    let (first, mut second) = (a_config(), a_config());
    second.deployment = label("another");
    for mut machine in [Machine::configured(&first), Machine::keyed(&first)] {
        let reply = machine.call(&HostRequest::Configure(second.clone()));
        assert_eq!(reply, HostReply::Refused(HostRefusal::WrongPhase));
        machine.call(&unlock(&ROOT));
        let HostReply::Evidence(evidence) = machine.call(&HostRequest::Evidence) else {
            panic!("no evidence");
        };
        let claims = String::from_utf8(evidence.evidence.claims.to_vec()).expect("text");
        assert!(claims.contains(&config_hash(&first)), "{claims}");
    }
}

#[test]
fn a_second_root_key_never_arrives() {
    // The host chose the second one: with it, it could forge every seal.
    let mut machine = Machine::keyed(&a_config());
    for wrapped in [[9; 32], ROOT] {
        let reply = machine.call(&unlock(&wrapped));
        assert_eq!(reply, HostReply::Refused(HostRefusal::WrongPhase));
    }
    assert_eq!(machine.script.unwraps.get(), 1, "the platform was not even asked");
    let HostReply::Evidence(evidence) = machine.call(&HostRequest::Evidence) else {
        panic!("no evidence");
    };
    let claims = String::from_utf8(evidence.evidence.claims.to_vec()).expect("text");
    assert!(claims.contains(&commitment(&ROOT)), "{claims}");
}

#[test]
fn a_failed_unlock_halts_for_good() {
    type Break = fn(&Script, bool);
    let rows: [(&str, Break, HostRefusal); 2] = [
        ("the unwrap", |script, fails| script.no_unwrap.set(fails), HostRefusal::Unwrap),
        ("the channel key", |script, fails| script.no_random.set(fails), HostRefusal::Platform),
    ];
    for (name, break_it, expected) in rows {
        let mut machine = Machine::configured(&a_config());
        break_it(&machine.script, true);
        assert_eq!(machine.call(&unlock(&ROOT)), HostReply::Refused(expected), "{name}");
        break_it(&machine.script, false);
        for (request, frame) in every_request(&a_config()) {
            let wrong = HostReply::Refused(HostRefusal::WrongPhase);
            assert_eq!(machine.call(&frame), wrong, "{request} after a failure of {name}");
        }
    }
}

#[test]
fn a_failing_platform_is_a_refusal_that_can_be_asked_again() {
    let mut machine = Machine::configured(&a_config());
    for fails in [&machine.script.clone().no_report, &machine.script.clone().no_release_key] {
        fails.set(true);
        let reply = machine.call(&HostRequest::ReleaseClaims);
        assert_eq!(reply, HostReply::Refused(HostRefusal::Platform));
        fails.set(false);
        let reply = machine.call(&HostRequest::ReleaseClaims);
        assert!(matches!(reply, HostReply::ReleaseClaims(_)));
    }
    machine.call(&unlock(&ROOT));
    machine.script.no_report.set(true);
    let reply = machine.call(&HostRequest::Evidence);
    assert_eq!(reply, HostReply::Refused(HostRefusal::Platform));
    machine.script.no_report.set(false);
    assert!(matches!(machine.call(&HostRequest::Evidence), HostReply::Evidence(_)));
}

fn config_hash(config: &Config) -> String {
    hex::encode(sha256(&[b"keyfold/config/1", &encoded(config)]))
}

fn commitment(root: &[u8; 32]) -> String {
    hex::encode(hkdf_expand(root, &[b"keyfold/root/commitment/1"]))
}

/// That a report covers these claims: SHA-256, then zeros.
fn assert_covered(script: &Script, claims: &[u8]) {
    let covered = *script.report_data.borrow().last().expect("a report");
    assert_eq!(covered[..32], sha256(&[claims]));
    assert_eq!(covered[32..], [0; 32]);
}

#[test]
fn release_claims_are_this_exact_text() {
    let config = a_config();
    let mut machine = Machine::configured(&config);
    let HostReply::ReleaseClaims(Evidence { claims, report }) =
        machine.call(&HostRequest::ReleaseClaims)
    else {
        panic!("no claims");
    };
    assert_eq!(report, [0x5e; REPORT]);
    let claims = claims.to_vec();
    let n = BASE64_URL_SAFE_NO_PAD.encode(modulus());
    // RFC 7638: computed elsewhere, once.
    let kid = "_osw5oHd8r6NCpYB8j85Nus2Rp_CIX4jn7uNcC4_Vn4";
    let expected = format!(
        concat!(
            r#"{{"keyfold":{{"version":1,"role":"release","config":"{}"}},"#,
            r#""keys":[{{"kty":"RSA","kid":"{}","use":"enc","n":"{}","e":"AQAB"}}]}}"#,
        ),
        config_hash(&config),
        kid,
        n,
    );
    assert_eq!(String::from_utf8(claims.clone()).expect("text"), expected);
    assert_covered(&machine.script, &claims);
}

#[test]
fn channel_claims_are_this_exact_text() {
    let config = a_config();
    let mut machine = Machine::keyed(&config);
    let HostReply::Evidence(evidence) = machine.call(&HostRequest::Evidence) else {
        panic!("no evidence");
    };
    assert_eq!(evidence.evidence.report, [0x5e; REPORT]);
    let claims = evidence.evidence.claims.to_vec();
    let expected = format!(
        concat!(
            r#"{{"keyfold":{{"version":1,"role":"channel","config":"{}","#,
            r#""root":"{}","channel_key":"{}"}}}}"#,
        ),
        config_hash(&config),
        commitment(&ROOT),
        hex::encode(sha256(&[evidence.channel_key])),
    );
    assert_eq!(String::from_utf8(claims.clone()).expect("text"), expected);
    assert_covered(&machine.script, &claims);
}

#[test]
fn a_channel_key_lasts_one_boot() {
    let config = a_config();
    let mut enclave = Enclave::boot(&config, &ROOT);
    let reply = enclave.call(&HostRequest::Evidence);
    let HostReply::Evidence(again) = decode(&reply) else { panic!("no evidence") };
    assert_eq!(again.channel_key, enclave.channel_key, "evidence again, the same key");
    let rebooted = Enclave::boot(&config, &ROOT);
    // Neither half survives: the X25519 key is the last 32 bytes.
    assert_ne!(rebooted.channel_key[..1184], enclave.channel_key[..1184]);
    assert_ne!(rebooted.channel_key[1184..], enclave.channel_key[1184..]);
}

#[test]
fn every_field_of_the_configuration_is_in_its_hash() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 5] = [
        ("deployment", |config| config.deployment = label("other")),
        ("ledger key", |config| config.ledger_key = Ledger::new().public_key()),
        ("ledger issuer", |config| config.ledger_issuer = label("other.test")),
        ("fresh reads", |config| config.fresh_read = FreshRead::Always),
        ("a byte from one name to the next", |config| {
            config.deployment = label("testl");
            config.ledger_issuer = label("edger.test");
        }),
    ];
    let first = a_config();
    let hash = |config: &Config| Enclave::boot(config, &ROOT).config_hash;
    assert_eq!(hex::encode(hash(&first).0), config_hash(&first));
    for (name, change) in changes {
        let mut changed = first.clone();
        change(&mut changed);
        assert_ne!(hash(&changed), hash(&first), "{name}");
    }
}

#[test]
fn a_commitment_names_the_root_key_and_nothing_else() {
    let boot = |config: &Config, root| Enclave::boot(config, root).commitment;
    let (one, other) = (a_config(), a_config());
    assert_eq!(boot(&one, &ROOT), boot(&other, &ROOT));
    assert_ne!(boot(&one, &ROOT), boot(&one, &[1; 32]));
    assert_ne!(boot(&one, &ROOT), Digest(ROOT));
}
