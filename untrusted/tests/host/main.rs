//! The host from outside: HTTP in front, the dev cloud behind, and an enclave that pretends.

mod evidence;
mod links;
mod protection;
mod recovery;
mod replacing;
mod requests;
mod support;
mod tries;
