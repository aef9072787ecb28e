//! One connection: commands out, answers in, in the same order.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{client::Options, command::Command, decode::decode, error::Error, value::Value};

const READ_BYTES_MIN: usize = 16 << 10;

/// A connection that speaks RESP3. After an error other than the server's own it is of no more use.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    call_timeout: Duration,
}

impl Connection {
    /// Connects to `address` (`HOST:PORT`) and greets the server.
    pub async fn open(address: &str, options: &Options) -> Result<Self, Error> {
        let failed = |source| Error::Connect {
            address: address.to_owned(),
            source,
        };
        let stream = timeout(options.connect_timeout, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut connection = Connection {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            call_timeout: options.call_timeout,
        };
        let mut hello = Command::read("HELLO").arg("3");
        if let Some(password) = &options.password {
            hello = hello.arg("AUTH").arg("default").arg(password);
        }
        if !options.name.is_empty() {
            hello = hello.arg("SETNAME").arg(&options.name);
        }
        match connection.call(&hello).await {
            Ok(_) => Ok(connection),
            Err(Error::Lost(source)) => Err(failed(source)),
            Err(Error::TimedOut { .. }) => Err(failed(io::ErrorKind::TimedOut.into())),
            Err(error) => Err(error),
        }
    }

    /// Sends a command and waits for its answer.
    pub async fn call(&mut self, command: &Command) -> Result<Value, Error> {
        self.push(command);
        self.within_timeout(async |connection| {
            connection.flush().await?;
            connection.receive().await
        })
        .await?
        .into_result()
    }

    /// Sends commands together and waits for all answers. An error that the server answers is a
    /// [`Value::Error`] in its place.
    pub async fn pipeline(&mut self, commands: &[Command]) -> Result<Vec<Value>, Error> {
        commands.iter().for_each(|command| self.push(command));
        self.within_timeout(async |connection| {
            connection.flush().await?;
            let mut answers = Vec::with_capacity(commands.len());
            for _ in commands {
                answers.push(connection.receive().await?);
            }
            Ok(answers)
        })
        .await
    }

    /// Puts a command into the output, to be sent by the next [`Connection::flush`].
    pub fn push(&mut self, command: &Command) {
        command.encode(&mut self.output);
    }

    /// Sends what was pushed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.stream
            .write_all(&self.output)
            .await
            .map_err(Error::Lost)?;
        self.output.clear();
        self.stream.flush().await.map_err(Error::Lost)
    }

    /// Waits for the next answer, without a limit on the time.
    pub async fn receive(&mut self) -> Result<Value, Error> {
        loop {
            match decode(&mut self.input)? {
                // Messages that answer nothing are not asked for.
                Some(Value::Push(_)) => {}
                Some(value) => return Ok(value),
                None => {
                    // As much again as there is: a large answer takes few reads.
                    self.input.reserve(self.input.len().max(READ_BYTES_MIN));
                    let read = self
                        .stream
                        .read_buf(&mut self.input)
                        .await
                        .map_err(Error::Lost)?;
                    if read == 0 {
                        return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    async fn within_timeout<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let limit = self.call_timeout;
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        timeout(limit, call(self))
            .await
            .unwrap_or(Err(Error::TimedOut { timeout_ms }))
    }
}
