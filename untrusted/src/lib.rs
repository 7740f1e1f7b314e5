//! The untrusted host shell of Keyfold.

pub mod clock;
pub mod retry;
pub mod storage;
