//! The host's one clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before 1970 reads 0, which fails every expiry check closed.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
