// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Medians of things measured in turns.

use super::Measure;

/// (ours, baseline) of every round.
#[derive(Default)]
pub struct Pairs(Vec<(f64, f64)>);

impl FromIterator<(f64, f64)> for Pairs {
    fn from_iter<T: IntoIterator<Item = (f64, f64)>>(pairs: T) -> Pairs {
        Pairs(pairs.into_iter().collect())
    }
}

impl Pairs {
    pub fn push(&mut self, ours: f64, baseline: f64) {
        self.0.push((ours, baseline));
    }

    pub fn measure(&self, measure: impl Into<String>, unit: &'static str) -> Measure {
        let ratios: Vec<f64> = self
            .0
            .iter()
            .map(|(ours, baseline)| ours / baseline)
            .collect();
        let ratio = median(&ratios);
        let largest = ratios.iter().copied().fold(f64::MIN, f64::max);
        let smallest = ratios.iter().copied().fold(f64::MAX, f64::min);
        Measure {
            measure: measure.into(),
            value: median(&self.0.iter().map(|pair| pair.0).collect::<Vec<_>>()),
            unit: unit.to_string(),
            baseline: median(&self.0.iter().map(|pair| pair.1).collect::<Vec<_>>()),
            ratio,
            spread: (largest - smallest) / ratio,
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        let mut pairs = Pairs::default();
        for (ours, baseline) in [(2.0, 1.0), (9.0, 3.0), (4.0, 4.0)] {
            pairs.push(ours, baseline);
        }
        let measure = pairs.measure("x", "s");
        assert_eq!(
            (measure.value, measure.baseline, measure.ratio),
            (4.0, 3.0, 2.0)
        );
        assert_eq!(measure.spread, 1.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
    }
}
