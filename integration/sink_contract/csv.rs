//! What CSV files promise.
