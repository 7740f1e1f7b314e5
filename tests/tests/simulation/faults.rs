//! When things fail: a shared source of chance, and the power of one host.

use std::sync::{Arc, Mutex};

/// The run's only chance.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<fastrand::Rng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.0.lock().expect("no panic under the lock").usize(..bound)
    }

    /// Once in so many times.
    pub(crate) fn once_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Lets others go first, now and then.
    pub(crate) async fn dawdle(&self) {
        for _ in 0..self.below(3) {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a host still runs, and for how many more steps. What has lost its power never returns
/// from anything: that is what being killed looks like from inside.
#[derive(Clone, Default)]
pub(crate) struct Power(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    off: bool,
    fuse: Option<usize>,
}

impl Power {
    pub(crate) fn cut(&self) {
        self.0.lock().expect("no panic under the lock").off = true;
    }

    pub(crate) fn cut_after(&self, steps: usize) {
        self.0.lock().expect("no panic under the lock").fuse = Some(steps);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.lock().expect("no panic under the lock").off
    }

    /// One step; never returns once the power is off.
    pub(crate) async fn step(&self, chance: &Chance) {
        chance.dawdle().await;
        let off = {
            let mut state = self.0.lock().expect("no panic under the lock");
            match state.fuse {
                Some(0) => state.off = true,
                Some(left) => state.fuse = Some(left - 1),
                None => {}
            }
            state.off
        };
        if off {
            std::future::pending::<()>().await;
        }
    }
}
