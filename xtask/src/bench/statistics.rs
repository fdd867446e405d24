//! Median and spread.

/// What is said of several measurements of the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub median: f64,
    /// Largest less smallest, as a share of the median.
    pub spread: f64,
}

/// `None` of nothing.
pub fn summarize(values: impl Iterator<Item = f64>) -> Option<Summary> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (values.first()?, values.last()?);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    };
    Some(Summary {
        median,
        spread: if median == 0.0 {
            0.0
        } else {
            (last - first) / median
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_moves_the_spread_and_not_the_median() {
        let summary = summarize([10.0, 11.0, 9.0, 10.0, 30.0].into_iter()).unwrap();
        assert_eq!((summary.median, summary.spread), (10.0, 2.1));
    }

    #[test]
    fn of_an_even_number_the_median_is_between_the_two_in_the_middle() {
        assert_eq!(summarize([1.0, 2.0].into_iter()).unwrap().median, 1.5);
        assert_eq!(summarize([].into_iter()), None);
    }
}
