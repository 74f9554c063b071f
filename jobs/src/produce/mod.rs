//! Events into a topic: from a file, or generated from a contract.
