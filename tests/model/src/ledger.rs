//! The ledger: a compare-and-set register for each tag, and receipts for what it holds.

use std::collections::BTreeMap;

use crate::rules::{Rule, Rules};
use crate::words::{Account, Digest, Frame, Home, Version};

/// An account's name on the ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(u8);

/// The tag of an account: of its generation too.
pub fn tag(rules: Rules, account: Account) -> Tag {
    Tag(if rules.hold(Rule::TagNamesGeneration) { account.0 } else { 0 })
}

/// What a receipt proves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Proves {
    /// That the entry was appended.
    Append,
    /// That the entry was the newest when somebody asked with this nonce, a request's hash.
    Read(Option<Frame>),
}

/// The ledger's signed word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Receipt {
    /// Which ledger signed.
    pub ledger: Home,
    /// What it is proof of.
    pub proves: Proves,
    /// The register.
    pub tag: Tag,
    /// The entry's version.
    pub version: Version,
    /// The entry.
    pub digest: Digest,
}

/// All registers, with all that was ever recorded in them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ledger(BTreeMap<Tag, Vec<Vec<Digest>>>);

impl Ledger {
    /// Where a register stands; 0 if nothing was recorded.
    pub fn version(&self, tag: Tag) -> Version {
        let versions = self.0.get(&tag).map_or(0, Vec::len);
        Version::try_from(versions).unwrap_or(Version::MAX)
    }

    /// The newest entry.
    pub fn newest(&self, tag: Tag) -> Option<Digest> {
        self.at(tag, self.version(tag)).last().copied()
    }

    /// What is recorded at a version: one digest, unless a rule is gone.
    pub fn at(&self, tag: Tag, version: Version) -> &[Digest] {
        let index = usize::from(version).checked_sub(1);
        let entry = index.and_then(|index| self.0.get(&tag)?.get(index));
        entry.map_or(&[], Vec::as_slice)
    }

    /// Whether this is recorded there.
    pub fn holds(&self, tag: Tag, version: Version, digest: Digest) -> bool {
        self.at(tag, version).contains(&digest)
    }

    /// Records a digest at a version, if the register stands one below it.
    pub fn append(
        &mut self, rules: Rules, tag: Tag, version: Version, digest: Digest,
    ) -> Option<Receipt> {
        let next = self.version(tag).saturating_add(1);
        let entries = self.0.entry(tag).or_default();
        if version == next {
            entries.push(vec![digest]);
        } else if rules.hold(Rule::CompareAndSet) {
            return None;
        } else {
            let at = entries.get_mut(usize::from(version).checked_sub(1)?)?;
            if at.contains(&digest) {
                return None;
            }
            at.push(digest);
        }
        Some(Receipt { ledger: Home::Genuine, proves: Proves::Append, tag, version, digest })
    }

    /// A receipt for the newest entry.
    pub fn read(&self, tag: Tag, nonce: Option<Frame>) -> Option<Receipt> {
        let (version, digest) = (self.version(tag), self.newest(tag)?);
        let proves = Proves::Read(nonce);
        Some(Receipt { ledger: Home::Genuine, proves, tag, version, digest })
    }
}
