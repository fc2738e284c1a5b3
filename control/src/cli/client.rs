//! The client of the API: HTTP/1.1 over the daemon's Unix socket, a connection per request.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::error::CliError;
use crate::api::model::ApiError;

/// Where the daemon listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/vswitch/ctl.sock";

/// What is encoded in a path or query: all but the unreserved characters (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A name as a segment of a path or a value of a query.
pub(crate) fn encode(name: &str) -> String {
    utf8_percent_encode(name, ENCODED).to_string()
}

/// A daemon at a socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon at `socket`; connects at each request.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`, the answer as it came: keys that this version doesn't know are kept.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.value(Method::GET, path, None::<&Value>).await
    }

    /// A request with a document.
    pub(crate) async fn send<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &T,
    ) -> Result<Value, CliError> {
        self.value(method, path, Some(body)).await
    }

    /// A request without a document.
    pub(crate) async fn call(&self, method: Method, path: &str) -> Result<Value, CliError> {
        self.value(method, path, None::<&Value>).await
    }

    /// `GET` of an answer without an end.
    pub(crate) async fn stream(&self, path: &str) -> Result<Stream, CliError> {
        let response = self.request(Method::GET, path, None::<&Value>).await?;
        Ok(Stream {
            socket: self.socket.clone(),
            body: response.into_body(),
        })
    }

    /// A document of the API in its type.
    pub(crate) fn typed<T: DeserializeOwned>(&self, value: &Value) -> Result<T, CliError> {
        T::deserialize(value).map_err(|error| self.foreign(error.to_string()))
    }

    async fn value<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<Value, CliError> {
        let response = self.request(method, path, body).await?;
        let bytes = self.bytes(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| self.foreign(error.to_string()))
    }

    /// Sends a request; an answer other than 2xx is an error.
    async fn request<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<Response<Incoming>, CliError> {
        let body = match body {
            Some(body) => {
                Bytes::from(serde_json::to_vec(body).map_err(|error| self.foreign(error.to_string()))?)
            }
            None => Bytes::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.foreign(error.to_string()))?;
        let connect_error = |source| CliError::Connect {
            path: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(connect_error)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        // The connection ends with its sender and body; its errors come up there too.
        tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.lost(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.bytes(response).await?;
        match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => Err(CliError::Refused(error)),
            Err(_) if status == StatusCode::NOT_FOUND => {
                Err(self.foreign(format!("it does not know /v1/{path}")))
            }
            Err(_) => Err(self.foreign(format!("HTTP status {status}"))),
        }
    }

    async fn bytes(&self, response: Response<Incoming>) -> Result<Bytes, CliError> {
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.lost(error))?;
        Ok(body.to_bytes())
    }

    fn lost(&self, source: hyper::Error) -> CliError {
        if source.is_parse() {
            return self.foreign(source.to_string());
        }
        CliError::Lost {
            path: self.socket.clone(),
            source,
        }
    }

    fn foreign(&self, message: String) -> CliError {
        CliError::Foreign {
            path: self.socket.clone(),
            message,
        }
    }
}

/// An answer without an end.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: PathBuf,
    body: Incoming,
}

impl Stream {
    /// The next octets; `None` once the daemon has ended it.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CliError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => {
                    return Err(CliError::Lost {
                        path: self.socket.clone(),
                        source,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded() {
        assert_eq!(encode("vm-1.a_b"), "vm-1.a_b");
        assert_eq!(encode("a b/c?d"), "a%20b%2Fc%3Fd");
    }
}
