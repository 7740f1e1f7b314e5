//! The rules of the protocol, each of which can be taken away.

/// One rule. What it says is [`Rule::says`]; where it stands in the code is in the crate's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "each says what it is in `says`")]
pub enum Rule {
    CompareAfterCharge,
    SettleOnlyLive,
    StagedIsNotLive,
    LimitAtCharge,
    ChargeCounts,
    WrongStaysCounted,
    CandidateFromCharge,
    SettleIsOneTransition,
    ReplyAfterCommit,
    ReceiptChecked,
    ReceiptOfThisDigest,
    ReceiptOfThisVersion,
    ReceiptOfThisTag,
    ReadIsNotAppend,
    ReadNonce,
    CompareAndSet,
    RecoverNamesVersion,
    ChangeNamesVersion,
    HintIsShown,
    PendingEndsAtChange,
    ChangeKeepsFailures,
    ChangeNeedsVerifiedUser,
    ChangeNeedsRegisteredDevice,
    EndedStaysEnded,
    TagNamesGeneration,
    SealNamesGeneration,
    HomeAtCommit,
    HomeAtUse,
    AppendIsNotRead,
    RootIsTheStatements,
    StoredBeforeAppend,
    StoredByDigest,
    AppendIsIdempotent,
    KeptUntilOvertaken,
    OutcomeStoredWithCharge,
    StoreComparesVersions,
    RecoveryFinishes,
    ClientWaits,
}

impl Rule {
    /// The rule, as a sentence about the protocol that keeps it.
    pub const fn says(self) -> &'static str {
        match self {
            Self::CompareAfterCharge => "nothing is compared when a try is charged",
            Self::SettleOnlyLive => "only a live charge is settled",
            Self::StagedIsNotLive => "a staged guard is not taken for a live one",
            Self::LimitAtCharge => "no try is charged beyond the limit",
            Self::ChargeCounts => "a charge counts as a failure",
            Self::WrongStaysCounted => "a wrong try stays counted",
            Self::CandidateFromCharge => "what is compared is what was charged",
            Self::SettleIsOneTransition => "a settling repeated is the same transition",
            Self::ReplyAfterCommit => "an answer is released at its commit",
            Self::ReceiptChecked => "a commit needs a receipt",
            Self::ReceiptOfThisDigest => "a receipt is of this guard",
            Self::ReceiptOfThisVersion => "a receipt is of this version",
            Self::ReceiptOfThisTag => "a receipt is of this account",
            Self::ReadIsNotAppend => "an append's receipt is none of a read",
            Self::ReadNonce => "a read's receipt names the request it is for",
            Self::CompareAndSet => "the ledger records one entry for each version",
            Self::RecoverNamesVersion => "a try signs the version it is made on",
            Self::ChangeNamesVersion => "a change signs the version it changes",
            Self::HintIsShown => "a try signs no version that is still to come",
            Self::PendingEndsAtChange => "another transition ends a pending try",
            Self::ChangeKeepsFailures => "another transition keeps the count",
            Self::ChangeNeedsVerifiedUser => "setting a PIN needs a verified user",
            Self::ChangeNeedsRegisteredDevice => "setting a PIN needs a registered device",
            Self::EndedStaysEnded => "an ended account takes no try",
            Self::TagNamesGeneration => "a tag names the generation",
            Self::SealNamesGeneration => "a seal names the generation",
            Self::HomeAtCommit => "a guard of another ledger or root is not committed",
            Self::HomeAtUse => "a guard of another ledger or root is not used",
            Self::AppendIsNotRead => "a read's receipt is none of an append",
            Self::RootIsTheStatements => "a client speaks to the statement's root alone",
            Self::StoredBeforeAppend => "a staged guard is stored before it is appended",
            Self::StoredByDigest => "a staged guard is never overwritten",
            Self::AppendIsIdempotent => "an append repeated is the same append",
            Self::KeptUntilOvertaken => "a staged guard is kept until the ledger shows another",
            Self::OutcomeStoredWithCharge => "an outcome is stored with its charge",
            Self::StoreComparesVersions => "a live guard is stored over its predecessor alone",
            Self::RecoveryFinishes => "a host finishes what a death left",
            Self::ClientWaits => "a client asks again when something can have changed",
        }
    }
}

/// All rules, or all but one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rules(Option<Rule>);

impl Rules {
    /// The protocol.
    pub const ALL: Self = Self(None);

    /// The protocol without this rule.
    pub const fn without(rule: Rule) -> Self {
        Self(Some(rule))
    }

    /// Whether this rule holds.
    pub fn hold(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
