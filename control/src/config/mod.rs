//! Configuration: skeleton.
