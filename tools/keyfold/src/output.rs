//! Printing: results on stdout, the rest on stderr, tables for people, one object for programs.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_client::account::Overview;
use keyfold_client::store::Passkey;
use keyfold_protocol::client::{AuditEvent, AuditKind};
use keyfold_protocol::ids::{ChainPoint, DeviceId};
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

/// Whether the enclave that was verified runs on a simulated chip, so that nothing is protected:
/// from then on every line for people says so, those of failures too.
static SIMULATED: AtomicBool = AtomicBool::new(false);

/// How this run prints.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Notes what the verified enclave runs on.
    pub(crate) fn simulated(&self, simulated: bool) {
        SIMULATED.store(simulated, Ordering::Relaxed);
    }

    /// The result of a command: `object` for programs, `text` for people.
    pub(crate) fn result(&self, mut object: Value, text: &str) {
        if self.json {
            object["simulated"] = SIMULATED.load(Ordering::Relaxed).into();
            say(&mut io::stdout(), "", &object.to_string());
        } else {
            say(&mut io::stdout(), prefix(), text);
        }
    }

    /// A result that is another format's JSON, to be piped on as it is.
    pub(crate) fn document(&self, document: &impl serde::Serialize) {
        let document = serde_json::to_string(document).expect("strings always have a JSON form");
        say(&mut io::stdout(), "", &document);
    }

    /// Something the person should know or do meanwhile.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            say(&mut io::stderr(), prefix(), text);
        }
    }

    /// Something that programs need meanwhile too: `object` on stderr with `--json`.
    pub(crate) fn event(&self, object: &Value, text: &str) {
        match self.json {
            true => say(&mut io::stderr(), "", &object.to_string()),
            false => self.note(text),
        }
    }

    /// Why the command failed.
    pub(crate) fn failure(&self, object: &Value, text: &str) {
        let word = styled("1;31", "error", colour(&io::stderr()));
        self.event(object, &format!("{word}: {text}"));
    }
}

fn prefix() -> &'static str {
    if SIMULATED.load(Ordering::Relaxed) { "[simulated] " } else { "" }
}

/// Nobody may be reading any more; that is no failure of the command.
fn say(to: &mut impl Write, prefix: &str, text: &str) {
    for line in text.lines() {
        let _ = writeln!(to, "{prefix}{line}");
    }
    let _ = to.flush();
}

/// Colours are for terminals, and only where nobody objects (no-color.org).
pub(crate) fn colour(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn styled(code: &str, text: &str, on: bool) -> String {
    if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
}

pub(crate) fn good(text: &str) -> String {
    styled("32", text, colour(&io::stdout()))
}

pub(crate) fn bad(text: &str) -> String {
    styled("1;31", text, colour(&io::stdout()))
}

/// Text that others chose, without what could steer a terminal or turn the reading direction.
pub(crate) fn printable(text: &str) -> String {
    let is_steering = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
            || matches!(c, '\u{e0000}'..='\u{e007f}')
    };
    text.chars().map(|c| if is_steering(c) { '\u{fffd}' } else { c }).collect()
}

/// As [`printable`], of a text of several lines: they stay lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// "1 device", "2 devices".
pub(crate) fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    // What does not fit is many.
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// Columns under a header. Cells are made printable; `style` may colour one afterwards.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    styled_table(header, rows, |_, cell| cell.into())
}

