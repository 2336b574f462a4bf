//! Work for a CPU, in units that cost the same everywhere: arithmetic in which every step needs the
//! one before, and no memory.
//!
//! A benchmark converts sizes that are given as times into units once, at its start, so that all
//! schedulers get the same work.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How many steps make a unit, which is about a microsecond.
const STEPS: u64 = 1000;

/// Does `units` units of work.
pub fn run(units: u64) {
    let mut value = black_box(1_u64);
    for _ in 0..units * STEPS {
        value =
            value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
    black_box(value);
}

/// How many units this machine does in a millisecond: the best of some tries, because a disturbance
/// only makes a try slower.
pub fn units_per_ms() -> f64 {
    const TRIES: u32 = 10;
    const LEAST: Duration = Duration::from_millis(5);
    let rate = |units| {
        let start = Instant::now();
        run(units);
        (start.elapsed(), units as f64 / (start.elapsed().as_secs_f64() * 1000.0))
    };
    let mut units = 64;
    while rate(units).0 < LEAST {
        units *= 2;
    }
    (0..TRIES).map(|_| rate(units).1).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_does_some_units() {
        let units = units_per_ms();
        assert!(units > 1.0 && units.is_finite(), "{units}");
    }
}
