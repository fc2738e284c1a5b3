//! The HTTP+JSON API: HTTP/1.1 on a Unix socket, and the two paths that Prometheus may ask over TCP.
//!
//! [`routes`] is the table of what there is; the router and the OpenAPI document ([`openapi`]) are both made from it.
//! [`auth`] decides who may change anything, [`server`] bounds what a client can cost, [`model`] are the documents.

pub mod auth;
pub mod extract;
pub mod handlers;
pub mod model;
pub mod openapi;
mod patience;
pub mod routes;
pub mod server;
#[cfg(test)]
mod tests;
