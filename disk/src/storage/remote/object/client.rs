//! The HTTP client below `object_store`: it goes nowhere but where it is told, and verifies digests.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind,
    HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::redirect::Policy;

use super::digest::Expected;

/// Makes clients.
#[derive(Debug)]
pub(super) struct Connector {
    /// How long a connection may take to make.
    pub(super) limit: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allows_plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        // There is one already if somebody else needs TLS as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(self.limit)
            .https_only(allows_plain.as_deref() != Some("true"))
            // A server must not send us to others, which only we may be able to reach.
            .redirect(Policy::none())
            .build();
        match client {
            Ok(client) => Ok(HttpClient::new(Client(client))),
            Err(source) => Err(object_store::Error::Generic {
                store: "HTTP",
                source: source.into(),
            }),
        }
    }
}

#[derive(Debug)]
struct Client(reqwest::Client);

/// What is wrong with a response.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("the server sends on to '{0}'; if that is right, name it instead")]
    Redirect(String),
    #[error("what has come is not what the server's digest says")]
    Digest,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.call(request).await?;
        if response.status().is_redirection()
            && let Some(place) = response.headers().get("location")
        {
            let place = String::from_utf8_lossy(place.as_bytes()).into_owned();
            return Err(HttpError::new(
                HttpErrorKind::Unknown,
                Problem::Redirect(place),
            ));
        }
        let Some(expected) = Expected::of(&response) else {
            return Ok(response);
        };
        let (parts, body) = response.into_parts();
        let body = HttpResponseBody::new(Verified {
            body,
            expected: Some(expected),
        });
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// A body whose digest is looked at when it ends.
struct Verified {
    body: HttpResponseBody,
    expected: Option<Expected>,
}

impl Body for Verified {
    type Data = <HttpResponseBody as Body>::Data;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, HttpError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(expected)) = (frame.data_ref(), &mut self.expected) {
                    expected.update(data);
                }
            }
            Poll::Ready(None) => {
                if let Some(expected) = self.expected.take()
                    && !expected.finish()
                {
                    let error = HttpError::new(HttpErrorKind::Decode, Problem::Digest);
                    return Poll::Ready(Some(Err(error)));
                }
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
