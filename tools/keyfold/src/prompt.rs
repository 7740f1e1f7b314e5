//! Asking the person, and reading secrets. The terminal is opened by name, because stdin carries
//! the relying party's options.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};
use crate::output::printable;

/// No passphrase or PIN comes near it.
const LONGEST_SECRET: u64 = 4096;

/// The person at the terminal, unless `--no-input` says there is none.
#[derive(Clone, Copy)]
pub(crate) struct Person {
    present: bool,
}

impl Person {
    pub(crate) fn new(no_input: bool) -> Self {
        Self { present: !no_input && terminal().is_ok() }
    }

    /// Whether somebody can be asked.
    pub(crate) fn is_present(self) -> bool {
        self.present
    }

    /// A secret, typed without echo; `None` when nobody can be asked.
    pub(crate) fn secret(self, prompt: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        if !self.present {
            return Ok(None);
        }
        let typed = rpassword::prompt_password(format!("{prompt}: "));
        typed.map(|typed| Some(Zeroizing::new(typed))).map_err(|error| unreadable(&error))
    }

    /// A new secret, typed twice; `None` when nobody can be asked.
    pub(crate) fn new_secret(self, prompt: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        let Some(first) = self.secret(prompt)? else { return Ok(None) };
        let second = self.secret("The same again")?;
        if second.as_ref() != Some(&first) {
            return Err(Failure::usage("the two entries differ; start again"));
        }
        Ok(Some(first))
    }

    /// Yes or no; anything but y or yes is no. `None` when nobody can be asked.
    pub(crate) fn confirm(self, question: &str) -> Result<Option<bool>, Failure> {
        let answer = self.line(&format!("{} [y/N]", printable(question)))?;
        let is_yes = |answer: String| ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
        Ok(answer.map(is_yes))
    }

    /// A line typed with echo; `None` when nobody can be asked.
    pub(crate) fn line(self, prompt: &str) -> Result<Option<String>, Failure> {
        if !self.present {
            return Ok(None);
        }
        let ask = || -> io::Result<String> {
            let (mut to, from) = terminal()?;
            write!(to, "{prompt} ")?;
            to.flush()?;
            let mut line = String::new();
            BufReader::new(from).read_line(&mut line)?;
            Ok(line)
        };
        ask().map(Some).map_err(|error| unreadable(&error))
    }
}

#[cfg(unix)]
fn terminal() -> io::Result<(File, File)> {
    let open = || OpenOptions::new().read(true).write(true).open("/dev/tty");
    Ok((open()?, open()?))
}

#[cfg(windows)]
fn terminal() -> io::Result<(File, File)> {
    let open = |name| OpenOptions::new().read(true).write(true).open(name);
    Ok((open("CONOUT$")?, open("CONIN$")?))
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "terminal", format!("the terminal cannot be read: {error}"))
}

/// The first line of a file, or of a pipe such as `/dev/fd/3`.
pub(crate) fn secret_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::file(path, &error);
    // As long as it can get, so that growing leaves no copies behind.
    let mut text = Zeroizing::new(String::with_capacity(LONGEST_SECRET as usize));
    let file = File::open(path).map_err(failed)?;
    file.take(LONGEST_SECRET).read_to_string(&mut text).map_err(failed)?;
    let first = text.lines().next().unwrap_or_default();
    Ok(Zeroizing::new(first.to_owned()))
}

/// Whether others on this machine can read the file. Said, not refused: secrets that a container
/// is given are often mounted so, and cannot be changed from inside.
#[cfg(unix)]
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o077 != 0)
}

/// Elsewhere the directory's access list decides.
#[cfg(not(unix))]
pub(crate) fn is_open_to_others(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_first_line_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, expected) in
            [("open sesame\n", "open sesame"), ("a\r\nb", "a"), ("", ""), (" x ", " x ")]
        {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(*secret_file(file.path()).unwrap(), expected);
        }
        assert_eq!(secret_file(Path::new("/no/such/file")).unwrap_err().code(), "file");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_told_from_one_that_they_cannot() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, open) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(file.path()), open, "{mode:o}");
        }
    }

    #[test]
    fn nobody_is_asked_where_nobody_is() {
        let person = Person::new(true);
        assert!(person.secret("?").unwrap().is_none());
        assert!(person.confirm("?").unwrap().is_none());
        assert!(person.line("?").unwrap().is_none());
    }
}
