mod any_order;
mod crowd;
mod drift_base;
mod functions;
mod kit;
mod live;
mod splits;
mod upkeep;
