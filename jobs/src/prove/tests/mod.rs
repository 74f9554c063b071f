//! Windows by both engines.

mod both;
mod units;
