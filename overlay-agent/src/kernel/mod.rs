//! Doing: the kernel interfaces, one module each.
