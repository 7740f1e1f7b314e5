//! Relying parties that this project did not write, behind one face.
//!
//! `webauthn-rs` is used through the crate it is built on, because its own face always requires user
//! verification. It knows no Ed25519. The other two are programs of tests/relying-parties.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keyfold_tests::program::{Program, install, install_node, run};
use serde_json::{Value, json};
use webauthn_rs_core::WebauthnCore;
use webauthn_rs_core::proto::{
    AttestationConveyancePreference, AuthenticationState, COSEAlgorithm, Credential,
    RegistrationState, UserVerificationPolicy,
};

/// The site's relying party id.
pub(crate) const RP_ID: &str = "shop.example";
/// Where the site's pages live.
pub(crate) const ORIGIN: &str = "https://www.shop.example";
/// Another site under the same relying party id, which the site itself does not accept.
pub(crate) const OTHER_ORIGIN: &str = "https://forum.shop.example";

/// ES256 and EdDSA as COSE numbers them.
pub(crate) const ES256: i32 = -7;
/// See [`ES256`].
pub(crate) const EDDSA: i32 = -8;

/// A site with one of the libraries.
pub(crate) enum RelyingParty {
    /// In this process.
    WebauthnRs(Box<WebauthnRs>),
    /// In a process of its own.
    Program(Program),
}

/// What a site asks of a client, and how to finish it.
pub(crate) struct Ceremony {
    /// For the client.
    pub(crate) options: Value,
    id: usize,
}

/// What a site has verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Credential id, base64url.
    pub(crate) credential: String,
    /// The credential's algorithm.
    pub(crate) algorithm: i32,
    /// Flag UV.
    pub(crate) user_verified: bool,
}

impl RelyingParty {
    /// The crate `webauthn-rs`.
    pub(crate) fn webauthn_rs() -> Self {
        Self::WebauthnRs(Box::new(WebauthnRs::new()))
    }

    /// npm's `@simplewebauthn/server`.
    pub(crate) fn simplewebauthn() -> Self {
        let (source, program) = (source().join("node"), "relying-party.js");
        let folder = install_node(target(), "relying-party-node", &source, program);
        Self::program(Command::new("node").arg(program).current_dir(folder))
    }

    /// PyPI's `webauthn`.
    pub(crate) fn py_webauthn() -> Self {
        let python = install_python().join("bin/python");
        Self::program(Command::new(python).arg(source().join("python/relying_party.py")))
    }

    fn program(command: &mut Command) -> Self {
        Self::Program(Program::start(command.args([RP_ID, ORIGIN])))
    }

    /// Asks for a passkey for a user.
    pub(crate) fn register(
        &mut self, user: &str, algorithms: &[i32], user_verification: &str, extensions: Value,
    ) -> Ceremony {
        self.begin(json!({
            "begin": "registration",
            "user": user,
            "algorithms": algorithms,
            "userVerification": user_verification,
            "extensions": extensions,
        }))
    }

    /// Asks for a sign-in with a passkey.
    pub(crate) fn authenticate(
        &mut self, credential: &str, user_verification: &str, extensions: Value,
    ) -> Ceremony {
        self.begin(json!({
            "begin": "authentication",
            "credential": credential,
            "userVerification": user_verification,
            "extensions": extensions,
        }))
    }

    fn begin(&mut self, question: Value) -> Ceremony {
        let begun = match self {
            Self::WebauthnRs(library) => library.begin(&question),
            Self::Program(program) => program.ask(&question),
        };
        let id = begun["ceremony"].as_u64().and_then(|id| usize::try_from(id).ok());
        Ceremony { options: begun["options"].clone(), id: id.expect("a number") }
    }

    /// What the site makes of a client's response. A ceremony can be finished any number of times.
    pub(crate) fn finish(
        &mut self, ceremony: &Ceremony, response: &Value,
    ) -> Result<Accepted, String> {
        let answer = match self {
            Self::WebauthnRs(library) => library.finish(ceremony.id, response),
            Self::Program(program) => {
                program.ask(&json!({"finish": ceremony.id, "response": response}))
            }
        };
        if let Some(why) = answer["refused"].as_str() {
            return Err(why.to_owned());
        }
        let accepted = &answer["accepted"];
        let text = |name: &str| accepted[name].as_str().expect("a string").to_owned();
        let algorithm = accepted["algorithm"].as_i64().and_then(|it| i32::try_from(it).ok());
        Ok(Accepted {
            credential: text("credential"),
            algorithm: algorithm.expect("a COSE number"),
            user_verified: accepted["userVerified"].as_bool().expect("a flag"),
        })
    }
}

/// `webauthn-rs`, answering what the programs answer.
pub(crate) struct WebauthnRs {
    core: WebauthnCore,
    ceremonies: Vec<State>,
    credentials: Vec<Credential>,
}

enum State {
    Registration(Box<RegistrationState>),
    Authentication(Box<AuthenticationState>),
}

