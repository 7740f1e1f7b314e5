//! HTTP as this crate uses it: one client, bounded answers, and how often to try again.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, Url};

use crate::error::Unreachable;

/// The longest answer read, in bytes: a frame's limit and a deployment document fit well.
const ANSWER: usize = 1024 * 1024;

/// The HTTP client: no redirects (a bearer token goes where it was meant to or nowhere), and time
/// enough for the host's long polls.
pub(crate) fn client() -> Result<reqwest::Client, Unreachable> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .timeout(Duration::from_secs(60))
        .user_agent(concat!("keyfold-client/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| unreachable("the network", &error))
}

/// An absolute https URL, or http on the loopback interface in development builds and tests.
pub(crate) fn secure_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let allowed = match url.scheme() {
        "https" => true,
        "http" => cfg!(any(test, feature = "development")) && loopback,
        _ => false,
    };
    (allowed && url.host_str().is_some() && url.username().is_empty() && url.password().is_none())
        .then_some(url)
}

/// Sends and waits for the head of the answer.
pub(crate) async fn send(url: &str, request: RequestBuilder) -> Result<Response, Unreachable> {
    request.send().await.map_err(|error| unreachable(url, &error))
}

/// The answer's body, up to a megabyte.
pub(crate) async fn body(url: &str, mut answer: Response) -> Result<Vec<u8>, Unreachable> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(url, &error))? {
        if body.len() + chunk.len() > ANSWER {
            let reason = format!("its answer is longer than {ANSWER} bytes");
            return Err(Unreachable { url: url.into(), reason, may_have_arrived: true });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable(url: &str, error: &reqwest::Error) -> Unreachable {
    let mut reason = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() {
        reason = "timed out".into();
    }
    let may_have_arrived = !(error.is_connect() || error.is_builder());
    Unreachable { url: url.into(), reason, may_have_arrived }
}

/// Tries left. The one place that says how often anything is tried again, and how long is waited.
pub(crate) struct Attempts {
    made: u32,
    asked: Duration,
}

impl Attempts {
    /// How often anything is tried in all.
    pub(crate) const MOST: u32 = 4;
    /// What a service may ask to wait, all in all, before the person is asked instead: a machine that
    /// starts again is there by then.
    const LONGEST_WAIT: Duration = Duration::from_secs(45);
    /// Whoever waits longer is told why.
    const SILENT_WAIT: Duration = Duration::from_secs(2);

    pub(crate) fn new() -> Self {
        Self { made: 0, asked: Duration::ZERO }
    }

    /// Whether to try again; waits as long as asked, or twice as long each time from 50 ms on.
    pub(crate) async fn again(&mut self, asked: Option<Duration>) -> bool {
        let (wait, is_over) = match asked {
            Some(wait) => {
                let was_silent = self.asked <= Self::SILENT_WAIT;
                // Whoever asks for no wait is not asked for ever.
                self.asked += wait.max(Duration::from_millis(50));
                let is_over = self.asked > Self::LONGEST_WAIT;
                if was_silent && !is_over && self.asked > Self::SILENT_WAIT {
                    let most = Self::LONGEST_WAIT.as_secs();
                    tracing::warn!(
                        "the service is busy or starts; waiting for it, {most} s at most"
                    );
                }
                (wait, is_over)
            }
            None => {
                self.made += 1;
                (Duration::from_millis(25 << self.made.min(8)), self.made >= Self::MOST)
            }
        };
        if !is_over {
            tokio::time::sleep(wait).await;
        }
        !is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_the_loopback_of_development_are_talked_to() {
        for (url, allowed) in [
            ("https://keyfold.example/", true),
            ("http://127.0.0.1:8080/", true),
            ("http://localhost/", true),
            ("http://keyfold.example/", false),
            ("http://127.0.0.1.example/", false),
            ("https://user@keyfold.example/", false),
            ("https://user:word@keyfold.example/", false),
            ("file:///etc/passwd", false),
            ("keyfold.example", false),
        ] {
            assert_eq!(secure_url(url).is_some(), allowed, "{url}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end() {
        let mut attempts = Attempts::new();
        let mut made = 1;
        while attempts.again(None).await {
            made += 1;
        }
        assert_eq!(made, Attempts::MOST);
        for (asked, expected) in [(46, 0), (45, 1), (20, 2), (1, 45), (0, 900)] {
            let mut attempts = Attempts::new();
            let mut made = 0;
            while attempts.again(Some(Duration::from_secs(asked))).await {
                made += 1;
            }
            assert_eq!(made, expected, "after {asked} s each");
        }
    }
}
