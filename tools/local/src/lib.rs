//! A whole deployment on this machine, as the processes it really is: dev cloud, host, and the
//! enclaves that the host starts. What an operator does by hand to set one up, this does in the same
//! order and through the same interfaces.
//!
//! It protects nothing, because the dev cloud does not.

mod program;
mod setup;

pub use program::{Binaries, Program};
pub use setup::{Deployment, Machine, Options, Place};
