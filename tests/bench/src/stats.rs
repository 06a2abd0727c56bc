//! Many measurements, and what is said of them.

/// Times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<i64>);

impl Times {
    /// Adds the time between two readings of the clock, in nanoseconds.
    pub fn add(&mut self, from: u64, to: u64) {
        self.0.push(to.cast_signed().wrapping_sub(from.cast_signed()));
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.0.len()
    }

    /// The value that this share (0 to 1) of them does not exceed, in milliseconds; 0 of none.
    pub fn quantile(&self, share: f64) -> f64 {
        quantile(&self.millis(), share)
    }

    /// How much longer the first of each pair took than the second, in milliseconds; the median
    /// of that.
    pub fn beyond(&self, other: &Times) -> f64 {
        let pairs = self.0.iter().zip(&other.0);
        let differences: Vec<f64> = pairs.map(|(a, b)| (a - b) as f64 / 1e6).collect();
        quantile(&differences, 0.5)
    }

    /// Takes those of another over.
    pub fn append(&mut self, mut other: Times) {
        self.0.append(&mut other.0);
    }

    fn millis(&self) -> Vec<f64> {
        self.0.iter().map(|ns| *ns as f64 / 1e6).collect()
    }
}

/// The value that this share (0 to 1) of the values does not exceed: the nearest rank; 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The value in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(median(&values), 100.0);
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&values, 1.0), 200.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        let (mut a, mut b) = (Times::default(), Times::default());
        for (slow, fast) in [(5, 1), (100, 98), (7, 4)] {
            a.add(1_000_000, 1_000_000 + slow * 1_000_000);
            b.add(0, fast * 1_000_000);
        }
        assert_eq!(a.beyond(&b), 3.0);
        assert_eq!(a.quantile(0.5), 7.0);
    }
}
