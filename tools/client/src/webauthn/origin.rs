//! Where a ceremony takes place, and which relying party ids that place may use.
//!
//! The rule is WebAuthn's: the relying party id is the host of the origin or a registrable suffix
//! of it (HTML's "is a registrable domain suffix of or is equal to"). What is registrable says the
//! public suffix list, compiled in by the crate `psl`: no file or download at run time, no
//! dependency, and updates come as releases.

use keyfold_protocol::ids::RpId;
use reqwest::Url;

/// Why an origin may not use a relying party id, or is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not an origin.
    #[error("{0:?} is no origin; expected https://host or https://host:port and nothing more")]
    Malformed(String),
    /// Neither https nor http on this machine.
    #[error("{0} is not secure; expected https, or http at localhost")]
    Insecure(String),
    /// WebAuthn knows no addresses.
    #[error("the host of {0} is no domain name; WebAuthn takes no IP addresses (use localhost)")]
    NotADomain(String),
    /// Not a domain name as origins carry it.
    #[error(
        "rp.id {0:?} is no domain name in its canonical form (lower case, xn-- for other letters, \
         no port, no dot at the end)"
    )]
    RpId(String),
    /// Another site, or a suffix that many sites share.
    #[error(
        "{origin} may not use rp.id {rp_id:?}; expected the origin's host or a parent domain of it \
         that one owner can register"
    )]
    Foreign {
        /// The origin.
        origin: String,
        /// The relying party id.
        rp_id: String,
    },
}

/// A secure origin whose host is a domain name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    serialized: String,
    host: String,
}

impl Origin {
    /// Reads `https://host`, `https://host:port`, or http with the host `localhost` or below it. A
    /// host in other letters than ASCII is taken as its A-label, like a browser does.
    ///
    /// # Errors
    /// [`OriginError::Malformed`], [`OriginError::Insecure`], [`OriginError::NotADomain`].
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let malformed = || OriginError::Malformed(text.chars().take(300).collect());
        // What URL parsers repair or ignore does not belong into an origin.
        let rest = text.split_once("://").ok_or_else(malformed)?.1;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !"/\\@?#%".contains(c);
        let url = Url::parse(text).map_err(|_| malformed())?;
        let host = url.host_str().filter(|_| rest.chars().all(is_plain)).ok_or_else(malformed)?;
        let serialized = url.origin().ascii_serialization();
        match url.scheme() {
            "https" => {}
            "http" if host == "localhost" || host.ends_with(".localhost") => {}
            _ => return Err(OriginError::Insecure(serialized)),
        }
        match url.domain() {
            Some(domain) if is_domain(domain) => Ok(Self { host: domain.to_owned(), serialized }),
            _ => Err(OriginError::NotADomain(serialized)),
        }
    }

    /// The serialisation that goes into the client data.
    pub fn as_str(&self) -> &str {
        &self.serialized
    }

    /// The relying party id of a ceremony here: `asked`, if this origin may use it; the host where
    /// nothing was asked.
    ///
    /// # Errors
    /// [`OriginError::RpId`], [`OriginError::Foreign`].
    pub fn rp_id(&self, asked: Option<&str>) -> Result<RpId, OriginError> {
        let rp_id = asked.unwrap_or(&self.host);
        // Compared and hashed as written, so only the canonical form will do.
        let canonical = Url::parse(&format!("https://{rp_id}/")).ok();
        let canonical = canonical.as_ref().and_then(Url::domain);
        if canonical != Some(rp_id) || !is_domain(rp_id) {
            return Err(OriginError::RpId(rp_id.chars().take(300).collect()));
        }
        if rp_id == self.host || self.is_registrable_suffix(rp_id) {
            return RpId::try_from(rp_id).map_err(|_| OriginError::RpId(rp_id.into()));
        }
        let (origin, rp_id) = (self.serialized.clone(), rp_id.into());
        Err(OriginError::Foreign { origin, rp_id })
    }

    /// A parent domain of the host, below the host's public suffix.
    fn is_registrable_suffix(&self, suffix: &str) -> bool {
        let is_parent = self.host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
        // Both: a parent can be registrable by itself and yet above the host's own public suffix.
        let public = psl::suffix_str(&self.host).unwrap_or(&self.host);
        is_parent && suffix.len() > public.len() && psl::suffix_str(suffix) != Some(suffix)
    }
}

