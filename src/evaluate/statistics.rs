use crate::record::Rng;

/// z of a two-sided 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of a share. source: Wilson 1927
pub fn wilson(correct: u64, rows: u64) -> [f64; 2] {
    if rows == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (rows as f64, correct as f64 / rows as f64);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let reach = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    // Rounding must not leave the share itself outside.
    [
        (centre - reach).clamp(0.0, p),
        (centre + reach).clamp(p, 1.0),
    ]
}

/// McNemar's exact two-sided p for `wins` against `losses` among discordant pairs.
pub fn mcnemar(wins: u64, losses: u64) -> f64 {
    let n = wins + losses;
    // ln C(n, k) − n ln 2, built up term by term so that no factorial overflows.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=wins.min(losses) {
        tail += log_term.exp();
        log_term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Rows on which McNemar's test would show a difference like the one on `rows` pairs, with a chance
/// of four in five; none where neither is better. source: Connor 1987
pub fn rows_to_show(wins: u64, losses: u64, rows: u64) -> Option<u64> {
    /// z of a power of 80 %.
    const Z_POWER: f64 = 0.841_621_233_572_914;
    if wins == losses || rows == 0 {
        return None;
    }
    let (b, c, n) = (wins as f64, losses as f64, rows as f64);
    let (discordant, difference) = ((b + c) / n, (b - c) / n);
    let spread = discordant - difference * difference;
    let root = Z * discordant.sqrt() + Z_POWER * spread.max(0.0).sqrt();
    Some((root / difference).powi(2).ceil() as u64)
}

/// p of the hypothesis that the shares of right answers differ by `margin` or more, from `wins`
/// against `losses` among `rows` pairs: the greater of two one-sided tests on the paired
/// difference. source: Schuirmann 1987; Liu et al. 2002 for pairs
pub fn tost(wins: u64, losses: u64, rows: u64, margin: f64) -> f64 {
    let n = rows.max(1) as f64;
    let (b, c) = (wins as f64, losses as f64);
    let difference = (b - c) / n;
    // Half a pair is added to each count, so that no flips at all are not taken for no variance at
    // all.
    let variance = (b + c + 1.0 - (b - c) * (b - c) / n) / (n * n);
    let z = (margin - difference.abs()) / variance.sqrt();
    normal_tail(z)
}

/// p(Z > z). source: Abramowitz and Stegun 26.2.17, error below 7.5e-8
fn normal_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = t
        * (0.319_381_53
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    series * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Percentile bootstrap over `rows` rows: the 95 % interval of what `statistic` makes of a
/// resample, where it makes anything of it.
/// source: Efron 1979
pub fn bootstrap(
    rows: usize,
    rng: &mut Rng,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<[f64; 2]> {
    const RESAMPLES: usize = 2000;
    if rows == 0 {
        return None;
    }
    let mut resample = vec![0; rows];
    let mut values = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        resample.fill_with(|| rng.below(rows));
        values.extend(statistic(&resample));
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        values
            .get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1)))
            .copied()
    };
    Some([at(0.025)?, at(0.975)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalence_needs_few_flips_and_many_rows() {
        assert!(
            (normal_tail(1.959_964) - 0.025).abs() < 1e-6
                && (normal_tail(-1.0) - 0.841_344_7).abs() < 1e-6
        );
        assert!(tost(3, 3, 300, 0.05) < 0.01);
        assert!(
            tost(3, 3, 30, 0.05) > 0.05,
            "thirty rows prove nothing of five points"
        );
        assert!(tost(40, 0, 300, 0.05) > 0.99 && tost(0, 40, 300, 0.05) > 0.99);
        assert_eq!(tost(5, 2, 100, 0.05), tost(2, 5, 100, 0.05));
    }

    #[test]
    fn a_bootstrap_interval_holds_the_mean_it_came_from() {
        let right = |i: &usize| i.is_multiple_of(4);
        let share = |rows: &[usize]| {
            Some(rows.iter().filter(|i| right(i)).count() as f64 / rows.len() as f64)
        };
        let [low, high] = bootstrap(200, &mut Rng::new(1, "test"), share).unwrap();
        let [wilson_low, wilson_high] = wilson(50, 200);
        assert!(
            (low - wilson_low).abs() < 0.02 && (high - wilson_high).abs() < 0.02,
            "{low} {high}"
        );
        assert_eq!(bootstrap(0, &mut Rng::new(1, "test"), share), None);
        assert_eq!(bootstrap(5, &mut Rng::new(1, "test"), |_| None), None);
    }

    #[test]
    fn wilson_agrees_with_published_values() {
        let near = |got: [f64; 2], expected: [f64; 2]| {
            got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 5e-4)
        };
        assert!(
            near(wilson(81, 263), [0.2553, 0.3662]),
            "{:?}",
            wilson(81, 263)
        );
        assert!(near(wilson(0, 10), [0.0, 0.2775]));
        assert!(near(wilson(10, 10), [0.7225, 1.0]));
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn a_greater_difference_needs_fewer_rows() {
        // (1.96 √0.19 + 0.8416 √(0.19 − 0.09²))² / 0.09² = 181.9
        assert_eq!(rows_to_show(14, 5, 100), Some(182));
        assert_eq!(rows_to_show(5, 14, 100), Some(182));
        assert_eq!(rows_to_show(5, 0, 10), Some(14));
        assert!(rows_to_show(2, 1, 100) > rows_to_show(20, 10, 100));
        for none in [(0, 0, 50), (3, 3, 50), (0, 0, 0)] {
            assert_eq!(rows_to_show(none.0, none.1, none.2), None);
        }
    }

    #[test]
    fn mcnemar_is_the_binomial_tail() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert!((mcnemar(6, 0) - 0.03125).abs() < 1e-12);
        assert!((mcnemar(5, 0) - 0.0625).abs() < 1e-12);
        assert!((mcnemar(10, 2) - 2.0 * (1.0 + 12.0 + 66.0) / 4096.0).abs() < 1e-12);
        assert_eq!(mcnemar(10, 2), mcnemar(2, 10));
        assert_eq!(mcnemar(4, 4), 1.0);
        assert!(mcnemar(100_000, 0) < 1e-100);
    }
}
