//! Tells the story: each step with what it means, how it went, and how long it took.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Prints steps, or collects them for one JSON object.
pub(crate) struct Teller {
    json: bool,
    colours: bool,
    steps: Vec<Value>,
    started: Instant,
    listener: Rc<RefCell<Listener>>,
}

/// Nobody reads the story any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads what is printed")]
pub(crate) struct Unheard;

/// Where the story goes.
struct Listener {
    to: Box<dyn Write>,
    gone: bool,
    /// Something was noted since the last step.
    noted: bool,
}

impl Listener {
    fn print(&mut self, text: &str) {
        let printed = self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush());
        self.gone |= printed.is_err();
    }
}

/// Columns of a terminal, less the last one.
const WIDTH: usize = 79;
/// In front of what belongs to a step.
const INDENT: &str = "    ";

impl Teller {
    /// For people, or for a script.
    pub(crate) fn new(json: bool) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::to(Box::new(io::stdout()), json, colours)
    }

    fn to(to: Box<dyn Write>, json: bool, colours: bool) -> Self {
        let listener = Rc::new(RefCell::new(Listener { to, gone: false, noted: false }));
        Self { json, colours, steps: Vec::new(), started: Instant::now(), listener }
    }

    /// What this is.
    pub(crate) fn opening(&self) {
        self.say(&format!("{}\n\n", self.bold("Keyfold: the story of a passkey")));
        self.wrapped(
            "",
            "Everything below runs as it does in production; the outside world is played by the \
             dev cloud, so this protects nothing.",
        );
        self.say("\n");
    }

    /// How it went.
    pub(crate) fn closing(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        if self.json {
            let told = json!({"steps": self.steps, "seconds": seconds, "ok": true});
            self.listener.borrow_mut().print(&format!("{told}\n"));
        }
        self.end_notes();
        let steps = self.steps.len();
        self.say(&format!("{} {steps} steps in {seconds:.1} s.\n\n", self.bold("Done.")));
    }

    /// One step, to its end; an error names it. None begins that nobody would read of.
    pub(crate) async fn step<T>(
        &mut self, title: &str, meaning: &str, work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.end_notes();
        let number = self.bold(&format!("{:>2}.", self.steps.len() + 1));
        self.say(&format!("{number} {}\n", self.bold(title)));
        self.wrapped(INDENT, meaning);
        if self.listener.borrow().gone {
            bail!(Unheard);
        }
        let start = Instant::now();
        let done = work.await.with_context(|| format!("step {title:?}"))?;
        self.finish(title, start.elapsed());
        Ok(done)
    }

    /// Lines under the step that was told.
    pub(crate) fn note(&self, text: &str) {
        wrap(text, WIDTH - INDENT.len())
            .iter()
            .for_each(|line| self.say(&format!("{INDENT}{}\n", self.dim(line))));
        self.listener.borrow_mut().noted = true;
    }

    fn end_notes(&self) {
        if std::mem::take(&mut self.listener.borrow_mut().noted) {
            self.say("\n");
        }
    }

    /// For words on how far a step is that takes a while.
    pub(crate) fn progress(&self) -> Progress {
        let listener = (!self.json).then(|| self.listener.clone());
        Progress { listener, colours: self.colours }
    }

    fn finish(&mut self, title: &str, took: Duration) {
        let milliseconds = took.as_secs_f64() * 1000.0;
        self.steps.push(json!({"step": title, "ms": milliseconds}));
        self.say(&format!("{INDENT}{}\n\n", self.green(&format!("ok, {milliseconds:.0} ms"))));
    }

    fn wrapped(&self, indent: &str, text: &str) {
        wrap(text, WIDTH - indent.len())
            .iter()
            .for_each(|line| self.say(&format!("{indent}{line}\n")));
    }

    /// Of the story; a script gets only its object.
    fn say(&self, text: &str) {
        if !self.json {
            self.listener.borrow_mut().print(text);
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        paint(self.colours, code, text)
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

/// One line that grows while a step goes on.
pub(crate) struct Progress {
    listener: Option<Rc<RefCell<Listener>>>,
    colours: bool,
}

impl Progress {
    /// Begins the line.
    pub(crate) fn begin(&self, word: &str) {
        self.print(&format!("{INDENT}{word}"));
    }

    /// Goes on with it.
    pub(crate) fn go_on(&self, word: &str) {
        self.print(&format!(" {word}"));
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.print("\n");
    }

    fn print(&self, text: &str) {
        if let Some(listener) = &self.listener {
            listener.borrow_mut().print(&paint(self.colours, "2", text));
        }
    }
}

fn paint(colours: bool, code: &str, text: &str) -> String {
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + 1 + word.len() > width {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then is gone, as the reader of a pipe.
    struct Pipe(Rc<RefCell<Vec<u8>>>, usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taken = self.0.borrow_mut();
            if taken.len() >= self.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn teller(until: usize) -> (Teller, Rc<RefCell<Vec<u8>>>) {
        let taken = Rc::default();
        (Teller::to(Box::new(Pipe(Rc::clone(&taken), until)), false, false), taken)
    }

    #[tokio::test]
    async fn a_story_that_nobody_reads_ends_before_its_next_step() {
        let (mut teller, _) = teller(1);
        teller.opening();
        let told = teller.step("A step", "Meaning.", async { Ok(()) }).await;
        assert!(told.unwrap_err().is::<Unheard>());
        teller.note("a note");
        teller.closing();
    }

    #[tokio::test]
    async fn lines_fit_a_terminal() {
        let (mut teller, taken) = teller(usize::MAX);
        let words = "letters and words of several lengths ".repeat(20);
        teller.opening();
        teller.step("A step", &words, async { Ok(()) }).await.unwrap();
        teller.note(&words);
        teller.closing();
        let text = String::from_utf8(taken.borrow().clone()).unwrap();
        let longest = text.lines().map(str::len).max();
        assert!(longest.is_some_and(|longest| (70..=WIDTH).contains(&longest)), "{text}");
    }
}
