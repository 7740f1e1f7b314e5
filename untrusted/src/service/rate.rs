//! How often one account may do what is costly: a token bucket each, for as long as it is not full.

use crate::problem::{Kind, Problem};
use keyfold_protocol::ids::AccountId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Accounts watched at once. Beyond, full buckets are swept out first.
const WATCHED: usize = 100_000;

pub(super) struct Rates {
    /// Time for one more.
    pause: Duration,
    /// How many at once after a long rest.
    burst: u32,
    buckets: Mutex<HashMap<AccountId, Instant>>,
}

impl Rates {
    /// So many in `period`, or all of them at once after a long rest.
    pub(super) fn new(count: u32, period: Duration) -> Self {
        Self { pause: period / count.max(1), burst: count, buckets: Mutex::default() }
    }

    /// One more for this account, or how long to wait.
    pub(super) fn take(&self, account: &AccountId) -> Result<(), Problem> {
        self.take_at(account, Instant::now())
    }

    /// A bucket is the instant at which it will be full again: each use moves it by one pause, and
    /// it must not lie further ahead than a whole burst.
    fn take_at(&self, account: &AccountId, now: Instant) -> Result<(), Problem> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= WATCHED {
            buckets.retain(|_, full| *full > now);
        }
        let full = buckets.get(account).copied().filter(|full| *full > now).unwrap_or(now);
        let after = full + self.pause;
        let ahead = after.saturating_duration_since(now);
        let most = self.pause * self.burst;
        if ahead > most {
            let wait = (ahead - most).as_secs() + 1;
            return Err(Problem { retry_after: Some(wait), ..Kind::RateLimited.into() });
        }
        buckets.insert(*account, after);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_per_pause_for_each_account() {
        let rates = Rates::new(3, Duration::from_secs(3600));
        let (one, other) = (AccountId([1; 32]), AccountId([2; 32]));
        let start = Instant::now();
        for _ in 0..3 {
            rates.take_at(&one, start).expect("within the burst");
        }
        let problem = rates.take_at(&one, start).expect_err("the burst is used up");
        assert_eq!((problem.kind, problem.retry_after), (Kind::RateLimited, Some(1201)));
        rates.take_at(&other, start).expect("another account");
        let later = start + Duration::from_secs(1200);
        rates.take_at(&one, later).expect("one more after a pause");
        rates.take_at(&one, later).expect_err("and no second");
        for _ in 0..3 {
            rates.take_at(&one, start + Duration::from_secs(10_000)).expect("full again");
        }
    }
}
