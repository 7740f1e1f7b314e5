//! The host's one way to wait between attempts: exponential, capped, jittered.

use std::time::Duration;

/// Growing waits. Each is drawn from the upper half of its bound, so that many hosts that failed
/// together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
}

impl Backoff {
    /// Waits up to `first`, then up to twice as long each time, never longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, bound: first }
    }

    /// How long to wait now.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.longest);
        bound.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Something worked: start over.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for bound in [100, 200, 350, 350] {
            let wait = backoff.next_wait();
            let bound = Duration::from_millis(bound);
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} for {bound:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
