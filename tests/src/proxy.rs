//! Ports of loopback whose connections go on to another port until they are cut: then they stay open and
//! nothing passes, as in a network that lost its way. Enter through [`Proxy::to`].

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Who is cut off, as anybody sees it.
pub type Cuts = watch::Receiver<u64>;

/// Whether the connection that comes from an address is cut now, under those cuts.
pub type IsCut = Arc<dyn Fn(SocketAddr, u64) -> bool + Send + Sync>;

/// Ends on drop.
pub struct Proxy {
    pub port: u16,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Everything that comes to its port goes to `to`, unless `is_cut` at the present state of `cuts`.
    pub async fn to(to: u16, cuts: Cuts, is_cut: IsCut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let accepting = tokio::spawn(async move {
            while let Ok((near, from)) = listener.accept().await {
                tokio::spawn(pass(near, from, to, cuts.clone(), is_cut.clone()));
            }
        });
        Self { port, accepting }
    }
}

async fn pass(mut near: TcpStream, from: SocketAddr, to: u16, mut cuts: Cuts, is_cut: IsCut) {
    let passing = async {
        let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
        // As both ends do: otherwise each small frame waits for the other side's delayed acknowledgement.
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        copy_bidirectional(&mut near, &mut far).await
    };
    // Both ends stay open while they are cut, so that neither learns of it; then they are closed.
    let mut passing = std::pin::pin!(passing);
    loop {
        let cut = is_cut(from, *cuts.borrow_and_update());
        if cut {
            while is_cut(from, *cuts.borrow_and_update()) {
                if cuts.changed().await.is_err() {
                    return;
                }
            }
            return;
        }
        tokio::select! {
            _ = &mut passing => return,
            news = cuts.changed() => if news.is_err() { return },
        }
    }
}
