//! The lake edge: the only user of deltalake and object_store.
