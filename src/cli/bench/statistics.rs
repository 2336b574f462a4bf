//! What some rounds say together: the median, the spread, and whether two schedulers differ at all.
//!
//! The test is the rank-sum test of Wilcoxon, Mann and Whitney, exact and two-sided, with ties. It
//! gives the chance of a difference in rank at least as large as the measured one, if the rounds
//! are dealt out at random. It assumes nothing of how times are distributed, and one wild round
//! cannot sway it. (H. B. Mann and D. R. Whitney, On a test of whether one of two random variables
//! is stochastically larger than the other, 1947.)

use serde::Serialize;

/// The median and the spread of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Summary {
    /// The summary of some rounds; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Summary { median: (low + high) / 2.0, least, most })
    }
}

/// The chance, from 0 to 1, that rounds dealt out at random differ in rank as much as `a` and `b`.
///
/// With five rounds of each the least chance is 2 of 252, with three it is 2 of 20, whatever was
/// measured.
pub fn chance_of_difference(a: &[f64], b: &[f64]) -> f64 {
    let ranks = doubled_ranks(a, b);
    let (n, sum) = (a.len(), ranks.iter().sum::<usize>());
    let seen = ranks[..n].iter().sum::<usize>();
    // ways[k][s]: in how many ways k of the rounds processed so far have ranks that add up to s.
    let mut ways = vec![vec![0.0_f64; sum + 1]; n + 1];
    ways[0][0] = 1.0;
    for (processed, &rank) in ranks.iter().enumerate() {
        for k in (1..=n.min(processed + 1)).rev() {
            let (fewer, more) = ways.split_at_mut(k);
            for s in rank..=sum {
                more[0][s] += fewer[k - 1][s - rank];
            }
        }
    }
    // Both sides are multiplied by the number of all rounds, so that the mean is a whole number.
    let all = ranks.len();
    let distance = |s: usize| (s * all).abs_diff(sum * n);
    let total = ways[n].iter().sum::<f64>();
    let as_far =
        |(s, count): (usize, &f64)| if distance(s) >= distance(seen) { *count } else { 0.0 };
    ways[n].iter().enumerate().map(as_far).sum::<f64>() / total
}

/// Twice the rank of each value among all, those of `a` first. Equal values share the mean of their
/// ranks, which doubling makes a whole number.
fn doubled_ranks(a: &[f64], b: &[f64]) -> Vec<usize> {
    let all = [a, b].concat();
    let rank = |value: &f64| {
        let below = all.iter().filter(|other| *other < value).count();
        let equal = all.iter().filter(|other| *other == value).count();
        2 * below + equal + 1
    };
    all.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_median_and_the_spread() {
        let of = |values: &[f64]| Summary::of(values).map(|s| (s.median, s.least, s.most));
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(of(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn the_chances_are_those_of_the_tables() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        // Apart: 2 of 20, 2 of 70, 2 of 252 ways are as extreme.
        close(chance_of_difference(&[1., 2., 3.], &[4., 5., 6.]), 0.1);
        close(chance_of_difference(&[8., 7., 6., 5.], &[4., 3., 2., 1.]), 2.0 / 70.0);
        close(chance_of_difference(&[1., 2., 3., 4., 5.], &[6., 7., 8., 9., 10.]), 2.0 / 252.0);
        // U = 2 with five each: 0.0317 in the tables.
        close(chance_of_difference(&[1., 2., 3., 4., 7.], &[5., 6., 8., 9., 10.]), 8.0 / 252.0);
        // All alike, and one alone, say nothing.
        close(chance_of_difference(&[1.; 5], &[1.; 5]), 1.0);
        close(chance_of_difference(&[1.0], &[2.0]), 1.0);
    }

    /// All ways of dealing out, counted one by one.
    fn counted(a: &[f64], b: &[f64]) -> f64 {
        let ranks = doubled_ranks(a, b);
        let all = ranks.len();
        let mean = (ranks.iter().sum::<usize>() * a.len()) as f64 / all as f64;
        let seen = (ranks[..a.len()].iter().sum::<usize>() as f64 - mean).abs();
        let (mut ways, mut as_far) = (0, 0);
        for chosen in 0_u32..1 << all {
            if chosen.count_ones() as usize != a.len() {
                continue;
            }
            let sum = (0..all).filter(|i| chosen & 1 << i != 0).map(|i| ranks[i]).sum::<usize>();
            ways += 1;
            as_far += u32::from((sum as f64 - mean).abs() >= seen - 1e-9);
        }
        f64::from(as_far) / f64::from(ways)
    }

    proptest! {
        #[test]
        fn the_chance_is_that_of_counting(
            a in prop::collection::vec(0_u8..8, 1..6),
            b in prop::collection::vec(0_u8..8, 1..6),
        ) {
            let (a, b) = (a.into_iter().map(f64::from).collect::<Vec<_>>(), b.into_iter().map(f64::from).collect::<Vec<_>>());
            let chance = chance_of_difference(&a, &b);
            prop_assert!((chance - counted(&a, &b)).abs() < 1e-9);
            prop_assert!((chance - chance_of_difference(&b, &a)).abs() < 1e-9);
        }
    }
}
