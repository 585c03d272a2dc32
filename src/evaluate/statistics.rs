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
    [(centre - reach).max(0.0), (centre + reach).min(1.0)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        let near = |got: [f64; 2], expected: [f64; 2]| got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 5e-4);
        assert!(near(wilson(81, 263), [0.2553, 0.3662]), "{:?}", wilson(81, 263));
        assert!(near(wilson(0, 10), [0.0, 0.2775]));
        assert!(near(wilson(10, 10), [0.7225, 1.0]));
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
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
