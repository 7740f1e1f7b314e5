//! Tells the story: each step with what it means, how it went, and how long it took.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Prints steps, or collects them for one JSON object.
pub(crate) struct Teller {
    json: bool,
    colours: bool,
    steps: Vec<Value>,
    started: Instant,
}

const WIDTH: usize = 100;

impl Teller {
    /// For people, or for a script.
    pub(crate) fn new(json: bool) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colours, steps: Vec::new(), started: Instant::now() }
    }

    /// What this is.
    pub(crate) fn opening(&self) {
        if !self.json {
            println!(
                "{}\n\nEverything below runs as it does in production; the outside world is played by the dev \
                 cloud,\nso this protects nothing.\n",
                self.bold("Keyfold: the story of a passkey")
            );
        }
    }

    /// How it went.
    pub(crate) fn closing(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        if self.json {
            println!("{}", json!({"steps": self.steps, "seconds": seconds, "ok": true}));
        } else {
            println!("{} {} steps in {seconds:.1} s.\n", self.bold("Done."), self.steps.len());
        }
    }

    /// One step, to its end; an error names it.
    pub(crate) async fn step<T>(
        &mut self, title: &str, meaning: &str, work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if !self.json {
            println!(
                "{} {}",
                self.bold(&format!("{:>2}.", self.steps.len() + 1)),
                self.bold(title)
            );
            wrap(meaning).iter().for_each(|line| println!("    {line}"));
        }
        let start = Instant::now();
        let done = work.await.with_context(|| format!("step {title:?}"))?;
        self.finish(title, start.elapsed());
        Ok(done)
    }

    /// A line under the step that is being told.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            println!("    {}", self.dim(text));
        }
    }

    fn finish(&mut self, title: &str, took: Duration) {
        let milliseconds = took.as_secs_f64() * 1000.0;
        self.steps.push(json!({"step": title, "ms": milliseconds}));
        if !self.json {
            println!("    {}\n", self.green(&format!("ok, {milliseconds:.0} ms")));
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].len() + word.len() + 5 > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}
