//! Batch by plan against batch that always computes everything: whatever happens to raw, in whatever
//! order, every unit that the plan leaves alone is what the full recompute gives.