/// Labels of 1 to 63 bytes, 253 bytes in all, no dot at the end. Underscores are no host names'
/// but are in use.
fn is_domain(host: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_part);
    host.len() <= keyfold_protocol::limits::RP_ID && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_serialised_as_browsers_do() {
        for (text, expected) in [
            ("https://example.org", "https://example.org"),
            ("https://example.org/", "https://example.org"),
            ("https://Example.ORG:443", "https://example.org"),
            ("https://example.org:8443", "https://example.org:8443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("HTTPS://example.org", "https://example.org"),
            ("http://localhost", "http://localhost"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://app.localhost:80", "http://app.localhost"),
            ("https://localhost", "https://localhost"),
            ("https://intranet", "https://intranet"),
        ] {
            let origin = Origin::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(origin.as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_secure_origin_is_refused() {
        type Kind = fn(String) -> OriginError;
        let cases: &[(Kind, &[&str])] = &[
            (
                OriginError::Malformed,
                &[
                    "",
                    "example.org",
                    "https:example.org",
                    "https://",
                    "https://user@example.org",
                    "https://user:word@example.org",
                    "https://example.org/path",
                    "https://example.org//",
                    "https://example.org?query",
                    "https://example.org#fragment",
                    "https://example.org\\.evil.example",
                    "https://exa%6dple.org",
                    "https://exam ple.org",
                    "https://example.org\n",
                    "https://example.org:port",
                    "https://example.org:65536",
                ],
            ),
            (
                OriginError::Insecure,
                &[
                    "http://example.org",
                    "http://notlocalhost",
                    "http://localhost.example.org",
                    "http://192.0.2.1",
                    "ftp://example.org",
                    "wss://example.org",
                ],
            ),
            (
                OriginError::NotADomain,
                &[
                    "https://192.0.2.1",
                    "https://127.0.0.1",
                    "https://0x7f.1",
                    "https://[::1]",
                    "https://example.org.",
                    "https://example..org",
                ],
            ),
        ];
        for (kind, texts) in cases {
            for text in *texts {
                let error = Origin::parse(text).expect_err(text);
                let same =
                    std::mem::discriminant(&error) == std::mem::discriminant(&kind(String::new()));
                assert!(same, "{text}: {error:?}");
            }
        }
        let long = format!("https://{}.example", "a".repeat(64));
        assert!(matches!(Origin::parse(&long), Err(OriginError::NotADomain(_))));
        let long = format!("https://{}example", "a23456789.".repeat(25));
        assert!(matches!(Origin::parse(&long), Err(OriginError::NotADomain(_))));
    }

    #[test]
    fn the_rp_id_is_the_host_or_a_registrable_parent_of_it() {
        for (origin, asked, expected) in [
            ("https://login.example.org", None, "login.example.org"),
            ("https://login.example.org:8443", None, "login.example.org"),
            ("https://login.example.org", Some("login.example.org"), "login.example.org"),
            ("https://login.example.org", Some("example.org"), "example.org"),
            ("https://a.b.c.example.co.uk", Some("c.example.co.uk"), "c.example.co.uk"),
            ("https://a.b.c.example.co.uk", Some("example.co.uk"), "example.co.uk"),
            ("https://me.github.io", Some("me.github.io"), "me.github.io"),
            ("https://x.me.github.io", Some("me.github.io"), "me.github.io"),
            ("https://www.city.kawasaki.jp", Some("city.kawasaki.jp"), "city.kawasaki.jp"),
            ("https://www.bücher.example", Some("xn--bcher-kva.example"), "xn--bcher-kva.example"),
            ("http://localhost:3000", None, "localhost"),
            ("http://localhost:3000", Some("localhost"), "localhost"),
            ("http://app.localhost", Some("app.localhost"), "app.localhost"),
            ("https://intranet", Some("intranet"), "intranet"),
            // Equal needs no list: the host of a public suffix may speak for itself.
            ("https://github.io", Some("github.io"), "github.io"),
        ] {
            let found = Origin::parse(origin).unwrap().rp_id(asked);
            assert_eq!(found.as_deref(), Ok(expected), "{origin} {asked:?}");
        }
    }

    #[test]
    fn other_sites_and_shared_suffixes_are_refused() {
        for (origin, rp_id) in [
            ("https://example.org", "login.example.org"),
            ("https://example.org", "example.com"),
            ("https://evil-example.org", "example.org"),
            ("https://example.org.evil.com", "example.org"),
            ("https://evil.com", "example.org"),
            ("https://example.org", "org"),
            ("https://example.co.uk", "co.uk"),
            ("https://example.co.uk", "uk"),
            ("https://me.github.io", "github.io"),
            ("https://me.github.io", "io"),
            ("https://a.b.kawasaki.jp", "b.kawasaki.jp"),
            ("https://a.b.kawasaki.jp", "kawasaki.jp"),
            ("https://shop.公司.cn", "xn--55qx5d.cn"),
            ("https://www.example.nosuchtld", "nosuchtld"),
            ("http://app.localhost", "localhost"),
        ] {
            let found = Origin::parse(origin).unwrap().rp_id(Some(rp_id));
            let expected = OriginError::Foreign {
                origin: Origin::parse(origin).unwrap().serialized,
                rp_id: rp_id.into(),
            };
            assert_eq!(found, Err(expected), "{origin} {rp_id}");
        }
    }

    #[test]
    fn an_rp_id_that_is_no_canonical_domain_is_refused() {
        let origin = Origin::parse("https://www.bücher.example").unwrap();
        for rp_id in [
            "",
            ".",
            "example.",
            "bücher.example",
            "XN--BCHER-KVA.example",
            "https://www.xn--bcher-kva.example",
            "www.xn--bcher-kva.example:443",
            "www.xn--bcher-kva.example.",
            ".xn--bcher-kva.example",
            "user@www.xn--bcher-kva.example",
            "www.xn--bcher-kva.example/",
            "127.0.0.1",
            "[::1]",
            "1",
            "*",
            "a b",
        ] {
            let found = origin.rp_id(Some(rp_id));
            assert!(matches!(found, Err(OriginError::RpId(_))), "{rp_id:?}: {found:?}");
        }
    }
}
