//! Counting Rust source by its lines: comments, blank lines and lone closing brackets are not code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// What was found in a folder.
#[derive(Default)]
pub(crate) struct Count {
    /// Lines with something to read.
    pub(crate) lines: usize,
    /// The same and the lone closing brackets.
    pub(crate) with_brackets: usize,
    /// The word `unsafe` where it allows something.
    pub(crate) unsafe_words: usize,
    /// Calls that can panic.
    pub(crate) panicking: usize,
    /// Code lines and name of the longest function.
    pub(crate) longest: (usize, String),
    /// Where the last two are, one line each.
    pub(crate) offences: Vec<String>,
}

impl Count {
    /// Adds another folder's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.with_brackets += other.with_brackets;
        self.unsafe_words += other.unsafe_words;
        self.panicking += other.panicking;
        self.longest = self.longest.clone().max(other.longest);
        self.offences.extend(other.offences);
    }
}

/// Counts every Rust file below `folder`.
pub(crate) fn count(folder: &Path) -> Result<Count> {
    let mut total = Count::default();
    for file in files(folder)? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let tree = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        let mut found = Count {
            lines: code_lines(&text, 0..text.lines().count()),
            with_brackets: text.lines().map(str::trim).filter(|line| is_code(line)).count(),
            ..Count::default()
        };
        Reader { text: &text, file: &file, found: &mut found }.visit_file(&tree);
        total.add(found);
    }
    Ok(total)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Lines that hold something to read: not blank, not wholly a comment, not only the end of what
/// began above. The trusted code has no block comments.
fn code_lines(text: &str, range: std::ops::Range<usize>) -> usize {
    let lines = text.lines().skip(range.start).take(range.len()).map(str::trim);
    lines.filter(|line| is_code(line) && !line.trim_matches(CLOSING).is_empty()).count()
}

fn is_code(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("//")
}

const CLOSING: [char; 7] = ['}', ')', ']', ';', ',', '?', ' '];

struct Reader<'a> {
    text: &'a str,
    file: &'a Path,
    found: &'a mut Count,
}

const PANICKING_METHODS: [&str; 9] = [
    "unwrap",
    "expect",
    "unwrap_err",
    "expect_err",
    // Of slices whose lengths do not fit.
    "copy_from_slice",
    "clone_from_slice",
    "copy_within",
    "split_at",
    "split_at_mut",
];
const PANICKING_MACROS: [&str; 7] =
    ["panic", "unreachable", "todo", "unimplemented", "assert", "assert_eq", "assert_ne"];

impl Reader<'_> {
    fn offence(&mut self, span: proc_macro2::Span, what: &str) {
        let line = span.start().line;
        self.found.offences.push(format!("{}:{line}: {what}", self.file.display()));
    }

    fn function(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = code_lines(self.text, span.start().line - 1..span.end().line);
        let name = format!("{name}, {}", self.file.file_name().unwrap_or_default().display());
        self.found.longest = self.found.longest.clone().max((lines, name));
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, item.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, item.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(word) = &signature.unsafety {
            self.found.unsafe_words += 1;
            self.offence(word.span, "unsafe function");
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.found.unsafe_words += 1;
        self.offence(block.unsafe_token.span, "unsafe block");
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(word) = &item.unsafety {
            self.found.unsafe_words += 1;
            self.offence(word.span, "unsafe impl");
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if PANICKING_METHODS.iter().any(|name| call.method == name) {
            self.found.panicking += 1;
            self.offence(call.method.span(), "can panic");
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|segment| segment.ident.to_string());
        if name.is_some_and(|name| PANICKING_MACROS.contains(&name.as_str())) {
            self.found.panicking += 1;
            self.offence(call.path.span(), "can panic");
        }
        visit::visit_macro(self, call);
    }
}
