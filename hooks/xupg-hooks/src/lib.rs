//! The hook contract, its runner and the xenstore keys both sides use