impl WebauthnRs {
    fn new() -> Self {
        let origin = ORIGIN.parse().expect("a URL");
        let timeout = Duration::from_secs(60);
        let core =
            WebauthnCore::new_unsafe_experts_only("Shop", RP_ID, vec![origin], timeout, None, None);
        Self { core, ceremonies: Vec::new(), credentials: Vec::new() }
    }

    fn begin(&mut self, question: &Value) -> Value {
        let policy = match question["userVerification"].as_str().expect("a string") {
            "required" => UserVerificationPolicy::Required,
            "preferred" => UserVerificationPolicy::Preferred,
            _ => UserVerificationPolicy::Discouraged_DO_NOT_USE,
        };
        let (options, state) = match question["begin"].as_str() {
            Some("registration") => self.register(question, policy),
            _ => self.authenticate(question, policy),
        };
        let mut options = options["publicKey"].clone();
        // The library has no PRF; sites that use it add it to the options.
        for (name, value) in question["extensions"].as_object().into_iter().flatten() {
            options["extensions"][name] = value.clone();
        }
        self.ceremonies.push(state);
        json!({"ceremony": self.ceremonies.len() - 1, "options": options})
    }

    fn register(&self, question: &Value, policy: UserVerificationPolicy) -> (Value, State) {
        let user = question["user"].as_str().expect("a string");
        let algorithms = question["algorithms"].as_array().into_iter().flatten();
        let algorithms = algorithms.map(|algorithm| match algorithm.as_i64() {
            Some(-7) => COSEAlgorithm::ES256,
            Some(-8) => COSEAlgorithm::EDDSA,
            Some(-257) => COSEAlgorithm::RS256,
            other => panic!("{other:?} is not in these tests"),
        });
        let builder = self.core.new_challenge_register_builder(user.as_bytes(), user, user);
        let builder = builder.expect("a user").user_verification_policy(policy);
        let builder = builder
            .credential_algorithms(algorithms.collect())
            // Some sites ask for it; the answer is none all the same.
            .attestation(AttestationConveyancePreference::Direct)
            .require_resident_key(true);
        let (options, state) = self.core.generate_challenge_register(builder).expect("options");
        let options = serde_json::to_value(options).expect("JSON");
        (options, State::Registration(Box::new(state)))
    }

    fn authenticate(&self, question: &Value, policy: UserVerificationPolicy) -> (Value, State) {
        let wanted = question["credential"].as_str().expect("a string");
        let is_it = |one: &&Credential| super::base64url(&one.cred_id) == wanted;
        let credential = self.credentials.iter().find(is_it).expect("registered before").clone();
        let builder = self.core.new_challenge_authenticate_builder(vec![credential], Some(policy));
        let begun = self.core.generate_challenge_authenticate(builder.expect("a credential"));
        let (options, state) = begun.expect("options");
        let options = serde_json::to_value(options).expect("JSON");
        (options, State::Authentication(Box::new(state)))
    }

    fn finish(&mut self, ceremony: usize, response: &Value) -> Value {
        let refused = |why: &dyn std::fmt::Debug| json!({"refused": format!("{why:?}")});
        let (credential, user_verified) = match &self.ceremonies[ceremony] {
            State::Registration(state) => {
                let verified = serde_json::from_value(response.clone())
                    .map_err(|error| refused(&error))
                    .and_then(|response| {
                        let done = self.core.register_credential(&response, state, None);
                        done.map_err(|error| refused(&error))
                    });
                let credential = match verified {
                    Ok(credential) => credential,
                    Err(refusal) => return refusal,
                };
                self.credentials.push(credential.clone());
                let user_verified = credential.user_verified;
                (credential, user_verified)
            }
            State::Authentication(state) => {
                let verified = serde_json::from_value(response.clone())
                    .map_err(|error| refused(&error))
                    .and_then(|response| {
                        let done = self.core.authenticate_credential(&response, state);
                        done.map_err(|error| refused(&error))
                    });
                let result = match verified {
                    Ok(result) => result,
                    Err(refusal) => return refusal,
                };
                let is_it = |one: &&Credential| one.cred_id == *result.cred_id();
                let credential = self.credentials.iter().find(is_it).expect("registered before");
                (credential.clone(), result.user_verified())
            }
        };
        json!({"accepted": {
            "credential": super::base64url(&credential.cred_id),
            "algorithm": credential.cred.type_ as i32,
            "userVerified": user_verified,
        }})
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("relying-parties")
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn install_python() -> PathBuf {
    let list = source().join("python/requirements.txt");
    install(target(), "relying-party-python", std::slice::from_ref(&list), |folder| {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder));
        let mut pip = Command::new(folder.join("bin/pip"));
        let arguments = ["install", "--quiet", "--disable-pip-version-check", "--no-deps"];
        run(pip.args(arguments).arg("--requirement").arg(&list));
    })
}
