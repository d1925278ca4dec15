//! Figures: how often they are taken, and how they are shown.

use std::time::Duration;

/// A number from the environment, or its default.
pub(crate) fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// How often each figure is taken.
pub(crate) fn rounds() -> usize {
    number("HERMITFS_BENCH_ROUNDS", 3).max(1)
}

/// The one in the middle.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The same of times, in seconds.
pub(crate) fn median_of(times: Vec<Duration>) -> f64 {
    median(times.iter().map(Duration::as_secs_f64).collect())
}

/// A headline, with the names of the columns under it.
pub(crate) fn headline(title: &str, row: &str, columns: &[&str]) {
    println!("\n{title}\n");
    print!("{row:<22}");
    for column in columns {
        print!(" {column:>15}");
    }
    println!();
}

/// One row of figures.
pub(crate) fn row(name: &str, figures: &[String]) {
    print!("{name:<22}");
    for figure in figures {
        print!(" {figure:>15}");
    }
    println!();
}

/// A figure with two digits after the point, and the ratio of another to it.
pub(crate) fn with_ratio(figure: f64, to: f64) -> String {
    format!("{figure:.2} ({:.2}x)", figure / to)
}
