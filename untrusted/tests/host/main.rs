//! The host from outside: HTTP in front, the dev cloud behind, and an enclave that pretends.

mod links;
mod protection;
mod recovery;
mod requests;
mod support;
