//! Interrupt and termination, noticed between steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

/// Whether the operator wants an end. Becomes true once and stays so.
#[derive(Debug, Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Watches on a thread of its own: steps are system calls that give a runtime no chance to look.
    pub fn watch() -> std::io::Result<Self> {
        let stop = Self(Arc::default());
        let seen = stop.clone();
        let (ready, wait) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let watching = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .and_then(|runtime| {
                        let _guard = runtime.enter();
                        let interrupt = signal(SignalKind::interrupt())?;
                        let terminate = signal(SignalKind::terminate())?;
                        drop(_guard);
                        Ok((runtime, interrupt, terminate))
                    });
                match watching {
                    Ok((runtime, mut interrupt, mut terminate)) => {
                        let _ = ready.send(Ok(()));
                        runtime.block_on(async {
                            tokio::select! {
                                _ = interrupt.recv() => {}
                                _ = terminate.recv() => {}
                            }
                        });
                        seen.0.store(true, Ordering::Relaxed);
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        wait.recv().unwrap_or(Ok(()))?;
        Ok(stop)
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
