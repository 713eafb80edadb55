//! Medians of paired ratios.

use std::fmt;

/// The median of some figures with their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }

    /// Each figure over the reference's of the same round, so that a round in which the machine was slow counts
    /// for both.
    pub(super) fn of_ratios(figures: &[f64], reference: &[f64]) -> Option<Self> {
        Self::of(figures.iter().zip(reference).map(|(figure, reference)| figure / reference))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} ({:.2}–{:.2})", self.median, self.min, self.max))
    }
}

/// A spread, or a dash.
pub(super) fn or_dash(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_round_does_not_move_the_paired_ratio() {
        let ratios = Spread::of_ratios(&[5.0, 50.0, 5.0, 6.0], &[10.0, 100.0, 10.0, 10.0]).unwrap();
        assert_eq!(ratios, Spread { median: 0.5, min: 0.5, max: 0.6 });
        assert_eq!(ratios.to_string(), "0.50 (0.50–0.60)");
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(or_dash(None), "–");
    }
}
