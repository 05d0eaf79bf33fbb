//! Quantiles, and straight lines by least squares.

use serde::{Deserialize, Serialize};

/// The quantiles of some samples.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// The median.
    pub median: f64,
    /// The lower quartile.
    pub low: f64,
    /// The upper quartile.
    pub high: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
}

impl Quantiles {
    /// The quantiles of these samples; `None` if there are none.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        // Interpolates between the two nearest samples.
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Self { median: at(0.5), low: at(0.25), high: at(0.75), p95: at(0.95), p99: at(0.99) })
    }
}

/// A straight line through points.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// How much y grows when x grows by one.
    pub slope: f64,
    /// The standard error of the slope.
    pub error: f64,
    /// The share of the variance of y that the line explains, from 0 to 1.
    pub r_squared: f64,
}

impl Line {
    /// Fits a line by least squares. `None` for fewer than three points, or if all have the same x.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
        let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
        let sum = |product: &dyn Fn(f64, f64) -> f64| {
            points.iter().map(|(x, y)| product(x - mean_x, y - mean_y)).sum::<f64>()
        };
        let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
        if points.len() < 3 || xx == 0.0 {
            return None;
        }
        let slope = xy / xx;
        let residual = (yy - slope * xy).max(0.0);
        let error = (residual / (count - 2.0) / xx).sqrt();
        // A constant is explained by the line with the slope 0.
        let r_squared = if yy == 0.0 { 1.0 } else { 1.0 - residual / yy };
        Some(Self { slope, error, r_squared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_between_samples() {
        let quantiles = Quantiles::of([4.0, 1.0, 3.0, 2.0, 5.0]).unwrap();
        assert_eq!((quantiles.low, quantiles.median, quantiles.high), (2.0, 3.0, 4.0));
        assert!((quantiles.p95 - 4.8).abs() < 1e-9 && (quantiles.p99 - 4.96).abs() < 1e-9);
        assert_eq!(Quantiles::of([]), None);
    }

    #[test]
    fn line_has_slope_error_and_r_squared() {
        // The same as `scipy.stats.linregress([0, 1, 2, 3], [1, 3, 2, 5])`.
        let line = Line::fit(&[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0), (3.0, 5.0)]).unwrap();
        assert!((line.slope - 1.1).abs() < 1e-9);
        assert!((line.error - 0.519_615_242).abs() < 1e-6, "{}", line.error);
        assert!((line.r_squared - 0.691_428_571).abs() < 1e-6, "{}", line.r_squared);
        assert!(Line::fit(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]).is_none());
        assert!(Line::fit(&[(1.0, 1.0), (2.0, 2.0)]).is_none());
    }
}
