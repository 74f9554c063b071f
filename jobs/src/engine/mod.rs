//! The query engine edge: the only user of DataFusion.
