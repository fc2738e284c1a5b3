//! Header views: skeleton.
