//! The second engine against naive computations.
