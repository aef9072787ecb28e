//! The edge alone, over a map in memory: what the client port can do, to be measured with
//! `redis-benchmark -p 7699 -t set,get -c 50 -P 16 -q`.

#[cfg(not(madsim))]
#[path = "../tests/support/memory.rs"]
mod memory;

#[cfg(not(madsim))]
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    use std::sync::Arc;

    use synod::{
        config::ClientSettings,
        edge::{Edge, Shutdown, serve},
    };

    let listener = tokio::net::TcpListener::bind("127.0.0.1:7699").await?;
    let edge = Edge {
        clients: ClientSettings::default(),
        password: None,
        port: 7699,
        node: "edge".to_owned(),
        started: tokio::time::Instant::now(),
        registry: Arc::default(),
    };
    serve(
        listener,
        memory::Memory::default(),
        Arc::new(edge),
        Shutdown::default(),
    )
    .await;
    Ok(())
}

#[cfg(madsim)]
fn main() {}