/// As [`table`]; `style` is given column and padded cell.
pub(crate) fn styled_table(
    header: &[&str], rows: &[Vec<String>], style: impl Fn(usize, &str) -> String,
) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
        cells.chain([header[column].width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let pad = |column: usize, cell: &str| {
        let last = column + 1 == widths.len();
        let fill = if last { 0 } else { widths[column] - cell.width() };
        format!("{cell}{}", " ".repeat(fill))
    };
    let mut out = String::new();
    let head: Vec<String> = header.iter().enumerate().map(|(at, cell)| pad(at, cell)).collect();
    out.push_str(&styled("1", head.join("  ").trim_end(), colour(&io::stdout())));
    for row in &rows {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(at, cell)| style(at, &pad(at, cell))).collect();
        out.push('\n');
        out.push_str(cells.join("  ").trim_end());
    }
    out
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn point_json(point: &ChainPoint) -> Value {
    json!({"version": point.version, "head": point.head.to_string()})
}

pub(crate) fn passkey_json(passkey: &Passkey) -> Value {
    json!({
        "credential": base64url(&passkey.credential.0),
        "rp_id": &*passkey.rp_id,
        "user_handle": base64url(&passkey.user_handle),
        "name": &*passkey.names.name,
        "display_name": &*passkey.names.display_name,
        "algorithm": passkey.algorithm.cose(),
    })
}

pub(crate) fn audit_json(event: &AuditEvent) -> Value {
    json!({
        "version": event.version,
        "kind": audit_kind(event.kind),
        "actor": event.actor.to_string(),
        "subject": event.subject.to_string(),
        "host_time": event.host_time,
    })
}

pub(crate) fn audit_kind(kind: AuditKind) -> &'static str {
    match kind {
        AuditKind::Enrolled => "enrolled",
        AuditKind::DeviceAdded => "device-added",
        AuditKind::DeviceRevoked => "device-revoked",
        AuditKind::Anchored => "anchored",
        AuditKind::PinChanged => "pin-changed",
        AuditKind::TryCharged => "pin-tried",
        AuditKind::TryFailed => "pin-wrong",
        AuditKind::Recovered => "recovered",
        AuditKind::Deleted => "deleted",
    }
}

pub(crate) fn overview_json(overview: &Overview, this: &DeviceId) -> Value {
    let devices = overview.devices.iter();
    let device = |one: &keyfold_protocol::client::DeviceView| json!({"id": one.id.to_string(), "name": &*one.name, "this": one.id == *this});
    json!({
        "account": {"id": overview.account.id.to_string(), "generation": overview.account.generation},
        "device": this.to_string(),
        "guard": overview.guard,
        "vault": point_json(&overview.vault),
        "anchor": point_json(&overview.anchor),
        "devices": devices.map(device).collect::<Vec<_>>(),
        "recovery": {
            "failures": overview.failures,
            "tries_left": overview.tries_left(),
            "locked": overview.tries_left() == 0,
            "failed_since": overview.failed_since(),
        },
        "news": overview.news.iter().map(audit_json).collect::<Vec<_>>(),
    })
}

/// Devices with the fingerprints that people compare.
pub(crate) fn device_table(overview: &Overview, this: &DeviceId) -> String {
    let row = |one: &keyfold_protocol::client::DeviceView| {
        let mark = if one.id == *this { "this device" } else { "" };
        let fingerprint = keyfold_client::pairing::fingerprint(&one.id);
        vec![one.name.to_string(), fingerprint, mark.into()]
    };
    let rows: Vec<Vec<String>> = overview.devices.iter().map(row).collect();
    table(&["DEVICE", "FINGERPRINT", ""], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_not_printed() {
        for (text, expected) in [
            ("ana", "ana"),
            ("Zoë 山田", "Zoë 山田"),
            ("\x1b[2Jgone", "\u{fffd}[2Jgone"),
            ("line\nline", "line\u{fffd}line"),
            ("\u{202e}gro.elpmaxe", "\u{fffd}gro.elpmaxe"),
            ("a\u{200b}b\u{2066}c\u{feff}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("\u{9b}31m", "\u{fffd}31m"),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_stay_lines_and_one_is_not_many() {
        assert_eq!(printable_lines("a\x1b\n  | ^\r\nc"), "a\u{fffd}\n  | ^\nc");
        let devices = [0, 1, 2].map(|count| counted(count, "device", "devices"));
        assert_eq!(devices, ["0 devices", "1 device", "2 devices"]);
    }

    #[test]
    fn columns_line_up_whatever_the_width_of_letters() {
        let rows = [vec!["山田".to_owned(), "x".into()], vec!["ana".into(), "a\x1bb".into()]];
        let lines = table(&["NAME", "ID"], &rows);
        assert_eq!(lines, "NAME  ID\n山田  x\nana   a\u{fffd}b");
    }
}
