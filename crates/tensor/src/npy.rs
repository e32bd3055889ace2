//! Placeholder: `.npy` and `.npz` files.
