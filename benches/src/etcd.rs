//! The little of etcd's protocol that a load needs: `Put` and linearizable `Range` of one key, over
//! HTTP/2, encoded by hand (etcd's `rpc.proto`: key is field 1, value is field 2).

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::net::TcpStream;

/// One connection.
pub struct Etcd {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// What went wrong, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Etcd {
    /// Connects to a node.
    pub async fn connect(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self {
            requests,
            authority: address.to_owned(),
        })
    }

    /// Writes a key.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        field(&mut message, 1, key);
        field(&mut message, 2, value);
        self.call("/etcdserverpb.KV/Put", &message).await
    }

    /// Reads a key, linearizably.
    pub async fn get(&mut self, key: &[u8]) -> Result<(), Failure> {
        let mut message = BytesMut::with_capacity(key.len() + 8);
        field(&mut message, 1, key);
        self.call("/etcdserverpb.KV/Range", &message).await
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> Result<(), Failure> {
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("http://{}{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len())?);
        framed.put_slice(message);
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, false)?;
        stream.send_data(framed.freeze(), true)?;
        let mut body = response.await?.into_body();
        while let Some(data) = body.data().await {
            let received = data?.len();
            body.flow_control().release_capacity(received)?;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        match trailers.get("grpc-status").map(http::HeaderValue::as_bytes) {
            Some(b"0") => Ok(()),
            status => Err(format!("etcd answered status {status:?}").into()),
        }
    }
}

fn field(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    message.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}
