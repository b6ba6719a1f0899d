//! When to end: Ctrl-C, SIGTERM, and, for children of `manta demo`, the end of
//! standard input, which comes however the parent dies.

use std::io::Read as _;

/// What asked the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Interrupted {
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupt,
    /// SIGTERM, from a service manager or `kill`.
    #[error("terminated")]
    Terminate,
    /// Standard input was closed.
    #[error("the parent process has ended")]
    InputClosed,
}

impl Interrupted {
    /// As shells report the two signals.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::InputClosed => 0,
        }
    }
}

/// Waits for Ctrl-C or SIGTERM. From the first poll on they do not kill.
pub(crate) async fn interrupted() -> Interrupted {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // Both fail only if the process may not have any handler; then the
        // signals keep their default, which is to kill.
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                () = interrupt() => Interrupted::Interrupt,
                _ = terminate.recv() => Interrupted::Terminate,
            };
        }
    }
    interrupt().await;
    Interrupted::Interrupt
}

async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// As [`interrupted`]; with `with_stdin`, the end of standard input counts too.
pub(crate) async fn requested(with_stdin: bool) -> Interrupted {
    if !with_stdin {
        return interrupted().await;
    }
    let (sender, closed) = tokio::sync::oneshot::channel();
    // A thread of its own: a blocked read must not hold up the runtime's end.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 256];
        while !matches!(stdin.read(&mut buffer), Ok(0) | Err(_)) {}
        // Nobody listens if the process is ending anyway.
        let _ = sender.send(());
    });
    tokio::select! {
        interrupted = interrupted() => interrupted,
        _ = closed => Interrupted::InputClosed,
    }
}
