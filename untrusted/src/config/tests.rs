//! The example is complete, overrides reach every kind of value, and nothing wrong gets through.

use super::*;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment =
        environment.iter().map(|(k, v)| (format!("{ENVIRONMENT_PREFIX}{k}"), v.to_string()));
    Config::parse(text, environment)
}

/// The example with every default uncommented.
fn everything() -> String {
    uncomment(EXAMPLE)
}

/// Uncomments `#key = value` and `#[[section]]`, and leaves prose alone.
fn uncomment(text: &str) -> String {
    let bare = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(bare).collect()
}

#[test]
fn the_example_parses_with_and_without_its_defaults() {
    let short = parse(EXAMPLE, &[]).expect("the example");
    let long = parse(&everything(), &[]).expect("the example with defaults spelled out");
    assert_eq!(short.enclave.len(), 1);
    assert_eq!(long.enclave.len(), 4);
    let without_optional = |mut config: Config| {
        config.enclave.clear();
        config.ledger.tls_root = None;
        config.azure.hsm_name = None;
        config.azure.client_id = None;
        config.azure.authority_url = None;
        format!("{config:?}")
    };
    assert_eq!(
        without_optional(short),
        without_optional(long),
        "a documented default is not the real one"
    );
}

#[test]
fn the_environment_overrides_every_kind_of_value() {
    let config = parse(
        EXAMPLE,
        &[
            ("LISTEN__PUBLIC", "127.0.0.1:0"),
            ("LIMITS__CONNECTIONS", "7"),
            ("IDENTITY__ALGORITHMS", r#"["ES256", "EdDSA"]"#),
            ("DEPLOYMENT__NAME", "2026"),
            ("ENCLAVE", r#"[{transport = "pipe", command = "x"}]"#),
        ],
    );
    // A bare number is a number: names made of digits need quotes.
    assert!(config.unwrap_err().contains("string"));
    let config = parse(
        EXAMPLE,
        &[
            ("LISTEN__PUBLIC", "127.0.0.1:0"),
            ("LIMITS__CONNECTIONS", "7"),
            ("IDENTITY__ALGORITHMS", r#"["ES256", "EdDSA"]"#),
            ("DEPLOYMENT__NAME", r#""2026""#),
            ("ENCLAVE", r#"[{transport = "pipe", command = "x"}]"#),
        ],
    )
    .expect("overrides");
    assert_eq!(config.listen.public.port(), 0);
    assert_eq!(config.limits.connections, 7);
    assert_eq!(config.identity.algorithms, [Algorithm::ES256, Algorithm::EdDSA]);
    assert_eq!(config.deployment.name.as_str(), "2026");
    assert!(matches!(&config.enclave[..], [EnclaveLink::Pipe { command, args, .. }]
            if command == Path::new("x") && args == &["pipe"]));
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (key, value, complaint) in [
        ("LEDGER__URL", "ftp://ledger", "not an http or https URL"),
        ("LEDGER__URL", "nonsense", "relative URL"),
        ("LEDGER__SERVICE_KEY", "nonsense", "BEGIN PUBLIC KEY"),
        ("LEDGER__TIMEOUT_SECONDS", "0", "at least one second"),
        ("LEDGER__ISSUER", "", "1 to 128 bytes"),
        ("IDENTITY__ALGORITHMS", r#"["HS256"]"#, "is none of RS256"),
        ("IDENTITY__ALGORITHMS", r#"["none"]"#, "is none of RS256"),
        ("IDENTITY__ALGORITHMS", "[]", "at least one algorithm"),
        ("IDENTITY__AUDIENCE", "", "must not be empty"),
        ("AZURE__KEY_WRAP", "AES", "is none of CKM_RSA_AES_KEY_WRAP"),
        ("DEPLOYMENT__FRESH_READ", "never", "`reports` or `always`"),
        ("ENCLAVE", "[]", "at least one [[enclave]]"),
        ("ENCLAVE", r#"[{transport = "socket", path = "enclave"}]"#, "not an absolute path"),
        ("ENCLAVE", r#"[{transport = "vsock", cid = 2, port = 1}]"#, "no virtual machine's"),
        (
            "ENCLAVE",
            r#"[{transport = "socket", path = "/x"}, {transport = "socket", path = "/x"}]"#,
            "one address serves one link",
        ),
        ("LISTEN__ADMIN", "127.0.0.1:8440", "must differ"),
        ("LIMITS__CONNECTIONS", "0", "must not be 0"),
        ("LIMITS__SPEED", "9", "unknown field `speed`"),
        ("TYPO__KEY", "9", "unknown field `typo`"),
        ("LISTEN__", "9", "names no key"),
    ] {
        let error = parse(EXAMPLE, &[(key, value)]).expect_err(key);
        assert!(error.contains(complaint), "{key}={value}: {error}");
    }
}

#[test]
fn other_curves_and_other_pem_are_no_service_key() {
    let p256 = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBh4ZDgAX+top/Wkk1o1JYqwFCQid\nDYsFq9gE+ERwG7++D3CGL1sANEpSJuHzKaJVIc3hdLXmcY+BJYDuwdxZEg==\n-----END PUBLIC KEY-----\n";
    assert_eq!(public_key(p256).unwrap_err(), "not a P-384 public key");
    let other = p256.replace("PUBLIC KEY", "PRIVATE KEY");
    assert!(public_key(&other).unwrap_err().contains("not a PRIVATE KEY"));
}

#[test]
fn a_statement_may_come_later_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let statement = folder.path().join("statement.json");
    let path = statement.display().to_string();
    let config = parse(EXAMPLE, &[("DEPLOYMENT__STATEMENT", &path)]).unwrap();
    assert!(config.awaited().is_some_and(|note| note.contains(&path)));
    let missing = config.missing();
    assert!(!missing.iter().any(|entry| entry.starts_with("deployment.statement")), "{missing:?}");
    assert!(missing.iter().any(|entry| entry.starts_with("azure.hsm_roots")), "{missing:?}");
    std::fs::write(&statement, "{}").unwrap();
    assert_eq!(config.awaited(), None);
}

#[test]
fn a_file_that_does_not_fit_is_named_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.toml");
    std::fs::write(&path, "[deployment]\nname = \n").unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(error.contains("line 2") && error.lines().count() > 2, "{error}");
}
