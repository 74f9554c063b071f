//! What a backfill from files must hold.

mod again;
mod broken;
mod formats;
mod kit;
mod memory;
mod stores;
mod values;
